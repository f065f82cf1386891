//! L2 normalisation over vectors. W is the width of a row.

use crate::simd::{Simd, dot, variants};

#[inline(always)]
fn inverse_root<S: Simd>(s: S, x_w: &[f32]) -> f32 {
    1.0 / (dot(s, x_w, x_w) + super::EPSILON).sqrt()
}

#[inline(always)]
pub(crate) fn forward<S: Simd>(s: S, y: &mut [f32], x: &[f32], width: usize, scale: f32) {
    for (y_w, x_w) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let factor = s.splat(scale * inverse_root(s, x_w));
        for (y, x) in y_w.chunks_mut(S::LANES).zip(x_w.chunks(S::LANES)) {
            s.store(y, s.mul(factor, s.load(x)));
        }
    }
}
variants! { fn forward_rows(y: &mut [f32], x: &[f32], width: usize, scale: f32) = forward }

/// [`forward`] where x stands.
#[inline(always)]
fn in_place<S: Simd>(s: S, x: &mut [f32], width: usize, scale: f32) {
    for x_w in x.chunks_exact_mut(width) {
        let factor = s.splat(scale * inverse_root(s, x_w));
        for x in x_w.chunks_mut(S::LANES) {
            s.store(x, s.mul(factor, s.load(x)));
        }
    }
}
variants! { fn normalise_rows(x: &mut [f32], width: usize, scale: f32) = in_place }

#[inline(always)]
fn backward<S: Simd>(s: S, dx: &mut [f32], dy: &[f32], x: &[f32], width: usize, scale: f32) {
    for ((dx_w, dy_w), x_w) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)) {
        let inverse = inverse_root(s, x_w);
        // ⟨dy, n⟩·inverse, the factor of x.
        let along = s.splat(dot(s, dy_w, x_w) * inverse * inverse);
        let factor = s.splat(scale * inverse);
        for ((dx, dy), x) in dx_w.chunks_mut(S::LANES).zip(dy_w.chunks(S::LANES)).zip(x_w.chunks(S::LANES)) {
            let across = s.neg_mul_add(s.load(x), along, s.load(dy));
            s.add_to(dx, s.mul(factor, across));
        }
    }
}
variants! { fn backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], width: usize, scale: f32) = backward }
