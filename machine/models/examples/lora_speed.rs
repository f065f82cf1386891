//! Tokens per second of forward and backward: with an adapter on every projection, all experts' included, and of all
//! parameters, on a model directory or the shipped base's shape with random weights; and of the first mixture's experts
//! by themselves, with adapters. Prints one JSON object.
//!
//! `cargo run --release -p models --example lora_speed [-- MODEL [RANK [TOKENS]]]`: with TOKENS the experts alone, on
//! so many rows. A directory with nothing but a config.json is given random weights.

use models::adapter::{LoraConfig, attach};
use models::{Config, Examples, GradientOptions, Loading, Model};
use numeric::Rng;
use ops::{Buffer, Carried, Execute, Gradients, Precision, Segment, Tape};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Sequences in a batch and tokens in each: what `reference/speed_lora.py` trains on as well.
const LENGTHS: [usize; 8] = [256; 8];
const TOKENS: usize = 8 * 256;
const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "out_proj", "experts"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let model = model(arguments.next().as_deref());
    let rank = arguments.next().map_or(16, |rank| rank.parse().expect("a rank"));
    let rows: Option<usize> = arguments.next().map(|rows| rows.parse().expect("a number of tokens"));
    let config = LoraConfig::new(rank, 2.0 * rank as f32, &TARGETS);
    let with = |config: &LoraConfig| {
        let mut model = model.clone();
        attach(&mut model, config, 1).expect("a model with these projections");
        model
    };
    if let Some(rows) = rows {
        let model = with(&config);
        return print(rank, &experts(&model, rows));
    }
    let shared = with(&LoraConfig { share_residual: true, ..config.clone() });
    let dropping = with(&LoraConfig { dropout: 0.1, ..config.clone() });
    let lora = with(&config);
    let mut found = Vec::new();
    for (name, model) in [("full", &model), ("lora", &lora), ("lora_shared", &shared), ("lora_dropout", &dropping)] {
        for (suffix, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            found.push(format!("\"{name}_{suffix}\": {:.1}", speed(model, precision)));
        }
    }
    found.extend(experts(&lora, TOKENS));
    print(rank, &found);
}

fn model(path: Option<&str>) -> Model {
    let random = |text: &str| Model::random(Config::from_json(text).expect("the config reads"), 1);
    let Some(path) = path.map(Path::new) else { return random(include_str!("../../../recipes/base.config.json")) };
    let is_tensors = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".safetensors");
    let mut files = std::fs::read_dir(path).expect("a model directory").flatten();
    if files.any(|file| is_tensors(&file.file_name())) {
        return Model::open(path, Loading::F32).expect("a model directory");
    }
    random(&std::fs::read_to_string(path.join("config.json")).expect("a config.json"))
}

fn print(rank: usize, found: &[String]) {
    writeln!(std::io::stdout(), "{{\"rank\": {rank}, {}}}", found.join(", ")).expect("stdout takes a line");
}

fn experts(model: &Model, rows: usize) -> Vec<String> {
    let of = |(suffix, precision)| format!("\"experts_{suffix}\": {:.1}", expert_speed(model, precision, rows));
    [("f32", Precision::F32), ("bf16", Precision::Bf16)].map(of).to_vec()
}

/// Of the whole model.
fn speed(model: &Model, precision: Precision) -> f64 {
    let tokens: Vec<u32> = (0..TOKENS).map(|i| ((i * 7919 + i * i) % model.config.vocab_size) as u32).collect();
    let weights = vec![1.0 / TOKENS as f32; TOKENS];
    let examples = Examples { tokens: &tokens, lengths: &LENGTHS, targets: &tokens, weights: &weights };
    let options = GradientOptions {
        precision,
        chunk_tokens: models::CHUNK_TOKENS,
        checkpoint_layers: false,
        auxiliary_coefficient: 0.0,
        dropout_seed: Some(1),
    };
    let mut gradients = Gradients::default();
    timed(TOKENS, || {
        models::loss_and_gradients(model, &examples, &options, &mut gradients);
    })
}

/// Of the first mixture, on random rows.
fn expert_speed(model: &Model, precision: Precision, rows: usize) -> f64 {
    let mixture = model.weights.layers.iter().find_map(|layer| layer.mixture()).expect("a model with experts");
    let (mut rng, width) = (Rng::new(1), model.config.hidden_size);
    let mut random = || Buffer::from_values(width, (0..rows * width).map(|_| rng.normal() as f32).collect());
    let (x, dy) = (random(), random());
    let mut gradients = Gradients::default();
    timed(rows, || {
        let mut tape = Tape::new(precision, 0.0, &mut gradients);
        let mark = tape.begin(Segment::default());
        let input = tape.input(x.clone());
        let output = tape.moe(&input, mixture);
        tape.unwind(mark, vec![(output, dy.clone())], Some(input), &mut Carried::default());
    })
}

/// Tokens a second: median of five passes, after one that is not counted.
fn timed(tokens: usize, mut pass: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..6)
        .map(|_| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    tokens as f64 / seconds[2]
}
