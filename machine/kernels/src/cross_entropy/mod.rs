//! Losses over the vocabulary: cross entropy against targets, divergence from a teacher; forwards and backwards at once.
//!
//! T rows, V vocabulary. logits [T, V]; losses, targets, weights [T]. Losses are in nats and unweighted; a row of weight 0
//! or of target [`IGNORED`] costs nothing, has loss 0 and gradient 0. A target ≥ V otherwise is a panic.

pub mod scalar;

/// The target of a row that does not count.
pub const IGNORED: u32 = u32::MAX;

/// losses = −log softmax(logits)[target]
pub fn forward(losses: &mut [f32], logits: &[f32], targets: &[u32], vocabulary: usize) {
    scalar::forward(losses, logits, targets, vocabulary);
}

/// As [`forward`], and logits ← weight·(softmax − onehot).
pub fn forward_backward(losses: &mut [f32], logits: &mut [f32], targets: &[u32], weights: &[f32], vocabulary: usize) {
    scalar::forward_backward(losses, logits, targets, weights, vocabulary);
}

/// losses = KL(teacher ‖ student) at temperature 1, and student logits ← weight·(softmax(student) − softmax(teacher)).
pub fn divergence_forward_backward(
    losses: &mut [f32],
    student: &mut [f32],
    teacher: &[f32],
    weights: &[f32],
    vocabulary: usize,
) {
    scalar::divergence(losses, student, teacher, weights, vocabulary);
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
