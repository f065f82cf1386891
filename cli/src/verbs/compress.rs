//! `lateen compress`: fewer experts, by dropping and merging, and fewer bits, from flags, of models that may be larger
//! than memory.
//!
//! The model goes from folder to folder a layer at a time: watched, planned, written. Statistics and finished files
//! stay in the new folder, so that the same command goes on where it was stopped or killed. Merging alone wants the
//! whole model in memory.

use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::memory::{Machine, bytes_from_words};
use crate::place::{Outlined, Speaking, model_directory, open_text, stored_bytes};
use crate::recipe::SaveFormat;
use crate::stages::{
    Kept, PLAN, Planned, Preparing, STATISTICS, Shrunk, SystemRoots, Watching, calibration, pass_lineage_on,
    save_model, shrink,
};
use crate::terminal::{Meter, peak_memory_bytes, put, say};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use compress::{
    Calibration, CompressError, ExpertRewrite, LayerSize, LayerStatistics, ObserveOptions, ObservePlace, ObservePlan,
    ObserveStep, Plan, PlanRecipe, QuantizeRecipe, StoredFormat,
};
use evaluate::table::bytes_in_words;
use models::{Config, FeedForwardKind, LayerStream, Layers, Loading, Model, RewriteStep};
use prepare::{DataRecipe, Dataset, FileRecipe, Fit, KataRecipe, Packing, Sample, SourceRecipe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use text::Renderer;

/// Make a model smaller: drop and merge experts, store weights in fewer bits; run again after a stop, it goes on
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    /// A model folder, a run, or the name of a fixture
    #[arg(required = true)]
    model: Option<String>,
    /// The folder to write
    #[arg(long, required = true)]
    out: Option<PathBuf>,
    /// Experts that stay in each layer
    #[arg(long, value_name = "N", conflicts_with = "plan")]
    keep: Option<usize>,
    /// Merge experts that do not stay into those that do, where that measures better than dropping them; the model has
    /// to fit into memory
    #[arg(long, requires = "keep")]
    merge: bool,
    /// Drop and merge what this plan says (the plan.toml of an earlier run, possibly edited)
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Watch the experts on the records of this file (JSON lines, JSON, Parquet) instead of katas
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    observation: ObservationArguments,
    /// Memory that may be held at most, such as 4GB; if not given, what the machine has available
    #[arg(long, value_name = "BYTES", value_parser = bytes_from_words)]
    memory: Option<u64>,
    /// Store projections and experts in this format
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<FormatName>,
    /// Routers and their gates
    #[arg(long, value_name = "FORMAT", default_value = "q8_0")]
    router: FormatName,
    /// Embeddings, head and thin projections
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    rest: FormatName,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    Report(super::compress_report::Arguments),
}

/// How much is watched.
#[derive(Args, Clone, Copy)]
pub(crate) struct ObservationArguments {
    /// Tokens to watch the experts on
    #[arg(long, default_value_t = 100_000)]
    pub(crate) tokens: usize,
    /// Of these, tokens on which all experts of a layer are run, to compare what they say
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) similarity_tokens: usize,
    /// Of these, tokens whose loss is walked back, to see what it asks of each expert
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) gradient_tokens: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    F32,
    Bf16,
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
    Mxfp4,
    Nvfp4,
}

impl From<FormatName> for StoredFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::F32 => Self::F32,
            FormatName::Bf16 => Self::Bf16,
            FormatName::Q8_0 => Self::Q8_0,
            FormatName::Mxfp4 => Self::Mxfp4,
            FormatName::Nvfp4 => Self::Nvfp4,
        }
    }
}

const GOES_ON: &str = "run the same command again, and it goes on";

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(What::Report(report)) = &arguments.what {
        return super::compress_report::run(report);
    }
    let prunes = arguments.keep.is_some() || arguments.plan.is_some();
    if !prunes && arguments.quantize.is_none() {
        let hint = "say --keep N to drop experts, --quantize FORMAT for fewer bits, or both";
        return Err(Problem::new("nothing is to be done", hint).into());
    }
    if arguments.out().join("config.json").exists() {
        let message = format!("{} holds a model already", arguments.out().display());
        return Err(Problem::new(message, "give another --out, or remove it first").into());
    }
    let from = model_directory(arguments.model.as_deref().expect("only a report goes without"))?;
    let planned = match (&arguments.plan, arguments.keep) {
        (Some(path), _) => Some(Planned::Given(Plan::load(path)?)),
        (None, Some(keep)) => {
            Some(Planned::Decided(PlanRecipe { merge: arguments.merge, ..PlanRecipe::keeping(keep) }))
        }
        (None, None) => None,
    };
    let before = stored_bytes(&from)?;
    let out = arguments.out().to_owned();
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    match planned {
        Some(planned) if planned.merges() => merge_in_memory(&arguments, &from, planned)?,
        planned => Work::open(arguments, from)?.run(planned)?,
    }
    let after = stored_bytes(&out)?;
    let peak =
        peak_memory_bytes().map_or_else(String::new, |peak| format!(", holding {} at most", bytes_in_words(peak)));
    say(&format!("{} became {}{peak}", bytes_in_words(before), bytes_in_words(after)));
    put(&format!("{}\n", out.display()))?;
    Ok(())
}

/// What is merged is measured on what all layers before say now, and fitted in f32.
fn merge_in_memory(arguments: &Arguments, from: &Path, planned: Planned) -> Result<()> {
    let mut speaking = Speaking::open(&from.display().to_string(), Loading::F32)?;
    let samples = arguments.samples(&speaking.renderer())?;
    let source = speaking.model.config.clone();
    let kept = Kept::of(from, arguments.out())?;
    let watching = Watching { samples: &samples, tokens_max: arguments.observation.tokens, place: Some(kept.place()) };
    let shrunk = shrink(&mut speaking.model, &watching, planned, None)?;
    shrunk.save(arguments.out())?;
    if let Some(recipe) = arguments.recipe() {
        compress::quantize(&mut speaking.model, &recipe)?;
    }
    save_model(&speaking.model, &speaking.tokenizer, &speaking.template, arguments.out(), SaveFormat::Bf16)?;
    pass_lineage_on(from, arguments.out(), &source, Some(&shrunk.lineage(&source.expert_counts())))
}

/// One command under way.
struct Work {
    arguments: Arguments,
    from: PathBuf,
    stream: LayerStream,
    /// Bytes that may be held.
    memory: usize,
    cancelled: &'static AtomicBool,
}

impl Work {
    fn open(arguments: Arguments, from: PathBuf) -> Result<Self> {
        let prunes = arguments.keep.is_some() || arguments.plan.is_some();
        let stream = match prunes {
            true => LayerStream::open_plain(&from),
            false => LayerStream::open(&from, Loading::Stored),
        };
        Ok(Self {
            stream: stream.with_context(|| format!("cannot open the model in {}", from.display()))?,
            memory: arguments.memory.unwrap_or_else(|| Machine::here().available()) as usize,
            cancelled: interrupt::listen_to_all("stopping; what is done stays")?,
            arguments,
            from,
        })
    }

    fn run(&self, planned: Option<Planned>) -> Result<()> {
        let outline = self.stream.outline();
        let plan = match planned {
            None => None,
            Some(Planned::Given(plan)) => Some(plan),
            Some(Planned::Decided(recipe)) => {
                // Whether so many can stay is known before anything is watched.
                compress::keep_counts(&recipe, &LayerSize::of(outline), None)?;
                Some(Plan::decide(outline, &self.observe()?, &recipe, None)?)
            }
        };
        if let Some(plan) = &plan {
            plan.check(outline)?;
            plan.save(&self.arguments.out().join(PLAN))?;
        }
        self.write(plan.as_ref())
    }

    fn observe(&self) -> Result<Vec<LayerStatistics>> {
        let place = self.from.display().to_string();
        let outlined = Outlined::look(&place, Loading::Stored)?;
        let samples = self.arguments.samples(&outlined.renderer())?;
        let (tokens, lengths) = calibration(&samples, self.arguments.observation.tokens);
        drop((outlined, samples));
        let (outline, loading) = (self.stream.outline(), self.stream.loading());
        let (options, plan) = self.arguments.observation.fit(outline, loading, &lengths, self.memory);
        check_memory("watching the experts of", &place, plan.total(), self.memory, &plan_in_words(&plan))?;
        say(&format!("watching the experts takes {}", plan_in_words(&plan)));
        let folder = self.arguments.out().join(STATISTICS);
        let place = ObservePlace { folder: &folder, model: &self.stream.fingerprint() };
        let mut meter = Bar::new();
        let mut watch = |step: ObserveStep| {
            let way = if step.is_backward { "back through" } else { "in" };
            meter.show("watching the experts", (step.done, step.total), step.bytes_read, way, step.layer);
            !self.cancelled.load(Ordering::Relaxed)
        };
        let calibration = [Calibration { tokens: &tokens, lengths: &lengths }];
        let found = compress::observe(Layers::Streamed(&self.stream), &calibration, &options, Some(place), &mut watch);
        stopped(found)
    }

    /// Writes the model that the plan leaves.
    fn write(&self, plan: Option<&Plan>) -> Result<()> {
        let outline = self.stream.outline();
        let mut counts = counts(&outline.config);
        plan.iter().flat_map(|plan| &plan.layers).for_each(|layer| counts[layer.layer] = layer.keep.len());
        let key = plan.map(serde_json::to_string).transpose()?.unwrap_or_default();
        let job = ExpertRewrite {
            from: &self.stream,
            out: self.arguments.out(),
            expert_counts: &counts,
            key: &key,
            quantization: self.arguments.recipe().map(|recipe| recipe.quantization()),
        };
        let needed = compress::rewrite_memory(outline, self.stream.loading());
        let place = self.from.display().to_string();
        check_memory("writing", &place, needed, self.memory, "one layer and its largest weight in three forms")?;
        // Before config.json, with which the folder is a model.
        save_text(&self.from, self.arguments.out())?;
        let source = &outline.config;
        let step = plan.map(|plan| Shrunk::pruned(plan.clone()).lineage(&source.expert_counts()));
        pass_lineage_on(&self.from, self.arguments.out(), source, step.as_ref())?;
        let mut meter = Bar::new();
        let mut watch = |step: RewriteStep| {
            let layer = step.done.saturating_sub(1);
            meter.show("writing", (step.done, step.total), step.bytes_read, "after", layer);
            !self.cancelled.load(Ordering::Relaxed)
        };
        let mut experts = |index: usize, mut moe| {
            if let Some(planned) = plan.and_then(|plan| plan.layers.iter().find(|planned| planned.layer == index)) {
                compress::prune_mixture(&mut moe, planned)?;
            }
            Ok(moe)
        };
        stopped(compress::rewrite_experts(&job, &mut experts, &mut watch))
            .with_context(|| format!("cannot write the model to {}", self.arguments.out().display()))
    }
}

fn save_text(from: &Path, out: &Path) -> Result<()> {
    let (tokenizer, template) = open_text(from)?;
    tokenizer.save(out)?;
    Ok(template.save(out)?)
}

impl Arguments {
    fn out(&self) -> &Path {
        self.out.as_deref().expect("only a report goes without")
    }

    /// What the experts are watched on.
    fn samples(&self, renderer: &Renderer) -> Result<Vec<Sample>> {
        Ok(calibration_data(self.data.as_deref(), self.observation.tokens, (0, 0), renderer)?.samples)
    }

    fn recipe(&self) -> Option<QuantizeRecipe> {
        self.quantize.map(|format| QuantizeRecipe {
            experts: format.into(),
            projections: format.into(),
            router: self.router.into(),
            rest: self.rest.into(),
        })
    }
}

/// What the experts are watched on, the records of a file or katas; `validation` of them are kept for measuring.
pub(crate) fn calibration_data(
    data: Option<&Path>,
    tokens: usize,
    (seed, validation): (u64, usize),
    renderer: &Renderer,
) -> Result<Dataset> {
    let source = match data {
        Some(path) => SourceRecipe::File(FileRecipe::new(path)),
        // About 150 tokens an episode, so that there are enough and not many more.
        None => SourceRecipe::Kata(KataRecipe { episodes: tokens / 100 + 1, ..KataRecipe::default() }),
    };
    let recipe = DataRecipe { seed, validation, sources: vec![source], ..DataRecipe::default() };
    let fit = Fit { sequence_length: 2048, packing: Packing::BestFit };
    Ok(prepare::load(&recipe, renderer, fit, &SystemRoots, &Preparing::default())?)
}

impl ObservationArguments {
    /// The largest chunks with which watching fits into so much memory, and what it takes; with states on disk only
    /// where no chunk fits beside them.
    pub(crate) fn fit(
        self,
        outline: &Model,
        loading: Loading,
        lengths: &[usize],
        memory: usize,
    ) -> (ObserveOptions, ObservePlan) {
        let planned = |chunk_tokens: usize| {
            let Self { similarity_tokens, gradient_tokens, .. } = self;
            let options = ObserveOptions { chunk_tokens, similarity_tokens, gradient_tokens, memory_max: memory };
            (options, ObservePlan::of(outline, loading, false, lengths, &options))
        };
        let all: Vec<_> = [4096, 2048, 1024, 512, 256].map(planned).to_vec();
        let smallest = all[all.len() - 1];
        let fits = |on_disk: bool| {
            all.iter().find(|(_, plan)| plan.total() <= memory && plan.states_on_disk == on_disk).copied()
        };
        fits(false).or_else(|| fits(true)).unwrap_or(smallest)
    }
}

/// Experts of each layer; 0 where there are none.
pub(crate) fn counts(config: &Config) -> Vec<usize> {
    let count = |layer: &models::LayerConfig| match layer.feed_forward {
        FeedForwardKind::Experts { count } => count,
        FeedForwardKind::Dense => 0,
    };
    config.layers.iter().map(count).collect()
}

fn check_memory(what: &str, place: &str, needed: usize, allowed: usize, of: &str) -> Result<()> {
    if needed <= allowed {
        return Ok(());
    }
    let words = |bytes: usize| bytes_in_words(bytes as u64);
    let message =
        format!("{what} {place} would take {} of memory, and {} may be held: {of}", words(needed), words(allowed));
    let hint = format!("close other programs, or allow more with --memory {:.1}GB", needed as f64 / 1e9 + 0.05);
    Err(Problem::new(message, hint).into())
}

fn plan_in_words(plan: &ObservePlan) -> String {
    let words = |bytes: usize| bytes_in_words(bytes as u64);
    let states = if plan.states_on_disk { "on disk" } else { "in memory" };
    format!(
        "{} at most (largest layer {}, activations {}, embedding or head {}, statistics {}, program {}; hidden states \
         {} {states})",
        words(plan.total()),
        words(plan.layer),
        words(plan.activations),
        words(plan.ends),
        words(plan.statistics),
        words(plan.program),
        words(plan.states),
    )
}

/// A request to stop is no failure.
fn stopped<T>(result: Result<T, CompressError>) -> Result<T> {
    match result {
        Err(CompressError::Cancelled) => Err(Interrupted { hint: GOES_ON.to_owned() }.into()),
        other => Ok(other?),
    }
}

/// A meter that appears with the first step, and tells how fast weights are read.
struct Bar {
    meter: Option<Meter>,
    began: Instant,
}

impl Bar {
    fn new() -> Self {
        Self { meter: None, began: Instant::now() }
    }

    fn show(&mut self, what: &str, (done, total): (usize, usize), bytes_read: u64, way: &str, layer: usize) {
        let meter = self.meter.get_or_insert_with(|| Meter::new(what, total as u64, "steps"));
        let rate = bytes_read as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        meter.set(done as u64, &format!(" · {way} layer {layer} · {}/s read", bytes_in_words(rate as u64)));
    }
}
