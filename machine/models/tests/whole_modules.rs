//! Modules that are trained whole beside adapters (PEFT's `modules_to_save`): which these are, what they learn, and
//! their way to a directory, into other models and into merged ones.

mod support;

use formats::{DType, TensorFile, TensorPlan};
use models::adapter::{
    Export, Import, LoraConfig, Merge, attach, inspect, load_peft, merge, merge_directory, outline, save_peft, summary,
};
use models::{CHUNK_TOKENS, Examples, GradientOptions, Loading, Model, Quantization};
use numeric::{Format, Rng};
use ops::{Gradients, Precision};
use serde_json::{Value, json};
use std::path::Path;
use support::{Folder, logits, oracle, tokens, worst};

fn open(case: &str) -> Model {
    Model::open(&oracle(case), Loading::F32).expect("the oracle's model opens")
}

fn lora(whole: &[&str]) -> LoraConfig {
    let modules_to_save = whole.iter().map(|&name| name.to_owned()).collect();
    LoraConfig { modules_to_save, ..LoraConfig::new(2, 4.0, &["o_proj", "down_proj"]) }
}

/// A model with such adapters, all of whose trained numbers have moved.
fn taught(case: &str, whole: &[&str]) -> Model {
    let mut model = open(case);
    attach(&mut model, &lora(whole), 3).unwrap_or_else(|error| panic!("{case}: {error}"));
    let mut rng = Rng::new(17);
    model.weights.visit_mut(&mut |parameter| {
        if parameter.trained {
            parameter.matrix.as_f32_mut().iter_mut().for_each(|value| *value += 0.05 * rng.normal() as f32);
        }
    });
    model
}

fn config_of(folder: &Path) -> Value {
    formats::read_json(folder.join("adapter_config.json")).expect("a configuration")
}

/// PEFT means every module whose path ends with a name, so that names must be long enough to mean no others.
#[test]
fn what_is_trained_whole_is_named_for_peft_and_comes_back() {
    let folder = Folder::new("whole");
    for (case, whole, wanted, tied) in [
        ("qwen3_next", vec!["embed_tokens", "lm_head"], vec!["embed_tokens", "lm_head"], false),
        ("qwen3_next", vec!["mlp.gate"], vec!["mlp.gate"], false),
        ("qwen3_next", vec!["gate", "shared_expert_gate"], vec!["gate", "shared_expert_gate"], false),
        ("qwen3_next", vec!["model.norm", "conv1d"], vec!["conv1d", "model.norm"], false),
        (
            "qwen3_next",
            vec![".*norm"],
            vec!["input_layernorm", "k_norm", "norm", "post_attention_layernorm", "q_norm"],
            false,
        ),
        ("qwen3_next", vec![r"layers\.1\.input_layernorm"], vec!["model.layers.1.input_layernorm"], false),
        ("qwen3_next_odd", vec!["embed_tokens", "q_proj", "v_proj"], vec!["embed_tokens", "q_proj", "v_proj"], true),
        (
            "qwen2",
            vec!["embed_tokens", "post_attention_layernorm"],
            vec!["embed_tokens", "post_attention_layernorm"],
            true,
        ),
    ] {
        let model = taught(case, &whole);
        let target = folder.0.join(format!("{case}-{}", wanted[0]));
        save_peft(&model, &target, &Export::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let config = config_of(&target);
        assert_eq!(config["modules_to_save"], json!(wanted), "{case}");
        assert_eq!(config["ensure_weight_tying"], json!(tied), "{case}");
        let mut again = open(case);
        load_peft(&mut again, &target, &Import::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let [wanted, found, base] = [&model, &again, &open(case)].map(|model| logits(model, &tokens(case)));
        assert!(worst(&found, &wanted) < 1e-5, "{case}, {whole:?}: logits differ by {}", worst(&found, &wanted));
        assert!(worst(&base, &wanted) > 1e-2, "{case}, {whole:?}: something changed");
        let trained = |model: &Model| {
            let all = model.parameters().into_iter().filter(|parameter| parameter.trained);
            all.map(|parameter| parameter.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(trained(&again), trained(&model), "{case}: it would go on to learn the same");
        let (ours, theirs) =
            (summary(&model), inspect(&oracle(case), &target, &Import::default()).expect("it is read"));
        assert_eq!((ours.parameters, ours.base_parameters), (theirs.parameters, theirs.base_parameters));
        let mut kinds = theirs.kinds.iter().filter(|kind| kind.ranks == [0, 0]).peekable();
        assert!(kinds.peek().is_some() && kinds.all(|kind| kind.delta_norm > 0.0 && kind.weight_norm > 0.0), "{case}");
    }
}

#[test]
fn what_cannot_be_trained_whole_is_refused() {
    for (case, whole, wanted) in [
        ("qwen3_next", "norms", "there are conv1d, down_proj, embed_tokens"),
        ("qwen3_next", "A_log", "no module, which PEFT could not save"),
        ("qwen3_next", "experts.*", "name them in targets"),
        ("qwen3_next", "o_proj", "is a target and one of modules_to_save"),
        ("qwen3_next", "(q_proj", "not a regular expression"),
        ("qwen2", "lm_head", "name embed_tokens"),
    ] {
        let mut model = open(case);
        let error = attach(&mut model, &lora(&[whole]), 1).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{whole}: {error}");
        assert!(!model.has_adapters(), "{whole}: a part was attached");
    }
    let loading = Loading::Frozen(Quantization::to(Format::Mxfp4));
    let mut frozen = Model::open(&oracle("qwen3_next"), loading).expect("it opens");
    let error = attach(&mut frozen, &lora(&["q_proj"]), 1).expect_err("it is rounded").to_string();
    assert!(error.contains("frozen in MXFP4"), "{error}");
}

/// The directory with some tensors renamed, dropped or changed, and another configuration.
fn rewrite(from: &Path, to: &Path, change: &dyn Fn(&str, &mut Vec<f32>) -> bool, config: Value) {
    std::fs::create_dir_all(to).expect("a folder");
    formats::write_json(to.join("adapter_config.json"), &config).expect("it is written");
    let file = TensorFile::open(from.join("adapter_model.safetensors")).expect("tensors");
    let tensors = file.tensors().filter_map(|tensor| {
        let mut values = tensor.to_f32();
        change(tensor.name, &mut values).then(|| (tensor.name.to_owned(), tensor.shape.to_vec(), values))
    });
    let tensors: Vec<_> = tensors.collect();
    let mut plan = TensorPlan::new();
    tensors.iter().for_each(|(name, shape, _)| plan.declare(name, DType::F32, shape));
    let mut writer = plan.create_file(to.join("adapter_model.safetensors")).expect("a file");
    tensors.iter().for_each(|(name, _, values)| writer.write_f32(name, values).expect("it is written"));
    writer.finish().expect("it is written");
}

#[test]
fn a_directory_that_lacks_what_it_says_is_refused() {
    let folder = Folder::new("whole-refused");
    let (good, bad) = (folder.0.join("good"), folder.0.join("bad"));
    save_peft(&taught("qwen2", &["embed_tokens", "model.norm"]), &good, &Export::default()).expect("it saves");
    let refused = |change: &dyn Fn(&str, &mut Vec<f32>) -> bool, wanted: &str| {
        rewrite(&good, &bad, change, config_of(&good));
        let mut model = open("qwen2");
        let error = load_peft(&mut model, &bad, &Import::default()).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "wanted {wanted:?}: {error}");
        assert!(!model.has_adapters(), "{wanted}: a part was attached");
    };
    refused(&|name, _| !name.ends_with("model.norm.weight"), "model.norm was trained whole");
    refused(&|name, _| !name.contains("lm_head"), "ensure_weight_tying");
    refused(&|name, _| !name.contains("embed_tokens"), "ensure_weight_tying");
    let other = |name: &str, values: &mut Vec<f32>| {
        values[0] += if name.contains("lm_head") { 1.0 } else { 0.0 };
        true
    };
    refused(&other, "ensure_weight_tying");
    let error = load_peft(&mut open("qwen3_next"), &good, &Import::default());
    assert!(error.is_err(), "the modules of another model");
}

/// All gradients are those that training everything has, for they stand at the same point.
#[test]
fn whole_modules_learn_as_in_full_training_over_a_frozen_base_too() {
    let ids = tokens("qwen3_next");
    let targets: Vec<u32> = ids[1..].iter().copied().chain([0]).collect();
    let (weights, lengths) = (vec![1.0 / ids.len() as f32; ids.len()], [ids.len()]);
    let examples = Examples { tokens: &ids, lengths: &lengths, targets: &targets, weights: &weights };
    let options = GradientOptions {
        precision: Precision::F32,
        chunk_tokens: CHUNK_TOKENS,
        checkpoint_layers: true,
        auxiliary_coefficient: 0.0,
        dropout_seed: None,
    };
    let run = |model: &Model| {
        let mut gradients = Gradients::default();
        models::loss_and_gradients(model, &examples, &options, &mut gradients);
        gradients
    };
    let names = ["embed_tokens", "lm_head", ".*norm", "conv1d", "mlp.gate", "shared_expert_gate"];
    for loading in [Loading::F32, Loading::Frozen(Quantization::to(Format::Q8_0))] {
        let mut tuned = Model::open(&oracle("qwen3_next"), loading).expect("it opens");
        attach(&mut tuned, &lora(&names), 3).expect("it attaches");
        let mut full = Model::open(&oracle("qwen3_next"), loading).expect("it opens");
        full.weights.visit_mut(&mut |parameter| {
            parameter.matrix =
                numeric::Matrix::from_f32(parameter.matrix.rows, parameter.matrix.columns, parameter.matrix.to_f32());
        });
        let (found, wanted) = (run(&tuned), run(&full));
        let (parameters, all) = (tuned.parameters(), full.parameters());
        let mut compared = 0;
        for parameter in parameters.iter().filter(|parameter| !parameter.name.contains(".lora_")) {
            let Some(found) = found.get(parameter.id) else {
                assert!(!parameter.trained, "{} has no gradient", parameter.name);
                continue;
            };
            assert!(parameter.trained, "{} has a gradient and is frozen", parameter.name);
            let same = all.iter().find(|other| other.name == parameter.name).expect("the same model");
            let wanted = wanted.get(same.id).expect("everything learns");
            let norm = wanted.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            assert!(f64::from(worst(found, wanted)) < 1e-3 * norm.max(1e-6), "{} in {loading:?}", parameter.name);
            compared += 1;
        }
        assert_eq!(compared, 1 + 1 + (4 * 2 + 3 + 2 + 1) + 3 + 4 + 4);
    }
}

#[test]
fn an_outline_takes_what_the_model_will() {
    for loading in [Loading::F32, Loading::Frozen(Quantization::to(Format::Mxfp4))] {
        let config = lora(&["embed_tokens", "lm_head", "conv1d"]);
        let mut model = Model::open(&oracle("qwen3_next"), loading).expect("it opens");
        attach(&mut model, &config, 1).expect("it attaches");
        let mut imagined = Model::outline(&oracle("qwen3_next"), loading).expect("it outlines");
        outline(&mut imagined, &config).expect("it attaches");
        assert_eq!(imagined.bytes(), model.bytes(), "{loading:?}");
        for (a, b) in imagined.parameters().into_iter().zip(model.parameters()) {
            assert_eq!((&a.name, a.trained, a.matrix.format()), (&b.name, b.trained, b.matrix.format()));
        }
    }
}

/// A GGUF file has its norms centred on one.
#[test]
fn a_gguf_file_takes_whole_modules_like_its_folder() {
    let folder = Folder::new("whole-gguf");
    let model = taught("qwen3_next", &["embed_tokens", "lm_head", ".*norm", "conv1d", "mlp.gate"]);
    save_peft(&model, &folder.0, &Export::default()).expect("it saves");
    let wanted = logits(&model, &tokens("qwen3_next"));
    let mut gguf = Model::open(&oracle("gguf/qwen3_next.f32.gguf"), Loading::Packed).expect("it opens");
    load_peft(&mut gguf, &folder.0, &Import::default()).unwrap_or_else(|error| panic!("{error}"));
    let difference = worst(&logits(&gguf, &tokens("qwen3_next")), &wanted);
    assert!(difference < 2e-4, "logits differ by {difference}");
}

#[test]
fn a_merged_folder_holds_them() {
    let folder = Folder::new("whole-merged");
    for (case, whole, format) in [
        ("qwen3_next", vec!["embed_tokens", "lm_head", ".*norm", "conv1d", "mlp.gate"], Format::F32),
        ("qwen3_next_odd", vec!["embed_tokens", "input_layernorm"], Format::F32),
        ("qwen2", vec!["embed_tokens", "post_attention_layernorm"], Format::Bf16),
    ] {
        let place = |what: &str| folder.0.join(format!("{case}-{what}"));
        let (base, adapter, out) = (place("base"), place("adapter"), place("out"));
        open(case).save(&base, format).expect("it saves");
        let mut model = taught(case, &whole);
        save_peft(&model, &adapter, &Export::default()).expect("it saves");
        let prompts = [tokens(case)];
        let job = Merge { base: &base, adapter: &adapter, out: &out, import: Import::default(), prompts: &prompts };
        let (proof, probe) = merge_directory(&job, &mut |_| true).unwrap_or_else(|error| panic!("{case}: {error}"));
        let of_whole = proof.kinds.iter().filter(|kind| kind.ranks == [0, 0]);
        let weights: usize = of_whole.clone().map(|kind| kind.weights).sum();
        let wanted = model.parameters().iter().filter(|p| p.trained && !p.name.contains(".lora_")).count();
        assert_eq!(weights, wanted, "{case}: {proof:?}");
        assert!(of_whole.clone().all(|kind| kind.change() > 1e-3 && kind.worst <= 1.0), "{case}: {proof:?}");
        assert!(probe.rms_difference < 0.2 * probe.rms_effect, "{case}: {probe:?}");
        if format == Format::F32 {
            merge(&mut model);
            let merged = Model::open(&out, Loading::F32).expect("it opens");
            for (a, b) in model.parameters().iter().zip(merged.parameters()) {
                assert_eq!((&a.name, a.values()), (&b.name, b.values()), "{case}");
            }
        }
    }
}
