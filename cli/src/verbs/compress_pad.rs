//! `lateen compress pad`: every layer gets as many experts as the largest has, for programs that want one number.
//!
//! Rows of the routers are fitted on some tokens and measured on others, layer by layer; where they are not good enough
//! nothing is written. What was written is compared with what it was made from.

use super::compress::{Bar, calibration_data, check_memory, refuse_a_model, save_text, stopped};
use crate::failure::Problem;
use crate::interrupt;
use crate::memory::{Machine, bytes_from_words};
use crate::place::{Outlined, model_directory};
use crate::stages::{calibration_batches, pass_lineage_on, split};
use crate::terminal::{put, say};
use anyhow::{Context, Result};
use clap::Args;
use compress::{Calibration, LayerPadding, PadPlan, Tokens};
use evaluate::Table;
use evaluate::table::bytes_in_words;
use models::{LayerStream, Lineage, Loading, RewriteStep};
use numeric::Rng;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Give every layer as many experts as the largest has, for transformers and llama.cpp, which want one number of them
///
/// The experts that are added are never chosen: their rows of the router are fitted to lose, on three quarters of the
/// tokens, and checked on the rest. If more than one of 10000 of these would go to an added expert, nothing is written.
/// Works with one layer in memory, so also for models that are larger; run again after a stop, it goes on.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a run, or the name of a fixture
    model: String,
    /// The folder to write
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Fit on the records of this file (JSON lines, JSON, Parquet) instead of katas
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Tokens to fit and check on; a quarter of them are drawn from the whole vocabulary
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Memory that may be held at most, such as 4GB; if not given, what the machine has available
    #[arg(long, value_name = "BYTES", value_parser = bytes_from_words)]
    memory: Option<u64>,
}

/// In the folder of a padded model: what was added to which layer, and with which margins.
const PADDING: &str = "padding.json";
/// Where hidden states wait, inside the new folder.
const WORKING: &str = "padding";

/// Tokens of a sequence that is drawn, and of a batch of them.
const DRAWN_TOKENS: usize = 256;
const BATCH_TOKENS: usize = 2048;
/// Batches on which the padded model is compared with the one that it was made from.
const COMPARED: usize = 3;
/// How far logits may be apart, as a share of the largest: of equal models they are a few roundings apart.
const APART_MAX: f64 = 1e-4;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    refuse_a_model(out)?;
    let from = model_directory(&arguments.model)?;
    let opening = || format!("cannot open the model in {}", from.display());
    let stream = LayerStream::open(&from, Loading::Stored).with_context(opening)?;
    compress::padded_format(&stream)?;
    let batches = arguments.batches(&from)?;
    let packs: Vec<Calibration> = batches.iter().map(|(tokens, lengths)| Calibration { tokens, lengths }).collect();
    let padding = Padding { arguments, from: &from, stream, cancelled: interrupt::listen_to_all("stopping")? };
    let written = padding.fit_and_write(&packs);
    // Nothing stands in it where nothing was written.
    let _ = std::fs::remove_dir(out);
    written?;
    put(&format!("{}\n", out.display()))?;
    Ok(())
}

impl Arguments {
    /// The data's tokens, then drawn ones: any token may come, also those that this data happens not to have.
    fn batches(&self, from: &Path) -> Result<Vec<(Vec<u32>, Vec<usize>)>> {
        let outlined = Outlined::look(&from.display().to_string(), Loading::Stored)?;
        let drawn = self.tokens / 4;
        let said = self.tokens - drawn;
        let dataset = calibration_data(self.data.as_deref(), said, (0, 0), &outlined.renderer())?;
        let mut batches = calibration_batches(&dataset.samples, said);
        let (mut rng, vocabulary) = (Rng::new(0), outlined.tokenizer.vocabulary_size());
        for start in (0..drawn).step_by(BATCH_TOKENS) {
            let count = BATCH_TOKENS.min(drawn - start);
            let tokens = (0..count).map(|_| rng.below(vocabulary) as u32).collect();
            let lengths = (0..count).step_by(DRAWN_TOKENS).map(|at| DRAWN_TOKENS.min(count - at)).collect();
            batches.push((tokens, lengths));
        }
        Ok(batches)
    }
}

/// One command under way.
struct Padding<'a> {
    arguments: &'a Arguments,
    from: &'a Path,
    stream: LayerStream,
    cancelled: &'static AtomicBool,
}

impl Padding<'_> {
    fn fit_and_write(&self, packs: &[Calibration]) -> Result<()> {
        let [calibration, held_out] = split(packs)?;
        self.check_memory(packs)?;
        let tokens = Tokens { calibration: &calibration, held_out: &held_out };
        let out = &self.arguments.out;
        let mut watch = self.watch("fitting rows of routers");
        let fitted = compress::fit_padding(&self.stream, tokens, &out.join(WORKING), &mut watch);
        drop(watch);
        let paddings = stopped(fitted)?;
        say(table(&paddings).trim_end());
        compress::check_padding(&paddings)?;
        self.write(&paddings)?;
        self.compare(&held_out, paddings.iter().map(|padding| padding.misrouted).sum())
    }

    fn check_memory(&self, packs: &[Calibration]) -> Result<()> {
        let lengths: Vec<Vec<usize>> = packs.iter().map(|pack| pack.lengths.to_vec()).collect();
        let plan = PadPlan::of(&self.stream, &lengths)?;
        let allowed = self.arguments.memory.unwrap_or_else(|| Machine::here().available()) as usize;
        let place = self.from.display().to_string();
        check_memory("padding", &place, plan.total(), allowed, &in_words(&plan))?;
        say(&format!("padding takes {}", in_words(&plan)));
        Ok(())
    }

    fn watch(&self, what: &'static str) -> impl FnMut(RewriteStep) -> bool {
        let (mut meter, cancelled) = (Bar::new(), self.cancelled);
        move |step| {
            meter.show(what, (step.done, step.total), step.bytes_read, "after", step.done.saturating_sub(1));
            !cancelled.load(Ordering::Relaxed)
        }
    }

    fn write(&self, paddings: &[LayerPadding]) -> Result<()> {
        let out = &self.arguments.out;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        // Before config.json, with which the folder is a model.
        save_text(self.from, out)?;
        let source = &self.stream.outline().config;
        // Experts stay where they are; those that are added come from none.
        pass_lineage_on(self.from, out, source, Some(&Lineage::identity(source)))?;
        formats::write_json(out.join(PADDING), &paddings)?;
        stopped(compress::write_padded(&self.stream, out, paddings, &mut self.watch("writing")))
            .with_context(|| format!("cannot write the model to {}", out.display()))
    }

    /// The model that is on the disk now, beside the one that it was made from. Where tokens are misrouted they may be
    /// among those that are compared.
    fn compare(&self, held_out: &[Calibration], misrouted: usize) -> Result<()> {
        let out = &self.arguments.out;
        let padded = LayerStream::open(out, Loading::Stored)
            .with_context(|| format!("cannot open what was written to {}", out.display()))?;
        let every = held_out.len().div_ceil(COMPARED);
        // From the end, where tokens were drawn.
        let packs: Vec<Calibration> = held_out.iter().rev().step_by(every).copied().collect();
        let apart = compress::logits_apart(&self.stream, &padded, &packs)?;
        let found = format!(
            "logits of {} held-out tokens are {:.1e} apart at most; the largest is {:.1}",
            apart.tokens, apart.difference, apart.largest
        );
        if misrouted == 0 && apart.difference > APART_MAX * apart.largest.max(1.0) {
            let hint = format!("do not use {}; please report this with the model", out.display());
            return Err(Problem::new(found, hint).into());
        }
        say(&found);
        Ok(())
    }
}

fn table(paddings: &[LayerPadding]) -> String {
    let headings = ["layer", "experts", "added", "least margin, fitted", "held out", "misrouted", "of tokens"];
    let mut table = Table::new(&headings);
    for padding in paddings {
        let nats = |margin: f64| format!("{margin:.3}");
        table.push(vec![
            padding.layer.to_string(),
            padding.experts.to_string(),
            padding.added.to_string(),
            nats(padding.margin_fitted),
            nats(padding.margin),
            padding.misrouted.to_string(),
            padding.tokens.to_string(),
        ]);
    }
    table.to_text()
}

fn in_words(plan: &PadPlan) -> String {
    let words = |bytes: usize| bytes_in_words(bytes as u64);
    format!(
        "{} at most (largest layer {}, what comes into it {}, activations {}, embedding or head {}, program {}; \
         writing {}; hidden states {} on disk)",
        words(plan.total()),
        words(plan.layer),
        words(plan.rows),
        words(plan.activations),
        words(plan.ends),
        words(plan.program),
        words(plan.writing),
        words(plan.states),
    )
}
