//! `lateen compress` a layer at a time: planned, refused, killed and gone on with.

mod support;

use models::{Loading, Model};
use numeric::Format;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Folder, bad, config, errors, good, lateen, run};

const PRUNE: [&str; 8] = ["compress", "model", "--keep", "2", "--tokens", "6000", "--gradient-tokens", "2000"];

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).expect("it was written")
}

#[test]
fn what_was_killed_goes_on_and_comes_out_the_same() {
    let folder = Folder::new("compress-killed");
    folder.model("model");
    good(&folder, &[&PRUNE[..], &["--out", "whole"]].concat());
    let mut child = lateen(&folder).args(PRUNE).args(["--out", "killed"]).spawn().expect("the program starts");
    let (first, began) = (folder.join("killed/statistics/layer-0000.forward.safetensors"), Instant::now());
    while !first.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(status.code().is_none(), "it was done before it could be killed: {status}");
    assert!(first.exists() && !folder.join("killed/config.json").exists());
    let when = || std::fs::metadata(&first).expect("it is there").modified().expect("the system tells");
    let before = when();
    good(&folder, &[&PRUNE[..], &["--out", "killed"]].concat());
    assert_eq!(when(), before, "what was observed is not observed again");
    assert!(weights(&folder.join("killed")) == weights(&folder.join("whole")));
    let statistics = |run: &str, file: &str| std::fs::read(folder.join(run).join("statistics").join(file)).expect(file);
    for file in ["layer-0000.forward.safetensors", "layer-0001.forward.safetensors", "layer-0001.gradient.safetensors"]
    {
        assert!(statistics("killed", file) == statistics("whole", file), "{file}");
    }
    let plan = |run: &str| std::fs::read_to_string(folder.join(run).join("plan.toml")).expect("a plan");
    assert_eq!(plan("killed"), plan("whole"));
    assert!(good(&folder, &["inspect", "killed"]).contains("qwen3_next"));
    good(&folder, &["compress", "report", "whole", "-o", "page.html"]);
    let page = std::fs::read_to_string(folder.join("page.html")).expect("it was written");
    assert!(
        (0..4).all(|expert| page.contains(&format!("layer 1, expert {expert}: "))) && page.contains("co-activation")
    );
    let said = bad(&folder, 1, &["compress", "report", "model", "-o", "none.html"]);
    assert!(said.contains("no folder holds a plan.toml") && !folder.join("none.html").exists(), "{said}");
    let said = bad(&folder, 1, &["compress", "report", "nowhere", "-o", "none.html"]);
    assert!(said.contains("no model and nothing that was measured in nowhere"), "{said}");
    // A plan that is given makes the same of it, without watching anything.
    good(&folder, &["compress", "model", "--plan", "whole/plan.toml", "--out", "given"]);
    assert!(weights(&folder.join("given")) == weights(&folder.join("whole")));
    assert!(!folder.join("given/statistics").exists());
}

const MERGE: [&str; 8] = ["compress", "model", "--keep", "2", "--tokens", "6000", "--merge", "--gradient-tokens"];

/// Merged layers are whole files, and what was merged is not merged again.
#[test]
fn merging_that_was_killed_goes_on_and_comes_out_the_same() {
    let folder = Folder::new("compress-merging-killed");
    folder.model("model");
    good(&folder, &[&MERGE[..], &["2000", "--out", "whole"]].concat());
    let mut child = lateen(&folder).args(MERGE).args(["2000", "--out", "killed"]).spawn().expect("the program starts");
    let (first, began) = (folder.join("killed/merging/layer-0000.json"), Instant::now());
    while !first.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(status.code().is_none(), "it was done before it could be killed: {status}");
    assert!(!folder.join("killed/config.json").exists());
    good(&folder, &[&MERGE[..], &["2000", "--out", "killed"]].concat());
    let files = |run: &str| {
        let entries = std::fs::read_dir(folder.join(run)).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut files: Vec<_> = entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name()).collect();
        files.sort();
        files
    };
    assert_eq!(files("killed"), files("whole"));
    for file in files("whole") {
        let read = |run: &str| std::fs::read(folder.join(run).join(&file)).expect("it was written");
        assert!(read("killed") == read("whole"), "{}", file.display());
    }
    assert!(files("whole").iter().any(|file| file == "merging.json") && !folder.join("whole/merging").exists());
    assert!(good(&folder, &["inspect", "killed"]).contains("qwen3_next"));
    // The plan alone makes the same of it.
    let given = ["compress", "model", "--plan", "whole/plan.toml", "--tokens", "6000", "--gradient-tokens", "2000"];
    good(&folder, &[&given[..], &["--similarity-tokens", "256", "--out", "given"]].concat());
    assert_eq!(files("given"), files("whole"));
}

/// What was merged cannot be written beside the model, and then can.
#[test]
fn a_merged_model_is_none_before_all_stands_beside_it() {
    let folder = Folder::new("compress-merging-beside");
    folder.model("model");
    std::fs::create_dir_all(folder.join("out/merging.json/in-the-way")).expect("a folder");
    let words = [&MERGE[..], &["2000", "--out", "out"]].concat();
    let said = bad(&folder, 1, &words);
    assert!(said.contains("merging.json") && !folder.join("out/config.json").exists(), "{said}");
    std::fs::remove_dir_all(folder.join("out/merging.json")).expect("it is there");
    good(&folder, &words);
    for file in ["merging.json", "lineage.json", "config.json"] {
        assert!(folder.join("out").join(file).is_file(), "{file}");
    }
    assert!(!folder.join("out/merging").exists());
}

/// A model whose layers have 4 and 3 experts, and whose tokens have something in common if they are to.
fn uneven(folder: &Folder, agree: bool) {
    let model = folder.model("model");
    if agree {
        let mut opened = Model::open(&model, Loading::F32).expect("it opens");
        let table = opened.weights.embedding.weight.matrix.as_f32_mut();
        table.chunks_exact_mut(32).for_each(|row| row[..4].fill(0.05));
        opened.save(&model, Format::F32).expect("it saves");
    }
    folder.write(
        "plan.toml",
        "[[layer]]\nlayer = 0\nkeep = [0, 1, 2, 3]\n\n[[layer]]\nlayer = 1\nkeep = [0, 1, 3]\ndrop = [2]\n",
    );
    good(folder, &["compress", "model", "--plan", "plan.toml", "--out", "uneven"]);
}

#[test]
fn layers_of_different_sizes_are_padded_to_one() {
    let folder = Folder::new("compress-pad");
    uneven(&folder, true);
    let output = run(&folder, &["compress", "pad", "uneven", "-o", "padded", "--tokens", "12000"]);
    let said = errors(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("misrouted") && said.contains("held-out tokens are") && said.contains("apart at most"),
        "{said}"
    );
    let read = |file: &str| std::fs::read_to_string(folder.join("padded").join(file)).expect(file);
    assert!(read("config.json").contains("\"num_experts\": 4") && !read("config.json").contains("experts_per_layer"));
    let lineage: Value = serde_json::from_str(&read("lineage.json")).expect("JSON");
    assert_eq!(lineage["layers"][1].to_string(), "[0,1,null,2]", "what was added comes from no expert");
    let padding: Value = serde_json::from_str(&read("padding.json")).expect("JSON");
    assert_eq!(
        (&padding[0]["layer"], &padding[0]["added"], &padding[0]["misrouted"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert!(!folder.join("padded/plan.toml").exists() && !folder.join("padded/padding").exists());
    folder.write("tokens.json", "[[5, 80, 200, 33, 7, 7, 260, 91]]");
    let logits = |model: &str| {
        let file = format!("{model}.safetensors");
        good(&folder, &["inspect", "logits", model, "--tokens", "tokens.json", "--out", &file]);
        formats::TensorFile::open(folder.join(&file)).expect("it is there").get("logits.0").expect("it is").to_f32()
    };
    let (before, after) = (logits("uneven"), logits("padded"));
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-5));
    good(&folder, &["compress", "padded", "--quantize", "q8_0", "--out", "small"]);
    let said = bad(&folder, 1, &["compress", "pad", "small", "-o", "none"]);
    assert!(said.contains("all layers have the same number of experts"), "{said}");
    let said = bad(&folder, 1, &["compress", "pad", "uneven", "-o", "padded"]);
    assert!(said.contains("padded holds a model already"), "{said}");
}

#[test]
fn layers_that_cannot_be_padded_are_left_alone() {
    let folder = Folder::new("compress-pad-never");
    uneven(&folder, false);
    let said = bad(&folder, 1, &["compress", "pad", "uneven", "-o", "padded", "--tokens", "12000"]);
    assert!(said.contains("layer 1") && said.contains("budget = \"uniform\""), "{said}");
    assert!(!folder.join("padded").exists(), "nothing is left");
}

/// None is kept back to be measured on.
#[test]
fn experts_are_watched_on_all_records_of_a_file() {
    let folder = Folder::new("compress-records");
    folder.model("model");
    let lines: Vec<String> =
        (0..200).map(|n| format!("{{\"text\": \"def add_{n:03}(a):\\n    return a + {n:03}\\n\"}}")).collect();
    let tokens = |records: usize| -> u64 {
        let (file, out) = (format!("{records}.jsonl"), format!("out-{records}"));
        folder.write(&file, &lines[..records].join("\n"));
        good(&folder, &["compress", "model", "--keep", "2", "--data", &file, "--out", &out]);
        let path = folder.join(&out).join("statistics/observation.json");
        let told: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("JSON");
        told["tokens"].as_u64().expect("a number")
    };
    let (one, all) = (tokens(1), tokens(200));
    assert!(one > 5);
    assert_eq!(all, 200 * one);
}

#[test]
fn what_does_not_fit_is_refused_before_it_begins() {
    let folder = Folder::new("compress-memory");
    folder.model("model");
    let said = bad(&folder, 1, &[&PRUNE[..], &["--out", "small", "--memory", "3MB"]].concat());
    assert!(said.contains("watching the experts of model would take") && said.contains("3.0 MB may be held"), "{said}");
    assert!(said.contains("largest layer") && said.contains("allow more with --memory"), "{said}");
    assert!(!folder.join("small/statistics").exists());
    let said = bad(&folder, 2, &[&PRUNE[..], &["--out", "small", "--memory", "much"]].concat());
    assert!(said.contains("such as 4GB"), "{said}");
}

fn plan(folder: &Folder, model: &str, more: &[&str]) -> Value {
    let speeds = ["--disk-speed", "500", "--product-speed", "100", "--json"];
    let words = [&["plan", "compress", model, "--tokens", "100000"], &speeds[..], more].concat();
    serde_json::from_str(&good(folder, &words)).expect("it is JSON")
}

/// The released shape of 80 billion parameters, which is not here.
fn released() -> String {
    let large = [
        ("\"head_dim\": 16", "\"head_dim\": 256"),
        ("\"hidden_size\": 32", "\"hidden_size\": 2048"),
        ("\"layer_types\": [\"linear_attention\", \"full_attention\"]", "\"full_attention_interval\": 4"),
        ("\"linear_key_head_dim\": 8", "\"linear_key_head_dim\": 128"),
        ("\"linear_num_key_heads\": 2", "\"linear_num_key_heads\": 16"),
        ("\"linear_num_value_heads\": 4", "\"linear_num_value_heads\": 32"),
        ("\"linear_value_head_dim\": 8", "\"linear_value_head_dim\": 128"),
        ("\"moe_intermediate_size\": 32", "\"moe_intermediate_size\": 512"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 48"),
        ("\"num_attention_heads\": 2", "\"num_attention_heads\": 16"),
        ("\"num_experts\": 4", "\"num_experts\": 512"),
        ("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 10"),
        ("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2"),
        ("\"shared_expert_intermediate_size\": 32", "\"shared_expert_intermediate_size\": 512"),
    ];
    large.iter().fold(config(151_936), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

#[test]
fn a_plan_says_memory_disk_and_time_also_of_a_model_that_is_not_here() {
    let folder = Folder::new("plan-compress");
    folder.write("80b.json", &released());
    let found = plan(&folder, "80b.json", &["--keep", "256", "--memory", "16GB"]);
    let number = |found: &Value, path: &str| found.pointer(path).and_then(Value::as_f64).expect(path);
    // 79.7 billion parameters of two bytes; a layer has 512 experts of 3 · 512 · 2048.
    assert!((number(&found, "/before") / 159.3e9 - 1.0).abs() < 0.01, "{found}");
    let layer = number(&found, "/plan/layer");
    assert!(layer > 2.0 * 512.0 * 3.0 * 512.0 * 2048.0 && layer < 3.4e9, "{layer}");
    assert_eq!(found["fits"], true);
    // Of some 3 billion parameters that a token visits, without embedding and head.
    let products = number(&found, "/cost/multiply_adds") / 100_000.0;
    assert!(products > 3.0e9 && products < 4.0e9, "{products}");
    let (read, written) = (number(&found, "/cost/read"), number(&found, "/cost/written"));
    assert!((read / (2.0 * number(&found, "/before")) - 1.0).abs() < 0.01, "there once, and once to write");
    let seconds = (read + written) / 500e6 + 100_000.0 * products / 100e9;
    assert!((number(&found, "/seconds") / seconds - 1.0).abs() < 1e-6);
    assert!(number(&found, "/disk") > number(&found, "/cost/model"));

    let less = plan(&folder, "80b.json", &["--keep", "256", "--memory", "4.6GB"]);
    assert_eq!((&less["fits"], &less["plan"]["states_on_disk"]), (&true.into(), &true.into()), "{less}");
    assert!(number(&less, "/observing") <= 4.6e9 && number(&less, "/cost/read") > read);
    let least = plan(&folder, "80b.json", &["--keep", "256", "--memory", "3GB"]);
    assert_eq!(least["fits"], false, "not even a layer");
    let back = plan(&folder, "80b.json", &["--keep", "256", "--memory", "16GB", "--gradient-tokens", "50000"]);
    assert!((number(&back, "/cost/multiply_adds") / 100_000.0 / products - 2.0).abs() < 0.05);
    let fewer = plan(&folder, "80b.json", &["--keep", "128", "--memory", "16GB"]);
    assert!(number(&fewer, "/cost/model") < 0.55 * number(&found, "/cost/model"));

    // Half of the experts of a layer in f32, and a pack of tokens before and after it on disk.
    let merged = plan(&folder, "80b.json", &["--keep", "256", "--memory", "16GB", "--merge"]);
    assert!(number(&merged, "/merging/working") > 4.0 * 256.0 * 3.0 * 512.0 * 2048.0, "{merged}");
    assert!(number(&merged, "/writing") > number(&merged, "/merging/working") + number(&merged, "/merging/layer"));
    assert_eq!((number(&merged, "/merging/states"), &merged["fits"]), (2.0 * 4.0 * 2048.0 * 100_000.0, &true.into()));
    assert!(number(&merged, "/cost/multiply_adds") > 3.0 * number(&found, "/cost/multiply_adds"));
    // Of 48 layers 256 experts go, each compared with 8 and then put in the order of its group.
    assert_eq!(number(&merged, "/cost/merging/pairs"), 48.0 * 256.0 * 9.0);
    assert!(number(&merged, "/cost/merging/multiply_adds") > number(&found, "/cost/multiply_adds"), "{merged}");
    let seconds = |of: &Value| {
        let per_second = |what: &str, speed: &str| number(of, what) / number(of, speed);
        (number(of, "/cost/read") + number(of, "/cost/written")) / 500e6
            + per_second("/cost/multiply_adds", "/speeds/multiply_adds")
            + per_second("/cost/merging/multiply_adds", "/speeds/merge_multiply_adds")
            + per_second("/cost/merging/pairs", "/speeds/pairs")
            + per_second("/cost/merging/algebra", "/speeds/algebra")
    };
    assert!((number(&merged, "/seconds") / seconds(&merged) - 1.0).abs() < 1e-6);
    assert_eq!(number(&found, "/cost/merging/pairs"), 0.0);

    folder.model("model");
    let text = good(&folder, &["plan", "compress", "model", "--keep", "3", "--tokens", "5000"]);
    assert!(text.contains("it fits into") && text.contains("as measured here"), "{text}");
    let text = good(&folder, &["plan", "compress", "model", "--keep", "3", "--tokens", "5000", "--merge"]);
    assert!(text.contains(", 8 pairs of experts put in order at"), "{text}");
    let said = bad(&folder, 1, &["plan", "compress", "model", "--keep", "1"]);
    assert!(said.contains("--keep 1 of 4 experts") && said.contains("keep from 2 to 4"), "{said}");
    let said = bad(&folder, 1, &["plan", "compress", "model", "--keep", "2", "--disk-speed", "0"]);
    assert!(said.contains("--disk-speed wants a number above 0"), "{said}");
}
