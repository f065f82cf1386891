//! Losses over the vocabulary: cross entropy against targets, divergence from a teacher; both directions at once.
//!
//! T rows, V vocabulary. logits [T, V]; losses, targets, weights [T]. Losses are in nats and unweighted; a row of
//! weight 0 or of target [`IGNORED`] costs nothing, has loss 0 and gradient 0. A target ≥ V otherwise is a panic.
//! Logits are finite. Against f64: 2e-6 of 1 + |loss|, and 1e-6·weight for each gradient.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};
use std::ops::Range;

/// The target of a row that does not count.
pub const IGNORED: u32 = u32::MAX;

/// losses = −log softmax(logits)[target]
pub fn forward(losses: &mut [f32], logits: &[f32], targets: &[u32], vocabulary: usize) {
    let rows = check(&[losses.len(), targets.len()], &[logits.len()], vocabulary);
    check_targets(targets, vocabulary);
    let tasks = losses.chunks_mut(rows).zip(logits.chunks(rows * vocabulary)).zip(targets.chunks(rows));
    for_each(tasks, |((losses, logits), targets)| {
        vector::forward_rows(Level::best(), losses, logits, targets, vocabulary);
    });
}

/// As [`forward`], and logits ← weight·(softmax − onehot).
pub fn forward_backward(losses: &mut [f32], logits: &mut [f32], targets: &[u32], weights: &[f32], vocabulary: usize) {
    let rows = check(&[losses.len(), targets.len(), weights.len()], &[logits.len()], vocabulary);
    check_targets(targets, vocabulary);
    let into = losses.chunks_mut(rows).zip(logits.chunks_mut(rows * vocabulary));
    for_each(into.zip(targets.chunks(rows).zip(weights.chunks(rows))), |((losses, logits), (targets, weights))| {
        vector::forward_backward_rows(Level::best(), losses, logits, targets, weights, vocabulary);
    });
}

/// How a student's distribution q is held against a teacher's p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// KL(p ‖ q): the student is to cover all that the teacher does.
    Forward,
    /// KL(q ‖ p): the student is to do only what the teacher does.
    Reverse,
    /// `(1 − β)·KL(q ‖ m) + β·KL(p ‖ m)` with `m = (1 − β)·q + β·p` and 0 < β < 1, the generalised Jensen-Shannon
    /// divergence of GKD (Agarwal et al. 2024).
    Mixed(f32),
}

/// losses = the divergence of the student from the teacher at temperature 1, and student logits ← weight·(its slope).
/// Forwards the slope is `softmax(student) − softmax(teacher)`.
pub fn divergence_forward_backward(
    losses: &mut [f32],
    student: &mut [f32],
    teacher: &[f32],
    weights: &[f32],
    (vocabulary, divergence): (usize, Divergence),
) {
    let rows = check(&[losses.len(), weights.len()], &[student.len(), teacher.len()], vocabulary);
    let into = losses.chunks_mut(rows).zip(student.chunks_mut(rows * vocabulary));
    let from = teacher.chunks(rows * vocabulary).zip(weights.chunks(rows));
    for_each(into.zip(from), |((losses, student), (teacher, weights))| {
        let level = Level::best();
        let mut mixed = |beta| vector::mixed_rows(level, losses, student, teacher, weights, vocabulary, beta);
        match divergence {
            Divergence::Forward => vector::divergence_rows(level, losses, student, teacher, weights, vocabulary),
            Divergence::Reverse => mixed(1.0),
            Divergence::Mixed(beta) => mixed(beta),
        }
    });
}

/// Parts of a teacher's distributions, `k` tokens of each row. What they leave is one further class: all other tokens
/// together.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `[T, k]`. Twice the same only where `rest` is 0.
    pub tokens: &'a [u32],
    /// What the student's probability of each is to be, `[T, k]`.
    pub shares: &'a [f32],
    /// Logarithms of the teacher's probabilities of them, `[T, k]`: they set the loss's zero and move no gradient.
    pub logs: &'a [f32],
    /// What the probabilities of all other tokens are to add up to, `[T]`; 0 where the parts stand for the whole.
    pub rest: &'a [f32],
}

impl<'a> Parts<'a> {
    /// Tokens of each row.
    pub fn per_row(&self) -> usize {
        self.tokens.len() / self.rest.len().max(1)
    }

    /// Those of some rows.
    pub fn of_rows(self, rows: Range<usize>) -> Self {
        let places = rows.start * self.per_row()..rows.end * self.per_row();
        Self {
            tokens: &self.tokens[places.clone()],
            shares: &self.shares[places.clone()],
            logs: &self.logs[places],
            rest: &self.rest[rows],
        }
    }
}

/// `losses = Σₖ shareₖ·(logₖ − log qₖ) + rest·(log rest − log q_rest)` with q the student's softmax, and student logits
/// ← weight·(its slope). Where the parts are a teacher's k most probable tokens this is KL over k + 1 classes; where
/// they are n draws from it with shares of 1/n, the gradient is that of KL(teacher ‖ student) on average (Anshumann et
/// al. 2025).
pub fn parts_forward_backward(
    losses: &mut [f32],
    student: &mut [f32],
    parts: Parts,
    weights: &[f32],
    vocabulary: usize,
) {
    let rows = check(&[losses.len(), weights.len(), parts.rest.len()], &[student.len()], vocabulary);
    let per_row = parts.per_row();
    let sizes = [parts.tokens.len(), parts.shares.len(), parts.logs.len()];
    assert_eq!(sizes, [per_row * losses.len(); 3], "as many parts for every row");
    check_targets(parts.tokens, vocabulary);
    let into = losses.chunks_mut(rows).zip(student.chunks_mut(rows * vocabulary)).zip(weights.chunks(rows));
    for_each(into.enumerate(), |(index, ((losses, student), weights))| {
        let parts = parts.of_rows(index * rows..index * rows + losses.len());
        vector::parts_rows(Level::best(), losses, student, parts, weights, vocabulary);
    });
}

/// The index of the largest logit; the first of equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best
}

/// In how many rows two models' first choices agree.
pub fn argmax_agreement(first: &[f32], second: &[f32], vocabulary: usize) -> usize {
    let rows = first.chunks_exact(vocabulary).zip(second.chunks_exact(vocabulary));
    rows.filter(|(first_v, second_v)| argmax(first_v) == argmax(second_v)).count()
}

/// Asserts one value per row and V logits per row, and gives the rows in a task.
fn check(per_row: &[usize], logits: &[usize], vocabulary: usize) -> usize {
    assert!(vocabulary > 0, "an empty vocabulary");
    let fits = per_row.iter().all(|&len| len == per_row[0]) && logits.iter().all(|&len| len == per_row[0] * vocabulary);
    assert!(fits, "rows {per_row:?} and logits {logits:?} with a vocabulary of {vocabulary}");
    rows_per_task(vocabulary)
}

fn check_targets(targets: &[u32], vocabulary: usize) {
    for &target in targets {
        assert!(target == IGNORED || (target as usize) < vocabulary, "target {target} of a vocabulary of {vocabulary}");
    }
}
