//! SwiGLU, the definition.

use crate::real::Real;

/// y = silu(gate)·up
pub fn forward<R: Real>(y: &mut [R], gate: &[R], up: &[R]) {
    for i in 0..y.len() {
        y[i] = gate[i].silu() * up[i];
    }
}

/// y = weight·silu(gate)·up, with one weight to each row.
pub fn forward_weighted<R: Real>(y: &mut [R], gate: &[R], up: &[R], weights: &[R]) {
    forward(y, gate, up);
    let width = y.len() / weights.len();
    y.iter_mut().enumerate().for_each(|(i, y)| *y = weights[i / width] * *y);
}

/// dgate += dy·up·silu′(gate), dup += dy·silu(gate)
pub fn backward<R: Real>(dgate: &mut [R], dup: &mut [R], dy: &[R], gate: &[R], up: &[R]) {
    for i in 0..dy.len() {
        dgate[i] += dy[i] * up[i] * gate[i].silu_slope();
        dup[i] += dy[i] * gate[i].silu();
    }
}
