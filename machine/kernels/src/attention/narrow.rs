//! Attention of a few queries (decoding): vectors run along D, and the keys are split between tasks.
//!
//! A task sums over its keys; the sums of the tasks are joined in the order of the keys.

use super::tile::{Columns, KEYS, KeyTile, Span, key_rows};
use super::{Inputs, Shape};
use crate::simd::{Product, Simd, Strided, dot, exp, scale_in_place, variants};

/// Queries (tokens × heads of a group) up to which this way is the faster one.
pub(super) const MOST_QUERIES: usize = 8;

/// What one task knows of its keys: per column the sums [D], the maximum and the sum of the exponentials.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub(super) sums: Vec<f32>,
    head_dim: usize,
    pub(super) most: [f32; MOST_QUERIES],
    pub(super) sum: [f32; MOST_QUERIES],
}

impl Partial {
    pub(super) fn new(columns: usize, head_dim: usize) -> Self {
        let (most, sum) = ([f32::NEG_INFINITY; MOST_QUERIES], [0.0; MOST_QUERIES]);
        Self { sums: vec![0.0; columns * head_dim], head_dim, most, sum }
    }

    /// Adds the keys that `other` saw.
    pub(super) fn join(&mut self, other: &Partial) {
        let width = self.head_dim;
        for (c, (sums, others)) in self.sums.chunks_mut(width).zip(other.sums.chunks(width)).enumerate() {
            let most = self.most[c].max(other.most[c]);
            if most == f32::NEG_INFINITY {
                continue;
            }
            let (own, theirs) = ((self.most[c] - most).exp(), (other.most[c] - most).exp());
            self.sum[c] = own * self.sum[c] + theirs * other.sum[c];
            self.most[c] = most;
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = own * *sum + theirs * other;
            }
        }
    }
}

#[inline(always)]
fn forward<S: Simd>(
    s: S,
    partial: &mut Partial,
    inputs: &Inputs,
    (span, columns, keys): (Span, Columns, KeyTile),
    shape: &Shape,
) {
    let (width, key_row) = (shape.head_dim, shape.kv_heads * shape.head_dim);
    let n = columns.count();
    let mut scores = [0.0; MOST_QUERIES * KEYS];
    for first in (keys.first..keys.first + keys.count).step_by(KEYS) {
        let tile = KeyTile { first, count: KEYS.min(keys.first + keys.count - first) };
        let k = key_rows(inputs.k, span, tile, columns.kv_head, shape);
        for c in 0..n {
            let q_d = &inputs.q[columns.row(span, c, shape) * width..][..width];
            let last_visible = span.past() + columns.first_token + c % columns.tokens;
            let visible = (last_visible + 1).saturating_sub(first).min(tile.count);
            let scores = &mut scores[c * KEYS..c * KEYS + tile.count];
            for (key, score) in scores.iter_mut().enumerate().take(visible) {
                *score = shape.scale * dot(s, q_d, &k[key * key_row..key * key_row + width]);
            }
            let (seen, hidden) = scores.split_at_mut(visible);
            hidden.fill(0.0);
            if visible > 0 {
                let correction = soften(s, seen, &mut partial.most[c], &mut partial.sum[c]);
                scale_in_place(s, &mut partial.sums[c * width..(c + 1) * width], correction);
            }
        }
        let product = Product { m: n, n: width, k: tile.count, c_row: width, b_row: key_row, add: true };
        let values = key_rows(inputs.v, span, tile, columns.kv_head, shape);
        s.product(&product, &mut partial.sums, Strided::rows(&scores, KEYS), values);
    }
}
variants! {
    fn forward_keys(partial: &mut Partial, inputs: &Inputs, part: (Span, Columns, KeyTile), shape: &Shape) = forward
}

/// scores ← e^{scores − maximum}; gives what the new maximum scales the old sums by.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [f32], most: &mut f32, sum: &mut f32) -> f32 {
    let before = *most;
    *most = scores.iter().fold(before, |most, &score| most.max(score));
    let largest = s.splat(*most);
    let mut sums = s.zero();
    for scores in scores.chunks_mut(S::LANES) {
        let probability = exp(s, s.sub(s.load(scores), largest));
        s.store(scores, probability);
        // Read back, so that the lanes beyond the end count as zero.
        sums = s.add(sums, s.load(scores));
    }
    let correction = (before - *most).exp();
    *sum = *sum * correction + s.sum(sums);
    correction
}
