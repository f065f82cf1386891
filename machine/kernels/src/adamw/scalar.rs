//! AdamW, the definition.

use super::AdamW;
use crate::real::Real;

/// One step with the gradient `gradient·gradient_scale`; `step` counts from 1.
pub fn step<R: Real>(
    [parameter, first, second]: [&mut [R]; 3],
    gradient: &[R],
    gradient_scale: R,
    step: u64,
    adamw: &AdamW,
) {
    let [rate, beta1, beta2, epsilon, decay] =
        [adamw.learning_rate, adamw.beta1, adamw.beta2, adamw.epsilon, adamw.weight_decay].map(f64::from);
    let correction1 = R::of(1.0 - beta1.powf(step as f64));
    let correction2 = R::of((1.0 - beta2.powf(step as f64)).sqrt());
    for i in 0..parameter.len() {
        let slope = gradient[i] * gradient_scale;
        first[i] = R::of(beta1) * first[i] + R::of(1.0 - beta1) * slope;
        second[i] = R::of(beta2) * second[i] + R::of(1.0 - beta2) * slope * slope;
        let divisor = second[i].sqrt() / correction2 + R::of(epsilon);
        parameter[i] = parameter[i] * R::of(1.0 - rate * decay) - R::of(rate) / correction1 * first[i] / divisor;
    }
}
