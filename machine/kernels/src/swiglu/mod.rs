//! SwiGLU: y = silu(gate)·up elementwise, and its adjoint.
//!
//! `forward` writes all of y; gradients are added to. All slices have one length, else a panic.
//! Against f64: 1e-6 of 1 + |y|.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};
pub(crate) use vector::forward_rows;

/// y = silu(gate)·up
pub fn forward(y: &mut [f32], gate: &[f32], up: &[f32]) {
    assert!(y.len() == gate.len() && y.len() == up.len(), "lengths differ: {} {} {}", y.len(), gate.len(), up.len());
    let block = rows_per_task(1);
    let tasks = y.chunks_mut(block).zip(gate.chunks(block)).zip(up.chunks(block));
    for_each(tasks, |((y, gate), up)| vector::forward_values(Level::best(), y, gate, up));
}

/// y = weight·silu(gate)·up, with one weight to each row.
pub fn forward_weighted(y: &mut [f32], gate: &[f32], up: &[f32], weights: &[f32]) {
    assert!(y.len() == gate.len() && y.len() == up.len(), "lengths differ: {} {} {}", y.len(), gate.len(), up.len());
    let width = y.len() / weights.len().max(1);
    assert_eq!(y.len(), width * weights.len(), "a weight to each row");
    let rows = rows_per_task(width);
    let part = rows * width.max(1);
    let tasks = y.chunks_mut(part).zip(gate.chunks(part)).zip(up.chunks(part)).zip(weights.chunks(rows));
    for_each(tasks, |(((y, gate), up), weights)| vector::forward_rows(Level::best(), y, gate, up, weights));
}

/// dgate += and dup += the adjoint of [`forward`].
pub fn backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let lengths = [dgate.len(), dup.len(), dy.len(), gate.len(), up.len()];
    assert!(lengths.iter().all(|&len| len == lengths[0]), "lengths differ: {lengths:?}");
    let block = rows_per_task(1);
    let into = dgate.chunks_mut(block).zip(dup.chunks_mut(block));
    let from = dy.chunks(block).zip(gate.chunks(block)).zip(up.chunks(block));
    for_each(into.zip(from), |((dgate, dup), ((dy, gate), up))| {
        vector::backward_values(Level::best(), dgate, dup, dy, gate, up);
    });
}
