//! AdamW over vectors.

use super::AdamW;
use crate::simd::{Simd, variants};

/// The constants of one step.
#[derive(Clone, Copy)]
pub(super) struct Step {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    gradient_scale: f32,
    /// 1 − rate·decay
    keep: f32,
    /// rate / (1 − beta1^step)
    rate: f32,
    /// 1 / sqrt(1 − beta2^step)
    root_scale: f32,
}

impl Step {
    pub(super) fn new(adamw: &AdamW, gradient_scale: f32, step: u64) -> Self {
        let [rate, beta1, beta2, decay] =
            [adamw.learning_rate, adamw.beta1, adamw.beta2, adamw.weight_decay].map(f64::from);
        Self {
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            epsilon: adamw.epsilon,
            gradient_scale,
            keep: (1.0 - rate * decay) as f32,
            rate: (rate / (1.0 - beta1.powf(step as f64))) as f32,
            root_scale: (1.0 / (1.0 - beta2.powf(step as f64)).sqrt()) as f32,
        }
    }
}

#[inline(always)]
fn step<S: Simd>(s: S, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: Step) {
    let (beta1, beta2) = (s.splat(step.beta1), s.splat(step.beta2));
    let (rest1, rest2) = (s.splat(1.0 - step.beta1), s.splat(1.0 - step.beta2));
    let (scale, keep, epsilon) = (s.splat(step.gradient_scale), s.splat(step.keep), s.splat(step.epsilon));
    let (rate, root_scale) = (s.splat(step.rate), s.splat(step.root_scale));
    let moments = first.chunks_mut(S::LANES).zip(second.chunks_mut(S::LANES));
    for ((parameter, gradient), (first, second)) in
        parameter.chunks_mut(S::LANES).zip(gradient.chunks(S::LANES)).zip(moments)
    {
        let slope = s.mul(s.load(gradient), scale);
        let mean = s.mul_add(beta1, s.load(first), s.mul(rest1, slope));
        let square = s.mul_add(beta2, s.load(second), s.mul(rest2, s.mul(slope, slope)));
        let divisor = s.mul_add(s.sqrt(square), root_scale, epsilon);
        let moved = s.div(s.mul(rate, mean), divisor);
        let value = s.sub(s.mul(s.load(parameter), keep), moved);
        s.store(first, mean);
        s.store(second, square);
        s.store(parameter, value);
    }
}
variants! {
    fn step_values(parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], constants: Step) =
        step
}

/// Values summed in f32 before the sum goes into an f64.
const BLOCK: usize = 256;

#[inline(always)]
fn squared_norm<S: Simd>(s: S, x: &[f32]) -> f64 {
    let mut total = 0.0;
    for x in x.chunks(BLOCK) {
        total += f64::from(crate::simd::dot(s, x, x));
    }
    total
}
variants! { fn squared_norm_values(x: &[f32]) -> f64 = squared_norm }
