//! Sigmoid gates over vectors.

use crate::simd::{Simd, dot, sigmoid, variants};

/// One gate per value.
#[inline(always)]
fn forward<S: Simd>(s: S, y: &mut [f32], x: &[f32], gate: &[f32]) {
    for ((y, x), gate) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(gate.chunks(S::LANES)) {
        s.store(y, s.mul(s.load(x), sigmoid(s, s.load(gate))));
    }
}
variants! { fn forward_values(y: &mut [f32], x: &[f32], gate: &[f32]) = forward }

/// One gate per value.
#[inline(always)]
fn backward<S: Simd>(s: S, dx: &mut [f32], dgate: &mut [f32], dy: &[f32], x: &[f32], gate: &[f32]) {
    let into = dx.chunks_mut(S::LANES).zip(dgate.chunks_mut(S::LANES)).zip(dy.chunks(S::LANES));
    for (((dx, dgate), dy), (x, gate)) in into.zip(x.chunks(S::LANES).zip(gate.chunks(S::LANES))) {
        let (dy, sigmoid) = (s.load(dy), sigmoid(s, s.load(gate)));
        let kept = s.mul(dy, sigmoid);
        s.add_to(dx, kept);
        // dy·x·σ·(1 − σ)
        let slope = s.mul(kept, s.load(x));
        s.add_to(dgate, s.neg_mul_add(slope, sigmoid, slope));
    }
}
variants! { fn backward_values(dx: &mut [f32], dgate: &mut [f32], dy: &[f32], x: &[f32], gate: &[f32]) = backward }

/// One gate per row of `group` values.
#[inline(always)]
fn group_forward<S: Simd>(s: S, y: &mut [f32], x: &[f32], gate: &[f32], group: usize) {
    for ((y, x), &gate) in y.chunks_exact_mut(group).zip(x.chunks_exact(group)).zip(gate) {
        let factor = s.splat(1.0 / (1.0 + (-gate).exp()));
        for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
            s.store(y, s.mul(s.load(x), factor));
        }
    }
}
variants! { fn forward_groups(y: &mut [f32], x: &[f32], gate: &[f32], group: usize) = group_forward }

/// One gate per row of `group` values.
#[inline(always)]
fn group_backward<S: Simd>(s: S, [dx, dgate]: [&mut [f32]; 2], dy: &[f32], x: &[f32], gate: &[f32], group: usize) {
    let into = dx.chunks_exact_mut(group).zip(dgate).zip(dy.chunks_exact(group));
    for (((dx, dgate), dy), (x, &gate)) in into.zip(x.chunks_exact(group).zip(gate)) {
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        *dgate += dot(s, dy, x) * sigmoid * (1.0 - sigmoid);
        let factor = s.splat(sigmoid);
        for (dx, dy) in dx.chunks_mut(S::LANES).zip(dy.chunks(S::LANES)) {
            s.add_to(dx, s.mul(s.load(dy), factor));
        }
    }
}
variants! {
    fn backward_groups(gradients: [&mut [f32]; 2], dy: &[f32], x: &[f32], gate: &[f32], group: usize) = group_backward
}
