//! A model of a few thousand parameters with all four kinds of layers, and data that it can learn.

use models::{Config, Model};
use numeric::Rng;
use prepare::{Kind, Sample};
use std::path::PathBuf;
use train::TrainRecipe;

pub(crate) const VOCABULARY: u32 = 64;

pub(crate) fn model(seed: u64) -> Model {
    let config = serde_json::json!({
        "model_type": "qwen3_next", "hidden_size": 32, "num_hidden_layers": 4, "vocab_size": VOCABULARY,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
        "max_position_embeddings": 256, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-6,
        "full_attention_interval": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
        "linear_num_value_heads": 4, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": true,
        "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false,
    });
    Model::random(Config::from_json(&config.to_string()).expect("a sound config"), seed)
}

/// Walks around a ring with a fixed stride per sample: the stride is shown by the first two tokens.
pub(crate) fn samples(count: usize, seed: u64) -> Vec<Sample> {
    let mut rng = Rng::new(seed);
    let mut sample = || {
        let (start, stride, length) = (rng.below(64) as u32, 1 + rng.below(5) as u32, 8 + rng.below(24) as u32);
        let tokens: Vec<u32> = (0..length).map(|i| (start + i * stride) % VOCABULARY).collect();
        let kind = if stride < 3 { Kind::Solve } else { Kind::Reasoning };
        let weights = (0..length).map(|i| if i < 2 { 0.0 } else { 1.0 }).collect();
        Sample::new(tokens, weights, kind)
    };
    (0..count).map(|_| sample()).collect()
}

pub(crate) fn recipe(steps: usize) -> TrainRecipe {
    TrainRecipe {
        steps: Some(steps),
        learning_rate: 1e-2,
        warmup_steps: 3,
        batch_tokens: 256,
        accumulation: 2,
        sequence_length: 64,
        seed: 9,
        ..TrainRecipe::default()
    }
}

/// A fresh folder of a test's own; it is removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lateen-train-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
