//! AdamW with decoupled weight decay and bias correction, as torch computes it; and the squared norm for clipping.
//!
//! All slices have one length, else a panic. Parameter and both moments are changed in place.

pub mod scalar;

/// The constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
}

/// One step with the gradient `gradient·gradient_scale` (the scale carries clipping and averaging); `step` counts from 1.
pub fn step(
    parameter: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    gradient_scale: f32,
    step: u64,
    adamw: &AdamW,
) {
    scalar::step([parameter, first, second], gradient, gradient_scale, step, adamw);
}

/// Σx², summed in a fixed order.
pub fn squared_norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
