//! RMS normalisation over vectors. W is the width of a row.

use super::Norm;
use crate::simd::{Simd, dot, sigmoid, silu_slope, variants};

#[inline(always)]
fn inverse_root<S: Simd>(s: S, x_w: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(s, x_w, x_w) / x_w.len() as f32 + epsilon).sqrt()
}

#[inline(always)]
fn forward<S: Simd>(s: S, y: &mut [f32], x: &[f32], norm: &Norm) {
    let width = norm.weight.len();
    let offset = s.splat(norm.offset);
    for (y_w, x_w) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let inverse = s.splat(inverse_root(s, x_w, norm.epsilon));
        for i in (0..width).step_by(S::LANES) {
            let gain = s.add(offset, s.load(&norm.weight[i..]));
            s.store(&mut y_w[i..], s.mul(gain, s.mul(s.load(&x_w[i..]), inverse)));
        }
    }
}
variants! { fn forward_rows(y: &mut [f32], x: &[f32], norm: &Norm) = forward }

#[inline(always)]
fn gated_forward<S: Simd>(s: S, y: &mut [f32], x: &[f32], gate: &[f32], norm: &Norm) {
    let width = norm.weight.len();
    let offset = s.splat(norm.offset);
    let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(gate.chunks_exact(width));
    for ((y_w, x_w), gate_w) in rows {
        let inverse = s.splat(inverse_root(s, x_w, norm.epsilon));
        for i in (0..width).step_by(S::LANES) {
            let gain = s.add(offset, s.load(&norm.weight[i..]));
            let gate = s.load(&gate_w[i..]);
            let silu = s.mul(gate, sigmoid(s, gate));
            s.store(&mut y_w[i..], s.mul(s.mul(gain, s.mul(s.load(&x_w[i..]), inverse)), silu));
        }
    }
}
variants! { fn gated_forward_rows(y: &mut [f32], x: &[f32], gate: &[f32], norm: &Norm) = gated_forward }

/// One row of the adjoint; see the definition in `scalar.rs`.
#[inline(always)]
fn backward_row<S: Simd>(s: S, dx_w: &mut [f32], dweight: &mut [f32], dy_w: &[f32], x_w: &[f32], norm: &Norm) {
    let width = norm.weight.len();
    let offset = s.splat(norm.offset);
    let root = inverse_root(s, x_w, norm.epsilon);
    let inverse = s.splat(root);
    let mut along = s.zero();
    for i in (0..width).step_by(S::LANES) {
        let gain = s.add(offset, s.load(&norm.weight[i..]));
        along = s.mul_add(s.mul(s.load(&dy_w[i..]), gain), s.load(&x_w[i..]), along);
    }
    let mean = s.splat(s.sum(along) * root / width as f32);
    for i in (0..width).step_by(S::LANES) {
        let gain = s.add(offset, s.load(&norm.weight[i..]));
        let (dy, normal) = (s.load(&dy_w[i..]), s.mul(s.load(&x_w[i..]), inverse));
        let across = s.neg_mul_add(normal, mean, s.mul(dy, gain));
        let sum = s.mul_add(inverse, across, s.load(&dx_w[i..]));
        s.store(&mut dx_w[i..], sum);
        let sum = s.mul_add(dy, normal, s.load(&dweight[i..]));
        s.store(&mut dweight[i..], sum);
    }
}

#[inline(always)]
fn backward<S: Simd>(s: S, dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], norm: &Norm) {
    let width = norm.weight.len();
    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
    for ((dx_w, dy_w), x_w) in rows {
        backward_row(s, dx_w, dweight, dy_w, x_w, norm);
    }
}
variants! {
    fn backward_rows(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], norm: &Norm) = backward
}

#[inline(always)]
fn gated_backward<S: Simd>(
    s: S,
    [dx, dgate, dweight]: [&mut [f32]; 3],
    dy: &[f32],
    x: &[f32],
    gate: &[f32],
    norm: &Norm,
) {
    let width = norm.weight.len();
    let offset = s.splat(norm.offset);
    // The gradient of the normalised row, before the gate.
    let mut dnormal_w = vec![0.0; width];
    let rows = dx.chunks_exact_mut(width).zip(dgate.chunks_exact_mut(width)).zip(dy.chunks_exact(width));
    for (((dx_w, dgate_w), dy_w), (x_w, gate_w)) in rows.zip(x.chunks_exact(width).zip(gate.chunks_exact(width))) {
        let inverse = s.splat(inverse_root(s, x_w, norm.epsilon));
        for i in (0..width).step_by(S::LANES) {
            let gain = s.add(offset, s.load(&norm.weight[i..]));
            let (dy, gate) = (s.load(&dy_w[i..]), s.load(&gate_w[i..]));
            let normal = s.mul(gain, s.mul(s.load(&x_w[i..]), inverse));
            let sigmoid = sigmoid(s, gate);
            s.store(&mut dnormal_w[i..], s.mul(dy, s.mul(gate, sigmoid)));
            s.add_to(&mut dgate_w[i..], s.mul(s.mul(dy, normal), silu_slope(s, gate, sigmoid)));
        }
        backward_row(s, dx_w, dweight, &dnormal_w, x_w, norm);
    }
}
variants! {
    fn gated_backward_rows(gradients: [&mut [f32]; 3], dy: &[f32], x: &[f32], gate: &[f32], norm: &Norm) =
        gated_backward
}
