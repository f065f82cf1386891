//! Supervised fine-tuning: cross entropy of the next token, weighted by who said it and by the kind of task.

use super::{Measured, Objective, StepWork, shares_of_a_mean};
use crate::error::TrainError;
use models::{Examples, Model, loss_and_gradients};
use ops::Gradients;
use std::sync::atomic::Ordering;

#[derive(Debug, Clone, Copy, Default)]
pub struct Supervised;

impl Objective for Supervised {
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError> {
        let mut measured = Vec::with_capacity(work.own.len());
        for (batch, options) in work.own.iter().map(|&index| (&work.batches[index], &work.options[index])) {
            if work.cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let weights = shares_of_a_mean(&batch.weights, work.step_weight);
            let examples =
                Examples { tokens: &batch.tokens, lengths: &batch.lengths, targets: &batch.targets, weights: &weights };
            let record = loss_and_gradients(model, &examples, options, gradients);
            measured.push(Measured::of(record, |_, _| ()));
        }
        Ok(Some(measured))
    }
}
