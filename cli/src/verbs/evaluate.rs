//! `lateen evaluate`: everything that can be measured of one model.

use super::prepare::{KindName, SplitName};
use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::memory::{KvName, Planned};
use crate::place::{
    AdapterArguments, Outlined, Speaking, WeightArguments, model_place, open_model, outline_model, sandbox,
};
use crate::stages::write_page;
use crate::terminal::{Meter, put, put_json, say};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use evaluate::{
    Divergence, EvaluateError, EvaluateRecipe, Measured, Parity, Perplexity, Report, Subject, Table, Watch, divergence,
    evaluate, parity, perplexity, windows,
};
use formats::TensorFile;
use models::{KvFormat, Loading, Model, PlanSettings};
use prepare::{FileRecipe, Sample, Weighing};
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
    /// Perplexity on this file, with --teacher the divergence too. The records of a .jsonl, .json or .parquet file are
    /// read as training data is, any other file as one text, each token but the first measured. Nothing else is
    /// measured unless --tasks is given
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,
    /// Tokens of a text that the model sees together, at most; as many as it can take if not given
    #[arg(long, value_name = "TOKENS", requires = "perplexity")]
    context: Option<usize>,
    /// Which tasks; kata if neither --teacher nor --perplexity is given
    #[arg(long)]
    tasks: Option<TaskSet>,
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
    /// Compare logits with this file: `seqN.input_ids` and `seqN.logits`
    #[arg(long, value_name = "FILE.safetensors")]
    parity: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    adapter: AdapterArguments,
    /// How keys and values of earlier tokens are kept; if not given f32 for comparisons, f16 for tasks and speed. The
    /// teacher keeps f32
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvName>,
    /// Write a page as well
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// Tokens in a pass over texts, and rows of their logits at a time.
const PASS_TOKENS: usize = 1024;
const LOGITS_ROWS: usize = 256;
/// Short texts that share a pass: most have a hundred tokens and more.
const TEXTS_IN_A_PASS: usize = 12;
/// Tokens of a task before its answer, at most, but for a few.
const TASK_TOKENS: usize = 2048;

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
    file: Option<FileFindings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<Parity>,
}

/// What `--perplexity` found.
#[derive(Serialize)]
struct FileFindings {
    path: PathBuf,
    perplexity: Perplexity,
    /// From the teacher, on the same tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence: Option<Divergence>,
}

impl Arguments {
    fn kv(&self) -> Option<KvFormat> {
        self.kv.map(KvName::format)
    }

    fn measured<'m>(&self, model: &'m Model) -> Measured<'m> {
        Measured { model, kv: self.kv().unwrap_or(KvFormat::F32) }
    }

    /// The larger of what texts take, beside a teacher, and what tasks take.
    fn planned(&self, outlined: &Outlined, samples: &[Sample], teacher: Option<&Path>) -> Result<Planned> {
        let (recipe, threads) = (self.recipe(), kernels::pool::threads());
        let most = outlined.model.config.positions_max;
        let longest = samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0);
        let text = PlanSettings {
            pass_tokens: PASS_TOKENS,
            sequences: if longest > PASS_TOKENS { 1 } else { TEXTS_IN_A_PASS },
            logits_rows: LOGITS_ROWS,
            ..PlanSettings::one(longest.clamp(1, most), self.kv().unwrap_or(KvFormat::F32), threads)
        };
        let mut planned = outlined.planned(text);
        if let Some(place) = teacher {
            let outline = outline_model(place, Loading::Packed)?;
            planned =
                planned.beside(&Planned::of(&outline, Loading::Packed, PlanSettings { kv: KvFormat::F32, ..text }));
        }
        let engine = recipe.task_settings().engine;
        let tasks = recipe.count * (recipe.kinds.len() * recipe.splits.len()) as u64 * (1 + recipe.samples);
        let sequences = engine.sequences.min(tasks as usize);
        let context = (TASK_TOKENS + recipe.max_tokens).min(most);
        let solving = PlanSettings { sequences, spare_states: 1, ..PlanSettings::one(context, engine.kv, threads) };
        let solving = outlined.planned(PlanSettings { logits_rows: sequences, ..solving });
        let is_larger = sequences > 0 && solving.plan.total() > planned.plan.total();
        Ok(if is_larger { solving } else { planned })
    }

    fn recipe(&self) -> EvaluateRecipe {
        let defaults = EvaluateRecipe::default();
        let compares = self.teacher.is_some() || self.perplexity.is_some();
        let tasks = self.tasks.unwrap_or(if compares { TaskSet::None } else { TaskSet::Kata });
        let only_file = self.perplexity.is_some() && self.tasks.is_none();
        let kinds: Vec<_> = self.kinds.iter().map(|&kind| kind.into()).collect();
        let splits: Vec<_> = self.splits.iter().map(|&split| split.into()).collect();
        EvaluateRecipe {
            count: if tasks == TaskSet::None { 0 } else { self.count },
            kinds: if kinds.is_empty() { defaults.kinds.clone() } else { kinds },
            splits: if splits.is_empty() { defaults.splits.clone() } else { splits },
            samples: self.samples,
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            max_turns: self.max_turns,
            seed: self.seed,
            perplexity_tasks: if only_file { 0 } else { defaults.perplexity_tasks },
            speed: !only_file,
            kv: self.kv(),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(path) = &arguments.parity {
        // A reference may be for a model without any text files.
        return compare_logits(&arguments, path);
    }
    let outlined = Outlined::look_with(&arguments.model, arguments.weights.loading(), &arguments.adapter)?;
    // Read before anything is loaded: a file that cannot be measured is told at once.
    let samples =
        arguments.perplexity.as_deref().map(|path| samples_of_file(&arguments, &outlined, path)).transpose()?;
    let teacher = arguments.teacher.as_ref().map(|name| model_place(name)).transpose()?;
    let planned = arguments.planned(&outlined, samples.as_deref().unwrap_or_default(), teacher.as_deref())?;
    let speaking = outlined.open_within(&planned)?;
    let teacher = teacher.map(|place| open_model(&place, Loading::Packed)).transpose()?;
    let cancel = interrupt::listen("stopping; nothing is written")?;
    let file = match (&arguments.perplexity, samples) {
        (Some(path), Some(samples)) => {
            let measured = arguments.measured(&speaking.model);
            Some(measure_file(path, &samples, measured, teacher.as_ref(), cancel)?)
        }
        _ => None,
    };
    let report = measure(&arguments, &speaking, teacher.as_ref(), cancel)?;
    if let Some(path) = &arguments.html {
        write_page(path, &format!("Evaluation of {}", arguments.model), std::slice::from_ref(&report))?;
        say(&format!("page: {}", path.display()));
    }
    let findings = Findings { report, file, parity: None };
    if arguments.json { put_json(&findings) } else { findings.show() }
}

fn measure(arguments: &Arguments, speaking: &Speaking, teacher: Option<&Model>, cancel: &AtomicBool) -> Result<Report> {
    let sandbox = sandbox()?;
    let recipe = arguments.recipe();
    let subject = Subject { model: &speaking.model, renderer: speaking.renderer(), sandbox: &sandbox };
    let total = recipe.count * (recipe.kinds.len() * recipe.splits.len()) as u64 * (1 + recipe.samples);
    let mut meter = Meter::new("tasks", total, "tasks");
    let mut progress = |at: evaluate::TaskProgress| meter.set(at.done, &format!(" · {} tokens", at.generated_tokens));
    unless_stopped(evaluate(&arguments.model, &subject, teacher, &recipe, cancel, &mut progress))
}

pub(crate) fn unless_stopped<T>(found: Result<T, EvaluateError>) -> Result<T> {
    match found {
        Err(EvaluateError::Cancelled) => Err(Interrupted { hint: String::new() }.into()),
        other => Ok(other?),
    }
}

impl Findings {
    fn show(&self) -> Result<()> {
        put(&self.report.summary().to_text())?;
        if let Some(file) = &self.file {
            put(&format!("\n{}", file.table().to_text()))?;
        }
        if let Some(tasks) = &self.report.tasks {
            put(&format!("\n{}", tasks.table().to_text()))?;
        }
        Ok(())
    }
}

impl FileFindings {
    fn table(&self) -> Table {
        let name = self.path.display().to_string();
        let mut table = Table::new(&["file", &name]);
        let mut line = |what: &str, value: String| table.push(vec![what.to_owned(), value]);
        line("tokens", self.perplexity.all.tokens.to_string());
        line("perplexity", format!("{:.4}", self.perplexity.all.perplexity));
        if self.perplexity.by_kind.len() > 1 {
            for (kind, loss) in &self.perplexity.by_kind {
                line(&format!("perplexity ({kind})"), format!("{:.4}", loss.perplexity));
            }
        }
        if let Some(divergence) = &self.divergence {
            line("perplexity of the teacher", format!("{:.4}", divergence.teacher.perplexity));
            line("KL from the teacher, mean (nats)", format!("{:.6}", divergence.mean));
            line("KL, median", format!("{:.6}", divergence.median));
            line("KL, 99 of 100 below", format!("{:.6}", divergence.quantile_99));
            line("KL, maximum", format!("{:.6}", divergence.maximum));
            line("same top token", divergence.same_top_token.percent());
        }
        table
    }
}

fn measure_file(
    path: &Path,
    samples: &[Sample],
    measured: Measured<'_>,
    teacher: Option<&Model>,
    cancel: &AtomicBool,
) -> Result<FileFindings> {
    let total = samples.iter().map(|sample| sample.tokens.len() as u64).sum();
    let mut meter = Meter::new(path.display().to_string(), total, "tokens");
    let mut done = 0;
    let mut progress = |tokens| {
        done += tokens;
        meter.set(done, "");
    };
    let mut watch = Watch { cancel, progress: &mut progress };
    let found = match teacher {
        Some(teacher) => {
            divergence(measured, Measured::exactly(teacher), samples, &mut watch).map(|(far, own)| (own, Some(far)))
        }
        None => perplexity(measured, samples, &mut watch).map(|own| (own, None)),
    };
    let (perplexity, divergence) =
        unless_stopped(found).with_context(|| format!("cannot measure {}", path.display()))?;
    Ok(FileFindings { path: path.to_owned(), perplexity, divergence })
}

/// The file as token data: the records of a data file, or one text in windows.
fn samples_of_file(arguments: &Arguments, outlined: &Outlined, path: &Path) -> Result<Vec<Sample>> {
    if prepare::read::is_data_file(path) {
        return samples_of_records(outlined, path);
    }
    let most = outlined.model.config.positions_max;
    let context = arguments.context.unwrap_or(most);
    if !(2..=most).contains(&context) {
        let message = format!("--context {context} is not from 2 to {most}, which is what the model can take");
        return Err(Problem::new(message, "leave it out to let the model see as much as it can").into());
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("{} is not text in UTF-8: byte {at} cannot be read", path.display());
        Problem::new(message, "convert it, or give a file of plain text")
    })?;
    let tokens = outlined.tokenizer.encode(&text);
    if tokens.len() < 2 {
        let message = match tokens.len() {
            0 => format!("{} is empty", path.display()),
            _ => format!("{} is a single token, after which nothing is left to predict", path.display()),
        };
        return Err(Problem::new(message, "give a longer text: thousands of tokens make a steady figure").into());
    }
    Ok(windows(&tokens, context))
}

fn samples_of_records(outlined: &Outlined, path: &Path) -> Result<Vec<Sample>> {
    let (renderer, weighing) = (outlined.renderer(), Weighing::default());
    let mut samples: Vec<Sample> = Vec::new();
    for raw in (FileRecipe { measures: true, ..FileRecipe::new(path) }).documents(0)? {
        samples.push(raw?.sample(&renderer, &weighing, FillOrder::PrefixFirst)?);
    }
    Ok(samples)
}

fn compare_logits(arguments: &Arguments, path: &Path) -> Result<()> {
    let mut model = open_model(&model_place(&arguments.model)?, arguments.weights.loading_or(Loading::Stored))?;
    arguments.adapter.attach(&mut model)?;
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
    let found = parity(arguments.measured(&model), &sequences, &logits)?;
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
