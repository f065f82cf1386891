//! What is counted while tokens pass through a mixture, forwards and backwards.
//!
//! Legend: T tokens, E experts, H hidden width, m hidden neurons of an expert.

use crate::{ExpertUse, LayerStatistics};
use kernels::pool;
use ops::{Buffer, ExpertGradients, Moe, Record, RecordBackward, Routing};

/// Rows that one thread looks at.
const TASK_ROWS: usize = 32;

/// Tokens on which all experts of a layer will be run.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) tokens: usize,
    /// `[tokens, H]`: what goes into the mixture.
    pub(crate) x: Vec<f32>,
    /// `[tokens, E]`: what its router thinks.
    pub(crate) probabilities: Vec<f32>,
}

/// One layer's counts so far.
#[derive(Debug)]
pub(crate) struct Tally {
    tokens: u64,
    experts: Vec<ExpertUse>,
    together: Vec<u64>,
    entropy: f64,
    /// Every so manieth token is sampled.
    stride: usize,
    pub(crate) sample: Sample,
}

impl Tally {
    /// `tokens` will pass; about `sampled` of them are kept.
    pub(crate) fn new(experts: usize, tokens: usize, sampled: usize) -> Self {
        let stride = if sampled == 0 { usize::MAX } else { tokens.div_ceil(sampled).max(1) };
        Self {
            tokens: 0,
            experts: vec![ExpertUse::default(); experts],
            together: vec![0; experts * experts],
            entropy: 0.0,
            stride,
            sample: Sample::default(),
        }
    }

    /// What was seen, without similarities and gradients.
    pub(crate) fn statistics(self, layer: usize, output_similarity: Vec<f32>) -> LayerStatistics {
        LayerStatistics {
            layer,
            tokens: self.tokens,
            experts: self.experts,
            together: self.together,
            output_similarity,
            neuron_fisher: Vec::new(),
            router_entropy: self.entropy / self.tokens.max(1) as f64,
        }
    }

    fn count_choices(&mut self, routing: &Routing, top_k: usize) {
        let n_experts = self.experts.len();
        for chosen in routing.indices.chunks_exact(top_k) {
            for &a in chosen {
                for &b in chosen {
                    self.together[a as usize * n_experts + b as usize] += 1;
                }
            }
        }
    }

    fn look_at_router(&mut self, x: &Buffer, routing: &Routing) {
        for row in 0..x.rows {
            let probabilities = routing.probabilities.row(row);
            let positive = probabilities.iter().map(|&p| f64::from(p)).filter(|&p| p > 0.0);
            self.entropy -= positive.map(|p| p * p.ln()).sum::<f64>();
            // From the middle of each stretch: the first token of all is like no other.
            if (self.tokens as usize + row) % self.stride == self.stride / 2 {
                self.sample.tokens += 1;
                self.sample.x.extend_from_slice(x.row(row));
                self.sample.probabilities.extend_from_slice(probabilities);
            }
        }
    }
}

impl Record for Tally {
    const LOOKS: bool = true;

    fn experts(&mut self, moe: &Moe, x: &Buffer, routing: &Routing, expert_outputs: &Buffer) {
        // The norm and the largest |value| of each sorted row, which is multiplied by its routing weight.
        let mut rows = vec![(0.0f64, 0.0f32); expert_outputs.rows];
        pool::for_each_chunk(&mut rows, TASK_ROWS, |task, rows| {
            for (row, found) in rows.iter_mut().enumerate() {
                let values = expert_outputs.row(task * TASK_ROWS + row);
                let square: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                *found = (square.sqrt(), values.iter().fold(0.0, |most, value| value.abs().max(most)));
            }
        });
        for (expert, used) in self.experts.iter_mut().enumerate() {
            let own = routing.offsets[expert]..routing.offsets[expert + 1];
            for (&(norm, largest), &slot) in rows[own.clone()].iter().zip(&routing.slots[own]) {
                let gate = routing.weights[slot as usize];
                used.tokens += 1;
                used.gate_mass += f64::from(gate);
                used.weighted_norm += norm;
                // A gate that is zero hides what the expert said.
                if gate > 0.0 {
                    used.activation_max = used.activation_max.max(largest / gate);
                }
            }
        }
        self.count_choices(routing, moe.top_k);
        self.look_at_router(x, routing);
        self.tokens += x.rows as u64;
    }
}

/// One layer's sums over what the loss asks of its experts.
#[derive(Debug)]
pub(crate) struct GradientTally {
    pub(crate) taylor: Vec<f64>,
    pub(crate) fisher: Vec<f64>,
    /// `[E, m]`.
    pub(crate) neurons: Vec<f64>,
}

impl GradientTally {
    pub(crate) fn new(experts: usize, inner: usize) -> Self {
        Self { taylor: vec![0.0; experts], fisher: vec![0.0; experts], neurons: vec![0.0; experts * inner] }
    }

    /// Puts the sums where they belong.
    pub(crate) fn complete(&self, statistics: &mut LayerStatistics) {
        for (used, (taylor, fisher)) in statistics.experts.iter_mut().zip(self.taylor.iter().zip(&self.fisher)) {
            (used.taylor, used.fisher) = (*taylor, *fisher);
        }
        statistics.neuron_fisher = self.neurons.iter().map(|&sum| sum as f32).collect();
    }
}

impl RecordBackward for GradientTally {
    fn experts_backward(&mut self, moe: &Moe, seen: &ExpertGradients) {
        let routing = seen.routing;
        for expert in 0..moe.experts.len() {
            for row in routing.offsets[expert]..routing.offsets[expert + 1] {
                let slot = routing.slots[row] as usize;
                let asked = f64::from(routing.weights[slot]) * f64::from(seen.weights[slot]);
                self.taylor[expert] += asked;
                self.fisher[expert] += asked * asked;
            }
        }
        pool::for_each_chunk(&mut self.neurons, seen.hidden.width, |expert, sums| {
            for row in routing.offsets[expert]..routing.offsets[expert + 1] {
                for (sum, (a, da)) in sums.iter_mut().zip(seen.hidden.row(row).iter().zip(seen.of_hidden.row(row))) {
                    let asked = f64::from(*a) * f64::from(*da);
                    *sum += asked * asked;
                }
            }
        });
    }
}
