//! L2 normalisation of rows: y = scale·x / sqrt(Σx² + 1e-6), and its adjoint.
//!
//! `forward` writes all of y; dx is added to. Rows are whole, else a panic.

pub mod scalar;

/// Inside the root, fixed by the models.
pub const EPSILON: f32 = 1e-6;

/// y = scale·x / sqrt(Σx² + 1e-6) for every row of `width`.
pub fn forward(y: &mut [f32], x: &[f32], width: usize, scale: f32) {
    scalar::forward(y, x, width, scale);
}

/// dx += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dy: &[f32], x: &[f32], width: usize, scale: f32) {
    scalar::backward(dx, dy, x, width, scale);
}
