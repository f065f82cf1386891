//! Gates that are multiplied by a number for each expert: 0 takes it out, 1 leaves it as it is, and the slope of the
//! loss says what each expert is worth.
//!
//! Legend: T tokens, E experts, k chosen. With g the router's gates and m the mask a token's weights are `w = m·g / s`.
//! Where the router's gates add up to 1, s is the sum of `m·g` over the token's experts, so that its weights add up to
//! 1 again; else it is 1. Every token keeps the experts that it has chosen without the mask.

use crate::{Buffer, Moe, Routing};

/// What backward needs.
pub(crate) struct Masked {
    mask: Vec<f32>,
    /// Without the mask, `[T, k]`.
    gates: Vec<f32>,
    /// `1 / s` of each token.
    scales: Vec<f32>,
}

impl Masked {
    /// Multiplies the weights of a routing.
    pub(crate) fn apply(mask: &[f32], routing: &mut Routing, moe: &Moe) -> Self {
        assert_eq!(mask.len(), moe.experts.len(), "a mask has a number for each expert");
        let gates = routing.weights.clone();
        let chosen = routing.weights.chunks_exact_mut(moe.top_k).zip(routing.indices.chunks_exact(moe.top_k));
        let of_token = |(weights, indices): (&mut [f32], &[u32])| {
            weights.iter_mut().zip(indices).for_each(|(weight, &expert)| *weight *= mask[expert as usize]);
            let sum: f32 = weights.iter().sum();
            // A token all of whose experts are out hears nothing of them; its slope is that of the sum itself.
            let scale = if moe.normalize && sum > 0.0 { sum.recip() } else { 1.0 };
            weights.iter_mut().for_each(|weight| *weight *= scale);
            scale
        };
        Self { mask: mask.to_vec(), gates, scales: chosen.map(of_token).collect() }
    }

    pub(crate) fn gates(&self) -> &[f32] {
        &self.gates
    }

    /// Turns what the loss asks of the weights, `[T, k]`, into what it asks of the router's gates, and gives what it
    /// asks of the mask, `[E]`: `∂L/∂(m·g) = (∂L/∂w − Σ w·∂L/∂w) / s`, with the sum where s is one.
    pub(crate) fn backward(&self, dweights: &mut Buffer, routing: &Routing, moe: &Moe) -> Vec<f64> {
        let mut of_mask = vec![0.0; self.mask.len()];
        for (token, scale) in self.scales.iter().enumerate() {
            let places = token * moe.top_k..(token + 1) * moe.top_k;
            let asked = dweights.row_mut(token);
            let pairs = asked.iter().zip(&routing.weights[places.clone()]);
            let mean: f32 = if moe.normalize { pairs.map(|(asked, weight)| asked * weight).sum() } else { 0.0 };
            for (asked, place) in asked.iter_mut().zip(places) {
                let (expert, slope) = (routing.indices[place] as usize, (*asked - mean) * scale);
                of_mask[expert] += f64::from(self.gates[place]) * f64::from(slope);
                *asked = self.mask[expert] * slope;
            }
        }
        of_mask
    }
}
