//! A few tokens through a delta layer between its projections, in one pass over channels and state: the causal
//! convolution with SiLU, the L2 norms of queries and keys, the gates, the gated delta rule.
//!
//! T tokens of one sequence, C channels `[q | k | v]`, Hk key heads of K, Hv value heads of V, taps of the convolution.
//! qkv [T, C]; b, a [T, Hv]; out [T, Hv, V] is written; the state, tail [taps − 1, C] and matrix [Hv, K, V], moves on.
//! Shapes that do not fit are a panic. Against f64: 5e-6 of 1 + |x|; equal to the four kernels one after the other to
//! the bit.
//!
//! What a key head and its value heads need of a token is a kilobyte or two. It stays in the first cache between the
//! steps, and one wait for all threads does in place of six.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::delta_gate::Rates;
use crate::gated_delta::Shape;
use crate::simd::{Disjoint, Level, for_each, rows_per_task};

/// From this many tokens on products over chunks are faster ([`crate::gated_delta::prefill`]).
pub const MANY: usize = crate::gated_delta::SHORT;

/// What the layer has learned.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// [C, taps], the last tap is the current token.
    pub conv: &'a [f32],
    pub taps: usize,
    pub rates: Rates<'a>,
    pub shape: &'a Shape,
}

/// As projections leave them.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    pub qkv: &'a [f32],
    pub b: &'a [f32],
    pub a: &'a [f32],
}

/// What the sequence has left behind.
#[derive(Debug)]
pub struct State<'a> {
    pub tail: &'a mut [f32],
    pub matrix: &'a mut [f32],
}

/// Writes out and moves the state on.
pub fn forward(out: &mut [f32], tokens: Tokens, state: State, layer: &Layer) {
    let count = check(out, &tokens, &state, layer);
    let shape = layer.shape;
    let group = shape.value_heads / shape.key_heads;
    let area = group * shape.key_dim * shape.value_dim;
    // A pass over the state reads it twice and writes it once, a quarter of a nanosecond per value.
    let heads = rows_per_task(count * area / 4);
    let (out, tail) = (Disjoint::new(out), Disjoint::new(state.tail));
    for_each(state.matrix.chunks_mut(heads * area).enumerate(), |(index, matrices)| {
        vector::run_heads(Level::best(), [&out, &tail], &tokens, matrices, index * heads, layer);
    });
}

/// Asserts that all fit the shape and each other, and gives T.
fn check(out: &[f32], tokens: &Tokens, state: &State, layer: &Layer) -> usize {
    let shape = layer.shape;
    shape.check();
    assert!(layer.taps > 0, "no taps");
    let &Shape { value_heads, value_dim, .. } = shape;
    let (count, channels) = (tokens.a.len() / value_heads, shape.channels());
    let lengths = [tokens.qkv.len(), tokens.b.len(), tokens.a.len(), out.len()];
    let [gates, values] = [value_heads, value_heads * value_dim].map(|width| count * width);
    assert_eq!(lengths, [count * channels, gates, gates, values], "qkv, b, a, out of {count} tokens and {shape:?}");
    let learned = [layer.conv.len(), layer.rates.a_log.len(), layer.rates.dt_bias.len()];
    assert_eq!(learned, [channels * layer.taps, value_heads, value_heads], "convolution and rates of {shape:?}");
    let left = [state.tail.len(), state.matrix.len()];
    assert_eq!(left, [(layer.taps - 1) * channels, shape.state_len()], "a state of {shape:?}");
    count
}
