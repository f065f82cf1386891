//! The router of a mixture of experts: softmax over all E experts, the k most probable, and their weights; adjoint.
//!
//! T tokens, E experts, k chosen. logits, probabilities [T, E]; indices, weights [T, k], most probable first, a tie
//! goes to the lower index. Everything in `forward` is written; dlogits is added to. Shapes that do not fit: a panic.
//! Against f64: 1e-6 for probabilities and weights.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};

/// How a router chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub experts: usize,
    pub top_k: usize,
    /// Whether the chosen probabilities are divided by their sum.
    pub normalize: bool,
}

/// What the forward pass decided, for the backward one.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    pub probabilities: &'a [f32],
    pub indices: &'a [u32],
    pub weights: &'a [f32],
}

/// Chooses experts.
pub fn forward(indices: &mut [u32], weights: &mut [f32], probabilities: &mut [f32], logits: &[f32], shape: &Shape) {
    let rows = check([indices.len(), weights.len()], [probabilities.len(), logits.len()], shape);
    let chosen = indices.chunks_mut(rows * shape.top_k).zip(weights.chunks_mut(rows * shape.top_k));
    let all = probabilities.chunks_mut(rows * shape.experts).zip(logits.chunks(rows * shape.experts));
    for_each(chosen.zip(all), |((indices, weights), (probabilities, logits))| {
        vector::forward_rows(Level::best(), indices, weights, probabilities, logits, shape);
    });
}

/// dlogits += the adjoint. `dprobabilities` [E] is what the auxiliary loss asks of every token's probabilities
/// (zeros when there is none); the choice itself carries no gradient.
pub fn backward(dlogits: &mut [f32], dweights: &[f32], dprobabilities: &[f32], routing: Routing, shape: &Shape) {
    let Routing { probabilities, indices, weights } = routing;
    let rows = check([indices.len(), weights.len()], [probabilities.len(), dlogits.len()], shape);
    assert_eq!(dweights.len(), weights.len(), "one gradient per weight");
    assert_eq!(dprobabilities.len(), shape.experts, "one gradient per expert");
    let chosen = dweights.chunks(rows * shape.top_k).zip(indices.chunks(rows * shape.top_k));
    let chosen = chosen.zip(weights.chunks(rows * shape.top_k));
    let all = dlogits.chunks_mut(rows * shape.experts).zip(probabilities.chunks(rows * shape.experts));
    for_each(all.zip(chosen), |((dlogits, probabilities), ((dweights, indices), weights))| {
        let routing = (probabilities, indices, weights);
        vector::backward_rows(Level::best(), dlogits, dweights, dprobabilities, routing, shape);
    });
}

/// Asserts that all have the same tokens, and gives the tokens in a task.
fn check(chosen: [usize; 2], all: [usize; 2], shape: &Shape) -> usize {
    let &Shape { experts, top_k, .. } = shape;
    assert!(top_k > 0 && top_k <= experts, "{top_k} of {experts} experts");
    let tokens = chosen[0] / top_k;
    let fits = chosen == [tokens * top_k; 2] && all == [tokens * experts; 2];
    assert!(fits, "chosen {chosen:?} and all {all:?} are not {top_k} of {experts} experts for {tokens} tokens");
    rows_per_task(experts * (1 + top_k / 2))
}
