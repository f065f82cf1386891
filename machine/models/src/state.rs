//! What one sequence remembers between two forward passes.

use crate::{Config, MixerKind};
use ops::{DeltaShape, DeltaState, KvCache, KvFormat};

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
