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

/// losses = KL(teacher ‖ student) at temperature 1, and student logits ← weight·(softmax(student) − softmax(teacher)).
pub fn divergence_forward_backward(
    losses: &mut [f32],
    student: &mut [f32],
    teacher: &[f32],
    weights: &[f32],
    vocabulary: usize,
) {
    let rows = check(&[losses.len(), weights.len()], &[student.len(), teacher.len()], vocabulary);
    let into = losses.chunks_mut(rows).zip(student.chunks_mut(rows * vocabulary));
    let from = teacher.chunks(rows * vocabulary).zip(weights.chunks(rows));
    for_each(into.zip(from), |((losses, student), (teacher, weights))| {
        vector::divergence_rows(Level::best(), losses, student, teacher, weights, vocabulary);
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
