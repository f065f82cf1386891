//! Measures on token data, on a small random model, against the model's own losses and logits.

use evaluate::{Divergence, EvaluateError, Measured, Perplexity, SpeedSettings, Watch, parity, speed, windows};
use models::{Config, Examples, KvFormat, Model, State};
use ops::{Infer, Precision};
use prepare::{Kind, Sample};
use std::sync::atomic::AtomicBool;

fn config(vocabulary: usize) -> Config {
    let text = format!(
        r#"{{"model_type": "qwen3_next", "head_dim": 16, "hidden_size": 32, "intermediate_size": 48,
        "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
        "max_position_embeddings": 4096, "moe_intermediate_size": 16, "norm_topk_prob": true, "num_attention_heads": 2,
        "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 1,
        "partial_rotary_factor": 0.25, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "shared_expert_intermediate_size": 16, "tie_word_embeddings": false, "vocab_size": {vocabulary}}}"#
    );
    Config::from_json(&text).expect("the configuration is valid")
}

fn tokens(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 31 + seed * 17 + i * i) % 61) as u32).collect()
}

fn samples() -> Vec<Sample> {
    let masked = |length: usize, seed, kind| {
        let weights = (0..length).map(|i| if i % 3 == 0 { 0.0 } else { 2.0 }).collect();
        Sample::new(tokens(length, seed), weights, kind)
    };
    // The long one is cut into pieces that continue its state.
    vec![masked(40, 1, Kind::Solve), masked(2100, 2, Kind::Plain), masked(7, 3, Kind::Solve)]
}

fn perplexity(model: &Model, samples: &[Sample]) -> Result<Perplexity, EvaluateError> {
    let mut watch = Watch { cancel: &AtomicBool::new(false), progress: &mut |_| () };
    evaluate::perplexity(Measured::exactly(model), samples, &mut watch)
}

fn divergence(model: &Model, teacher: &Model, samples: &[Sample]) -> Result<Divergence, EvaluateError> {
    let mut watch = Watch { cancel: &AtomicBool::new(false), progress: &mut |_| () };
    let (divergence, own) =
        evaluate::divergence(Measured::exactly(model), Measured::exactly(teacher), samples, &mut watch)?;
    let alone = perplexity(model, samples)?;
    assert_eq!(own.by_kind.keys().collect::<Vec<_>>(), alone.by_kind.keys().collect::<Vec<_>>());
    let pairs = own.by_kind.iter().zip(&alone.by_kind);
    assert!(pairs.clone().all(|((_, a), (_, b))| a.tokens == b.tokens && (a.nats - b.nats).abs() < 1e-5), "{own:?}");
    Ok(divergence)
}

/// The windows of a text see what came before in their own window, and nothing of the one before.
#[test]
fn windows_continue_their_state_and_begin_anew() {
    let model = Model::random(config(61), 3);
    let text = tokens(3000, 5);
    let whole = perplexity(&model, &windows(&text, 4096)).expect("there is data").all;
    let by_hand = |tokens: &[u32]| -> f64 {
        let n = tokens.len();
        let targets = [&tokens[1..], &[0]].concat();
        let weights = [&vec![1.0; n - 1][..], &[0.0]].concat();
        let examples = Examples { tokens, lengths: &[n], targets: &targets, weights: &weights };
        models::losses(&model, &examples, models::CHUNK_TOKENS)[..n - 1].iter().map(|&loss| f64::from(loss)).sum()
    };
    assert_eq!(whole.tokens, 2999);
    assert!((whole.nats - by_hand(&text) / 2999.0).abs() < 1e-5);
    let cut = perplexity(&model, &windows(&text, 1500)).expect("there is data").all;
    let wanted = by_hand(&text[..1500]) + by_hand(&text[1499..2999]) + by_hand(&text[2998..]);
    assert_eq!(cut.tokens, 2999);
    assert!((cut.nats - wanted / 2999.0).abs() < 1e-5);
}

#[test]
fn a_walk_says_how_far_it_is_and_stops_when_asked() {
    let model = Model::random(config(61), 3);
    let samples = windows(&tokens(2500, 5), 4096);
    let (cancel, mut heard) = (AtomicBool::new(false), Vec::new());
    let mut watch = Watch { cancel: &cancel, progress: &mut |tokens| heard.push(tokens) };
    evaluate::perplexity(Measured::exactly(&model), &samples, &mut watch).expect("there is data");
    assert_eq!(heard, [1024, 1024, 452]);
    let mut passes = 0;
    let mut count = |_| {
        passes += 1;
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let mut watch = Watch { cancel: &cancel, progress: &mut count };
    let stopped = evaluate::divergence(Measured::exactly(&model), Measured::exactly(&model), &samples, &mut watch);
    assert!(matches!(stopped, Err(EvaluateError::Cancelled)));
    assert_eq!(passes, 1);
}

#[test]
fn perplexity_is_the_mean_of_the_model_s_losses() {
    let model = Model::random(config(61), 3);
    let found = perplexity(&model, &samples()).expect("there is data");
    let (mut write, mut plain) = (Vec::new(), Vec::new());
    for sample in samples() {
        let n = sample.tokens.len();
        let targets = [&sample.tokens[1..], &[0]].concat();
        let weights = [&sample.weights[1..], &[0.0]].concat();
        let examples = Examples { tokens: &sample.tokens, lengths: &[n], targets: &targets, weights: &weights };
        let losses = models::losses(&model, &examples, models::CHUNK_TOKENS);
        let measured = losses.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0).map(|(loss, _)| *loss);
        if sample.kind == Kind::Solve { write.extend(measured) } else { plain.extend(measured) }
    }
    let mean = |losses: &[f32]| losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
    assert!((found.by_kind["solve"].nats - mean(&write)).abs() < 1e-5);
    assert!((found.by_kind["plain"].nats - mean(&plain)).abs() < 1e-5);
    assert_eq!(found.all.tokens as usize, write.len() + plain.len());
    assert!((found.all.perplexity - mean(&[write, plain].concat()).exp()).abs() < 1e-2);
}

#[test]
fn a_model_does_not_diverge_from_itself_and_does_from_another() {
    let (model, other) = (Model::random(config(61), 3), Model::random(config(61), 4));
    let same = divergence(&model, &model, &samples()).expect("there is data");
    assert!(same.maximum < 1e-9, "{same:?}");
    assert_eq!(same.same_top_token.rate, 1.0);
    assert_eq!(same.model, same.teacher);
    let found = divergence(&model, &other, &samples()).expect("there is data");
    assert!(found.mean > 1e-6 && found.median <= found.quantile_99 && found.quantile_99 <= found.maximum, "{found:?}");
    assert!(found.same_top_token.rate < 1.0);
    let alone = perplexity(&other, &samples()).expect("there is data");
    assert!((found.teacher.nats - alone.all.nats).abs() < 1e-5);
}

#[test]
fn parity_finds_the_position_that_differs() {
    let model = Model::random(config(61), 3);
    let sequences = vec![tokens(9, 1), tokens(30, 2)];
    let mut logits: Vec<Vec<f32>> = sequences
        .iter()
        .map(|ids| {
            let mut e = Infer::new(Precision::F32);
            let mut states = [State::empty(&model.config, KvFormat::F32)];
            let hidden = models::hidden(&mut e, &model, &mut states, ids, &[ids.len()]);
            let rows: Vec<usize> = (0..ids.len()).collect();
            models::logits(&mut e, &model, &hidden, &rows).to_vec()
        })
        .collect();
    let exact = parity(Measured::exactly(&model), &sequences, &logits).expect("the shapes agree");
    assert!(exact.largest_difference < 1e-5 && exact.same_top_token.rate == 1.0, "{exact:?}");
    logits[1][7 * 61 + 5] += 3.0;
    let found = parity(Measured::exactly(&model), &sequences, &logits).expect("the shapes agree");
    assert_eq!(found.worst, (1, 7));
    assert!((found.largest_difference - 3.0).abs() < 1e-4);
    logits[0].pop();
    assert!(matches!(
        parity(Measured::exactly(&model), &sequences, &logits),
        Err(EvaluateError::Reference { sequence: 0, .. })
    ));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let (model, other) = (Model::random(config(61), 3), Model::random(config(67), 4));
    assert!(matches!(divergence(&model, &other, &samples()), Err(EvaluateError::Vocabulary { wanted: 67, found: 61 })));
    let foreign = [Sample::new(vec![1, 66], vec![1.0; 2], Kind::Plain)];
    assert!(matches!(perplexity(&model, &foreign), Err(EvaluateError::UnknownToken { token: 66, .. })));
    let masked = [Sample::new(vec![1, 2], vec![0.0; 2], Kind::Plain)];
    assert!(matches!(perplexity(&model, &masked), Err(EvaluateError::Nothing(_))));
}

#[test]
fn speed_is_measured_even_where_the_context_is_short() {
    let model = Model::random(config(61), 3);
    let settings = SpeedSettings { prompt_tokens: 5000, decode_tokens: 3, repetitions: 1, ..SpeedSettings::default() };
    let found = speed(&model, &settings).expect("it runs");
    assert_eq!((found.prompt_tokens, found.decode_tokens), (2048, 3));
    assert!(found.prefill_tokens_per_second > 0.0 && found.decode_tokens_per_second > 0.0, "{found:?}");
}
