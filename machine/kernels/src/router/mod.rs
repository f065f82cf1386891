//! The router of a mixture of experts: softmax over all E experts, the k most probable, and their weights; adjoint.
//!
//! T tokens, E experts, k chosen. logits, probabilities [T, E]; indices, weights [T, k], most probable first, a tie
//! goes to the lower index. Everything in `forward` is written; dlogits is added to. Shapes that do not fit: a panic.

pub mod scalar;

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
    scalar::forward(indices, weights, probabilities, logits, shape);
}

/// dlogits += the adjoint. `dprobabilities` [E] is what the auxiliary loss asks of every token's probabilities
/// (zeros when there is none); the choice itself carries no gradient.
pub fn backward(dlogits: &mut [f32], dweights: &[f32], dprobabilities: &[f32], routing: Routing, shape: &Shape) {
    let Routing { probabilities, indices, weights } = routing;
    scalar::backward(dlogits, dweights, dprobabilities, (probabilities, indices, weights), shape);
}
