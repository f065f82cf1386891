//! The router, the definition. T tokens, E experts, k chosen.

use super::Shape;
use crate::real::Real;

/// Softmax over all experts, the k most probable (a tie goes to the lower index), their weights.
pub fn forward<R: Real>(indices: &mut [u32], weights: &mut [R], probabilities: &mut [R], logits: &[R], shape: &Shape) {
    let &Shape { experts, top_k, normalize } = shape;
    for (t, logit_e) in logits.chunks_exact(experts).enumerate() {
        let probability_e = &mut probabilities[t * experts..(t + 1) * experts];
        let most = logit_e.iter().fold(logit_e[0], |most, &logit| most.larger(logit));
        let mut sum = R::zero();
        for (probability, &logit) in probability_e.iter_mut().zip(logit_e) {
            *probability = (logit - most).exp();
            sum += *probability;
        }
        for probability in probability_e.iter_mut() {
            *probability = *probability / sum;
        }
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| {
            probability_e[b].partial_cmp(&probability_e[a]).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b))
        });
        let mut chosen = R::zero();
        for &expert in &order[..top_k] {
            chosen += probability_e[expert];
        }
        let divisor = if normalize { chosen } else { R::one() };
        for (slot, &expert) in order[..top_k].iter().enumerate() {
            indices[t * top_k + slot] = expert as u32;
            weights[t * top_k + slot] = probability_e[expert] / divisor;
        }
    }
}

/// dlogits += the adjoint; `dprobabilities` [E] is a gradient that every token's probabilities receive as well.
pub fn backward<R: Real>(
    dlogits: &mut [R],
    dweights: &[R],
    dprobabilities: &[R],
    (probabilities, indices, weights): (&[R], &[u32], &[R]),
    shape: &Shape,
) {
    let &Shape { experts, top_k, normalize } = shape;
    for (t, probability_e) in probabilities.chunks_exact(experts).enumerate() {
        let slots = t * top_k..(t + 1) * top_k;
        let mut dprobability_e = dprobabilities.to_vec();
        let (mut along, mut divisor) = (R::zero(), R::one());
        if normalize {
            divisor = R::zero();
            for slot in slots.clone() {
                along += dweights[slot] * weights[slot];
                divisor += probability_e[indices[slot] as usize];
            }
        }
        for slot in slots {
            dprobability_e[indices[slot] as usize] += (dweights[slot] - along) / divisor;
        }
        let mut mean = R::zero();
        for e in 0..experts {
            mean += probability_e[e] * dprobability_e[e];
        }
        for e in 0..experts {
            dlogits[t * experts + e] += probability_e[e] * (dprobability_e[e] - mean);
        }
    }
}
