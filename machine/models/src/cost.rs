//! What a forward pass must read: the bound of decoding.

use crate::weights::{DeltaInput, Mixer};
use crate::{FeedForward, Model};
use ops::{Adapter, Expert, KvFormat, Linear, Parameter};
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
    let bias = map.bias.as_ref().map_or(0, |bias| bias.matrix.bytes());
    map.weight.matrix.bytes() + bias + map.adapter.as_ref().map_or(0, |adapter| adapted(adapter, 1, 1))
}

/// Of the factors that belong to each of so many experts, those of the ones that are visited.
fn adapted(adapter: &Adapter, experts: usize, visited: usize) -> usize {
    let of = |factor: &Parameter| match factor.shape.len() {
        3 => factor.matrix.bytes() / experts * visited,
        _ => factor.matrix.bytes(),
    };
    of(&adapter.a) + of(&adapter.b)
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
                    let (experts, top_k) = (moe.routed.experts.len(), moe.routed.top_k);
                    let adapters = moe.routed.adapters.iter().flatten();
                    let visited = bank / experts * top_k
                        + adapters.map(|adapter| adapted(adapter, experts, top_k)).sum::<usize>();
                    let shared = moe.shared.as_ref().map_or(0, |shared| expert(&shared.expert) + linear(&shared.gate));
                    linear(&moe.routed.router) + visited + shared
                }
            };
        }
        bytes
    }
}
