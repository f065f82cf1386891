//! The router over vectors. E experts, k chosen.

use super::Shape;
use crate::simd::{Simd, dot, exp, largest, scale_in_place, variants};

#[inline(always)]
fn forward<S: Simd>(
    s: S,
    indices: &mut [u32],
    weights: &mut [f32],
    probabilities: &mut [f32],
    logits: &[f32],
    shape: &Shape,
) {
    let &Shape { experts, top_k, normalize } = shape;
    let chosen = indices.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k));
    let rows = probabilities.chunks_exact_mut(experts).zip(logits.chunks_exact(experts));
    for ((index_k, weight_k), (probability_e, logit_e)) in chosen.zip(rows) {
        softmax(s, probability_e, logit_e);
        choose(index_k, weight_k, probability_e);
        if normalize {
            let sum: f32 = weight_k.iter().sum();
            weight_k.iter_mut().for_each(|weight| *weight /= sum);
        }
    }
}
variants! {
    fn forward_rows(
        indices: &mut [u32],
        weights: &mut [f32],
        probabilities: &mut [f32],
        logits: &[f32],
        shape: &Shape,
    ) = forward
}

#[inline(always)]
fn softmax<S: Simd>(s: S, probability_e: &mut [f32], logit_e: &[f32]) {
    let most = s.splat(largest(s, logit_e));
    let mut sum = s.zero();
    for (probability, logit) in probability_e.chunks_mut(S::LANES).zip(logit_e.chunks(S::LANES)) {
        s.store(probability, exp(s, s.sub(s.load(logit), most)));
        // Read back, so that the lanes beyond the experts count as zero.
        sum = s.add(sum, s.load(probability));
    }
    scale_in_place(s, probability_e, 1.0 / s.sum(sum));
}

/// The k largest, kept sorted while passing once; an equal one that comes later stays behind.
#[inline(always)]
fn choose(index_k: &mut [u32], weight_k: &mut [f32], probability_e: &[f32]) {
    weight_k.fill(f32::NEG_INFINITY);
    let last = weight_k.len() - 1;
    for (expert, &probability) in probability_e.iter().enumerate() {
        if probability > weight_k[last] {
            let mut slot = last;
            while slot > 0 && probability > weight_k[slot - 1] {
                weight_k[slot] = weight_k[slot - 1];
                index_k[slot] = index_k[slot - 1];
                slot -= 1;
            }
            weight_k[slot] = probability;
            index_k[slot] = expert as u32;
        }
    }
}

/// See the definition in `scalar.rs`.
#[inline(always)]
fn backward<S: Simd>(
    s: S,
    dlogits: &mut [f32],
    dweights: &[f32],
    dprobabilities: &[f32],
    (probabilities, indices, weights): (&[f32], &[u32], &[f32]),
    shape: &Shape,
) {
    let &Shape { experts, top_k, normalize } = shape;
    let mut dprobability_e = vec![0.0; experts];
    let rows = dlogits.chunks_exact_mut(experts).zip(probabilities.chunks_exact(experts)).enumerate();
    for (t, (dlogit_e, probability_e)) in rows {
        let slots = t * top_k..(t + 1) * top_k;
        dprobability_e.copy_from_slice(dprobabilities);
        let (mut along, mut divisor) = (0.0, 1.0);
        if normalize {
            divisor = 0.0;
            for slot in slots.clone() {
                along += dweights[slot] * weights[slot];
                divisor += probability_e[indices[slot] as usize];
            }
        }
        for slot in slots {
            dprobability_e[indices[slot] as usize] += (dweights[slot] - along) / divisor;
        }
        let mean = s.splat(dot(s, probability_e, &dprobability_e));
        for i in (0..experts).step_by(S::LANES) {
            let across = s.sub(s.load(&dprobability_e[i..]), mean);
            s.add_to(&mut dlogit_e[i..], s.mul(s.load(&probability_e[i..]), across));
        }
    }
}
variants! {
    fn backward_rows(
        dlogits: &mut [f32],
        dweights: &[f32],
        dprobabilities: &[f32],
        routing: (&[f32], &[u32], &[f32]),
        shape: &Shape,
    ) = backward
}
