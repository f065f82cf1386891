//! Plans of training, what they refuse, and training over a frozen base.

mod support;

use serde_json::Value;
use support::{Folder, bad, good};

/// A recipe of one stage; `train` are lines of its training table.
fn recipe(train: &str) -> String {
    format!(
        "[[stage]]\nkind = \"sft\"\nfrom = \"model\"\n[stage.train]\n{train}\n[stage.data]\nvalidation = 4\n\
         [[stage.data.source]]\ntype = \"kata\"\nepisodes = 24\n"
    )
}

fn plan(folder: &Folder, words: &[&str]) -> Value {
    let text = good(folder, &[&["plan", "train"], words, &["--json", "--tokens-per-second", "500"]].concat());
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn a_plan_says_memory_time_and_cost() {
    let folder = Folder::new("plan-train");
    folder.model("model");
    folder.write("small.toml", &recipe("steps = 100\nbatch_tokens = 1000\nsequence_length = 500\naccumulation = 2"));
    let found = plan(&folder, &["small.toml", "--price", "3.6"]);
    assert_eq!((&found["step_seconds"], &found["seconds"], &found["steps"]), (&2.0.into(), &200.0.into(), &100.into()));
    assert!((found["cost"].as_f64().expect("a number") - 0.2).abs() < 1e-9, "{found}");
    assert_eq!((&found["fits"], &found["measured"]), (&true.into(), &false.into()));
    let longer = plan(&folder, &["model", "--sequence-length", "100000"]);
    let shorter = plan(&folder, &["model", "--sequence-length", "50000"]);
    let of = |plan: &Value, part: &str| plan["plan"][part].as_u64().expect("a number");
    assert!(of(&longer, "checkpoints") > 3 * of(&shorter, "checkpoints") / 2, "{longer}");
    assert_eq!(of(&longer, "moments"), of(&shorter, "moments"));
    let shared = plan(&folder, &["model", "--sequence-length", "100000", "--sequence-ranks", "4", "--price", "3.6"]);
    assert!(of(&shared, "checkpoints") < of(&longer, "checkpoints") / 3, "{shared} of {longer}");
    assert!((shared["cost"].as_f64().expect("a number") - 4.0 * 0.2).abs() < 1e-9, "four machines: {shared}");
    let said = bad(&folder, 1, &["plan", "train", "model", "--sequence-length", "7", "--sequence-ranks", "4"]);
    assert!(said.contains("7 tokens of a micro-batch cannot be shared by 4 ranks"), "{said}");
    let frozen = plan(&folder, &["model", "--lora", "4", "--quantize", "mxfp4"]);
    assert!(of(&frozen, "gradients") < of(&longer, "gradients") && of(&frozen, "weights") < of(&longer, "weights"));
    let said = bad(&folder, 1, &["plan", "train", "model", "--quantize", "mxfp4", "--tokens-per-second", "1"]);
    assert!(said.contains("hint: add --lora"), "{said}");
}

#[test]
fn training_that_does_not_fit_is_refused_with_the_numbers_and_what_would() {
    let folder = Folder::new("train-memory");
    folder.model("model");
    let length = "steps = 1\nbatch_tokens = 33554432\nsequence_length = 16777216\nchunk_tokens = 65536";
    folder.write("large.toml", &recipe(length));
    let said = bad(&folder, 1, &["train", "large.toml"]);
    assert!(said.contains("training sft does not fit into memory: it takes"), "{said}");
    assert!(said.contains("activations") && said.contains("hint: checkpoint_layers = true takes"), "{said}");
    assert!(said.contains("with accumulation = 2, it takes"), "{said}");
    let said = good(&folder, &["plan", "train", "large.toml", "--tokens-per-second", "1000"]);
    assert!(said.contains("it does not fit; checkpoint_layers = true takes"), "{said}");
}

#[test]
fn adapters_learn_over_a_base_in_four_bits_and_go_onto_the_original() {
    let folder = Folder::new("frozen");
    let model = folder.model("model");
    let lora = "steps = 3\nbatch_tokens = 512\nsequence_length = 512\nchunk_tokens = 200\ncheckpoint_layers = true\n\
                learning_rate = 1e-2\nquantize = \"mxfp4\"\n\
                [stage.train.method.lora]\nrank = 2\nalpha = 4.0\ntargets = [\"q_proj\", \"experts\"]";
    folder.write("frozen.toml", &recipe(lora));
    good(&folder, &["train", "frozen.toml"]);
    let stage = folder.join("runs/frozen/01-sft");
    assert!(stage.join("adapter/adapter_model.safetensors").is_file());
    let open = |path: &std::path::Path| models::Model::open(path, models::Loading::F32).expect("it opens");
    let (before, after) = (open(&model), open(&stage));
    for (a, b) in before.parameters().into_iter().zip(after.parameters()) {
        let adapted = a.name.contains(".experts.") || a.name.ends_with("q_proj.weight");
        let far = a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs() / a.abs().max(0.01)).fold(0.0, f32::max);
        // Saved in bf16: what nobody adapted is what it was, not what four bits made of it.
        assert!(adapted || far < 0.005, "{} moved by {far}", a.name);
    }
    let moved = |name: &str| {
        let of = |model: &models::Model| -> Vec<f32> {
            model.parameters().into_iter().find(|p| p.name.ends_with(name)).expect("it is there").values().to_vec()
        };
        of(&before) != of(&after)
    };
    assert!(moved("q_proj.weight"));
    folder.write("whole.toml", &recipe("steps = 1\nbatch_tokens = 512\nsequence_length = 512\nquantize = \"nvfp4\""));
    assert!(bad(&folder, 1, &["train", "whole.toml"]).contains("add method.lora"));
}
