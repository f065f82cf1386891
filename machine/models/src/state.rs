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

fn page_shape(config: &Config) -> PageShape {
    PageShape { kv_heads: config.attention.kv_heads, head_dim: config.attention.head_dim }
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
        let layers = config.layers.iter().map(|layer| LayerState::empty(config, layer.mixer, kv)).collect();
        Self { position: 0, kv, layers }
    }

    /// As if it had seen so many tokens, with random keys and values: what comes after them takes the time and memory
    /// that it takes behind a real text, without the hours that a long one would need. Delta states are empty ones.
    pub fn imagined(config: &Config, kv: KvFormat, tokens: usize, rng: &mut Rng) -> Self {
        /// Random tokens that are used again and again; a prime, so that pages differ.
        const TOKENS: usize = 251;
        let shape = page_shape(config);
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
        self.layers.iter().map(LayerState::bytes).sum()
    }
}

impl LayerState {
    pub(crate) fn empty(config: &Config, mixer: MixerKind, kv: KvFormat) -> Self {
        match mixer {
            MixerKind::Attention => Self::Attention(KvCache::empty(kv)),
            MixerKind::Delta => {
                let delta = config.delta.as_ref().expect("a config with delta layers describes them");
                let shape = delta.shape();
                Self::Delta(DeltaState::empty(&shape, shape.channels(), delta.kernel))
            }
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Attention(cache) => cache.bytes(),
            Self::Delta(state) => size_of::<f32>() * (state.tail.len() + state.matrix.len()),
        }
    }
}

/// The caches of one attention layer, one per sequence.
pub(crate) fn caches<'a>(memories: impl Iterator<Item = &'a mut LayerState>) -> Vec<&'a mut KvCache> {
    memories
        .map(|memory| match memory {
            LayerState::Attention(cache) => cache,
            LayerState::Delta(_) => unreachable!("an attention layer keeps keys and values"),
        })
        .collect()
}

/// The delta states of one delta layer, one per sequence.
pub(crate) fn deltas<'a>(memories: impl Iterator<Item = &'a mut LayerState>) -> Vec<&'a mut DeltaState> {
    memories
        .map(|memory| match memory {
            LayerState::Delta(delta) => delta,
            LayerState::Attention(_) => unreachable!("a delta layer keeps a delta state"),
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
