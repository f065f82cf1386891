//! Objectives: what a batch asks of a model, as losses and gradients.

mod sft;

pub use sft::Supervised;

use models::{GradientOptions, Model};
use ops::Gradients;
use prepare::Batch;

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
}
