//! What observing tells of one layer's experts: all that planning and merging need to know.
//!
//! Legend: E experts, m hidden neurons of an expert, T tokens.

/// What one expert did over the observed tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ExpertUse {
    /// Tokens that chose it.
    pub tokens: u64,
    /// Sum of its routing weights, after normalisation.
    pub gate_mass: f64,
    /// Sum of `g(x)·‖f(x)‖₂` over its tokens; its mean is REAP's saliency (Lasby et al. 2025).
    pub weighted_norm: f64,
    /// The largest |value| of its unweighted outputs: super-experts stand out here (arXiv 2507.23279).
    pub activation_max: f32,
    /// `Σ s(t)` with `s(t) = g(t)·⟨∂L/∂y_t, f(x_t)⟩`: what a mask on the expert would change, to first order.
    pub taylor: f64,
    /// `Σ s(t)²`, the Fisher information of that mask.
    pub fisher: f64,
}

/// One mixture layer, observed.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStatistics {
    /// Of the model.
    pub layer: usize,
    /// Tokens observed.
    pub tokens: u64,
    pub experts: Vec<ExpertUse>,
    /// `[E, E]`, symmetric: tokens that chose both; the diagonal holds each expert's own.
    pub together: Vec<u64>,
    /// `[E, E]`, symmetric: cosine of the outputs of two experts, all run on the same subsample of tokens, each token
    /// weighted by the larger of the two gate probabilities.
    pub output_similarity: Vec<f32>,
    /// `[E, m]`: `Σ (∂L/∂a · a)²` of every hidden neuron over its expert's tokens.
    pub neuron_fisher: Vec<f32>,
    /// Mean entropy of the router, in nats a token.
    pub router_entropy: f64,
}

impl LayerStatistics {
    /// REAP's saliency of an expert: 0 if no token chose it.
    pub fn saliency(&self, expert: usize) -> f64 {
        let used = &self.experts[expert];
        if used.tokens == 0 { 0.0 } else { used.weighted_norm / used.tokens as f64 }
    }

    /// How much more often two experts are chosen together than if they were independent; 0 if either is never chosen.
    pub fn lift(&self, a: usize, b: usize) -> f64 {
        let (n_a, n_b) = (self.experts[a].tokens as f64, self.experts[b].tokens as f64);
        if n_a == 0.0 || n_b == 0.0 {
            return 0.0;
        }
        self.together[a * self.experts.len() + b] as f64 * self.tokens as f64 / (n_a * n_b)
    }
}
