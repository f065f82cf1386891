//! Supervised fine-tuning: cross entropy of the next token, weighted by who said it and by the kind of task.

use super::{Measured, Objective, shares_of_a_mean};
use models::{Examples, GradientOptions, Model, Record, loss_and_gradients};
use ops::Gradients;
use prepare::Batch;

#[derive(Debug, Clone, Copy, Default)]
pub struct Supervised;

impl Objective for Supervised {
    fn gradients(
        &mut self,
        model: &Model,
        batch: &Batch,
        step_weight: f64,
        options: &GradientOptions,
        gradients: &mut Gradients,
    ) -> Measured {
        let weights = shares_of_a_mean(&batch.weights, step_weight);
        let examples =
            Examples { tokens: &batch.tokens, lengths: &batch.lengths, targets: &batch.targets, weights: &weights };
        let record = loss_and_gradients(model, &examples, options, gradients);
        let Record { losses, expert_counts, router_entropies } = record;
        Measured { losses, expert_counts, router_entropies }
    }
}
