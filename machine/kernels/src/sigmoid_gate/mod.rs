//! Sigmoid gates: y = x·σ(gate), with one gate per value (group = 1) or per row (group = the row's width).
//!
//! `forward` writes all of y; gradients are added to. x.len() = gate.len()·group, else a panic.

pub mod scalar;

/// y = x·σ(gate): value i is gated by gate[i / group].
pub fn forward(y: &mut [f32], x: &[f32], gate: &[f32], group: usize) {
    scalar::forward(y, x, gate, group);
}

/// dx += and dgate += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dgate: &mut [f32], dy: &[f32], x: &[f32], gate: &[f32], group: usize) {
    scalar::backward(dx, dgate, dy, x, gate, group);
}
