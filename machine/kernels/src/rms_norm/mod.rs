//! RMS normalisation over rows of W = weight.len() values, plain or gated, and its adjoint.
//!
//! `forward` writes all of y; every gradient is added to. Rows are whole: lengths are multiples of W, else a panic.

pub mod scalar;

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
    scalar::forward(y, x, norm.weight, norm.offset, norm.epsilon);
}

/// dx += and dweight += the adjoint of [`forward`].
pub fn backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], norm: &Norm) {
    scalar::backward(dx, dweight, dy, x, norm.weight, norm.offset, norm.epsilon);
}

/// y = forward(x)·silu(gate): normalise first, gate second.
pub fn gated_forward(y: &mut [f32], x: &[f32], gate: &[f32], norm: &Norm) {
    scalar::gated_forward(y, x, gate, norm.weight, norm.offset, norm.epsilon);
}

/// The adjoint of [`gated_forward`].
pub fn gated_backward(gradients: GatedGradients, dy: &[f32], x: &[f32], gate: &[f32], norm: &Norm) {
    let GatedGradients { dx, dgate, dweight } = gradients;
    scalar::gated_backward([dx, dgate, dweight], dy, [x, gate, norm.weight], norm.offset, norm.epsilon);
}
