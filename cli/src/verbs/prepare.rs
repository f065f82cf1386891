//! `lateen prepare`: training data as files that people can read.

use crate::failure::Interrupted;
use crate::interrupt;
use crate::terminal::{Meter, say};
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use environment::{EpisodeKind, Split, task};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Write training data as JSON lines
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Kata(Kata),
}

/// Draw episodes from the kata world: tasks with solutions and tests, one JSON object a line
#[derive(Args)]
struct Kata {
    /// How many episodes
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// The file to write, or - for standard output
    #[arg(long)]
    out: PathBuf,
    /// Only these kinds; all of them in turn if none is given
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<KindName>,
    /// Which part of the world
    #[arg(long, default_value = "train")]
    split: SplitName,
    /// The same seed gives the same episodes
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Names of kinds as the command line has them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindName {
    Solve,
    Replay,
    Debugging,
    Review,
    FillInTheMiddle,
    Reasoning,
}

impl From<KindName> for EpisodeKind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Solve => Self::Solve,
            KindName::Replay => Self::Replay,
            KindName::Debugging => Self::Debugging,
            KindName::Review => Self::Review,
            KindName::FillInTheMiddle => Self::FillInTheMiddle,
            KindName::Reasoning => Self::Reasoning,
        }
    }
}

/// Names of splits as the command line has them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    Train,
    Validation,
    Test,
    UnseenFamilies,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Validation => Self::Validation,
            SplitName::Test => Self::Test,
            SplitName::UnseenFamilies => Self::UnseenFamilies,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Kata(kata) => write_katas(&kata),
    }
}

fn write_katas(kata: &Kata) -> Result<()> {
    let cancelled = interrupt::listen("stopping; no file is written")?;
    let kinds: Vec<EpisodeKind> = match kata.kinds.is_empty() {
        true => EpisodeKind::ALL.to_vec(),
        false => kata.kinds.iter().map(|&kind| kind.into()).collect(),
    };
    let mut meter = Meter::new("drawing katas", kata.count, "episodes");
    let mut fill = |out: &mut dyn Write| -> std::io::Result<()> {
        for index in 0..kata.count {
            if cancelled.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let kind = kinds[(index % kinds.len() as u64) as usize];
            let seed = kata.seed.wrapping_mul(0x1_0000_0000).wrapping_add(index);
            serde_json::to_writer(&mut *out, &task(kind, kata.split.into(), seed).record())?;
            out.write_all(b"\n")?;
            meter.set(index + 1, "");
        }
        Ok(())
    };
    let written = if kata.out.as_os_str() == "-" {
        fill(&mut std::io::stdout().lock()).map_err(anyhow::Error::from)
    } else {
        formats::write_atomically(&kata.out, fill).map_err(anyhow::Error::from)
    };
    drop(meter);
    if cancelled.load(Ordering::Relaxed) {
        return Err(Interrupted { hint: String::new() }.into());
    }
    written?;
    say(&format!("{} episodes in {}", kata.count, kata.out.display()));
    Ok(())
}
