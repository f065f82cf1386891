//! A frozen base in blocks under trained adapters: the same gradients as over its widened weights, in less memory.

use models::{CHUNK_TOKENS, Examples, GradientOptions, Loading, Model, Quantization, adapter};
use numeric::{Format, Matrix};
use ops::{Gradients, Precision};
use std::path::PathBuf;

const FORMATS: [Format; 3] = [Format::Nvfp4, Format::Mxfp4, Format::Q8_0];

fn directory(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(case)
}

fn adapted(case: &str, loading: Loading) -> Model {
    let mut model = Model::open(&directory(case), loading).expect("it opens");
    let mut names = vec!["q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    if model.config.delta.is_some() {
        names.extend(["in_proj_qkvz", "out_proj"]);
    }
    let config = adapter::LoraConfig::new(4, 8.0, &names);
    adapter::attach(&mut model, &config, 7).expect("it attaches");
    model.weights.visit_mut(&mut |parameter| {
        if parameter.name.ends_with("lora_B.weight") {
            parameter.matrix.as_f32_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i % 5) as f32 * 0.02 - 0.04);
        }
    });
    model
}

fn widened(model: &Model) -> Model {
    let mut model = model.clone();
    for map in model.weights.linears_mut() {
        let matrix = &map.weight.matrix;
        map.weight.matrix = Matrix::from_f32(matrix.rows, matrix.columns, matrix.to_f32());
    }
    model
}

fn gradients(model: &Model, precision: Precision, chunk_tokens: usize) -> (Vec<f32>, Gradients) {
    let lengths = [70, 3, 55];
    let total: usize = lengths.iter().sum();
    let token = |i: usize| ((i * 7919 + i * i) % model.config.vocab_size) as u32;
    let tokens: Vec<u32> = (0..total).map(token).collect();
    let targets: Vec<u32> = (1..=total).map(token).collect();
    let weights = vec![1.0 / total as f32; total];
    let examples = Examples { tokens: &tokens, lengths: &lengths, targets: &targets, weights: &weights };
    let (checkpoint_layers, auxiliary_coefficient, dropout_seed) = (true, 0.0, None);
    let options = GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient, dropout_seed };
    let mut gradients = Gradients::default();
    (models::loss_and_gradients(model, &examples, &options, &mut gradients).losses, gradients)
}

#[test]
fn gradients_are_those_over_the_widened_weights() {
    for case in ["oracle/qwen3", "oracle/qwen3_moe", "oracle/qwen3_next", "base"] {
        for format in FORMATS {
            let model = adapted(case, Loading::Frozen(Quantization::to(format)));
            let plain = widened(&model);
            assert!(model.bytes() < plain.bytes(), "{case} in {format:?}: {} of {}", model.bytes(), plain.bytes());
            for (precision, chunk_tokens) in [(Precision::F32, CHUNK_TOKENS), (Precision::F32, 50)] {
                let (losses, found) = gradients(&model, precision, chunk_tokens);
                let (wanted_losses, wanted) = gradients(&plain, precision, chunk_tokens);
                let far = losses.iter().zip(&wanted_losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-4, "{case} in {format:?}: losses differ by {far}");
                let parameters = model.parameters();
                for (id, wanted) in wanted.iter() {
                    assert!(parameters[id].name.contains(".lora_"), "{} is frozen", parameters[id].name);
                    let found = found.get(id).expect("the same parameters have gradients");
                    let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    let difference: Vec<f32> = found.iter().zip(wanted).map(|(a, b)| a - b).collect();
                    let off = norm(&difference) / norm(wanted).max(1e-6);
                    assert!(off < 1e-3, "{case} in {format:?}: {} is off by {off}", parameters[id].name);
                }
                assert!(wanted.iter().count() > 8);
            }
        }
    }
}

#[test]
fn what_decides_and_what_is_read_by_value_stays_exact() {
    let exact = Model::open(&directory("base"), Loading::F32).expect("it opens");
    let loading = Loading::Frozen(Quantization::to(Format::Nvfp4));
    let frozen = Model::open(&directory("base"), loading).expect("it opens");
    let outline = Model::outline(&directory("base"), loading).expect("it is a model");
    assert_eq!(outline.bytes(), frozen.bytes());
    let mut rounded = 0;
    for (exact, frozen) in exact.parameters().into_iter().zip(frozen.parameters()) {
        let decides = frozen.name.ends_with("mlp.gate.weight") || frozen.name.ends_with("shared_expert_gate.weight");
        if decides || frozen.shape.len() != 2 {
            assert_eq!(exact.values(), frozen.values(), "{}", frozen.name);
        } else {
            assert_ne!(frozen.matrix.format(), Format::F32, "{}", frozen.name);
            rounded += usize::from(frozen.matrix.format() == Format::Nvfp4);
        }
    }
    assert!(rounded > 100, "{rounded} matrices in four bits");
}
