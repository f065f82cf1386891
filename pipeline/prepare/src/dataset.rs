//! From a recipe's table to samples: read → render → weigh → truncate → deduplicate → decontaminate → hold out → mix →
//! cap.

use crate::batch::Sample;
use crate::code::CodeRecipe;
use crate::error::PrepareError;
use crate::kata::{KataRecipe, measured_tasks};
use crate::kind::KindWeights;
use crate::pack::Packing;
use crate::read::{FileRecipe, data_files};
use crate::share;
use crate::sieve::{Desk, Sieve};
use crate::source::{Raw, Roots, Skipped};
use crate::statistics::{SourceStatistics, Statistics};
use crate::weigh::FillTraining;
use numeric::Rng;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use text::Renderer;

/// A source may give this share of all trained tokens where at least [`MANY_SOURCES`] compete and the recipe says
/// nothing.
const SHARE_MAX: f64 = 0.2;
/// Fewer cannot all keep within that share.
const MANY_SOURCES: usize = 5;
/// A sample that an epoch shows more often than this is learnt by heart rather than from.
const REPEAT_MAX: f32 = 4.0;

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
    /// Files that models are measured with: what shares a run of words with them is not trained on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluation_files: Vec<PathBuf>,
    /// Words in such a run.
    pub evaluation_words: usize,
    /// Documents are the same where they share this much of their runs of words; 1 takes only equal ones for the same.
    pub near_duplicates: f64,
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
            evaluation_files: Vec::new(),
            evaluation_words: 13,
            near_duplicates: 0.8,
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
    #[serde(alias = "jsonl")]
    File(FileRecipe),
}

/// Samples to train on, samples to validate on, and how they came about.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub samples: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub statistics: Statistics,
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
    pub fn name(&self) -> String {
        match self {
            SourceRecipe::Kata(_) => "kata".to_owned(),
            SourceRecipe::Code(code) => format!("code: {}", code.roots.join(", ")),
            SourceRecipe::File(file) => file.path.display().to_string(),
        }
    }

    /// All documents, one after the other; nothing is left out but what the source itself leaves out.
    pub fn documents<'a>(
        &'a self,
        seed: u64,
        roots: &dyn Roots,
    ) -> Result<Box<dyn Iterator<Item = Result<Raw, PrepareError>> + 'a>, PrepareError> {
        let list = match self {
            SourceRecipe::File(file) => return Ok(Box::new(file.documents(seed)?)),
            SourceRecipe::Code(code) => code.read(seed, roots, &mut Skipped::default())?,
            SourceRecipe::Kata(kata) => kata.read(kata.split(), seed, &|_, _| {})?.0,
        };
        Ok(Box::new(list.into_iter().map(Ok)))
    }

    fn repeat(&self) -> f32 {
        match self {
            SourceRecipe::Kata(kata) => kata.repeat,
            SourceRecipe::Code(code) => code.repeat,
            SourceRecipe::File(file) => file.repeat,
        }
    }

    fn portion(&self) -> Option<f64> {
        match self {
            SourceRecipe::Kata(kata) => kata.portion,
            SourceRecipe::Code(code) => code.portion,
            SourceRecipe::File(file) => file.portion,
        }
    }

    fn said_share_max(&self) -> Option<f64> {
        match self {
            SourceRecipe::Kata(kata) => kata.share_max,
            SourceRecipe::Code(code) => code.share_max,
            SourceRecipe::File(file) => file.share_max,
        }
    }

    /// Katas can be drawn without end and are meant as the rest; other sources are capped where there are enough.
    pub(crate) fn share_max(&self, sources: usize) -> f64 {
        let is_capped = sources >= MANY_SOURCES && !matches!(self, SourceRecipe::Kata(_));
        self.said_share_max().unwrap_or(if is_capped { SHARE_MAX } else { 1.0 })
    }
}

impl DataRecipe {
    pub fn check(&self) -> Result<(), PrepareError> {
        let wrong = |what: String| Err(PrepareError::Recipe { what });
        if self.sources.is_empty() {
            return wrong("it has no source; add a [[stage.data.source]] with a type: kata, code or file".to_owned());
        }
        let is_mixed = self.sources.iter().any(|source| source.portion().is_some());
        for source in &self.sources {
            let (name, repeat, share) = (source.name(), source.repeat(), source.share_max(1));
            if !(repeat > 0.0 && repeat <= 1000.0 && share > 0.0 && share <= 1.0) {
                return wrong(format!(
                    "{name}: repeat must lie in (0, 1000] and share_max in (0, 1], not {repeat}, {share}"
                ));
            }
            if source.portion().is_some_and(|portion| !(portion > 0.0 && portion.is_finite())) {
                return wrong(format!("{name}: portion must be a number above 0"));
            }
            if is_mixed && repeat != 1.0 {
                return wrong(format!("{name}: portions decide how often a source is seen; leave repeat out"));
            }
            match source {
                SourceRecipe::Code(code) => code.check()?,
                SourceRecipe::File(file) => file.check()?,
                SourceRecipe::Kata(_) => {}
            }
        }
        if !(0.0..=1.0).contains(&self.suffix_first) {
            return wrong(format!("suffix_first must lie in [0, 1], not {}", self.suffix_first));
        }
        if !(self.near_duplicates > 0.0 && self.near_duplicates <= 1.0) {
            return wrong(format!("near_duplicates must lie in (0, 1], not {}", self.near_duplicates));
        }
        if self.evaluation_words == 0 {
            return wrong("evaluation_words must be at least 1".to_owned());
        }
        Ok(())
    }

    /// All data files that it reads, those that it only checks against among them.
    pub fn files(&self) -> Result<Vec<PathBuf>, PrepareError> {
        let mut files = Vec::new();
        for source in &self.sources {
            if let SourceRecipe::File(file) = source {
                files.extend(file.files()?);
            }
        }
        for file in &self.evaluation_files {
            files.extend(data_files(file)?);
        }
        Ok(files)
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
    watch.at("drawing the tasks that are measured", 0, 1);
    let measured = measured_tasks(recipe.checked_against, recipe.seed);
    let desk = Desk { recipe, renderer, fit };
    let mut sieve = Sieve::new(desk, &measured, (roots, watch))?;
    let (mut groups, mut sources) = (Vec::new(), Vec::new());
    for (index, source) in recipe.sources.iter().enumerate() {
        let seed = Rng::new(recipe.seed).fork(index as u64).next_u64();
        let mut statistics = SourceStatistics { name: source.name(), ..SourceStatistics::default() };
        let mut samples = sieve.samples(source, seed, &mut statistics)?;
        samples.iter_mut().for_each(|sample| sample.repeat = source.repeat());
        groups.push(samples);
        sources.push(statistics);
    }
    if recipe.sources.iter().any(|source| source.portion().is_some()) {
        let portions: Vec<f64> = recipe.sources.iter().map(|source| source.portion().unwrap_or(1.0)).collect();
        share::mix(&mut groups, &portions);
    }
    let filled = groups.iter().filter(|group| !group.is_empty()).count();
    let limits: Vec<f64> = recipe.sources.iter().map(|source| source.share_max(filled)).collect();
    share::cap(&mut groups, &limits, recipe.seed, &mut sources)?;
    sources.iter_mut().zip(&groups).for_each(|(statistics, samples)| statistics.finish(samples));
    let notes = notes(recipe, &sources).into_iter().chain(sieve.notes()).collect();
    let mut validation = sieve.validation;
    validation.extend(desk.kata_validation()?);
    let samples: Vec<Sample> = groups.into_iter().flatten().collect();
    let statistics = Statistics { notes, ..Statistics::of(&samples, &validation, sources) };
    match samples.is_empty() {
        true => Err(PrepareError::Nothing { detail: statistics.in_words() }),
        false => Ok(Dataset { samples, validation, statistics }),
    }
}

/// What capping and mixing did, and why a source that is most of the data was left as it is.
fn notes(recipe: &DataRecipe, sources: &[SourceStatistics]) -> Vec<String> {
    let mut notes = Vec::new();
    for source in sources {
        let (name, total) = (&source.name, &source.total);
        if total.over_share > 0 {
            notes.push(format!(
                "{name}: {} of {} samples left out, so that it is at most {:.0} % of what is learnt",
                total.over_share,
                total.over_share + total.samples,
                source.share_max * 100.0
            ));
        }
        if source.repeat > REPEAT_MAX {
            notes.push(format!(
                "{name}: an epoch shows each sample {:.1} times; it may be learnt by heart",
                source.repeat
            ));
        }
    }
    let unsaid = recipe.sources.iter().zip(sources);
    let unsaid =
        unsaid.filter(|(recipe, _)| recipe.said_share_max().is_none() && !matches!(recipe, SourceRecipe::Kata(_)));
    let largest = unsaid.map(|(_, source)| source).max_by(|a, b| a.share.total_cmp(&b.share));
    let count = sources.iter().filter(|source| source.total.samples > 0).count();
    let (used, capped): (usize, usize) =
        sources.iter().fold((0, 0), |(used, capped), s| (used + s.total.samples, capped + s.total.over_share));
    if capped > used {
        notes.push(format!(
            "caps leave out {capped} samples and keep {used}: the sources are too unlike in size; raise share_max, or \
             add data to the small ones"
        ));
    }
    if let Some(source) = largest.filter(|source| (2..MANY_SOURCES).contains(&count) && source.share > SHARE_MAX) {
        notes.push(format!(
            "{} is {:.0} % of what is learnt; {count} sources cannot all stay within the usual {:.0} %, so none is \
             capped: set share_max at a source to cap it",
            source.name,
            source.share * 100.0,
            SHARE_MAX * 100.0
        ));
    }
    notes
}
