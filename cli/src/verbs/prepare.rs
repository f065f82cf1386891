//! `lateen prepare`: training data as files that people can read, and what a model would learn of such files.

mod mine;
mod show;
mod sources;
mod stats;

use crate::terminal::{Meter, say};
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use environment::{EpisodeKind, Split};
use prepare::{KataMix, KataRecipe, measured_tasks};
use std::cell::RefCell;
use std::path::PathBuf;

/// Write training data, or look at it as a model would learn it
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Kata(Kata),
    Stats(stats::Arguments),
    Show(show::Arguments),
    Mine(mine::Arguments),
}

/// Draw episodes from the kata world: tasks with solutions and tests, one JSON object a line
#[derive(Args)]
struct Kata {
    /// How many episodes
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    /// Only these kinds; all of them in the usual mix if none is given
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
        What::Stats(arguments) => stats::run(&arguments),
        What::Show(arguments) => show::run(&arguments),
        What::Mine(arguments) => mine::run(arguments),
    }
}

fn write_katas(kata: &Kata) -> Result<()> {
    let wanted = |kind: KindName| kata.kinds.is_empty() || kata.kinds.contains(&kind);
    let of = |kind: KindName, usual: f64| match (wanted(kind), kata.kinds.is_empty()) {
        (false, _) => 0.0,
        (true, true) => usual,
        (true, false) => 1.0,
    };
    let usual = KataMix::default();
    let mix = KataMix {
        solve: of(KindName::Solve, usual.solve),
        replay: of(KindName::Replay, usual.replay),
        debugging: of(KindName::Debugging, usual.debugging),
        review: of(KindName::Review, usual.review),
        fill_in_the_middle: of(KindName::FillInTheMiddle, usual.fill_in_the_middle),
        reasoning: of(KindName::Reasoning, usual.reasoning),
    };
    let recipe = KataRecipe { episodes: kata.count, mix, ..KataRecipe::default() };
    let meter = RefCell::new(Meter::new("drawing katas", kata.count as u64, "episodes"));
    let at = |done: usize, _| meter.borrow_mut().set(done as u64, "");
    // Tasks that are measured may be written out too, but not into training data.
    let measured = if kata.split == SplitName::Train { measured_tasks(64, kata.seed) } else { Vec::new() };
    let report = recipe.write_episodes(kata.split.into(), kata.seed, &measured, &kata.out, &at)?;
    drop(meter);
    say(&format!("{} episodes in {}", report.episodes, kata.out.display()));
    for (kind, count) in &report.by_kind {
        say(&format!("  {count:>7} {kind}"));
    }
    if report.contaminated > 0 {
        say(&format!("  {} left out, because they share something with tasks that are measured", report.contaminated));
    }
    Ok(())
}
