//! Models whose layers differ in experts, padded to one number: the same model for whoever reads it.

mod support;

use compress::{
    Calibration, CompressError, LayerPadding, PadPlan, QuantizeRecipe, Tokens, check_padding, fit_padding,
    logits_apart, padded_format, quantize, write_padded,
};
use models::{Config, KvFormat, LayerStream, Loading, Model, RewriteStep, State, hidden, logits};
use numeric::{Format, Rng};
use ops::{Infer, Precision};
use std::path::{Path, PathBuf};
use support::{Folder, oracle};

const VOCABULARY: usize = 96;

/// Three layers with 5, 3 and 4 experts, of which a token takes two. `agree`: whether what comes into the layers has
/// something in common, as in a model that was trained.
fn save(folder: &Folder, agree: bool, normalize: bool, format: Format) -> PathBuf {
    let text = format!(
        r#"{{"model_type": "qwen3_next", "head_dim": 16, "hidden_size": 32, "intermediate_size": 48,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
        "moe_intermediate_size": 32, "norm_topk_prob": {normalize}, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_experts": 5, "num_experts_per_tok": 2, "num_key_value_heads": 1, "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "shared_expert_intermediate_size": 32,
        "tie_word_embeddings": false, "vocab_size": {VOCABULARY}, "lateen": {{"experts_per_layer": [5, 3, 4]}}}}"#
    );
    let mut model = Model::random(Config::from_json(&text).expect("it is valid"), 7);
    assert_eq!(model.config.expert_counts(), [5, 3, 4]);
    if agree {
        let common = model.weights.embedding.weight.matrix.as_f32_mut();
        common.chunks_exact_mut(32).for_each(|row| row[..4].fill(0.05));
    }
    let path = folder.path().join("model");
    model.save(&path, format).expect("it saves");
    path
}

fn tokens(seed: u64, count: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.below(VOCABULARY) as u32).collect()
}

/// Fits on so many tokens and measures on 400 others.
fn fit(path: &Path, folder: &Folder, fitted: usize) -> Result<Vec<LayerPadding>, CompressError> {
    let stream = LayerStream::open(path, Loading::Stored).expect("it opens");
    let (fitted, held_out) = (tokens(1, fitted), tokens(2, 400));
    let lengths = [fitted.len()];
    let calibration = [Calibration { tokens: &fitted, lengths: &lengths }];
    let held_out = [Calibration { tokens: &held_out, lengths: &[150, 250] }];
    let tokens = Tokens { calibration: &calibration, held_out: &held_out };
    let states = folder.path().join("states");
    let mut steps = Vec::new();
    let mut watch = |step: RewriteStep| {
        steps.push((step.done, step.total));
        true
    };
    let found = fit_padding(&stream, tokens, &states, &mut watch);
    assert!(!states.exists(), "nothing is left of the states");
    if found.is_ok() {
        assert_eq!(steps, [(1, 3), (2, 3), (3, 3)]);
    }
    found
}

fn write(path: &Path, out: &Path, paddings: &[LayerPadding]) -> Result<(), CompressError> {
    let stream = LayerStream::open(path, Loading::Stored).expect("it opens");
    write_padded(&stream, out, paddings, &mut |_| true)
}

fn said(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let model = Model::open(path, Loading::F32).expect("it opens");
    let mut e = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config, KvFormat::F32)];
    let states = hidden(&mut e, &model, &mut states, tokens, &[tokens.len()]);
    logits(&mut e, &model, &states, &(0..tokens.len()).collect::<Vec<_>>()).to_vec()
}

#[test]
fn a_padded_model_says_the_same() {
    for (normalize, format) in [(true, Format::F32), (false, Format::F32), (true, Format::Bf16)] {
        let folder = Folder::new(&format!("padded-{normalize}-{format:?}"));
        let (path, out) = (save(&folder, true, normalize, format), folder.path().join("out"));
        let paddings = fit(&path, &folder, 1200).expect("what comes in has a direction");
        let sizes: Vec<_> = paddings.iter().map(|layer| (layer.layer, layer.experts, layer.added)).collect();
        assert_eq!(sizes, [(1, 3, 2), (2, 4, 1)]);
        let wanted = if normalize { 0.0 } else { 24.0 };
        assert!(paddings.iter().all(|layer| (layer.misrouted, layer.tokens) == (0, 400) && layer.margin > wanted));
        write(&path, &out, &paddings).expect("it is written");
        let config = std::fs::read_to_string(out.join("config.json")).expect("it is there");
        assert!(config.contains("\"num_experts\": 5") && !config.contains("lateen"), "{config}");

        let tokens = tokens(3, 300);
        let (before, after) = (said(&path, &tokens), said(&out, &tokens));
        let apart = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5 && before.iter().any(|logit| logit.abs() > 0.1), "{apart}");
        let [one, other] =
            [&path, &out].map(|path| LayerStream::open(path, Loading::Stored).expect("it is an ordinary model"));
        assert_eq!(padded_format(&one).expect("there is something to pad"), format);
        let pack = Calibration { tokens: &tokens, lengths: &[300] };
        let found = logits_apart(&one, &other, &[pack]).expect("both run");
        assert_eq!((found.tokens, found.difference as f32), (300, apart));

        // What was there stands where it stood.
        let (model, padded) = (Model::open(&path, Loading::F32).expect("it"), Model::open(&out, Loading::F32));
        let mut padded = padded.expect("it opens");
        for (before, after) in model.weights.layers.iter().zip(&padded.weights.layers) {
            let [before, after] = [before, after].map(|layer| layer.mixture().expect("all are"));
            assert_eq!(after.experts.len(), 5);
            let [rows, more] = [before, after].map(|moe| moe.router.weight.values());
            assert_eq!(rows, &more[..rows.len()]);
            let values = |moe: &ops::Moe, expert: usize| moe.experts[expert].down.weight.values().to_vec();
            (0..before.experts.len()).for_each(|expert| assert_eq!(values(before, expert), values(after, expert)));
        }
        // It is quantized as any other, and has nothing to pad any more.
        quantize(&mut padded, &QuantizeRecipe::default()).expect("finite weights");
        let error = fit(&out, &folder, 1200).expect_err("all layers are alike").to_string();
        assert!(error.contains("all layers have the same number of experts"), "{error}");
    }
}

#[test]
fn what_cannot_be_padded_is_refused_and_nothing_is_written() {
    let folder = Folder::new("padded-never");
    let (path, out) = (save(&folder, false, true, Format::F32), folder.path().join("out"));
    let error = fit(&path, &folder, 1200).expect_err("nothing is common to what comes in").to_string();
    assert!(error.contains("layer 1 has 3 experts, of which a token takes 2, and no row"), "{error}");
    assert!(error.contains("budget = \"uniform\""), "{error}");
    // Fewer tokens than numbers of each: there is always a direction, and it says nothing of others.
    let paddings = fit(&path, &folder, 20).expect("twenty are told apart");
    assert!(paddings.iter().all(|layer| layer.margin_fitted > 0.2) && paddings[0].misrouted > 0, "{paddings:?}");
    for error in [check_padding(&paddings), write(&path, &out, &paddings)] {
        let error = error.expect_err("some are misrouted").to_string();
        assert!(error.contains("of 400 tokens that were held out: fit on more tokens"), "{error}");
    }
    assert!(!out.exists());
    let error = fit(&path, &folder, 0).expect_err("there are none").to_string();
    assert!(error.contains("too few tokens"), "{error}");
    let refused = |path: &Path| {
        let stream = LayerStream::open(path, Loading::Stored).expect("it opens");
        padded_format(&stream).expect_err("it is not for padding").to_string()
    };
    let said = refused(&oracle("qwen3_moe"));
    assert!(said.contains("all layers have the same number of experts"), "{said}");
    let mut quantized = Model::open(&path, Loading::F32).expect("it opens");
    quantize(&mut quantized, &QuantizeRecipe::default()).expect("finite weights");
    quantized.save(&out, Format::Bf16).expect("it saves");
    let said = refused(&out);
    assert!(said.contains("the weights are quantized: pad the model"), "{said}");
}

#[test]
fn a_padded_model_half_written_is_gone_on_with() {
    let folder = Folder::new("padded-half");
    let path = save(&folder, true, true, Format::Bf16);
    let paddings = fit(&path, &folder, 1200).expect("it is fitted");
    let (wanted, found) = (folder.path().join("wanted"), folder.path().join("found"));
    write(&path, &wanted, &paddings).expect("it is written");
    let stream = LayerStream::open(&path, Loading::Stored).expect("it opens");
    let stopped = write_padded(&stream, &found, &paddings, &mut |step| step.done < 3).expect_err("it was stopped");
    assert!(matches!(stopped, CompressError::Cancelled) && !found.join("config.json").exists());
    let mut others = paddings.clone();
    others[0].row[0] += 1.0;
    let error = write(&path, &found, &others).expect_err("other rows").to_string();
    assert!(error.contains("half-made model of another job"), "{error}");
    write(&path, &found, &paddings).expect("it goes on");
    support::same(&found, &wanted);
}

#[test]
fn a_plan_counts_what_grows() {
    let folder = Folder::new("padded-plan");
    let stream = LayerStream::open(&save(&folder, true, true, Format::Bf16), Loading::Stored).expect("it opens");
    let plan = |packs: usize| PadPlan::of(&stream, &vec![vec![512]; packs]).expect("there is something to pad");
    let (few, many) = (plan(2), plan(8));
    assert_eq!((few.states, many.states), (2 * 1024 * 32 * 4, 8 * 1024 * 32 * 4));
    assert!(many.rows == 4 * few.rows && many.total() > few.total() && few.writing < few.total());
}
