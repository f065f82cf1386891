//! What one sequence remembers between two forward passes.

use crate::{Config, MixerKind};
use numeric::Rng;
use ops::{DeltaShape, DeltaState, KvCache, KvFormat, PageShape};

/// One layer's memory.
#[derive(Debug, Clone)]
pub enum LayerState {
    Attention(KvCache),
    Delta(DeltaState),
}

/// A sequence's memory; the empty one stands before the first token.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) position: usize,
    kv: KvFormat,
    pub(crate) layers: Vec<LayerState>,
}

impl State {
    /// `kv` is how keys and values are kept.
    pub fn empty(config: &Config, kv: KvFormat) -> Self {
        let layer = |mixer| match mixer {
            MixerKind::Attention => LayerState::Attention(KvCache::empty(kv)),
            MixerKind::Delta => {
                let delta = config.delta.as_ref().expect("a config with delta layers describes them");
                let shape = delta.shape();
                LayerState::Delta(DeltaState::empty(&shape, shape.channels(), delta.kernel))
            }
        };
        Self { position: 0, kv, layers: config.layers.iter().map(|config| layer(config.mixer)).collect() }
    }

    /// As if it had seen so many tokens, with random keys and values: what comes after them takes the time and memory
    /// that it takes behind a real text, without the hours that a long one would need. Delta states are empty ones.
    pub fn imagined(config: &Config, kv: KvFormat, tokens: usize, rng: &mut Rng) -> Self {
        /// Random tokens that are used again and again; a prime, so that pages differ.
        const TOKENS: usize = 251;
        let shape = PageShape { kv_heads: config.attention.kv_heads, head_dim: config.attention.head_dim };
        let rows: Vec<f32> = (0..2 * TOKENS * shape.kv_heads * shape.head_dim).map(|_| rng.normal() as f32).collect();
        let (keys, values) = rows.split_at(rows.len() / 2);
        let mut state = Self { position: tokens, ..Self::empty(config, kv) };
        for layer in &mut state.layers {
            let LayerState::Attention(cache) = layer else { continue };
            while cache.tokens() < tokens {
                let some = TOKENS.min(tokens - cache.tokens()) * shape.kv_heads * shape.head_dim;
                cache.extend(&keys[..some], &values[..some], shape);
            }
        }
        state
    }

    /// Tokens seen so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How keys and values are kept.
    pub fn kv(&self) -> KvFormat {
        self.kv
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let of_layer = |layer: &LayerState| match layer {
            LayerState::Attention(cache) => cache.bytes(),
            LayerState::Delta(state) => size_of::<f32>() * (state.tail.len() + state.matrix.len()),
        };
        self.layers.iter().map(of_layer).sum()
    }
}

/// The caches of one attention layer, one per sequence.
pub(crate) fn caches(states: &mut [State], layer: usize) -> Vec<&mut KvCache> {
    states
        .iter_mut()
        .map(|state| match &mut state.layers[layer] {
            LayerState::Attention(cache) => cache,
            LayerState::Delta(_) => unreachable!("layer {layer} is an attention layer"),
        })
        .collect()
}

/// The delta states of one delta layer, one per sequence.
pub(crate) fn deltas(states: &mut [State], layer: usize) -> Vec<&mut DeltaState> {
    states
        .iter_mut()
        .map(|state| match &mut state.layers[layer] {
            LayerState::Delta(delta) => delta,
            LayerState::Attention(_) => unreachable!("layer {layer} is a delta layer"),
        })
        .collect()
}

impl crate::DeltaConfig {
    pub(crate) fn shape(&self) -> DeltaShape {
        DeltaShape {
            key_heads: self.key_heads,
            value_heads: self.value_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
        }
    }
}
