//! Stages that learn from a teacher: after pruning, twice, from a cache, and with teachers that cannot be.

mod support;

use serde_json::Value;
use std::fs;
use support::{Folder, bad, errors, good, run};

const PRUNE: &str = r#"
[[stage]]
kind = "prune"
name = "less"
from = "model"
keep = 3
tokens = 2000
[stage.data]
validation = 0
[[stage.data.source]]
type = "kata"
episodes = 8
"#;

/// A model made at random has little to teach: it learns something first.
const TAUGHT: &str = r#"
[[stage]]
kind = "sft"
name = "taught"
from = "model"
[stage.train]
steps = 30
sequence_length = 256
batch_tokens = 512
learning_rate = 3e-3
[stage.data]
validation = 0
[[stage.data.source]]
type = "kata"
episodes = 24
"#;

/// A stage of distillation; `distill` and `train` are lines of its tables.
fn stage(name: &str, distill: &str, train: &str) -> String {
    format!(
        "[[stage]]\nkind = \"distill\"\nname = \"{name}\"\nteacher = \"taught\"\n[stage.train]\nsequence_length = 256\n\
         batch_tokens = 512\naccumulation = 2\nlearning_rate = 3e-3\n{train}\n[stage.distill]\n{distill}\n\
         [stage.data]\nvalidation = 4\n[[stage.data.source]]\ntype = \"kata\"\nepisodes = 24\n"
    )
}

/// The terms of every step of a stage.
fn terms(folder: &Folder, stage: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(&format!("runs/small/{stage}/metrics.jsonl"))).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is an event"));
    lines.filter(|event| event["event"] == "step").map(|mut event| event["terms"].take()).collect()
}

fn lineage(folder: &Folder, stage: &str) -> Value {
    let text = fs::read_to_string(folder.join(&format!("runs/small/{stage}/lineage.json"))).expect("a lineage");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn a_model_is_pruned_and_taught_and_knows_where_its_experts_are_from() {
    let folder = Folder::new("distill");
    folder.model("model");
    let own = "[stage.distill.self_correction]\nmax_tokens = 8";
    let routers = stage("routers", "hidden = 0\ncross_entropy = 0", "method = \"routers\"\nsteps = 4");
    let whole = stage("whole", own, "steps = 20");
    let again = PRUNE.replace("keep = 3", "keep = 2").replace("less", "least").replace("from = \"model\"\n", "");
    // A branch, which begins where the first round did.
    let aside = PRUNE.replace("keep = 3", "keep = 2").replace("less", "aside");
    folder.write("small.toml", &format!("{TAUGHT}{PRUNE}{routers}{whole}{again}{aside}"));
    good(&folder, &["build", "small.toml"]);
    let found = terms(&folder, "04-whole");
    let first = &found[0];
    for term in ["cross_entropy", "output", "routers", "hidden", "self_correction"] {
        assert!(first[term].as_f64().is_some_and(|value| value > 0.0), "{term}: {first}");
    }
    let output = |step: usize| found[step]["output"].as_f64().expect("a number");
    assert!(output(18) + output(19) < 0.9 * (output(0) + output(1)), "{} to {}", output(0), output(19));
    assert!(terms(&folder, "03-routers")[0].get("hidden").is_none());
    let page =
        fs::read_to_string(folder.join("runs/small/compression.html")).expect("a page of what became of experts");
    for wanted in
        ["2 rounds: 4 → 3 → 2", "Round 2: least", "whole (after recovery)", "layer 1, expert 2: ", "co-activation"]
            .into_iter()
            .chain(["one round: 4 → 2", "Round 1: aside"])
    {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(folder.join("runs/small/02-less/statistics/layer-0001.forward.safetensors").is_file());
    good(&folder, &["compress", "report", "small", "-o", "again.html"]);
    assert_eq!(fs::read_to_string(folder.join("again.html")).expect("a page"), page, "folders alone give the same");
    let (first, last) = (lineage(&folder, "02-less"), lineage(&folder, "05-least"));
    assert_eq!(first, lineage(&folder, "04-whole"), "training keeps experts where they are");
    let counts = |lineage: &Value| -> Vec<[usize; 2]> {
        let layers = lineage["layers"].as_array().expect("layers").iter();
        let layers = layers.map(|layer| layer.as_array().expect("experts"));
        layers.map(|layer| [layer.len(), layer.iter().filter(|expert| !expert.is_null()).count()]).collect()
    };
    assert_eq!((counts(&first), counts(&last)), (vec![[4, 3]; 2], vec![[4, 2]; 2]));
    let said = bad(&folder, 1, &["plan", "train", "small.toml"]);
    assert!(said.contains("3 stages that train"), "{said}");
    let plan = |words: &[&str]| -> Value {
        let words = [&["plan", "train"], words, &["--json", "--tokens-per-second", "100"]].concat();
        serde_json::from_str(&good(&folder, &words)).expect("it is JSON")
    };
    let planned = plan(&["small.toml", "whole"]);
    let of = |part: &str| planned["plan"][part].as_u64().expect("a number");
    assert!(of("teacher") > of("weights") / 2, "{planned}");
    assert_eq!(plan(&["model"])["plan"]["teacher"], 0);
    let said = good(&folder, &["plan", "train", "small.toml", "whole", "--tokens-per-second", "100"]);
    assert!(said.contains("what it says of a micro-batch"), "{said}");
}

#[test]
fn a_stage_learns_from_what_was_kept_of_its_teacher() {
    let folder = Folder::new("distill-cache");
    folder.model("model");
    let kept = "routers = 0\nhidden = 0\ncache = { tokens = 16 }";
    folder.write("small.toml", &format!("{TAUGHT}{PRUNE}{}", stage("after", kept, "steps = 12")));
    good(&folder, &["build", "small.toml"]);
    let found = terms(&folder, "03-after");
    let output = |step: usize| found[step]["output"].as_f64().expect("a number");
    assert!(output(11) < 0.95 * output(0), "{} to {}", output(0), output(11));
    assert!(!folder.join("runs/small/03-after/teacher-cache.safetensors").exists(), "it is of no more use");
}

#[test]
fn a_teacher_on_disk_is_the_teacher_in_memory() {
    let folder = Folder::new("distill-streamed");
    folder.model("model");
    let of = |name: &str, memory: &str| {
        let text = stage(name, &format!("gram = 0.1\nteacher_memory = \"{memory}\""), "steps = 4");
        text.replace("kind = \"distill\"", "kind = \"distill\"\nfrom = \"less\"")
    };
    let cached = stage("cached", "routers = 0\nhidden = 0\ncache = {}\nteacher_memory = \"streamed\"", "steps = 3");
    let write = |memory: [&str; 2]| {
        let both = format!("{}{}", of("one", memory[0]), of("other", memory[1]));
        folder.write("small.toml", &format!("{TAUGHT}{PRUNE}{both}{cached}"));
    };
    write(["resident", "streamed"]);
    let said = errors(&run(&folder, &["build", "small.toml"]));
    assert!(said.contains("layers stay on disk"), "{said}");
    let found = terms(&folder, "03-one");
    assert_eq!((found.len(), &found), (4, &terms(&folder, "04-other")));
    assert!(terms(&folder, "05-cached")[2]["output"].as_f64().is_some_and(|output| output > 0.0));
    let planned = |name: &str| -> Value {
        let words = ["plan", "train", "small.toml", name, "--json", "--tokens-per-second", "100"];
        serde_json::from_str(&good(&folder, &words)).expect("it is JSON")
    };
    let (one, other) = (planned("one"), planned("other"));
    assert_eq!([&one["teacher_streamed"], &other["teacher_streamed"]], [false, true]);
    // Where its layers are is no part of what a stage makes.
    write(["streamed", "resident"]);
    let again = errors(&run(&folder, &["build", "small.toml"]));
    assert!(again.matches("done before").count() == 5, "{again}");
}

#[test]
fn teachers_that_cannot_be_are_refused_before_anything_is_loaded() {
    let folder = Folder::new("distill-refused");
    folder.model("model");
    folder.model("other");
    folder.model_of("narrow", |config| config.replace("\"hidden_size\": 32", "\"hidden_size\": 24"));
    let tokenizer = fs::read_to_string(folder.join("other/tokenizer.json")).expect("a tokenizer");
    folder.write("other/tokenizer.json", &format!("{tokenizer}\n"));
    let of = |teacher: &str, distill: &str| {
        let text = stage("after", distill, "steps = 2").replace("\"taught\"", &format!("\"{teacher}\""));
        text.replace("kind = \"distill\"", "kind = \"distill\"\nfrom = \"model\"")
    };
    for (teacher, distill, wanted) in [
        ("nobody", "", "there is no model \"nobody\""),
        ("other", "", "different tokenizers"),
        ("narrow", "", "set routers to 0"),
        ("narrow", "routers = 0", "set hidden and gram to 0"),
        ("model", "outputs = 1.0", "did you mean output?"),
        ("model", "routers = { start = 1.0, ends = 0.0 }", "did you mean end?"),
        ("model", "layers = [5]", "names layer 5"),
        ("model", "teacher_memory = \"disk\"", "streamed"),
        ("model", "cache = { tokens = 3 }", "set routers to 0"),
    ] {
        folder.write("small.toml", &of(teacher, distill));
        let said = bad(&folder, 1, &["build", "small.toml"]);
        assert!(said.contains(wanted), "{teacher}, {distill:?}: {said}");
    }
}
