//! Tokens per second of training and decoding a model of the shipped base's shape, with random weights.
//! `cargo run --release -p models --example training_speed`

use models::{Config, Examples, GradientOptions, Model, State};
use ops::{Gradients, Infer, Precision};
use std::io::Write;
use std::time::Instant;

fn main() {
    let text = include_str!("../../../recipes/base.config.json");
    let model = Model::random(Config::from_json(text).expect("the shipped config reads"), 1);
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").expect("stdout takes a line");
    say(format!("{} parameters", model.parameter_count()));
    let lengths = [200usize; 20];
    let total: usize = lengths.iter().sum();
    let tokens: Vec<u32> = (0..total).map(|i| ((i * 7919 + i * i) % model.config.vocab_size) as u32).collect();
    let weights = vec![1.0 / total as f32; total];
    let examples = Examples { tokens: &tokens, lengths: &lengths, targets: &tokens, weights: &weights };
    for (precision, checkpoint_layers) in [(Precision::F32, false), (Precision::Bf16, false), (Precision::Bf16, true)] {
        let options = GradientOptions { precision, checkpoint_layers, auxiliary_coefficient: 0.001 };
        let mut gradients = Gradients::default();
        let mut seconds: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                models::loss_and_gradients(&model, &examples, &options, &mut gradients);
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        say(format!("train {precision:?} checkpoints {checkpoint_layers}: {:.0} tokens/s", total as f64 / seconds[2]));
    }
    let mut e = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config)];
    models::hidden(&mut e, &model, &mut states, &tokens[..200], &[200]);
    let start = Instant::now();
    for &token in &tokens[..200] {
        let h = models::hidden(&mut e, &model, &mut states, &[token], &[1]);
        models::logits(&mut e, &model, &h, &[0]);
    }
    say(format!("decode: {:.0} tokens/s", 200.0 / start.elapsed().as_secs_f64()));
}
