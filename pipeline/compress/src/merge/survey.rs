//! What forward passes alone tell of the experts: everything but gradients.
//!
//! Legend: T tokens, H hidden width of the model, E experts.

use super::neurons::{gathered, output, square};
use super::rows::Routed;
use super::walk::{Tokens, Walk};
use crate::{Calibration, ExpertUse, LayerStatistics};
use models::{FeedForward, Model};
use ops::{Buffer, Moe};

/// Tokens of which every expert sees each, to compare outputs.
const COMPARED: usize = 256;

/// Statistics of every mixture of a model in memory, by forward passes: no Taylor terms and no Fisher information.
/// `progress` hears which layer is done.
pub fn survey(model: &Model, tokens: &[Calibration], mut progress: impl FnMut(usize)) -> Vec<LayerStatistics> {
    let tokens = Tokens { calibration: tokens, held_out: &[] };
    let mut walk = Walk::start(model, &tokens);
    let mut layers = Vec::new();
    for (index, layer) in model.weights.layers.iter().enumerate() {
        let inputs = walk.step(model, index);
        if let FeedForward::Moe(moe) = &layer.feed_forward {
            layers.push(of_layer(&moe.routed, index, &inputs.calibration));
        }
        progress(index);
    }
    layers
}

/// Statistics of one mixture on its inputs `[T, H]`.
pub(crate) fn of_layer(moe: &Moe, layer: usize, x: &Buffer) -> LayerStatistics {
    let experts = moe.experts.len();
    let routed = Routed::of(x, moe);
    let mut together = vec![0u64; experts * experts];
    for chosen in routed.indices.chunks_exact(routed.top_k) {
        for &a in chosen {
            chosen.iter().for_each(|&b| together[a as usize * experts + b as usize] += 1);
        }
    }
    let used = super::each((0..experts).collect(), |expert| of_expert(moe, expert, x, &routed));
    LayerStatistics {
        layer,
        tokens: x.rows as u64,
        experts: used,
        together,
        output_similarity: output_similarity(moe, x, &routed),
        neuron_fisher: Vec::new(),
        router_entropy: entropy(&routed.probabilities),
    }
}

fn of_expert(moe: &Moe, expert: usize, x: &Buffer, routed: &Routed) -> ExpertUse {
    let (rows, gates) = routed.of_expert(expert);
    let outputs = output(&moe.experts[expert], &gathered(x, &rows));
    let norms = gates.iter().enumerate().map(|(row, gate)| f64::from(*gate) * square(outputs.row(row)).sqrt());
    ExpertUse {
        tokens: rows.len() as u64,
        gate_mass: gates.iter().map(|&gate| f64::from(gate)).sum(),
        weighted_norm: norms.sum(),
        activation_max: outputs.iter().fold(0.0, |most, value| most.max(value.abs())),
        ..ExpertUse::default()
    }
}

fn entropy(probabilities: &Buffer) -> f64 {
    let terms = probabilities.iter().filter(|&&p| p > 0.0).map(|&p| f64::from(p) * f64::from(p).ln());
    -terms.sum::<f64>() / probabilities.rows.max(1) as f64
}

/// `[E, E]`: the mean over some rows of the cosine of two experts' outputs, each row weighted by the larger of the two
/// gate probabilities.
fn output_similarity(moe: &Moe, x: &Buffer, routed: &Routed) -> Vec<f32> {
    let experts = moe.experts.len();
    let step = x.rows.div_ceil(COMPARED).max(1);
    let rows: Vec<usize> = (0..x.rows).step_by(step).collect();
    let chosen = gathered(x, &rows);
    let mut outputs: Vec<Buffer> = moe.experts.iter().map(|expert| output(expert, &chosen)).collect();
    for output in &mut outputs {
        output.for_each_row(|_, values| {
            let length = square(values).sqrt().max(f64::from(f32::MIN_POSITIVE)) as f32;
            values.iter_mut().for_each(|value| *value /= length);
        });
    }
    let (mut sums, mut weights) = (vec![0.0f64; experts * experts], vec![0.0f64; experts * experts]);
    for (place, &row) in rows.iter().enumerate() {
        let probabilities = routed.probabilities.row(row);
        for a in 0..experts {
            for b in 0..=a {
                let weight = f64::from(probabilities[a].max(probabilities[b]));
                let pairs = outputs[a].row(place).iter().zip(outputs[b].row(place));
                sums[a * experts + b] += weight * f64::from(pairs.map(|(a, b)| a * b).sum::<f32>());
                weights[a * experts + b] += weight;
            }
        }
    }
    let similarity = |place: usize| {
        let (a, b) = (place / experts, place % experts);
        let place = a.max(b) * experts + a.min(b);
        if weights[place] > 0.0 { (sums[place] / weights[place]) as f32 } else { 0.0 }
    };
    (0..experts * experts).map(similarity).collect()
}
