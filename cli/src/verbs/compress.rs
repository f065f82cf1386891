//! `lateen compress`: fewer experts, by dropping and merging, and fewer bits, from flags, of models that may be larger
//! than memory.
//!
//! The model goes from folder to folder a layer at a time: watched, planned, merged, written. Statistics and finished
//! files stay in the new folder, so that the same command goes on where it was stopped or killed.

use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::memory::{Machine, bytes_from_words};
use crate::place::{Outlined, model_directory, open_text, stored_bytes};
use crate::stages::{PLAN, Planned, Preparing, STATISTICS, Shrunk, SystemRoots, calibration_batches, pass_lineage_on};
use crate::terminal::{Meter, peak_memory_bytes, put, say};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use compress::{
    Calibration, CompressError, ExpertRewrite, Importance, LayerSize, LayerStatistics, MergeRecipe, ObserveOptions,
    ObservePlace, ObservePlan, ObserveStep, Plan, PlanRecipe, QuantizeRecipe, StoredFormat,
};
use evaluate::table::bytes_in_words;
use models::{Config, FeedForwardKind, LayerStream, Layers, Loading, Model, RewriteStep};
use prepare::{DataRecipe, Dataset, FileRecipe, Fit, KataRecipe, Packing, Sample, SourceRecipe};
use serde::{Deserialize, Serialize};
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
    /// Merge experts that do not stay into those that do, where that measures better than dropping them
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
    Pad(super::compress_pad::Arguments),
    Report(super::compress_report::Arguments),
}

/// How much is watched.
#[derive(Args, Clone, Copy)]
pub(crate) struct ObservationArguments {
    /// Tokens to watch the experts on
    #[arg(long, default_value_t = 100_000)]
    pub(crate) tokens: usize,
    /// Of these, tokens on which all experts of a layer are run, to compare what they say; if not given, 256 where
    /// experts are merged, else none
    #[arg(long, value_name = "TOKENS")]
    similarity_tokens: Option<usize>,
    /// Of these, tokens whose loss is walked back, to see what it asks of each expert; if not given, 16384 where
    /// experts are merged, else none
    #[arg(long, value_name = "TOKENS")]
    gradient_tokens: Option<usize>,
}

/// Where experts are merged and nothing else is said.
const GRADIENT_TOKENS: usize = 16_384;

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

/// Fails where a model stands already.
pub(super) fn refuse_a_model(out: &Path) -> Result<()> {
    if out.join("config.json").exists() {
        let message = format!("{} holds a model already", out.display());
        return Err(Problem::new(message, "give another --out, or remove it first").into());
    }
    Ok(())
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match &arguments.what {
        Some(What::Pad(pad)) => return super::compress_pad::run(pad),
        Some(What::Report(report)) => return super::compress_report::run(report),
        None => {}
    }
    let prunes = arguments.keep.is_some() || arguments.plan.is_some();
    if !prunes && arguments.quantize.is_none() {
        let hint = "say --keep N to drop experts, --quantize FORMAT for fewer bits, or both";
        return Err(Problem::new("nothing is to be done", hint).into());
    }
    refuse_a_model(arguments.out())?;
    let from = model_directory(arguments.model.as_deref().expect("only subcommands go without"))?;
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
    Work::open(arguments, from)?.run(planned)?;
    let after = stored_bytes(&out)?;
    let peak =
        peak_memory_bytes().map_or_else(String::new, |peak| format!(", holding {} at most", bytes_in_words(peak)));
    say(&format!("{} became {}{peak}", bytes_in_words(before), bytes_in_words(after)));
    put(&format!("{}\n", out.display()))?;
    Ok(())
}

/// One command under way.
pub(super) struct Work {
    pub(super) arguments: Arguments,
    pub(super) from: PathBuf,
    pub(super) stream: LayerStream,
    /// Bytes that may be held.
    pub(super) memory: usize,
    pub(super) cancelled: &'static AtomicBool,
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
        let Some(planned) = planned else { return self.write(None) };
        let merges = planned.merges();
        let (plan, observed) = match planned {
            Planned::Given(plan) => {
                plan.check(outline)?;
                (plan, if merges { Some(self.observe(merges)?) } else { None })
            }
            Planned::Decided(recipe) => {
                // Whether so many can stay is known before anything is watched.
                compress::keep_counts(&recipe, &LayerSize::of(outline), None)?;
                let observed = self.observe(merges)?;
                (self.decide(&observed.statistics, &recipe)?, Some(observed))
            }
        };
        plan.check(outline)?;
        plan.save(&self.arguments.out().join(PLAN))?;
        match observed.filter(|_| plan.merges()) {
            Some(observed) => self.merge(&plan, &observed),
            None => self.write(Some(&plan)),
        }
    }

    fn observe(&self, merges: bool) -> Result<Observed> {
        let place = self.from.display().to_string();
        let outlined = Outlined::look(&place, Loading::Stored)?;
        let samples = self.arguments.samples(&outlined.renderer())?;
        let batches = calibration_batches(&samples, self.arguments.observation.tokens);
        drop((outlined, samples));
        let lengths: Vec<usize> = batches.iter().flat_map(|(_, lengths)| lengths).copied().collect();
        let (outline, loading) = (self.stream.outline(), self.stream.loading());
        let (options, plan) = self.arguments.observation.fit(merges, (outline, loading), &lengths, self.memory);
        check_memory("watching the experts of", &place, plan.total(), self.memory, &plan_in_words(&plan))?;
        say(&format!("watching the experts takes {}", plan_in_words(&plan)));
        let folder = self.statistics();
        let place = ObservePlace { folder: &folder, model: &self.stream.fingerprint() };
        let mut meter = Bar::new();
        let mut watch = |step: ObserveStep| {
            let way = if step.is_backward { "back through" } else { "in" };
            meter.show("watching the experts", (step.done, step.total), step.bytes_read, way, step.layer);
            !self.cancelled.load(Ordering::Relaxed)
        };
        let mut observed = Observed { batches, statistics: Vec::new() };
        let layers = Layers::Streamed(&self.stream);
        let found = compress::observe(layers, &observed.calibrations(), &options, Some(place), &mut watch);
        observed.statistics = stopped(found)?;
        Ok(observed)
    }

    fn statistics(&self) -> PathBuf {
        self.arguments.out().join(STATISTICS)
    }

    /// The plan that an earlier call has decided by the same recipe, or a new one: comparing neurons may take minutes.
    fn decide(&self, statistics: &[LayerStatistics], recipe: &PlanRecipe) -> Result<Plan> {
        let path = self.statistics().join("decided.json");
        if path.exists() {
            let found: Decided = formats::read_json(&path)?;
            if found.recipe == *recipe {
                return Ok(found.plan);
            }
        }
        let mut meter: Option<Meter> = None;
        let mut watch = |done: usize| {
            let total = statistics.len() as u64;
            let meter = meter.get_or_insert_with(|| Meter::new("comparing experts", total, "mixtures"));
            meter.set(done as u64, "");
            !self.cancelled.load(Ordering::Relaxed)
        };
        let plan = stopped(Plan::decide_streamed(&self.stream, statistics, recipe, &mut watch))?;
        let decided = Decided { recipe: recipe.clone(), plan };
        formats::write_json(&path, &decided)?;
        Ok(decided.plan)
    }

    /// Experts that each layer will have.
    pub(super) fn counts(&self, plan: Option<&Plan>) -> Vec<usize> {
        let config = &self.stream.outline().config;
        plan.map_or_else(|| counts(config), |plan| plan.expert_counts(config.layers.len()))
    }

    /// Writes the model that the plan leaves.
    fn write(&self, plan: Option<&Plan>) -> Result<()> {
        let outline = self.stream.outline();
        let counts = self.counts(plan);
        let key = plan.map(serde_json::to_string).transpose()?.unwrap_or_default();
        let job = ExpertRewrite {
            from: &self.stream,
            out: self.arguments.out(),
            expert_counts: &counts,
            key: &key,
            plain: numeric::Format::Bf16,
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

/// What the experts were seen to do, and on which tokens.
pub(super) struct Observed {
    batches: Vec<(Vec<u32>, Vec<usize>)>,
    pub(super) statistics: Vec<LayerStatistics>,
}

impl Observed {
    pub(super) fn calibrations(&self) -> Vec<Calibration<'_>> {
        self.batches.iter().map(|(tokens, lengths)| Calibration { tokens, lengths }).collect()
    }
}

/// A plan, and by what it was decided.
#[derive(Serialize, Deserialize)]
struct Decided {
    recipe: PlanRecipe,
    plan: Plan,
}

pub(super) fn save_text(from: &Path, out: &Path) -> Result<()> {
    let (tokenizer, template) = open_text(from)?;
    tokenizer.save(out)?;
    Ok(template.save(out)?)
}

impl Arguments {
    pub(super) fn out(&self) -> &Path {
        self.out.as_deref().expect("only subcommands go without")
    }

    /// What the experts are watched on.
    fn samples(&self, renderer: &Renderer) -> Result<Vec<Sample>> {
        Ok(calibration_data(self.data.as_deref(), self.observation.tokens, (0, 0), renderer)?.samples)
    }

    /// Without gradients there is no Fisher information to weigh neurons by.
    pub(super) fn merge_recipe(&self) -> MergeRecipe {
        let usual = MergeRecipe::default();
        match self.observation.gradient_tokens {
            Some(0) => MergeRecipe { importance: Importance::Saliency, ..usual },
            _ => usual,
        }
    }

    pub(super) fn recipe(&self) -> Option<QuantizeRecipe> {
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
        merges: bool,
        (outline, loading): (&Model, Loading),
        lengths: &[usize],
        memory: usize,
    ) -> (ObserveOptions, ObservePlan) {
        let usual = ObserveOptions::default().similarity_tokens;
        let similarity_tokens = self.similarity_tokens.unwrap_or(if merges { usual } else { 0 });
        let gradient_tokens = self.gradient_tokens.unwrap_or(if merges { GRADIENT_TOKENS } else { 0 });
        let planned = |chunk_tokens: usize| {
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

pub(super) fn check_memory(what: &str, place: &str, needed: usize, allowed: usize, of: &str) -> Result<()> {
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
pub(super) fn stopped<T>(result: Result<T, CompressError>) -> Result<T> {
    match result {
        Err(CompressError::Cancelled) => Err(Interrupted { hint: GOES_ON.to_owned() }.into()),
        other => Ok(other?),
    }
}

/// A meter that appears with the first step, and tells how fast weights are read.
pub(super) struct Bar {
    meter: Option<Meter>,
    began: Instant,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { meter: None, began: Instant::now() }
    }

    pub(super) fn show(&mut self, what: &str, (done, total): (usize, usize), bytes_read: u64, way: &str, layer: usize) {
        let meter = self.meter.get_or_insert_with(|| Meter::new(what, total as u64, "steps"));
        let rate = bytes_read as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        meter.set(done as u64, &format!(" · {way} layer {layer} · {}/s read", bytes_in_words(rate as u64)));
    }
}
