//! Adapters as PEFT has them, in every layout: read, written, run and refused. What they must compute is in
//! fixtures/oracle, made with PEFT.

mod support;

use formats::{DType, TensorFile, TensorPlan};
use models::adapter::{
    ExpertLayout, Export, ExportLayout, Import, LoraConfig, LoraPattern, attach, load_peft, save_peft, summary,
};
use models::{GradientOptions, Loading, Model, Quantization};
use numeric::{Format, Rng};
use ops::{Gradients, Precision};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use support::{Folder, logits, oracle, tokens, worst};

fn open(case: &str) -> Model {
    Model::open(&oracle(case), Loading::F32).expect("the oracle's model opens")
}

fn adapted(case: &str, adapter: &Path, import: &Import) -> Model {
    let mut model = open(case);
    load_peft(&mut model, adapter, import).unwrap_or_else(|error| panic!("{error}"));
    model
}

/// Gives B numbers, as if something had been learnt.
fn teach(model: &mut Model) {
    let mut rng = Rng::new(17);
    model.weights.visit_mut(&mut |parameter| {
        if parameter.name.ends_with("lora_B.weight") {
            parameter.matrix.as_f32_mut().iter_mut().for_each(|value| *value = 0.1 * rng.normal() as f32);
        }
    });
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A directory to be changed and written elsewhere.
struct Directory {
    config: Value,
    tensors: Tensors,
}

impl Directory {
    fn read(path: &Path) -> Self {
        let file = TensorFile::open(path.join("adapter_model.safetensors")).expect("tensors");
        let tensors = file.tensors().map(|t| (t.name.to_owned(), (t.shape.to_vec(), t.to_f32()))).collect();
        Self { config: formats::read_json(path.join("adapter_config.json")).expect("a configuration"), tensors }
    }

    fn write(&self, path: &Path) {
        std::fs::create_dir_all(path).expect("a folder");
        formats::write_json(path.join("adapter_config.json"), &self.config).expect("it is written");
        let mut plan = TensorPlan::new();
        self.tensors.iter().for_each(|(name, (shape, _))| plan.declare(name, DType::F32, shape));
        let mut writer = plan.create_file(path.join("adapter_model.safetensors")).expect("a file");
        self.tensors.iter().for_each(|(name, (_, values))| writer.write_f32(name, values).expect("it is written"));
        writer.finish().expect("it is written");
    }
}

const EXPERTS: usize = 8;

#[test]
fn what_peft_wrote_goes_back_as_it_was() {
    let folder = Folder::new("round-trip");
    for (case, name) in [
        ("qwen2", "lora_all"),
        ("qwen3_moe", "lora_attn_experts"),
        ("qwen3_next", "lora_attn"),
        ("qwen3_next", "lora_attn_experts"),
    ] {
        let theirs = oracle(case).join(name);
        let model = adapted(case, &theirs, &Import::default());
        let target = folder.0.join(case).join(name);
        save_peft(&model, &target, &Export::default()).expect("it saves");
        let (wanted, found) = (Directory::read(&theirs), Directory::read(&target));
        assert_eq!(found.tensors, wanted.tensors, "{case}/{name}");
        for key in ["r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"] {
            assert_eq!(found.config[key], wanted.config[key], "{case}/{name}: {key}");
        }
        let parameters = |config: &Value| config["target_parameters"].as_array().cloned().unwrap_or_default();
        assert_eq!(parameters(&found.config), parameters(&wanted.config), "{case}/{name}");
    }
}

/// Every kind of target, ranks by pattern, shared factors, rsLoRA: through both layouts and back.
#[test]
fn what_we_train_survives_both_layouts() {
    let folder = Folder::new("layouts");
    let plain = LoraConfig::new(4, 8.0, &["q_proj", "out_proj", "in_proj_ba", "experts", "mlp.gate"]);
    let pattern = |modules: &str, rank, alpha| LoraPattern { modules: modules.into(), rank, alpha };
    let patterned = LoraConfig {
        targets: vec!["q_proj".into(), "experts".into(), "shared_expert.*".into(), r"layers\.[01]\..*out_proj".into()],
        patterns: vec![
            pattern("q_proj", Some(2), Some(3.0)),
            pattern(r"layers\.1\.mlp\.experts\..*\.down_proj", Some(3), None),
            pattern(r"experts\..*\.up_proj", Some(6), Some(5.0)),
            pattern("q_proj", Some(7), None),
        ],
        ..plain.clone()
    };
    for (name, config) in [
        ("plain", plain.clone()),
        ("stabilized", LoraConfig { rank_stabilized: true, ..plain.clone() }),
        ("shared", LoraConfig { share_residual: true, dropout: 0.1, ..plain.clone() }),
        ("patterned", LoraConfig { share_residual: true, ..patterned.clone() }),
        ("patterned-stabilized", LoraConfig { rank_stabilized: true, ..patterned }),
        ("gate-alone", LoraConfig::new(2, 4.0, &["experts.*.gate_proj"])),
    ] {
        let mut model = open("qwen3_next");
        attach(&mut model, &config, 3).unwrap_or_else(|error| panic!("{name}: {error}"));
        teach(&mut model);
        let wanted = logits(&model, &tokens("qwen3_next"));
        assert!(worst(&wanted, &logits(&open("qwen3_next"), &tokens("qwen3_next"))) > 0.1, "{name} changes something");
        for layout in [ExportLayout::Fused, ExportLayout::PerExpert] {
            let target = folder.0.join(format!("{name}-{layout:?}"));
            let saved = save_peft(&model, &target, &Export { layout, base: Some("somewhere") });
            if layout == ExportLayout::PerExpert && (name.starts_with("patterned") || name == "gate-alone") {
                assert!(saved.expect_err("PEFT could not read it").to_string().contains("one by one"), "{name}");
                continue;
            }
            saved.unwrap_or_else(|error| panic!("{name}: {error}"));
            let again = adapted("qwen3_next", &target, &Import::default());
            let difference = worst(&logits(&again, &tokens("qwen3_next")), &wanted);
            assert!(difference < 1e-4, "{name}, {layout:?}: logits differ by {difference}");
            let config = Directory::read(&target).config;
            assert_eq!(
                (&config["lora_dropout"], &config["base_model_name_or_path"]),
                (&json!(0.0), &json!("somewhere"))
            );
        }
    }
}

#[test]
fn the_first_pattern_that_matches_counts() {
    let mut model = open("qwen3_next");
    let config = LoraConfig {
        patterns: vec![
            LoraPattern { modules: r"layers\.3\..*".into(), rank: Some(5), alpha: None },
            LoraPattern { modules: "o_proj".into(), rank: Some(7), alpha: Some(1.0) },
        ],
        ..LoraConfig::new(4, 8.0, &["o_proj", "out_proj"])
    };
    attach(&mut model, &config, 1).expect("it attaches");
    let found = summary(&model);
    let ranks: Vec<_> = found.kinds.iter().map(|kind| (kind.kind.as_str(), kind.weights, kind.ranks)).collect();
    assert_eq!(ranks, [("linear_attn.out_proj", 3, [4, 4]), ("self_attn.o_proj", 1, [5, 5])]);
    assert_eq!((found.adapted_expert_weights, found.expert_weights), (0, 4 * EXPERTS * 3));

    for (targets, wanted) in [
        (vec!["q_prj"], "no module of this model is called \"q_prj\""),
        (vec![r"experts\.[0-3]\.gate_proj"], "matches 4 of the 8 experts"),
        (vec!["embed_tokens"], "no module"),
    ] {
        let error =
            attach(&mut open("qwen3_next"), &LoraConfig::new(2, 2.0, &targets), 1).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The oracle's experts as PEFT before 0.19 laid them out.
fn as_before_0_19(directory: &Directory) -> Directory {
    let mut tensors = directory.tensors.clone();
    let banks: Vec<String> = tensors
        .keys()
        .filter(|name| name.contains(".experts."))
        .filter_map(|name| name.strip_suffix(".lora_A.weight").map(str::to_owned))
        .collect();
    for bank in banks {
        let [name_a, name_b] = ["A", "B"].map(|side| format!("{bank}.lora_{side}.weight"));
        let ((shape_a, a), (shape_b, b)) = (tensors[&name_a].clone(), tensors[&name_b].clone());
        let (wide, inputs, outputs) = (shape_a[0], shape_a[1], shape_b[0]);
        let rank = wide / EXPERTS;
        let (mut old_a, mut old_b) = (vec![0.0; wide * outputs], vec![0.0; inputs * wide]);
        for expert in 0..EXPERTS {
            for j in 0..rank {
                let (row, column) = (expert * rank + j, j * EXPERTS + expert);
                (0..outputs).for_each(|output| old_a[row * outputs + output] = b[output * wide + column]);
                (0..inputs).for_each(|input| old_b[input * wide + column] = a[row * inputs + input]);
            }
        }
        tensors.insert(name_a, (vec![wide, outputs], old_a));
        tensors.insert(name_b, (vec![inputs, wide], old_b));
    }
    Directory { config: directory.config.clone(), tensors }
}

#[test]
fn older_layouts_are_told_apart_or_asked_for() {
    let folder = Folder::new("older");
    let theirs = oracle("qwen3_moe").join("lora_attn_experts");
    let wanted = logits(&adapted("qwen3_moe", &theirs, &Import::default()), &tokens("qwen3_moe"));
    let same = |import: &Import, name: &str| {
        let found = logits(&adapted("qwen3_moe", &folder.0.join(name), import), &tokens("qwen3_moe"));
        assert!(worst(&found, &wanted) < 1e-5, "{name}: {}", worst(&found, &wanted));
    };
    let directory = Directory::read(&theirs);
    // down_proj is not square, so that the shapes tell.
    as_before_0_19(&directory).write(&folder.0.join("both"));
    same(&Import::default(), "both");

    // gate_up_proj alone is square here: only the version tells.
    let mut alone = Directory { config: directory.config.clone(), tensors: directory.tensors.clone() };
    alone.config["target_parameters"] = json!(["mlp.experts.gate_up_proj"]);
    alone.tensors.retain(|name, _| !name.contains(".experts.lora_"));
    let tensors = alone.tensors.iter();
    alone.tensors = tensors.map(|(name, tensor)| (name.replace(".base_layer", ""), tensor.clone())).collect();
    let mut old = as_before_0_19(&alone);
    alone.write(&folder.0.join("alone"));
    let wanted_alone = logits(&adapted("qwen3_moe", &folder.0.join("alone"), &Import::default()), &tokens("qwen3_moe"));
    old.config["peft_version"] = json!("0.18.1");
    old.write(&folder.0.join("alone-old"));
    let found = logits(&adapted("qwen3_moe", &folder.0.join("alone-old"), &Import::default()), &tokens("qwen3_moe"));
    assert!(worst(&found, &wanted_alone) < 1e-5);
    old.config["peft_version"] = Value::Null;
    old.write(&folder.0.join("unknown"));
    let error = load_peft(&mut open("qwen3_moe"), &folder.0.join("unknown"), &Import::default()).expect_err("two ways");
    assert!(error.to_string().contains("declare --expert-layout peft-0.19 or peft-0.18"), "{error}");
    let declared = Import { expert_layout: Some(ExpertLayout::Peft18) };
    let found = logits(&adapted("qwen3_moe", &folder.0.join("unknown"), &declared), &tokens("qwen3_moe"));
    assert!(worst(&found, &wanted_alone) < 1e-5);

    let mut major = Directory { config: directory.config.clone(), tensors: directory.tensors.clone() };
    for (name, (shape, values)) in &mut major.tensors {
        if name.contains(".experts.") && name.ends_with("lora_B.weight") {
            let rank = shape[1] / EXPERTS;
            let before = values.clone();
            for (row, values) in values.chunks_exact_mut(shape[1]).enumerate() {
                for (column, value) in values.iter_mut().enumerate() {
                    let (expert, j) = (column / rank, column % rank);
                    *value = before[row * shape[1] + j * EXPERTS + expert];
                }
            }
        }
    }
    major.write(&folder.0.join("major"));
    same(&Import { expert_layout: Some(ExpertLayout::ExpertMajor) }, "major");
    let error = load_peft(
        &mut open("qwen3_moe"),
        &folder.0.join("both"),
        &Import { expert_layout: Some(ExpertLayout::Peft19) },
    );
    assert!(error.expect_err("it lies otherwise").to_string().contains("as peft-0.19"));
}

#[test]
fn single_experts_of_several_ranks_become_one_bank() {
    let folder = Folder::new("ranks");
    let mut model = open("qwen3_moe");
    attach(&mut model, &LoraConfig::new(3, 6.0, &["experts"]), 3).expect("it attaches");
    teach(&mut model);
    save_peft(&model, &folder.0.join("all"), &Export { layout: ExportLayout::PerExpert, base: None })
        .expect("it saves");
    let mut directory = Directory::read(&folder.0.join("all"));
    // Expert 2 has one rank less and another alpha, expert 5 none at all.
    directory.config["rank_pattern"] = json!({r".*\.experts\.2\..*": 2});
    directory.config["alpha_pattern"] = json!({r".*\.experts\.2\..*": 8});
    directory.tensors.retain(|name, _| !name.contains(".experts.5."));
    for (name, (shape, values)) in &mut directory.tensors {
        if name.contains(".experts.2.") && name.contains("lora_A") {
            values.truncate(2 * shape[1]);
            shape[0] = 2;
        } else if name.contains(".experts.2.") {
            *values = values.chunks_exact(3).flat_map(|row| &row[..2]).copied().collect();
            shape[1] = 2;
        }
    }
    directory.write(&folder.0.join("some"));
    let found = adapted("qwen3_moe", &folder.0.join("some"), &Import::default());
    // The same by hand: scale 2 for all, 4 for expert 2, whose third column goes.
    model.weights.visit_mut(&mut |parameter| {
        let is_b = parameter.name.ends_with("lora_B.weight");
        if let (true, &[experts, rows, rank]) = (is_b, parameter.shape.as_slice()) {
            assert_eq!((experts, rank), (EXPERTS, 3));
            let values = parameter.matrix.as_f32_mut();
            values[5 * rows * rank..6 * rows * rank].fill(0.0);
            for row in values[2 * rows * rank..3 * rows * rank].chunks_exact_mut(rank) {
                row.copy_from_slice(&[2.0 * row[0], 2.0 * row[1], 0.0]);
            }
        }
    });
    let difference = worst(&logits(&found, &tokens("qwen3_moe")), &logits(&model, &tokens("qwen3_moe")));
    assert!(difference < 1e-5, "logits differ by {difference}");
}

type Change = Box<dyn Fn(&mut Directory)>;

#[test]
fn what_would_compute_something_else_is_refused_by_name() {
    let folder = Folder::new("refused");
    let theirs = Directory::read(&oracle("qwen3_moe").join("lora_attn_experts"));
    let set = |key: &'static str, value: Value| -> Change {
        Box::new(move |directory: &mut Directory| directory.config[key] = value.clone())
    };
    let first = "base_model.model.model.layers.0.self_attn.q_proj";
    let cases: Vec<(Change, &str)> = vec![
        (set("use_dora", json!(true)), "use_dora"),
        (set("bias", json!("all")), "bias is \"all\""),
        (set("fan_in_fan_out", json!(true)), "fan_in_fan_out"),
        (set("modules_to_save", json!(["lm_head"])), "lm_head was trained whole"),
        (set("init_lora_weights", json!("pissa")), "path_initial_model_for_weight_conversion"),
        (set("trainable_token_indices", json!([1, 2])), "trainable_token_indices"),
        (set("a_new_idea", json!(3)), "a_new_idea is 3"),
        (set("peft_type", json!("IA3")), "IA3"),
        (set("r", json!(0)), "r must be"),
        (set("r", json!(5)), "want shape [5, 64]"),
        (set("lora_alpha", Value::Null), "lora_alpha"),
        (set("rank_pattern", json!({"(": 3})), "not a regular expression"),
        (set("target_modules", json!(["q_proj", "gate"])), "gate is adapted"),
        (Box::new(move |d| drop(d.tensors.remove(&format!("{first}.lora_B.weight")))), "is there without"),
        (Box::new(|d| d.tensors.retain(|name, _| !name.contains("q_proj"))), "q_proj is adapted"),
        (Box::new(|d| d.tensors.retain(|name, _| !name.contains("experts"))), "down_proj is adapted"),
        (Box::new(|d| d.tensors.clear()), "holds no tensors"),
        (
            Box::new(move |d| {
                drop(d.tensors.insert(format!("{first}.lora_magnitude_vector"), (vec![1], vec![1.0])));
            }),
            "DoRA",
        ),
        (
            Box::new(move |d| {
                drop(
                    d.tensors
                        .insert("base_model.model.model.layers.9.q_proj.lora_A.weight".into(), (vec![1], vec![1.0])),
                );
            }),
            "1 of 25 tensors fit no module",
        ),
        (
            Box::new(|d| d.tensors.retain(|name, _| !name.contains("layers.0.mlp.experts.lora"))),
            "without the adapter around it",
        ),
    ];
    for (change, wanted) in cases {
        let mut directory = Directory { config: theirs.config.clone(), tensors: theirs.tensors.clone() };
        change(&mut directory);
        directory.write(&folder.0);
        let mut model = open("qwen3_moe");
        let error = load_peft(&mut model, &folder.0, &Import::default()).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "wanted {wanted:?}: {error}");
        assert!(!model.has_adapters(), "{wanted}: a part was attached");
    }
    let error = load_peft(&mut open("qwen3_next"), &oracle("qwen3_moe").join("lora_attn_experts"), &Import::default());
    assert!(error.is_err(), "an adapter of another model");
    let error = load_peft(&mut open("qwen2"), &oracle("qwen2"), &Import::default()).expect_err("a model is no adapter");
    assert!(error.to_string().contains("holds no adapter_config.json"), "{error}");
}

/// The same adapter on a folder and on a GGUF file, where a delta layer's input projection is in two parts.
#[test]
fn a_gguf_file_is_adapted_like_its_folder() {
    let adapter = oracle("qwen3_next").join("lora_attn_experts");
    let wanted = logits(&adapted("qwen3_next", &adapter, &Import::default()), &tokens("qwen3_next"));
    let mut model = Model::open(&oracle("gguf/qwen3_next.f32.gguf"), Loading::Packed).expect("it opens");
    load_peft(&mut model, &adapter, &Import::default()).unwrap_or_else(|error| panic!("{error}"));
    let difference = worst(&logits(&model, &tokens("qwen3_next")), &wanted);
    assert!(difference < 2e-4, "logits differ by {difference}");
}

/// An adapter beside weights that are rounded and packed is the adapter beside the rounded weights in f32.
#[test]
fn packed_weights_are_adapted_as_they_are() {
    for (case, format) in [("qwen3_moe", Format::Mxfp4), ("qwen3_next", Format::Q8_0)] {
        let adapter = oracle(case).join("lora_attn_experts");
        let loading = Loading::Quantized(Quantization::to(format));
        let mut packed = Model::open(&oracle(case), loading).expect("it opens");
        let base = logits(&packed, &tokens(case));
        let mut exact = packed.clone();
        exact.weights.visit_mut(&mut |parameter| {
            let matrix = &parameter.matrix;
            parameter.matrix = numeric::Matrix::from_f32(matrix.rows, matrix.columns, matrix.to_f32());
        });
        for model in [&mut packed, &mut exact] {
            load_peft(model, &adapter, &Import::default()).unwrap_or_else(|error| panic!("{error}"));
        }
        let (found, wanted) = (logits(&packed, &tokens(case)), logits(&exact, &tokens(case)));
        let rms = |a: &[f32], b: &[f32]| {
            (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
        };
        // Activations are rounded where they meet packed weights, which now and then sends a token to another expert.
        let (error, effect) = (rms(&found, &wanted), rms(&found, &base));
        assert!(error < 0.15 * effect, "{case}: off by {error}, the adapter does {effect}");
        // One token after the other is the same as all at once.
        let alone = support::logits_one_by_one(&packed, &tokens(case)[..20]);
        let together = logits(&packed, &tokens(case)[..20]);
        assert!(rms(&alone, &together) < 0.02 * effect, "{case}: decoding differs by {}", rms(&alone, &together));
    }
}

/// The same seed leaves out the same numbers, also where a layer is run again on the way back.
#[test]
fn dropout_is_the_same_when_a_layer_is_run_again() {
    let mut model = open("qwen3_next");
    let config = LoraConfig {
        dropout: 0.3,
        share_residual: true,
        ..LoraConfig::new(4, 8.0, &["q_proj", "in_proj_qkvz", "experts", "shared_expert.*"])
    };
    attach(&mut model, &config, 3).expect("it attaches");
    teach(&mut model);
    let ids = tokens("qwen3_next");
    let targets: Vec<u32> = ids[1..].iter().copied().chain([0]).collect();
    let weights = vec![1.0 / ids.len() as f32; ids.len()];
    let lengths = [ids.len()];
    let examples = models::Examples { tokens: &ids, lengths: &lengths, targets: &targets, weights: &weights };
    let run = |checkpoint_layers: bool, dropout_seed: Option<u64>| {
        let mut gradients = Gradients::default();
        let (precision, chunk_tokens, auxiliary_coefficient) = (Precision::F32, 3, 0.0);
        let options =
            GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient, dropout_seed };
        let record = models::loss_and_gradients(&model, &examples, &options, &mut gradients);
        let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
        let gradients: Vec<f32> =
            trained.flat_map(|p| gradients.get(p.id).map(<[f32]>::to_vec).unwrap_or_default()).collect();
        (record.losses, gradients)
    };
    let (whole, again, other, without) =
        (run(false, Some(7)), run(true, Some(7)), run(false, Some(8)), run(false, None));
    assert!(worst(&whole.0, &again.0) < 1e-5 && worst(&whole.1, &again.1) < 1e-4);
    assert!(worst(&whole.0, &other.0) > 1e-2 && worst(&whole.0, &without.0) > 1e-2);
    assert_eq!(run(false, Some(7)), whole);
}
