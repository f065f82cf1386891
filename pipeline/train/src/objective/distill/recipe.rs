//! What a `[stage.distill]` table says: how much each objective counts, when, and how the teacher is asked.

use crate::error::TrainError;
use crate::recipe::{FrozenFormat, TrainRecipe};
use models::Loading;
use models::Quantization;
use ops::Divergence;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The table. Every key has a default; those of the weights are where a recovery of an already close student begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillRecipe {
    /// τ of `τ²·KL(teacher ‖ student)`.
    pub temperature: f32,
    /// Of that divergence, over the whole vocabulary.
    pub output: Weight,
    /// Of the cross entropy of the data.
    pub cross_entropy: Weight,
    /// Of KL between where the teacher's routers send a token, projected onto the student's experts, and where the
    /// student's do: the mean over tokens, of each layer by itself.
    pub routers: Weight,
    /// Of the normalised squared error of residual streams: the mean over the compared layers.
    pub hidden: Weight,
    /// Of the difference in angles between tokens: the mean over the compared layers.
    pub gram: Weight,
    /// Layers whose streams are compared, after the layer; unsaid, those with attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Tokens of a micro-batch whose angles are compared.
    pub gram_tokens: usize,
    pub projection: ProjectionRecipe,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheRecipe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_correction: Option<SelfCorrection>,
    /// The format that the teacher's plain weights are rounded to; unsaid, they stay as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize_teacher: Option<FrozenFormat>,
    /// Where the teacher's layers are; unsaid, in memory if they fit there. What it says is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_memory: Option<TeacherMemory>,
}

/// Where a teacher's layers are while it teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherMemory {
    Resident,
    /// On disk; each is read once for all micro-batches of a step.
    Streamed,
}

/// A weight: a number, or one that goes from `start` to `end` in a straight line over a share of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weight {
    pub start: f64,
    pub end: f64,
    /// The share of the steps before it moves, below `over`.
    pub after: f64,
    /// The share of the steps after which it stays at `end`, in (0, 1].
    pub over: f64,
}

/// How the teacher's experts are laid onto the student's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectionRecipe {
    /// Steps that fit the projection to the teacher's outputs before training; 0 leaves it as lineage and similarity
    /// make it.
    pub steps: usize,
    /// Tokens that it is fitted on.
    pub tokens: usize,
    /// What being away from where it began costs, beside the share of the outputs that it misses: in the fit, and
    /// from the fit on.
    pub anchor: f64,
    /// The highest learning rate of what it learns beside the student, with the run's schedule; at 0 it stays as it was
    /// fitted.
    pub rate: f64,
    /// Tokens of each micro-batch that it learns from.
    pub step_tokens: usize,
}

/// What is kept of the teacher's distributions on disk, so that it runs once over the data and not in every epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheRecipe {
    pub keep: Keep,
    /// Tokens kept of each distribution.
    pub tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The most probable, and the probability of all others together.
    #[default]
    Top,
    /// As many draws: right on average, and few are enough (Anshumann et al. 2025).
    Sampled,
}

/// Learning from what the student itself writes, as the teacher judges it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfCorrection {
    /// The share of a step's micro-batches in which the student writes the continuations itself.
    pub share: f64,
    pub weight: Weight,
    pub divergence: StudentDivergence,
    /// Of the sampling; 0 takes the most probable token.
    pub temperature: f32,
    /// Tokens of a continuation, at most.
    pub max_tokens: usize,
}

/// How a student's own tokens are held against the teacher's opinion.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentDivergence {
    #[default]
    Reverse,
    /// Of Jensen-Shannon's kind; the share of the teacher in the middle.
    Mixed(f32),
}

impl StudentDivergence {
    pub(super) fn divergence(self) -> Divergence {
        match self {
            Self::Reverse => Divergence::Reverse,
            Self::Mixed(beta) => Divergence::Mixed(beta),
        }
    }
}

impl Default for DistillRecipe {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            output: Weight::constant(1.0),
            cross_entropy: Weight::constant(0.1),
            routers: Weight { start: 0.1, end: 0.0, after: 0.0, over: 0.8 },
            hidden: Weight::constant(4.0),
            gram: Weight::constant(0.0),
            layers: None,
            gram_tokens: 256,
            projection: ProjectionRecipe::default(),
            cache: None,
            self_correction: None,
            quantize_teacher: None,
            teacher_memory: None,
        }
    }
}

impl Default for ProjectionRecipe {
    fn default() -> Self {
        Self { steps: 100, tokens: 128, anchor: 0.1, rate: 0.01, step_tokens: 32 }
    }
}

impl Default for CacheRecipe {
    fn default() -> Self {
        Self { keep: Keep::Top, tokens: 64 }
    }
}

impl Default for SelfCorrection {
    fn default() -> Self {
        Self {
            share: 0.5,
            weight: Weight::constant(1.0),
            divergence: StudentDivergence::Reverse,
            temperature: 1.0,
            max_tokens: 128,
        }
    }
}

impl Weight {
    pub const fn constant(value: f64) -> Self {
        Self { start: value, end: value, after: 0.0, over: 1.0 }
    }

    /// At the step after so many.
    pub fn at(&self, step: usize, steps: usize) -> f64 {
        let progress = step as f64 / steps.saturating_sub(1).max(1) as f64;
        let moved = (progress - self.after) / (self.over - self.after);
        self.start + (self.end - self.start) * moved.clamp(0.0, 1.0)
    }

    /// Whether it is ever more than nothing.
    pub fn counts(&self) -> bool {
        self.start > 0.0 || self.end > 0.0
    }

    fn check(&self, name: &str) -> Result<(), TrainError> {
        let good = |value: f64| value >= 0.0 && value.is_finite();
        let Self { start, end, after, over } = *self;
        if good(start) && good(end) && 0.0 <= after && after < over && over <= 1.0 {
            return Ok(());
        }
        wrong(format!(
            "the weight {name} goes from {start} to {end} after {after} and over {over} of the run; weights are 0 or \
             more, after is 0 or more, and over lies above it and in (0, 1]"
        ))
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrLine)
    }
}

/// Reads both forms of a weight, so that an unknown key of the second is told by its name.
struct NumberOrLine;

impl<'de> Visitor<'de> for NumberOrLine {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or { start = 0.1, end = 0.0, over = 0.5 }")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Weight, E> {
        Ok(Weight::constant(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Weight, E> {
        Ok(Weight::constant(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Weight, E> {
        Ok(Weight::constant(value as f64))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Weight, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line {
            start: f64,
            end: f64,
            #[serde(default)]
            after: f64,
            #[serde(default = "whole")]
            over: f64,
        }
        fn whole() -> f64 {
            1.0
        }
        let Line { start, end, after, over } = Line::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Weight { start, end, after, over })
    }
}

fn wrong<T>(what: String) -> Result<T, TrainError> {
    Err(TrainError::Recipe { what })
}

impl DistillRecipe {
    /// What is wrong with it, beside a sound recipe of training, in the words of its author's keys.
    pub fn check(&self, train: &TrainRecipe) -> Result<(), TrainError> {
        let named = [
            ("output", self.output),
            ("cross_entropy", self.cross_entropy),
            ("routers", self.routers),
            ("hidden", self.hidden),
            ("gram", self.gram),
        ];
        named.iter().try_for_each(|(name, weight)| weight.check(name))?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return wrong(format!("distill.temperature is {}; give a number above 0", self.temperature));
        }
        if self.gram_tokens < 2 && self.gram.counts() {
            return wrong(format!("gram_tokens is {}; angles are between two tokens at least", self.gram_tokens));
        }
        let projection = &self.projection;
        if projection.tokens == 0 || !(projection.anchor >= 0.0 && projection.anchor.is_finite()) {
            return wrong("projection.tokens must be above 0, and projection.anchor must not be negative".into());
        }
        if !(projection.rate >= 0.0 && projection.rate.is_finite()) || projection.step_tokens == 0 {
            return wrong("projection.rate must be 0 or more, and projection.step_tokens above 0".into());
        }
        if let Some(correction) = &self.self_correction {
            correction.check(train)?;
        } else if !named.iter().any(|(name, weight)| *name != "cross_entropy" && weight.counts()) {
            return wrong("all weights of what the teacher says are 0: give one, or train without a teacher".into());
        }
        self.cache.as_ref().map_or(Ok(()), |cache| self.check_cache(cache, train))
    }

    fn check_cache(&self, cache: &CacheRecipe, train: &TrainRecipe) -> Result<(), TrainError> {
        if cache.tokens == 0 {
            return wrong("cache.tokens is 0; 64 of the most probable, or 12 draws, are usual".into());
        }
        if !train.packing.truncates() && train.packing != prepare::Packing::BestFitSplit {
            return wrong(
                "a cache knows samples from their beginning or in whole sequences; packing = \"wrapped\" cuts them \
                 anywhere"
                    .into(),
            );
        }
        let live = [("routers", self.routers.counts()), ("hidden", self.hidden.counts()), ("gram", self.gram.counts())];
        let live = live.into_iter().chain([("self_correction", self.self_correction.is_some())]);
        match live.filter(|(_, counts)| *counts).map(|(name, _)| name).next() {
            Some(name) => wrong(format!(
                "{name} asks the teacher itself, a cache holds its outputs alone: set {name} to 0, or leave out cache"
            )),
            None => Ok(()),
        }
    }

    /// How the teacher's weights come into memory.
    pub fn teacher_loading(&self) -> Loading {
        let rounded = |format: FrozenFormat| Loading::Quantized(Quantization::to(format.format()));
        self.quantize_teacher.map_or(Loading::Packed, rounded)
    }

    /// Of a step's micro-batches, those in which the student writes.
    pub(super) fn on_policy(&self, micro_batches: usize, step: usize, steps: usize) -> usize {
        match &self.self_correction {
            Some(correction) if correction.weight.at(step, steps) > 0.0 => correction.of(micro_batches),
            _ => 0,
        }
    }
}

impl SelfCorrection {
    fn of(&self, micro_batches: usize) -> usize {
        (self.share * micro_batches as f64).round() as usize
    }

    fn check(&self, train: &TrainRecipe) -> Result<(), TrainError> {
        self.weight.check("self_correction.weight")?;
        let (written, all) = (self.of(train.accumulation), train.accumulation);
        if !(self.share > 0.0 && self.share < 1.0) || written == 0 || written == all {
            return wrong(format!(
                "self_correction.share is {} of {all} micro-batches; some of a step are the student's own and some are \
                 data: raise accumulation, or change share",
                self.share
            ));
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) || self.max_tokens == 0 {
            return wrong("self_correction.temperature must be 0 or more, and max_tokens above 0".into());
        }
        match self.divergence {
            StudentDivergence::Mixed(beta) if !(beta > 0.0 && beta < 1.0) => {
                wrong(format!("divergence = {{ mixed = {beta} }}; the teacher's share lies between 0 and 1"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DistillRecipe, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn weights_are_numbers_or_lines() {
        let recipe = parse("output = 2\nrouters = { start = 0.4, end = 0.0, over = 0.5 }").expect("both forms");
        assert_eq!(recipe.output, Weight::constant(2.0));
        let at: Vec<f64> = [0, 1, 2, 3, 4].iter().map(|&step| recipe.routers.at(step, 5)).collect();
        assert_eq!(at, [0.4, 0.2, 0.0, 0.0, 0.0]);
        assert_eq!(Weight { start: 1.0, end: 3.0, after: 0.0, over: 1.0 }.at(0, 1), 1.0);
        let late = parse("hidden = { start = 0.0, end = 2.0, after = 0.25, over = 0.75 }").expect("a late line").hidden;
        let at: Vec<f64> = [0, 1, 2, 3, 4].iter().map(|&step| late.at(step, 5)).collect();
        assert_eq!(at, [0.0, 0.0, 1.0, 2.0, 2.0]);
        let error = parse("output = { start = 1.0, ende = 0.0 }").expect_err("a typo").to_string();
        assert!(error.contains("ende") && error.contains("`end`"), "{error}");
        let error = parse("outptu = 1.0").expect_err("a typo").to_string();
        assert!(error.contains("outptu"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_said_beforehand() {
        let train = TrainRecipe { steps: Some(5), ..TrainRecipe::default() };
        let twice = TrainRecipe { accumulation: 2, ..train.clone() };
        let wrapped = TrainRecipe { packing: prepare::Packing::Wrapped, ..train.clone() };
        let alone = "routers = 0\nhidden = 0\n";
        for (text, train, wanted) in [
            ("temperature = 0.0".to_owned(), &train, "temperature"),
            ("output = -1.0".to_owned(), &train, "the weight output"),
            ("hidden = { start = 0.1, end = 0.0, over = 0.0 }".to_owned(), &train, "over lies above"),
            ("hidden = { start = 0.1, end = 0.0, after = 0.5, over = 0.5 }".to_owned(), &train, "over lies above"),
            (format!("{alone}output = 0"), &train, "all weights"),
            ("gram = 1.0\ngram_tokens = 1".to_owned(), &train, "gram_tokens"),
            ("projection = { tokens = 0 }".to_owned(), &train, "projection.tokens"),
            ("projection = { rate = -0.1 }".to_owned(), &train, "projection.rate"),
            ("projection = { step_tokens = 0 }".to_owned(), &train, "projection.step_tokens"),
            ("[self_correction]".to_owned(), &train, "raise accumulation"),
            ("[self_correction]\nshare = 1.0".to_owned(), &twice, "share is 1"),
            ("[self_correction]\ndivergence = { mixed = 1.0 }".to_owned(), &twice, "between 0 and 1"),
            ("[self_correction]\nmax_tokens = 0".to_owned(), &twice, "max_tokens"),
            ("[cache]".to_owned(), &train, "routers asks the teacher itself"),
            (format!("{alone}[cache]\ntokens = 0"), &train, "cache.tokens"),
            (format!("{alone}[cache]"), &wrapped, "wrapped"),
            (format!("{alone}[cache]\n[self_correction]"), &twice, "self_correction asks"),
        ] {
            let error = parse(&text).expect("well-formed").check(train).expect_err(&text).to_string();
            assert!(error.contains(wanted), "{text:?} gave {error:?}");
        }
        for (text, train) in [
            (String::new(), &train),
            ("[self_correction]\ndivergence = { mixed = 0.5 }".to_owned(), &twice),
            (format!("{alone}[cache]\nkeep = \"sampled\"\ntokens = 12"), &train),
        ] {
            parse(&text).expect("well-formed").check(train).expect(&text);
        }
    }
}
