//! Objectives: what a step's batches ask of a model, as losses and gradients.

mod companion;
pub mod distill;
mod sft;

pub use companion::Companion;
pub use sft::Supervised;

use crate::error::TrainError;
use models::{GradientOptions, Guided, Model, Record};
use ops::Gradients;
use prepare::Batch;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// What one micro-batch gave.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Cross entropy of each token of the batch, in nats and unweighted; meaningless where the weight is 0. Empty where
    /// the batch's own tokens were not what was learnt.
    pub losses: Vec<f32>,
    /// What else was measured, unweighted, by name.
    pub terms: BTreeMap<&'static str, Mean>,
    /// Choices of each expert, by layer with experts.
    pub expert_counts: Vec<Vec<u64>>,
    /// How undecided each such layer's router was, in nats a token.
    pub router_entropies: Vec<f32>,
}

/// Names of all that an objective may measure beside losses.
pub(crate) const TERMS: [&str; 8] =
    ["cross_entropy", "gram", "hidden", "output", "projection", "projection_drift", "routers", "self_correction"];

/// A mean that can be added to another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mean {
    pub sum: f64,
    pub weight: f64,
}

impl Mean {
    /// Of losses by their weights.
    pub(crate) fn weighted(losses: &[f32], weights: &[f32]) -> Self {
        let pairs = losses.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
        let mean = |sum: Self, (&loss, &weight): (&f32, &f32)| Self {
            sum: sum.sum + f64::from(loss) * f64::from(weight),
            weight: sum.weight + f64::from(weight),
        };
        pairs.fold(Self::default(), mean)
    }
}

impl Measured {
    /// Of a pass; `terms` says what its guidance measured.
    pub(crate) fn of(record: Record, terms: impl FnOnce(&Guided, &mut BTreeMap<&'static str, Mean>)) -> Self {
        let Record { losses, expert_counts, router_entropies, guided } = record;
        let mut measured = Self { losses, expert_counts, router_entropies, terms: BTreeMap::new() };
        terms(&guided, &mut measured.terms);
        measured
    }
}

/// The micro-batches of an optimizer step.
#[derive(Clone, Copy)]
pub struct StepWork<'a> {
    pub batches: &'a [Batch],
    /// The places of those that are this process's own; the others are computed elsewhere.
    pub own: &'a [usize],
    /// What the losses of all of them are a mean over.
    pub step_weight: f64,
    /// Of each micro-batch.
    pub options: &'a [GradientOptions],
    /// Finished steps, and those of the whole run.
    pub step: usize,
    pub steps: usize,
    /// The run is to stop.
    pub cancelled: &'a AtomicBool,
}

/// What tokens of these weights count in a mean over `step_weight`.
pub(crate) fn shares_of_a_mean(weights: &[f32], step_weight: f64) -> Vec<f32> {
    weights.iter().map(|&weight| (f64::from(weight) / step_weight) as f32).collect()
}

/// Adds the gradients of a step. It minimises `Σ weight · loss / step_weight` over all of its micro-batches: the mean
/// over the whole step, not a mean of means.
pub trait Objective {
    /// What each of the [own](StepWork::own) micro-batches gave, in their order; nothing if the step was given up on
    /// the way.
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError>;

    /// What it learns itself beside the model, if anything.
    fn companion(&mut self) -> Option<&mut Companion> {
        None
    }
}
