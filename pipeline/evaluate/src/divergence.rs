//! How far a model has moved from another: over whole distributions, not only over the tokens that were written.

use crate::EvaluateError;
use crate::perplexity::{self, Loss, Perplexity};
use crate::statistics::{Rate, quantile};
use crate::walk::{Measured, PASS_TOKENS, Walker, Watch, check, passes};
use prepare::{Kind, Sample};
use serde::{Deserialize, Serialize};

/// Logits alive at once: this many rows of each model.
const CHUNK_ROWS: usize = 128;

/// KL(teacher ‖ model) in nats per token, and what else the same pass tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub tokens: u64,
    pub mean: f64,
    pub median: f64,
    pub quantile_99: f64,
    pub maximum: f64,
    /// Positions at which both find the same token most probable.
    pub same_top_token: Rate,
    pub model: Loss,
    pub teacher: Loss,
}

#[derive(Default)]
struct Sums {
    divergences: Vec<f64>,
    same: u64,
    model: perplexity::Sums,
    teacher: perplexity::Sums,
}

/// Compares the two at every token of `samples` whose weight is above 0. The perplexity is the model's, by kind of
/// data.
pub fn divergence(
    measured: Measured<'_>,
    teacher: Measured<'_>,
    samples: &[Sample],
    watch: &mut Watch<'_>,
) -> Result<(Divergence, Perplexity), EvaluateError> {
    let (found, wanted) = (measured.model.config.vocab_size, teacher.model.config.vocab_size);
    if found != wanted {
        return Err(EvaluateError::Vocabulary { wanted, found });
    }
    check(measured.model, samples)?;
    let mut walkers = [Walker::new(measured), Walker::new(teacher)];
    let mut sums = Sums::default();
    for pass in passes(samples, PASS_TOKENS) {
        let hidden = walkers.each_mut().map(|walker| walker.hidden(&pass));
        for rows in pass.measured_rows().chunks(CHUNK_ROWS) {
            let mine = walkers[0].logits(&hidden[0], rows);
            let other = walkers[1].logits(&hidden[1], rows);
            for (chunk_row, &row) in rows.iter().enumerate() {
                sums.add(pass.kinds[row], mine.row(chunk_row), other.row(chunk_row), pass.targets[row] as usize);
            }
        }
        watch.passed(&pass)?;
    }
    Ok((sums.report(), sums.model.report()))
}

impl Sums {
    fn add(&mut self, kind: Kind, model: &[f32], teacher: &[f32], target: usize) {
        let row = compare_rows(model, teacher);
        self.divergences.push(row.divergence);
        self.same += u64::from(row.same_top);
        self.model.add(kind, row.normalizer - f64::from(model[target]));
        self.teacher.add(kind, row.teacher_normalizer - f64::from(teacher[target]));
    }

    fn report(&self) -> Divergence {
        let tokens = self.divergences.len() as u64;
        Divergence {
            tokens,
            mean: self.divergences.iter().sum::<f64>() / tokens as f64,
            median: quantile(&self.divergences, 0.5),
            quantile_99: quantile(&self.divergences, 0.99),
            maximum: quantile(&self.divergences, 1.0),
            same_top_token: Rate::of(self.same, tokens),
            model: self.model.report().all,
            teacher: self.teacher.report().all,
        }
    }
}

pub(crate) struct RowComparison {
    /// KL(teacher ‖ model).
    pub(crate) divergence: f64,
    pub(crate) same_top: bool,
    /// log Σ exp of each one's logits.
    normalizer: f64,
    teacher_normalizer: f64,
}

/// One row of logits against the teacher's, in f64.
pub(crate) fn compare_rows(model: &[f32], teacher: &[f32]) -> RowComparison {
    let (normalizer, top) = normalizer(model);
    let (teacher_normalizer, teacher_top) = self::normalizer(teacher);
    let mut divergence = 0.0;
    for (&mine, &other) in model.iter().zip(teacher) {
        let log_teacher = f64::from(other) - teacher_normalizer;
        let difference = log_teacher - (f64::from(mine) - normalizer);
        divergence += log_teacher.exp() * difference;
    }
    // Rounding may leave a sum of a few 1e-17 below zero.
    RowComparison { divergence: divergence.max(0.0), same_top: top == teacher_top, normalizer, teacher_normalizer }
}

/// log Σ exp, and the place of the highest logit.
fn normalizer(logits: &[f32]) -> (f64, usize) {
    let mut top = 0;
    for (at, logit) in logits.iter().enumerate() {
        if *logit > logits[top] {
            top = at;
        }
    }
    let highest = f64::from(logits[top]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    (highest + sum.ln(), top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        let logits = |p: [f32; 3]| p.map(f32::ln);
        let row = compare_rows(&logits([0.25, 0.5, 0.25]), &logits([0.5, 0.25, 0.25]));
        // 0.5·ln(0.5/0.25) + 0.25·ln(0.25/0.5)
        assert!((row.divergence - 0.25 * 2f64.ln()).abs() < 1e-7, "{}", row.divergence);
        assert!(!row.same_top);
        let shifted = logits([0.5, 0.25, 0.25]).map(|logit| logit + 40.0);
        let same = compare_rows(&shifted, &logits([0.5, 0.25, 0.25]));
        assert!(same.divergence < 1e-6 && same.same_top);
    }
}
