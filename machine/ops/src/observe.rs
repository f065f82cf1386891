//! The executor that counts: what calibration needs to know of every expert.

use crate::{Buffer, Infer, Moe, Precision, Record, Routing};

/// What one expert did over the observed tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ExpertStatistics {
    /// Tokens that chose it.
    pub tokens: u64,
    /// Sum of its routing weights, after normalisation.
    pub weight: f64,
    /// Sum of the Euclidean norms of its weighted outputs: divided by `tokens` this is REAP's saliency
    /// (Lasby et al. 2025): the mean of `g(x)·‖f(x)‖₂` over the tokens routed to it.
    pub weighted_norm: f64,
}

/// Statistics of every expert of every mixture, by layer.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    pub layers: Vec<Vec<ExpertStatistics>>,
}

/// Runs and counts.
pub type Observe = Infer<Statistics>;

impl Observe {
    pub fn observing(precision: Precision) -> Self {
        Self::recording(precision, Statistics::default())
    }
}

impl Record for Statistics {
    const LOOKS: bool = true;

    fn experts(&mut self, moe: &Moe, _: &Buffer, routing: &Routing, expert_outputs: &Buffer) {
        if self.layers.len() <= moe.layer {
            self.layers.resize(moe.layer + 1, Vec::new());
        }
        let layer = &mut self.layers[moe.layer];
        layer.resize(moe.experts.len(), ExpertStatistics::default());
        for (expert, statistics) in layer.iter_mut().enumerate() {
            for row in routing.offsets[expert]..routing.offsets[expert + 1] {
                let square: f64 = expert_outputs.row(row).iter().map(|&value| f64::from(value).powi(2)).sum();
                statistics.tokens += 1;
                statistics.weight += f64::from(routing.weights[routing.slots[row] as usize]);
                statistics.weighted_norm += square.sqrt();
            }
        }
    }
}
