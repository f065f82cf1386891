//! Sigmoid gates: y = x·σ(gate), with one gate per value (group = 1) or per row (group = the row's width).
//!
//! `forward` writes all of y; gradients are added to. x.len() = gate.len()·group, else a panic.
//! Against f64: 1e-6 of 1 + |y|; a row's dgate is a sum and loses what sums lose.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};

/// y = x·σ(gate): value i is gated by gate[i / group].
pub fn forward(y: &mut [f32], x: &[f32], gate: &[f32], group: usize) {
    let gates = check(&[y.len(), x.len()], gate.len(), group);
    let tasks = y.chunks_mut(gates * group).zip(x.chunks(gates * group)).zip(gate.chunks(gates));
    for_each(tasks, |((y, x), gate)| match group {
        1 => vector::forward_values(Level::best(), y, x, gate),
        _ => vector::forward_groups(Level::best(), y, x, gate, group),
    });
}

/// dx += and dgate += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dgate: &mut [f32], dy: &[f32], x: &[f32], gate: &[f32], group: usize) {
    let gates = check(&[dx.len(), dy.len(), x.len()], gate.len(), group);
    assert_eq!(dgate.len(), gate.len(), "one gradient per gate");
    let into = dx.chunks_mut(gates * group).zip(dgate.chunks_mut(gates));
    let from = dy.chunks(gates * group).zip(x.chunks(gates * group)).zip(gate.chunks(gates));
    for_each(into.zip(from), |((dx, dgate), ((dy, x), gate))| match group {
        1 => vector::backward_values(Level::best(), dx, dgate, dy, x, gate),
        _ => vector::backward_groups(Level::best(), [dx, dgate], dy, x, gate, group),
    });
}

/// Asserts that all have a group per gate, and gives the gates in a task.
fn check(lengths: &[usize], gates: usize, group: usize) -> usize {
    assert!(group > 0 && lengths.iter().all(|&len| len == gates * group), "{lengths:?} with {gates} gates of {group}");
    rows_per_task(group)
}
