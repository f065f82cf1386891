//! Tokens per second of forward and backward: with an adapter on every projection, all experts' included, and of all
//! parameters, on a model directory or the shipped base's shape with random weights. Prints one JSON object.
//!
//! `cargo run --release -p models --example lora_speed [-- MODEL [RANK]]`

use models::adapter::{LoraConfig, attach};
use models::{Config, Examples, GradientOptions, Loading, Model};
use ops::{Gradients, Precision};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Sequences in a batch and tokens in each: what `reference/speed_lora.py` trains on as well.
const LENGTHS: [usize; 8] = [256; 8];
const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "out_proj", "experts"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let model = match arguments.next() {
        Some(path) => Model::open(Path::new(&path), Loading::F32).expect("a model directory"),
        None => {
            let text = include_str!("../../../recipes/base.config.json");
            Model::random(Config::from_json(text).expect("the shipped config reads"), 1)
        }
    };
    let rank = arguments.next().map_or(16, |rank| rank.parse().expect("a rank"));
    let config = LoraConfig::new(rank, 2.0 * rank as f32, &TARGETS);
    let with = |config: &LoraConfig| {
        let mut model = model.clone();
        attach(&mut model, config, 1).expect("a model with these projections");
        model
    };
    let shared = with(&LoraConfig { share_residual: true, ..config.clone() });
    let dropping = with(&LoraConfig { dropout: 0.1, ..config.clone() });
    let lora = with(&config);
    let mut rows = Vec::new();
    for (name, model) in [("full", &model), ("lora", &lora), ("lora_shared", &shared), ("lora_dropout", &dropping)] {
        for (suffix, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            rows.push(format!("\"{name}_{suffix}\": {:.1}", speed(model, precision)));
        }
    }
    writeln!(std::io::stdout(), "{{\"rank\": {rank}, {}}}", rows.join(", ")).expect("stdout takes a line");
}

/// Median of five passes, after one that is not counted.
fn speed(model: &Model, precision: Precision) -> f64 {
    let total: usize = LENGTHS.iter().sum();
    let tokens: Vec<u32> = (0..total).map(|i| ((i * 7919 + i * i) % model.config.vocab_size) as u32).collect();
    let weights = vec![1.0 / total as f32; total];
    let examples = Examples { tokens: &tokens, lengths: &LENGTHS, targets: &tokens, weights: &weights };
    let options = GradientOptions {
        precision,
        chunk_tokens: models::CHUNK_TOKENS,
        checkpoint_layers: false,
        auxiliary_coefficient: 0.0,
        dropout_seed: Some(1),
    };
    let mut gradients = Gradients::default();
    let mut seconds: Vec<f64> = (0..6)
        .map(|_| {
            let start = Instant::now();
            models::loss_and_gradients(model, &examples, &options, &mut gradients);
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    total as f64 / seconds[2]
}
