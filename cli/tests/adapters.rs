//! An adapter's life: trained by a recipe, looked at, run beside its model, merged into it.

mod support;

use formats::TensorFile;
use serde_json::Value;
use std::fs;
use support::{Folder, bad, fixtures, good, run};

const RECIPE: &str = r#"
[[stage]]
kind = "sft"
from = "model"
save = "f32"
[stage.train]
steps = 3
batch_tokens = 256
sequence_length = 256
learning_rate = 2e-2
save_every = 2
[stage.train.method.lora]
rank = 4
alpha = 8.0
targets = ["q_proj", "in_proj_qkvz", "experts", "shared_expert.*"]
dropout = 0.1
share_residual = true
modules_to_save = ["embed_tokens", "conv1d", "mlp.gate"]
whole_rate_ratio = 0.1
[[stage.train.method.lora.patterns]]
modules = "experts"
rank = 2
[stage.data]
validation = 2
[[stage.data.source]]
type = "kata"
episodes = 24
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn logits(folder: &Folder, model: &[&str]) -> Vec<f32> {
    let words = [&["inspect", "logits"], model, &["--tokens", "tokens.json", "--out", "logits.safetensors"]].concat();
    good(folder, &words);
    TensorFile::open(folder.join("logits.safetensors"))
        .and_then(|file| Ok(file.get("logits.0")?.to_f32()))
        .expect("logits")
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_adapter_is_trained_looked_at_run_and_merged() {
    let folder = Folder::new("adapter");
    folder.model("model");
    folder.write("tune.toml", RECIPE);
    folder.write("tokens.json", "[[1, 2, 3, 50, 60, 70, 80, 90]]");
    let output = run(&folder, &["build", "tune.toml"]);
    let said = support::errors(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("adapters of") && said.contains("mlp.experts.*.down_proj"), "{said}");
    assert!(said.contains("balance loss of routers 0"), "{said}");
    assert!(!said.contains("warning: none of the"), "{said}");
    let adapter = "runs/tune/01-sft/adapter";

    let shown = good(&folder, &["adapter", "inspect", adapter]);
    assert!(shown.contains("mlp.experts.*.gate_proj") && shown.contains("‖Δ‖/‖W‖"), "its own model is found: {shown}");
    let found = json(&good(&folder, &["adapter", "inspect", adapter, "--model", "model", "--json"]));
    assert_eq!((found["dropout"].as_f64(), found["summary"]["adapted_expert_weights"].as_u64()), (Some(0.0), Some(24)));
    let kinds = found["summary"]["kinds"].as_array().expect("a list");
    assert_eq!(kinds.len(), 12, "q, qkvz, experts (3), the shared one (3) and its gate, three whole: {found}");
    assert!(
        kinds.iter().all(|kind| kind["delta_norm"].as_f64() > Some(0.0) && kind["weight_norm"].as_f64() > Some(0.0))
    );

    let merged = good(&folder, &["adapter", "merge", "model", adapter, "-o", "merged"]);
    assert!(merged.contains("same top token: ") && merged.contains("self_attn.q_proj"), "{merged}");
    let [base, stage, apart, together] = [
        logits(&folder, &["model"]),
        logits(&folder, &["runs/tune/01-sft"]),
        logits(&folder, &["model", "--adapter", adapter]),
        logits(&folder, &["merged"]),
    ];
    assert!(worst(&base, &stage) > 1e-3, "something was learnt");
    assert!(worst(&stage, &together) < 1e-5, "the stage's own merge differs by {}", worst(&stage, &together));
    assert!(worst(&apart, &together) < 1e-4, "beside and merged differ by {}", worst(&apart, &together));

    let say = |model: &str, more: &[&str]| {
        good(&folder, &[&["run", model, "hello", "--max-tokens", "8", "--temperature", "0"], more].concat())
    };
    assert_eq!(say("model", &["--adapter", adapter]), say("merged", &[]));
    say("model", &["--adapter", adapter, "--quantize", "mxfp4"]);
    good(&folder, &["complete", "model", "--prefix-text", "a", "--max-tokens", "2", "--adapter", adapter]);
    good(&folder, &["evaluate", "model", "--tasks", "none", "--adapter", adapter]);
    good(&folder, &["bench", "model", "-p", "8", "-n", "2", "--repetitions", "1", "--adapter", adapter]);
    let found = json(&good(&folder, &["adapter", "merge", "model", adapter, "--out", "again", "--json"]));
    assert_eq!(found["proof"]["merged"].as_u64(), Some(24 + 1 + 1 + 8 + 4));
    assert!(found["probe"]["rms_difference"].as_f64() < found["probe"]["rms_effect"].as_f64(), "{found}");
    assert_eq!(
        fs::read(folder.join("merged/model.safetensors")).ok(),
        fs::read(folder.join("again/model.safetensors")).ok()
    );
}

#[test]
fn what_cannot_be_merged_or_run_is_said() {
    let folder = Folder::new("adapter-refused");
    folder.model("model");
    let oracle = fixtures().join("oracle/qwen3_next");
    let adapter = oracle.join("lora_attn_experts");
    let [model, adapter, gguf] =
        [&oracle, &adapter, &fixtures().join("oracle/gguf/qwen3_next.f32.gguf")].map(|path| path.display().to_string());
    let said = bad(&folder, 1, &["adapter", "merge", "model", &adapter, "-o", "out"]);
    assert!(said.contains("nothing was written") && !folder.join("out").exists(), "{said}");
    let said = bad(&folder, 1, &["adapter", "merge", &gguf, &adapter, "-o", "out"]);
    assert!(said.contains("hint: merge into the model folder"), "{said}");
    assert!(bad(&folder, 1, &["run", "model", "x", "--adapter", &adapter]).contains("cannot use the adapter"));
    assert!(bad(&folder, 1, &["run", "model", "x", "--adapter", "nowhere"]).contains("holds no adapter_config.json"));
    assert!(bad(&folder, 2, &["adapter", "merge", "model", &adapter]).contains("--out"));
    bad(&folder, 2, &["adapter", "merge", "model", &adapter, "-o", "out", "--expert-layout", "sideways"]);

    good(&folder, &["adapter", "merge", &model, &adapter, "-o", "merged"]);
    let shown = good(&folder, &["adapter", "inspect", &adapter]);
    assert!(shown.contains("mlp.experts.base_layer.lora_A") && shown.contains("32×64"), "{shown}");
}
