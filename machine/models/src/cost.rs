//! What a forward pass must read: the bound of decoding.

use crate::weights::{DeltaInput, Mixer};
use crate::{FeedForward, Model};
use ops::{Expert, KvFormat, Linear};
use serde::Serialize;

/// Bytes that one decoded token reads, and of the state also writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBytes {
    /// Every dense weight, and of each bank the experts that one token visits.
    pub weights: usize,
    /// Delta matrices, there and back.
    pub state: usize,
    /// Keys and values of the tokens before.
    pub cache: usize,
}

impl TokenBytes {
    pub fn total(&self) -> usize {
        self.weights + self.state + self.cache
    }
}

fn linear(map: &Linear) -> usize {
    map.weight.matrix.bytes() + map.bias.as_ref().map_or(0, |bias| bias.matrix.bytes())
}

fn expert(expert: &Expert) -> usize {
    linear(&expert.gate) + linear(&expert.up) + linear(&expert.down)
}

impl Model {
    /// What a token after `depth` others costs, whose keys and values are kept as `kv`.
    pub fn token_bytes(&self, depth: usize, kv: KvFormat) -> TokenBytes {
        let head = self.weights.head();
        let mut bytes = TokenBytes { weights: linear(head), state: 0, cache: 0 };
        for layer in &self.weights.layers {
            match &layer.mixer {
                Mixer::Attention(w) => {
                    bytes.weights += [&w.query, &w.key, &w.value, &w.output].map(linear).iter().sum::<usize>();
                    bytes.cache += depth * 2 * w.shape.kv_heads * kv.row_bytes(w.shape.head_dim);
                }
                Mixer::Delta(w) => {
                    bytes.weights += match &w.input {
                        DeltaInput::Grouped { qkvz, .. } => linear(qkvz),
                        DeltaInput::Split { qkv, z } => linear(qkv) + linear(z),
                    };
                    bytes.weights += linear(&w.ba) + linear(&w.output);
                    bytes.state += 2 * w.gates.shape.state_len() * size_of::<f32>();
                }
            }
            bytes.weights += match &layer.feed_forward {
                FeedForward::Dense(dense) => expert(dense),
                FeedForward::Moe(moe) => {
                    let bank: usize = moe.routed.experts.iter().map(expert).sum();
                    let visited = bank / moe.routed.experts.len() * moe.routed.top_k;
                    let shared = moe.shared.as_ref().map_or(0, |shared| expert(&shared.expert) + linear(&shared.gate));
                    linear(&moe.routed.router) + visited + shared
                }
            };
        }
        bytes
    }
}
