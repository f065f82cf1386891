//! SwiGLU over vectors.

use crate::simd::{Simd, sigmoid, silu_slope, variants};

#[inline(always)]
fn forward<S: Simd>(s: S, y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, gate), up) in y.chunks_mut(S::LANES).zip(gate.chunks(S::LANES)).zip(up.chunks(S::LANES)) {
        let gate = s.load(gate);
        s.store(y, s.mul(s.mul(gate, sigmoid(s, gate)), s.load(up)));
    }
}
variants! { fn forward_values(y: &mut [f32], gate: &[f32], up: &[f32]) = forward }

#[inline(always)]
fn weighted<S: Simd>(s: S, y: &mut [f32], gate: &[f32], up: &[f32], weights: &[f32]) {
    let width = y.len() / weights.len();
    let rows = y.chunks_exact_mut(width).zip(gate.chunks_exact(width)).zip(up.chunks_exact(width));
    for (((y, gate), up), &weight) in rows.zip(weights) {
        let weight = s.splat(weight);
        for ((y, gate), up) in y.chunks_mut(S::LANES).zip(gate.chunks(S::LANES)).zip(up.chunks(S::LANES)) {
            let gate = s.load(gate);
            s.store(y, s.mul(weight, s.mul(s.mul(gate, sigmoid(s, gate)), s.load(up))));
        }
    }
}
variants! { fn forward_rows(y: &mut [f32], gate: &[f32], up: &[f32], weights: &[f32]) = weighted }

#[inline(always)]
fn backward<S: Simd>(s: S, dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let into = dgate.chunks_mut(S::LANES).zip(dup.chunks_mut(S::LANES)).zip(dy.chunks(S::LANES));
    for (((dgate, dup), dy), (gate, up)) in into.zip(gate.chunks(S::LANES).zip(up.chunks(S::LANES))) {
        let (dy, gate, up) = (s.load(dy), s.load(gate), s.load(up));
        let sigmoid = sigmoid(s, gate);
        s.add_to(dgate, s.mul(s.mul(dy, up), silu_slope(s, gate, sigmoid)));
        s.add_to(dup, s.mul(dy, s.mul(gate, sigmoid)));
    }
}
variants! {
    fn backward_values(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) = backward
}
