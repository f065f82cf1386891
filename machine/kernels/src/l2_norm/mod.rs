//! L2 normalisation of rows: y = scale·x / sqrt(Σx² + 1e-6), and its adjoint.
//!
//! `forward` writes all of y; dx is added to. Rows are whole, else a panic. Against f64: 1e-6 of 1 + |y|.

pub mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod vector;

use crate::simd::{Level, for_each, rows_per_task};

/// Inside the root, fixed by the models.
pub const EPSILON: f32 = 1e-6;

/// y = scale·x / sqrt(Σx² + 1e-6) for every row of `width`.
pub fn forward(y: &mut [f32], x: &[f32], width: usize, scale: f32) {
    let rows = check(&[y.len(), x.len()], width);
    for_each(y.chunks_mut(rows).zip(x.chunks(rows)), |(y, x)| vector::forward_rows(Level::best(), y, x, width, scale));
}

/// dx += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dy: &[f32], x: &[f32], width: usize, scale: f32) {
    let rows = check(&[dx.len(), dy.len(), x.len()], width);
    let tasks = dx.chunks_mut(rows).zip(dy.chunks(rows)).zip(x.chunks(rows));
    for_each(tasks, |((dx, dy), x)| vector::backward_rows(Level::best(), dx, dy, x, width, scale));
}

/// Asserts that all are whole rows of one number, and gives the values in a task.
fn check(lengths: &[usize], width: usize) -> usize {
    assert!(width > 0 && lengths[0].is_multiple_of(width), "{} values are no whole rows of {width}", lengths[0]);
    assert!(lengths.iter().all(|&len| len == lengths[0]), "lengths differ: {lengths:?}");
    rows_per_task(width) * width
}
