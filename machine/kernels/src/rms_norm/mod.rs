//! RMS normalisation over rows of W = weight.len() values, plain or gated, and its adjoint.
//!
//! `forward` writes all of y; every gradient is added to. Rows are whole: lengths are multiples of W, else a panic.
//! Against f64: 1e-6 of 1 + |y| for rows of ordinary size.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, for_each_summed, rows_per_task};

/// What a normalisation owns. The gain is `offset + weight`: offset 1 for zero-centred weights, 0 for plain ones.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    pub weight: &'a [f32],
    pub offset: f32,
    pub epsilon: f32,
}

/// Where the gradients of a gated normalisation are added.
#[derive(Debug)]
pub struct GatedGradients<'a> {
    pub dx: &'a mut [f32],
    pub dgate: &'a mut [f32],
    pub dweight: &'a mut [f32],
}

/// y = (offset + weight)·x / sqrt(mean(x²) + epsilon), row by row.
pub fn forward(y: &mut [f32], x: &[f32], norm: &Norm) {
    let rows = check(&[y.len(), x.len()], norm);
    for_each(y.chunks_mut(rows).zip(x.chunks(rows)), |(y, x)| vector::forward_rows(Level::best(), y, x, norm));
}

/// dx += and dweight += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], norm: &Norm) {
    let rows = check(&[dx.len(), dy.len(), x.len()], norm);
    assert_eq!(dweight.len(), norm.weight.len(), "one gradient per weight");
    let tasks = dx.chunks_mut(rows).zip(dy.chunks(rows)).zip(x.chunks(rows));
    for_each_summed(tasks, dweight, |((dx, dy), x), dweight| {
        vector::backward_rows(Level::best(), dx, dweight, dy, x, norm);
    });
}

/// y = forward(x)·silu(gate): normalise first, gate second.
pub fn gated_forward(y: &mut [f32], x: &[f32], gate: &[f32], norm: &Norm) {
    let rows = check(&[y.len(), x.len(), gate.len()], norm);
    let tasks = y.chunks_mut(rows).zip(x.chunks(rows)).zip(gate.chunks(rows));
    for_each(tasks, |((y, x), gate)| vector::gated_forward_rows(Level::best(), y, x, gate, norm));
}

/// The adjoint of [`gated_forward`].
pub fn gated_backward(gradients: GatedGradients, dy: &[f32], x: &[f32], gate: &[f32], norm: &Norm) {
    let GatedGradients { dx, dgate, dweight } = gradients;
    let rows = check(&[dx.len(), dgate.len(), dy.len(), x.len(), gate.len()], norm);
    assert_eq!(dweight.len(), norm.weight.len(), "one gradient per weight");
    let into = dx.chunks_mut(rows).zip(dgate.chunks_mut(rows));
    let from = dy.chunks(rows).zip(x.chunks(rows)).zip(gate.chunks(rows));
    for_each_summed(into.zip(from), dweight, |((dx, dgate), ((dy, x), gate)), dweight| {
        vector::gated_backward_rows(Level::best(), [dx, dgate, dweight], dy, x, gate, norm);
    });
}

/// Asserts that all are whole rows of one number, and gives the values in a task.
fn check(lengths: &[usize], norm: &Norm) -> usize {
    let width = norm.weight.len();
    assert!(width > 0 && lengths[0].is_multiple_of(width), "{} values are no whole rows of {width}", lengths[0]);
    assert!(lengths.iter().all(|&len| len == lengths[0]), "lengths differ: {lengths:?}");
    rows_per_task(width) * width
}
