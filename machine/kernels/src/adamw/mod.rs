//! AdamW with decoupled weight decay and bias correction, as torch computes it; and the squared norm for clipping.
//!
//! All slices have one length, else a panic. Parameter and both moments are changed in place.
//! Against f64: 1e-6 of 1 + |x| per step.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};

/// The constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
}

/// One step with the gradient `gradient·gradient_scale` (the scale carries clipping and averaging). `step` counts
/// from 1.
pub fn step(
    parameter: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    gradient_scale: f32,
    step: u64,
    adamw: &AdamW,
) {
    let lengths = [parameter.len(), first.len(), second.len(), gradient.len()];
    assert!(lengths.iter().all(|&len| len == lengths[0]), "lengths differ: {lengths:?}");
    assert!(step > 0, "steps count from 1");
    let constants = vector::Step::new(adamw, gradient_scale, step);
    let block = rows_per_task(1);
    let moments = first.chunks_mut(block).zip(second.chunks_mut(block));
    let tasks = parameter.chunks_mut(block).zip(gradient.chunks(block)).zip(moments);
    for_each(tasks, |((parameter, gradient), (first, second))| {
        vector::step_values(Level::best(), parameter, first, second, gradient, constants);
    });
}

/// Σx², summed in a fixed order.
pub fn squared_norm(x: &[f32]) -> f64 {
    let block = rows_per_task(1);
    let mut parts = vec![0.0; x.len().div_ceil(block)];
    for_each(parts.iter_mut().zip(x.chunks(block)), |(part, x)| *part = vector::squared_norm_values(Level::best(), x));
    parts.iter().sum()
}
