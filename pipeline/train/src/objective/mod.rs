//! Objectives: what a batch asks of a model, as losses and gradients.

mod sft;

pub use sft::Supervised;

use models::{GradientOptions, Model};
use ops::Gradients;
use prepare::Batch;
use std::sync::atomic::{AtomicBool, Ordering};

/// What one micro-batch gave.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// For each token of the batch, in nats and unweighted; meaningless where the weight is 0.
    pub losses: Vec<f32>,
    /// Choices of each expert, by layer with experts.
    pub expert_counts: Vec<Vec<u64>>,
    /// How undecided each such layer's router was, in nats a token.
    pub router_entropies: Vec<f32>,
}

/// The micro-batches of an optimizer step.
#[derive(Clone, Copy)]
pub struct StepWork<'a> {
    pub batches: &'a [Batch],
    /// What the losses of all of them are a mean over.
    pub step_weight: f64,
    /// Of each micro-batch.
    pub options: &'a [GradientOptions],
    /// The run is to stop.
    pub cancelled: &'a AtomicBool,
}

/// What tokens of these weights count in a mean over `step_weight`.
pub(crate) fn shares_of_a_mean(weights: &[f32], step_weight: f64) -> Vec<f32> {
    weights.iter().map(|&weight| (f64::from(weight) / step_weight) as f32).collect()
}

/// Adds a micro-batch's gradients. The optimizer step minimises `Σ weight · loss / step_weight` over all of its
/// micro-batches: the mean over the whole step, not a mean of means.
pub trait Objective {
    fn gradients(
        &mut self,
        model: &Model,
        batch: &Batch,
        step_weight: f64,
        options: &GradientOptions,
        gradients: &mut Gradients,
    ) -> Measured;

    /// The same for all micro-batches of a step; nothing if it was given up on the way.
    fn step(&mut self, model: &Model, work: &StepWork, gradients: &mut Gradients) -> Option<Vec<Measured>> {
        let mut measured = Vec::with_capacity(work.batches.len());
        for (batch, options) in work.batches.iter().zip(work.options) {
            if work.cancelled.load(Ordering::Relaxed) {
                return None;
            }
            measured.push(self.gradients(model, batch, work.step_weight, options, gradients));
        }
        Some(measured)
    }
}
