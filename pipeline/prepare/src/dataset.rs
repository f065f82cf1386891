//! From a recipe's table to samples: read → render → weigh → truncate → deduplicate → decontaminate → cap → hold out.

use crate::batch::Sample;
use crate::code::CodeRecipe;
use crate::error::PrepareError;
use crate::jsonl::JsonlRecipe;
use crate::kata::{KataRecipe, KataReport, measured_tasks};
use crate::kind::{Kind, KindWeights};
use crate::overlap::Grams;
use crate::pack::Packing;
use crate::share;
use crate::source::{Raw, Roots, Skipped};
use crate::weigh::{FillTraining, Weighing};
use environment::{Split, Task};
use numeric::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use text::{FillOrder, Renderer};

/// A source may give this share of all tokens where at least [`MANY_SOURCES`] compete and the recipe says nothing.
const SHARE_MAX: f64 = 0.2;
const MANY_SOURCES: usize = 6;
/// Documents rendered between two reports of progress.
const CHUNK: usize = 4096;
/// One in so many samples of a file is held out, as long as held-out data is wanted.
const HELD_OUT: u64 = 50;

/// The data table of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    pub seed: u64,
    /// Loss weight of each kind of task.
    pub weights: KindWeights,
    pub fill: FillTraining,
    /// The share of holed texts that show the suffix first.
    pub suffix_first: f64,
    /// Samples held out for validation, about.
    pub validation: usize,
    /// Tasks of each kind, from each split that is measured, against which all data is checked; 0 checks nothing.
    pub checked_against: usize,
    #[serde(rename = "source")]
    pub sources: Vec<SourceRecipe>,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            seed: 0,
            weights: KindWeights::default(),
            fill: FillTraining::default(),
            suffix_first: 0.0,
            validation: 128,
            checked_against: 64,
            sources: Vec::new(),
        }
    }
}

/// One `[[…data.source]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceRecipe {
    Kata(KataRecipe),
    Code(CodeRecipe),
    Jsonl(JsonlRecipe),
}

/// Samples to train on, samples to validate on, and how they came about.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub samples: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub statistics: Statistics,
}

/// What became of the sources.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Statistics {
    pub samples: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
    pub validation_samples: usize,
    pub by_kind: BTreeMap<String, KindStatistics>,
    pub sources: Vec<SourceStatistics>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindStatistics {
    pub samples: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SourceStatistics {
    pub name: String,
    pub documents: usize,
    /// Samples that are used in the end.
    pub samples: usize,
    pub tokens: usize,
    /// Of all tokens that an epoch shows.
    pub share: f64,
    pub truncated: usize,
    /// Samples without a token to learn, after truncation.
    pub untrained: usize,
    pub duplicates: usize,
    pub skipped: Skipped,
    /// Samples left out to keep within the source's share.
    pub over_share: usize,
    pub kata: Option<KataReport>,
}

/// Someone who watches: what is being done, how much of how much.
pub trait Watch {
    fn at(&self, what: &str, done: usize, total: usize);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn at(&self, _: &str, _: usize, _: usize) {}
}

/// What samples must fit: the training stage knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    pub sequence_length: usize,
    pub packing: Packing,
}

impl SourceRecipe {
    fn name(&self) -> String {
        match self {
            SourceRecipe::Kata(_) => "kata".to_owned(),
            SourceRecipe::Code(code) => format!("code: {}", code.roots.join(", ")),
            SourceRecipe::Jsonl(jsonl) => jsonl.path.display().to_string(),
        }
    }

    fn repeat(&self) -> f32 {
        match self {
            SourceRecipe::Kata(kata) => kata.repeat,
            SourceRecipe::Code(code) => code.repeat,
            SourceRecipe::Jsonl(jsonl) => jsonl.repeat,
        }
    }

    pub(crate) fn share_max(&self, sources: usize) -> f64 {
        let unsaid = if sources >= MANY_SOURCES { SHARE_MAX } else { 1.0 };
        match self {
            SourceRecipe::Kata(kata) => kata.share_max.unwrap_or(1.0),
            SourceRecipe::Code(code) => code.share_max.unwrap_or(unsaid),
            SourceRecipe::Jsonl(jsonl) => jsonl.share_max.unwrap_or(unsaid),
        }
    }
}

impl DataRecipe {
    pub fn check(&self) -> Result<(), PrepareError> {
        let wrong = |what: String| Err(PrepareError::Recipe { what });
        if self.sources.is_empty() {
            return wrong("it has no source; add a [[stage.data.source]] with a type: kata, code or jsonl".to_owned());
        }
        for source in &self.sources {
            let (repeat, share) = (source.repeat(), source.share_max(1));
            if !(repeat > 0.0 && repeat <= 1000.0 && share > 0.0 && share <= 1.0) {
                let name = source.name();
                return wrong(format!(
                    "{name}: repeat must lie in (0, 1000] and share_max in (0, 1], not {repeat}, {share}"
                ));
            }
            if let SourceRecipe::Code(code) = source {
                code.check()?;
            }
        }
        if !(0.0..=1.0).contains(&self.suffix_first) {
            return wrong(format!("suffix_first must lie in [0, 1], not {}", self.suffix_first));
        }
        Ok(())
    }
}

/// Reads and prepares everything a recipe names. The same recipe, tokenizer and files give the same samples.
pub fn load(
    recipe: &DataRecipe,
    renderer: &Renderer<'_>,
    fit: Fit,
    roots: &dyn Roots,
    watch: &dyn Watch,
) -> Result<Dataset, PrepareError> {
    recipe.check()?;
    let desk = Desk { recipe, renderer, fit, watch };
    watch.at("drawing the tasks that are measured", 0, 1);
    let measured = measured_tasks(recipe.checked_against, recipe.seed);
    let mut grams = Grams::default();
    measured.iter().for_each(|task| grams.add(&renderer.tokenizer().encode(task.program())));
    let (mut groups, mut validation, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for (index, source) in recipe.sources.iter().enumerate() {
        let seed = Rng::new(recipe.seed).fork(index as u64).next_u64();
        let mut statistics = SourceStatistics { name: source.name(), ..SourceStatistics::default() };
        let raws = desk.read(source, seed, (&measured, roots), &mut statistics)?;
        statistics.documents = raws.len();
        let mut samples = desk.samples(&raws, seed, &mut statistics)?;
        samples.retain(|sample| {
            let is_new = seen.insert(hash(&sample.tokens));
            statistics.duplicates += usize::from(!is_new);
            is_new
        });
        if !matches!(source, SourceRecipe::Kata(_)) {
            let before = samples.len();
            samples.retain(|sample| !grams.overlaps(&sample.tokens));
            statistics.skipped.contaminated += before - samples.len();
            hold_out(&mut samples, &mut validation, recipe.validation / recipe.sources.len());
        }
        samples.iter_mut().for_each(|sample| sample.repeat = source.repeat());
        groups.push(samples);
        sources.push(statistics);
    }
    let limits: Vec<f64> = recipe.sources.iter().map(|source| source.share_max(recipe.sources.len())).collect();
    share::cap(&mut groups, &limits, recipe.seed, &mut sources)?;
    validation.extend(desk.kata_validation()?);
    let samples: Vec<Sample> = groups.into_iter().flatten().collect();
    let statistics = Statistics::of(&samples, &validation, sources);
    if samples.is_empty() {
        let detail = statistics.sources.iter().map(|s| {
            format!(
                "{}: {} documents, {} without a trained token, {} duplicates",
                s.name, s.documents, s.untrained, s.duplicates
            )
        });
        return Err(PrepareError::Nothing { detail: detail.collect::<Vec<_>>().join("; ") });
    }
    Ok(Dataset { samples, validation, statistics })
}

/// What every step of the preparation needs.
struct Desk<'a> {
    recipe: &'a DataRecipe,
    renderer: &'a Renderer<'a>,
    fit: Fit,
    watch: &'a dyn Watch,
}

impl Desk<'_> {
    fn read(
        &self,
        source: &SourceRecipe,
        seed: u64,
        (measured, roots): (&[Task], &dyn Roots),
        statistics: &mut SourceStatistics,
    ) -> Result<Vec<Raw>, PrepareError> {
        match source {
            SourceRecipe::Code(code) => code.read(seed, roots, &mut statistics.skipped),
            SourceRecipe::Jsonl(jsonl) => jsonl.read(&mut statistics.skipped),
            SourceRecipe::Kata(kata) => {
                let at = |done, total| self.watch.at("writing katas", done, total);
                let (raws, report) = kata.read_checked(Split::Train, seed, measured, &at)?;
                statistics.kata = Some(report);
                Ok(raws)
            }
        }
    }

    /// Documents become samples that fit.
    fn samples(&self, raws: &[Raw], seed: u64, statistics: &mut SourceStatistics) -> Result<Vec<Sample>, PrepareError> {
        let weighing = Weighing { kinds: self.recipe.weights.clone(), fill: self.recipe.fill };
        let rng = Rng::new(seed).fork(u64::MAX);
        let mut samples = Vec::with_capacity(raws.len());
        for (chunk, part) in raws.chunks(CHUNK).enumerate() {
            let render = |(i, raw): (usize, &Raw)| {
                let is_suffix_first = rng.fork((chunk * CHUNK + i) as u64).chance(self.recipe.suffix_first);
                let order = if is_suffix_first { FillOrder::SuffixFirst } else { FillOrder::PrefixFirst };
                let pieces = self.renderer.document(&raw.document, order)?;
                Ok(weighing.sample(&pieces, raw.kind, raw.weight))
            };
            let rendered: Result<Vec<Sample>, PrepareError> = part.par_iter().enumerate().map(render).collect();
            samples.extend(rendered?);
            self.watch.at("tokenizing", samples.len(), raws.len());
        }
        if self.fit.packing.truncates() {
            for sample in samples.iter_mut().filter(|sample| sample.tokens.len() > self.fit.sequence_length) {
                sample.tokens.truncate(self.fit.sequence_length);
                sample.weights.truncate(self.fit.sequence_length);
                statistics.truncated += 1;
            }
        }
        let before = samples.len();
        samples.retain(|sample| sample.trained_tokens() > 0);
        statistics.untrained = before - samples.len();
        Ok(samples)
    }

    /// Katas of the validation split, in the mix of the first kata source.
    fn kata_validation(&self) -> Result<Vec<Sample>, PrepareError> {
        let kata = self.recipe.sources.iter().find_map(|source| match source {
            SourceRecipe::Kata(kata) => Some(kata),
            _ => None,
        });
        let Some(kata) = kata else { return Ok(Vec::new()) };
        let held_out = KataRecipe { episodes: self.recipe.validation, ..kata.clone() };
        let (raws, _) = held_out.read(Split::Validation, self.recipe.seed, &|_, _| {})?;
        self.samples(&raws, self.recipe.seed, &mut SourceStatistics::default())
    }
}

/// Moves about one in [`HELD_OUT`] samples, chosen by content, out of training: at most `count`.
fn hold_out(samples: &mut Vec<Sample>, validation: &mut Vec<Sample>, count: usize) {
    let mut left = count;
    let mut kept = Vec::with_capacity(samples.len());
    for sample in samples.drain(..) {
        if left > 0 && hash(&sample.tokens).is_multiple_of(HELD_OUT) {
            left -= 1;
            validation.push(sample);
        } else {
            kept.push(sample);
        }
    }
    *samples = kept;
}

/// A hash of tokens that is the same on every machine.
fn hash(tokens: &[u32]) -> u64 {
    let mixed = tokens.iter().fold(0xCBF2_9CE4_8422_2325_u64, |state, &token| {
        let state = (state ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^ (state >> 32)
    });
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (mixed >> 29)
}

impl Statistics {
    fn of(samples: &[Sample], validation: &[Sample], sources: Vec<SourceStatistics>) -> Self {
        let mut all = Self { validation_samples: validation.len(), sources, ..Self::default() };
        for sample in samples {
            let kind = all.by_kind.entry(Kind::name(sample.kind).to_owned()).or_default();
            kind.samples += 1;
            kind.tokens += sample.tokens.len();
            kind.trained_tokens += sample.trained_tokens();
        }
        all.samples = samples.len();
        all.tokens = all.by_kind.values().map(|kind| kind.tokens).sum();
        all.trained_tokens = all.by_kind.values().map(|kind| kind.trained_tokens).sum();
        all
    }
}
