//! SwiGLU: y = silu(gate)·up elementwise, and its adjoint.
//!
//! `forward` writes all of y; gradients are added to. All slices have one length, else a panic.

pub mod scalar;

/// y = silu(gate)·up
pub fn forward(y: &mut [f32], gate: &[f32], up: &[f32]) {
    scalar::forward(y, gate, up);
}

/// dgate += and dup += the adjoint of [`forward`].
pub fn backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    scalar::backward(dgate, dup, dy, gate, up);
}
