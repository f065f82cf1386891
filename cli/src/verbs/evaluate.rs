//! `lateen evaluate`: everything that can be measured of one model.

use super::prepare::{KindName, SplitName};
use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::place::{Speaking, WeightArguments, model_place, open_model, sandbox};
use crate::stages::write_page;
use crate::terminal::{Meter, put, put_json, say};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use evaluate::{EvaluateError, EvaluateRecipe, Parity, Perplexity, Report, Subject, evaluate, parity, perplexity};
use formats::TensorFile;
use models::Loading;
use prepare::{JsonlRecipe, Sample, Weighing};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use text::FillOrder;

/// Measure a model: tasks solved, perplexity, divergence from a teacher, speed
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    model: String,
    /// A model to compare with, taken as it is stored: divergence and agreement
    #[arg(long)]
    teacher: Option<String>,
    /// Which tasks
    #[arg(long, default_value = "kata")]
    tasks: TaskSet,
    /// Tasks of each kind in each split
    #[arg(long, default_value_t = 50)]
    count: u64,
    /// Only these kinds
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<KindName>,
    /// Only these splits; test and unseen-families if none is given
    #[arg(long = "split", value_name = "SPLIT", value_delimiter = ',')]
    splits: Vec<SplitName>,
    /// Tries with a temperature for pass@k, besides the greedy one
    #[arg(long, default_value_t = 0)]
    samples: u64,
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Tokens of one answer, at most
    #[arg(long, default_value_t = 384)]
    max_tokens: usize,
    /// Answers in one replay, at most
    #[arg(long, default_value_t = 8)]
    max_turns: usize,
    /// The same seed gives the same tasks
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Perplexity on the lines of this file, too
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// Compare logits with this file: `seqN.input_ids` and `seqN.logits`
    #[arg(long, value_name = "FILE.safetensors")]
    parity: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightArguments,
    /// Write a page as well
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TaskSet {
    Kata,
    None,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Perplexity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<Parity>,
}

impl Arguments {
    fn recipe(&self) -> EvaluateRecipe {
        let defaults = EvaluateRecipe::default();
        let kinds: Vec<_> = self.kinds.iter().map(|&kind| kind.into()).collect();
        let splits: Vec<_> = self.splits.iter().map(|&split| split.into()).collect();
        EvaluateRecipe {
            count: if self.tasks == TaskSet::None { 0 } else { self.count },
            kinds: if kinds.is_empty() { defaults.kinds.clone() } else { kinds },
            splits: if splits.is_empty() { defaults.splits.clone() } else { splits },
            samples: self.samples,
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            max_turns: self.max_turns,
            seed: self.seed,
            ..defaults
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(path) = &arguments.parity {
        // A reference may be for a model without any text files.
        return compare_logits(&arguments, path);
    }
    let speaking = Speaking::open(&arguments.model, arguments.weights.loading())?;
    let data = arguments.data.as_deref().map(|path| perplexity_of_file(&speaking, path)).transpose()?;
    let cancel = interrupt::listen("stopping; nothing is written")?;
    let report = measure(&arguments, &speaking, cancel)?;
    if let Some(path) = &arguments.html {
        write_page(path, &format!("Evaluation of {}", arguments.model), std::slice::from_ref(&report))?;
        say(&format!("page: {}", path.display()));
    }
    let findings = Findings { report, data, parity: None };
    if arguments.json { put_json(&findings) } else { findings.show() }
}

fn measure(arguments: &Arguments, speaking: &Speaking, cancel: &AtomicBool) -> Result<Report> {
    let teacher = arguments.teacher.as_ref().map(|name| open_model(&model_place(name)?, Loading::Packed));
    let teacher = teacher.transpose()?;
    let sandbox = sandbox()?;
    let recipe = arguments.recipe();
    let subject = Subject { model: &speaking.model, renderer: speaking.renderer(), sandbox: &sandbox };
    let total = recipe.count * (recipe.kinds.len() * recipe.splits.len()) as u64 * (1 + recipe.samples);
    let mut meter = Meter::new("tasks", total, "tasks");
    let mut progress = |at: evaluate::TaskProgress| meter.set(at.done, &format!(" · {} tokens", at.generated_tokens));
    match evaluate(&arguments.model, &subject, teacher.as_ref(), &recipe, cancel, &mut progress) {
        Err(EvaluateError::Cancelled) => Err(Interrupted { hint: String::new() }.into()),
        other => Ok(other?),
    }
}

impl Findings {
    fn show(&self) -> Result<()> {
        put(&self.report.summary().to_text())?;
        if let Some(data) = &self.data {
            put(&format!("\nperplexity of the file: {:.4} over {} tokens\n", data.all.perplexity, data.all.tokens))?;
        }
        if let Some(tasks) = &self.report.tasks {
            put(&format!("\n{}", tasks.table().to_text()))?;
        }
        Ok(())
    }
}

fn perplexity_of_file(speaking: &Speaking, path: &Path) -> Result<Perplexity> {
    let source = JsonlRecipe { path: path.to_owned(), kind: None, repeat: 1.0, share_max: None };
    let (renderer, weighing) = (speaking.renderer(), Weighing::default());
    let mut samples: Vec<Sample> = Vec::new();
    for raw in source.read(&mut prepare::source::Skipped::default())? {
        let pieces = renderer.document(&raw.document, FillOrder::PrefixFirst)?;
        samples.push(weighing.sample(&pieces, raw.kind, raw.weight));
    }
    perplexity(&speaking.model, &samples).with_context(|| format!("cannot measure {}", path.display()))
}

fn compare_logits(arguments: &Arguments, path: &Path) -> Result<()> {
    let model = open_model(&model_place(&arguments.model)?, arguments.weights.loading_or(Loading::Stored))?;
    let file = TensorFile::open(path)?;
    let (mut sequences, mut logits) = (Vec::new(), Vec::new());
    for index in 0.. {
        let name = format!("seq{index}.input_ids");
        if !file.contains(&name) {
            break;
        }
        let ids = file.get(&name)?.to_i64()?;
        sequences.push(ids.into_iter().map(|id| id as u32).collect());
        logits.push(file.get(&format!("seq{index}.logits"))?.to_f32());
    }
    if sequences.is_empty() {
        let hint = "it needs seq0.input_ids [tokens] and seq0.logits [tokens, vocabulary], seq1.…";
        return Err(Problem::new(format!("{} holds no reference", path.display()), hint).into());
    }
    let found = parity(&model, &sequences, &logits)?;
    if arguments.json {
        return put_json(&found);
    }
    let (sequence, position) = found.worst;
    put(&format!(
        "{} tokens compared\nlargest difference  {:.3e} (sequence {sequence}, position {position})\n\
         rms difference      {:.3e}\nKL (nats per token) {:.3e}\nsame top token      {}\n",
        found.tokens,
        found.largest_difference,
        found.rms_difference,
        found.divergence,
        found.same_top_token.percent()
    ))?;
    Ok(())
}
