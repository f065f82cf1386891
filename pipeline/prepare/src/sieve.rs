//! One source after the other: documents become samples, and what must not be trained on is left out.

use crate::batch::Sample;
use crate::contamination::{Evaluations, Hit};
use crate::dataset::{DataRecipe, Fit, SourceRecipe, Watch};
use crate::error::PrepareError;
use crate::kata::KataRecipe;
use crate::overlap::Grams;
use crate::read::{Broken, Documents};
use crate::similar::{Signature, Signatures, Similar};
use crate::source::{Raw, Roots};
use crate::statistics::{Fate, SourceStatistics};
use crate::weigh::Weighing;
use crate::words::texts;
use environment::{Split, Task};
use numeric::Rng;
use rayon::prelude::*;
use std::collections::HashSet;
use text::{FillOrder, Renderer};

/// Documents that are in memory as text at one time, at most, and about how many bytes of them.
const CHUNK: usize = 4096;
const CHUNK_BYTES: usize = 64 << 20;
/// One in so many samples of a file is held out, as long as held-out data is wanted.
const HELD_OUT: u64 = 50;

/// What every step of the preparation needs.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) recipe: &'a DataRecipe,
    pub(crate) renderer: &'a Renderer<'a>,
    pub(crate) fit: Fit,
}

/// What can be asked of one document without knowing the others, on any thread.
struct Questions<'a> {
    desk: Desk<'a>,
    evaluations: Evaluations,
    signatures: Option<Signatures>,
}

/// What was seen so far, of all sources.
pub(crate) struct Sieve<'a> {
    questions: Questions<'a>,
    roots: &'a dyn Roots,
    watch: &'a dyn Watch,
    measured: &'a [Task],
    measured_runs: Grams,
    seen: HashSet<u64>,
    similar: Option<Similar>,
    pub(crate) validation: Vec<Sample>,
}

/// A document as far as it can be prepared without knowing the others.
struct Prepared {
    sample: Sample,
    /// In tokens, before anything was cut off.
    length: usize,
    is_truncated: bool,
    /// Whether anything is learnt in what was cut off.
    is_cut_short: bool,
    signature: Option<Signature>,
    hit: Option<Hit>,
}

/// The documents of a source, as they come.
enum Reading<'a> {
    List { documents: std::vec::IntoIter<Raw>, count: usize },
    Files(Box<Documents<'a>>),
}

impl Iterator for Reading<'_> {
    type Item = Result<Raw, PrepareError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Reading::List { documents, .. } => documents.next().map(Ok),
            Reading::Files(documents) => documents.next(),
        }
    }
}

impl Reading<'_> {
    /// The next documents; none at the end.
    fn chunk(&mut self) -> Result<Vec<Raw>, PrepareError> {
        let (mut raws, mut bytes) = (Vec::new(), 0);
        while raws.len() < CHUNK && bytes < CHUNK_BYTES {
            let Some(raw) = self.next().transpose()? else { break };
            texts(&raw, &mut |text, _| bytes += text.len());
            raws.push(raw);
        }
        Ok(raws)
    }
}

impl<'a> Sieve<'a> {
    pub(crate) fn new(
        desk: Desk<'a>,
        measured: &'a [Task],
        (roots, watch): (&'a dyn Roots, &'a dyn Watch),
    ) -> Result<Self, PrepareError> {
        let recipe = desk.recipe;
        let mut measured_runs = Grams::default();
        measured.iter().for_each(|task| measured_runs.add(&desk.renderer.tokenizer().encode(task.program())));
        let evaluations = Evaluations::read(&recipe.evaluation_files, recipe.evaluation_words)?;
        let is_compared = recipe.near_duplicates < 1.0;
        Ok(Self {
            questions: Questions { desk, evaluations, signatures: is_compared.then(Signatures::new) },
            roots,
            watch,
            measured,
            measured_runs,
            seen: HashSet::new(),
            similar: is_compared.then(|| Similar::new(recipe.near_duplicates)),
            validation: Vec::new(),
        })
    }

    pub(crate) fn notes(&self) -> Option<String> {
        let count = self.questions.evaluations.too_short;
        let words = self.questions.desk.recipe.evaluation_words;
        let note = || format!("{count} texts of the evaluation files have fewer than {words} words: not looked for");
        (count > 0).then(note)
    }

    /// The samples of a source that are new and clean.
    pub(crate) fn samples(
        &mut self,
        source: &SourceRecipe,
        seed: u64,
        statistics: &mut SourceStatistics,
    ) -> Result<Vec<Sample>, PrepareError> {
        let mut reading = self.open(source, seed, statistics)?;
        let (mut samples, mut count) = (Vec::new(), 0);
        let recipe = self.questions.desk.recipe;
        let mut held_out_left = recipe.validation / recipe.sources.len();
        loop {
            let raws = reading.chunk()?;
            if raws.is_empty() {
                break;
            }
            let questions = &self.questions;
            let prepare = |(index, raw): (usize, &Raw)| questions.prepare(raw, source, seed, count + index);
            let prepared: Vec<Result<Prepared, PrepareError>> = raws.par_iter().enumerate().map(prepare).collect();
            count += raws.len();
            for (raw, prepared) in raws.iter().zip(prepared) {
                let left = &mut held_out_left;
                samples.extend(self.judge(raw, prepared, source, (left, statistics))?);
            }
            match &reading {
                Reading::List { count: all, .. } => self.watch.at("tokenizing", count, *all),
                Reading::Files(files) => {
                    let (done, all) = (files.bytes_read().min(files.bytes), files.bytes.max(1));
                    self.watch.at(&format!("reading {}", source.name()), done as usize, all as usize);
                }
            }
        }
        if let Reading::Files(files) = reading {
            self.watch.at(&format!("reading {}", source.name()), 1, 1);
            let Documents { report, skipped, .. } = *files;
            (statistics.file, statistics.skipped) = (Some(report), skipped);
        }
        Ok(samples)
    }

    fn open<'s>(
        &self,
        source: &'s SourceRecipe,
        seed: u64,
        statistics: &mut SourceStatistics,
    ) -> Result<Reading<'s>, PrepareError> {
        let list = match source {
            SourceRecipe::File(file) => return Ok(Reading::Files(Box::new(file.documents(seed)?))),
            SourceRecipe::Code(code) => code.read(seed, self.roots, &mut statistics.skipped)?,
            SourceRecipe::Kata(kata) => {
                let at = |done, total| self.watch.at("writing katas", done, total);
                let (raws, report) = kata.read_checked(kata.split(), seed, self.measured, &at)?;
                statistics.kata = Some(report);
                raws
            }
        };
        Ok(Reading::List { count: list.len(), documents: list.into_iter() })
    }

    /// Decides what becomes of a document.
    fn judge(
        &mut self,
        raw: &Raw,
        prepared: Result<Prepared, PrepareError>,
        source: &SourceRecipe,
        (held_out_left, statistics): (&mut usize, &mut SourceStatistics),
    ) -> Result<Option<Sample>, PrepareError> {
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(PrepareError::Document { .. } | PrepareError::Unmatched { .. }) if source.skips_broken() => {
                statistics.count(raw.kind, Fate::Refused, None, false);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Prepared { sample, length, is_truncated, is_cut_short, signature, hit } = prepared;
        let is_kata = matches!(source, SourceRecipe::Kata(_));
        let is_overlapping = |sieve: &Self| !is_kata && sieve.measured_runs.overlaps(&sample.tokens);
        let is_similar = |similar: &mut Similar| signature.as_ref().is_some_and(|signature| !similar.is_new(signature));
        let fate = match () {
            () if is_cut_short => Fate::Unreachable,
            () if sample.trained_tokens() == 0 => Fate::Untrained,
            () if !self.seen.insert(hash(&sample.tokens)) => Fate::Duplicate,
            () if hit.is_some() || is_overlapping(self) => Fate::Contaminated,
            () if self.similar.as_mut().is_some_and(is_similar) => Fate::NearDuplicate,
            () if !is_kata && *held_out_left > 0 && hash(&sample.tokens).is_multiple_of(HELD_OUT) => Fate::HeldOut,
            () => Fate::Kept,
        };
        statistics.count(raw.kind, fate, Some(length), is_truncated);
        hit.into_iter().for_each(|hit| statistics.hit(hit));
        match fate {
            Fate::Kept => return Ok(Some(sample)),
            Fate::HeldOut => {
                *held_out_left -= 1;
                self.validation.push(sample);
            }
            _ => {}
        }
        Ok(None)
    }
}

impl Questions<'_> {
    fn prepare(&self, raw: &Raw, source: &SourceRecipe, seed: u64, index: usize) -> Result<Prepared, PrepareError> {
        let mut sample = self.desk.sample(raw, seed, index)?;
        let length = sample.tokens.len();
        let is_learnt = sample.trained_tokens() > 0;
        let is_truncated = self.desk.truncate(&mut sample);
        // Katas differ in little by design, and are checked against what is measured in their own way.
        let signatures = self.signatures.as_ref().filter(|_| !matches!(source, SourceRecipe::Kata(_)));
        Ok(Prepared {
            length,
            is_truncated,
            is_cut_short: is_learnt && sample.trained_tokens() == 0,
            signature: signatures.map(|signatures| signatures.of(raw)),
            hit: self.evaluations.find(raw),
            sample,
        })
    }
}

impl Desk<'_> {
    /// A document as tokens with their weights; nothing is cut off yet.
    fn sample(&self, raw: &Raw, seed: u64, index: usize) -> Result<Sample, PrepareError> {
        let weighing = Weighing { kinds: self.recipe.weights.clone(), fill: self.recipe.fill };
        let mut rng = Rng::new(seed).fork(u64::MAX).fork(index as u64);
        let order = if rng.chance(self.recipe.suffix_first) { FillOrder::SuffixFirst } else { FillOrder::PrefixFirst };
        raw.sample(self.renderer, &weighing, order)
    }

    /// Cuts off what does not fit, where the packing does.
    fn truncate(&self, sample: &mut Sample) -> bool {
        let is_too_long = self.fit.packing.truncates() && sample.tokens.len() > self.fit.sequence_length;
        if is_too_long {
            sample.tokens.truncate(self.fit.sequence_length);
            sample.weights.truncate(self.fit.sequence_length);
        }
        is_too_long
    }

    /// Katas of the validation split, in the mix of the first kata source; of new families other tasks than it trains
    /// on.
    pub(crate) fn kata_validation(&self) -> Result<Vec<Sample>, PrepareError> {
        let kata = self.recipe.sources.iter().find_map(|source| match source {
            SourceRecipe::Kata(kata) => Some(kata),
            _ => None,
        });
        let Some(kata) = kata else { return Ok(Vec::new()) };
        let held_out = KataRecipe { episodes: self.recipe.validation, ..kata.clone() };
        let (split, seed) = match kata.new_families {
            true => (kata.split(), !self.recipe.seed),
            false => (Split::Validation, self.recipe.seed),
        };
        let (raws, _) = held_out.read(split, seed, &|_, _| {})?;
        let sample = |(index, raw)| {
            let mut sample = self.sample(raw, self.recipe.seed, index)?;
            self.truncate(&mut sample);
            Ok(sample)
        };
        let samples: Result<Vec<Sample>, PrepareError> = raws.par_iter().enumerate().map(sample).collect();
        Ok(samples?.into_iter().filter(|sample| sample.trained_tokens() > 0).collect())
    }
}

impl Raw {
    /// The document as tokens with their weights.
    pub fn sample(
        &self,
        renderer: &Renderer<'_>,
        weighing: &Weighing,
        order: FillOrder,
    ) -> Result<Sample, PrepareError> {
        let pieces = renderer.document_with_spans(&self.document, &self.parts.spans, order);
        let pieces = pieces.map_err(|source| PrepareError::Document { origin: self.origin.clone(), source })?;
        weighing.weigh(&pieces, self)
    }
}

impl SourceRecipe {
    fn skips_broken(&self) -> bool {
        matches!(self, SourceRecipe::File(file) if file.broken == Broken::Skip)
    }
}

/// A hash of tokens that is the same on every machine.
fn hash(tokens: &[u32]) -> u64 {
    let mixed = tokens.iter().fold(0xCBF2_9CE4_8422_2325_u64, |state, &token| {
        let state = (state ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^ (state >> 32)
    });
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (mixed >> 29)
}
