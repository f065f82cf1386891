//! Tokens per second of training and of decoding: of a model directory, or of the shipped base's shape with random
//! weights. Prints one JSON object.
//!
//! `cargo run --release -p models --example training_speed [-- MODEL]`

use models::{CHUNK_TOKENS, Config, Examples, GradientOptions, KvFormat, Loading, Model, State};
use numeric::Format;
use ops::{Gradients, Infer, Precision};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Sequences in a batch and tokens in each: what `reference/speed_pytorch.py` trains on as well.
const LENGTHS: [usize; 8] = [256; 8];
const PROMPT: usize = 128;
const DECODED: usize = 64;

fn main() {
    let model = match std::env::args().nth(1) {
        Some(path) => Model::open(Path::new(&path), Loading::F32).expect("a model directory"),
        None => {
            let text = include_str!("../../../recipes/base.config.json");
            Model::random(Config::from_json(text).expect("the shipped config reads"), 1)
        }
    };
    let total: usize = LENGTHS.iter().sum();
    let tokens: Vec<u32> = (0..total).map(|i| ((i * 7919 + i * i) % model.config.vocab_size) as u32).collect();
    let line = format!(
        "{{\"parameters\": {}, \"train_tokens_per_second\": {:.1}, \"train_f32_tokens_per_second\": {:.1}, \
         \"train_checkpointed_tokens_per_second\": {:.1}, \"decode_tokens_per_second\": {:.1}, \
         \"decode_f32_tokens_per_second\": {:.1}}}",
        model.parameter_count(),
        train(&model, &tokens, Precision::Bf16, false),
        train(&model, &tokens, Precision::F32, false),
        train(&model, &tokens, Precision::Bf16, true),
        decode(&as_saved(&model), &tokens),
        decode(&model, &tokens),
    );
    writeln!(std::io::stdout(), "{line}").expect("stdout takes a line");
}

/// Median of five passes, forward and backward, after one that is not counted.
fn train(model: &Model, tokens: &[u32], precision: Precision, checkpoint_layers: bool) -> f64 {
    let weights = vec![1.0 / tokens.len() as f32; tokens.len()];
    let examples = Examples { tokens, lengths: &LENGTHS, targets: tokens, weights: &weights };
    let (chunk_tokens, dropout_seed) = (CHUNK_TOKENS, None);
    let options =
        GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient: 0.001, dropout_seed };
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
    tokens.len() as f64 / seconds[2]
}

/// The model with its matrices in bf16, as it is shipped and run.
fn as_saved(model: &Model) -> Model {
    let mut model = model.clone();
    for map in model.weights.linears_mut() {
        let matrix = &map.weight.matrix;
        map.weight.matrix = numeric::Matrix::quantize(&matrix.to_f32(), matrix.rows, matrix.columns, Format::Bf16);
    }
    model
}

fn decode(model: &Model, tokens: &[u32]) -> f64 {
    let mut e = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config, KvFormat::F32)];
    models::hidden(&mut e, model, &mut states, &tokens[..PROMPT], &[PROMPT]);
    let start = Instant::now();
    for &token in &tokens[..DECODED] {
        let h = models::hidden(&mut e, model, &mut states, &[token], &[1]);
        models::logits(&mut e, model, &h, &[0]);
    }
    DECODED as f64 / start.elapsed().as_secs_f64()
}
