//! What people do with the program, from end to end, on a model that knows nothing.

mod support;

use compress::{Merge, Plan};
use formats::TensorFile;
use models::{Loading, Model};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use support::{Folder, fixtures, good, lateen, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn inspect_tells_what_a_model_is() {
    let folder = Folder::new("inspect");
    folder.model("model");
    let text = good(&folder, &["inspect", "model"]);
    assert!(text.contains("architecture       qwen3_next") && text.contains("2 (1 attention, 1 delta)"), "{text}");
    let found = json(&good(&folder, &["inspect", "model", "--json"]));
    let model = Model::open(&folder.join("model"), Loading::Stored).expect("it opens");
    assert_eq!(found["parameters"], model.parameter_count());
    assert_eq!(found["experts_per_layer"], serde_json::json!([4, 4]));

    good(&folder, &["compress", "model", "--out", "small", "--quantize", "mxfp4", "--router", "mxfp4"]);
    let small = json(&good(&folder, &["inspect", "small", "--json"]));
    assert_eq!(small["parameters"], model.parameter_count(), "fewer bits are not fewer parameters");
    assert!(small["bytes"].as_u64() < found["bytes"].as_u64());
    let tensors = good(&folder, &["inspect", "small", "--tensors"]);
    assert!(tensors.contains("MXFP4") && !tensors.contains("weight_scale"), "{tensors}");
}

/// What was carried out can be read, edited and carried out again; what does not fit is refused.
#[test]
fn experts_are_merged_by_flags_and_by_an_edited_plan() {
    let folder = Folder::new("merging");
    folder.model("model");
    good(&folder, &["compress", "model", "--out", "first", "--keep", "3", "--merge", "--tokens", "5000"]);
    let found = json(&good(&folder, &["inspect", "first", "--json"]));
    assert_eq!(found["experts_per_layer"], serde_json::json!([3, 3]));
    let outcomes = json(&fs::read_to_string(folder.join("first/merging.json")).expect("it tells what was measured"));
    assert!(outcomes[1]["error"].as_f64() <= outcomes[1]["error_dropped"].as_f64(), "{outcomes}");

    let mut plan = Plan::load(&folder.join("first/plan.toml")).expect("it is a plan");
    for layer in &mut plan.layers {
        (layer.keep, layer.merge) = (vec![0, 1, 3], vec![Merge { into: 1, from: vec![2] }]);
        layer.drop.clear();
        layer.super_experts.clear();
    }
    folder.write("edited.toml", &plan.to_toml());
    good(&folder, &["compress", "model", "--out", "second", "--plan", "edited.toml", "--tokens", "5000"]);
    assert_eq!(Plan::load(&folder.join("second/plan.toml")), Ok(plan.clone()));
    let outcomes = json(&fs::read_to_string(folder.join("second/merging.json")).expect("it tells what was measured"));
    assert_eq!(outcomes[0]["groups"][0]["from"], serde_json::json!([2]));

    folder.write("broken.toml", &plan.to_toml().replace("keep = [0, 1, 3]", "keep = [0, 1]"));
    let said = support::bad(&folder, 1, &["compress", "model", "--out", "third", "--plan", "broken.toml"]);
    assert!(said.contains("layer 0 of the plan: expert 3 stands nowhere"), "{said}");
    let few = ["compress", "model", "--out", "third", "--keep", "3", "--merge", "--tokens", "300"];
    let said = support::bad(&folder, 1, &few);
    assert!(said.contains("too few tokens to merge experts") && said.contains("hint: give more than 2048"), "{said}");
}

/// The contract that scripts rely on.
#[test]
fn logits_and_gradients_are_those_of_the_reference() {
    let folder = Folder::new("numbers");
    let oracle = fixtures().join("oracle/qwen3_next");
    let reference = TensorFile::open(oracle.join("fixtures.safetensors")).expect("the fixture opens");
    let ids = |name: &str| reference.get(name).expect("it is there").to_i64().expect("ids");
    let sequences = [ids("seq0.input_ids"), ids("seq1.input_ids")];
    folder.write("tokens.json", &serde_json::to_string(&sequences).expect("plain data"));
    let model = oracle.display().to_string();
    good(&folder, &["inspect", "logits", &model, "--tokens", "tokens.json", "--out", "logits.safetensors"]);
    let found = TensorFile::open(folder.join("logits.safetensors")).expect("it was written");
    for (index, sequence) in sequences.iter().enumerate() {
        let ours = found.get(&format!("logits.{index}")).expect("it is there");
        assert_eq!(ours.shape, [sequence.len(), 512]);
        let wanted = reference.get(&format!("seq{index}.logits")).expect("it is there").to_f32();
        let worst = ours.to_f32().iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "sequence {index} differs by {worst}");
    }

    good(&folder, &["inspect", "gradients", &model, "--tokens", "tokens.json", "--out", "gradients.safetensors"]);
    let found = TensorFile::open(folder.join("gradients.safetensors")).expect("it was written");
    let loss = found.get("loss").expect("it is there").to_f32()[0];
    let wanted = (36.0 * 6.897_629 + 129.0 * 6.821_197) / 165.0;
    assert!((loss - wanted).abs() < 1e-4, "loss {loss}, wanted {wanted}");
    let mut compared = 0;
    for tensor in reference.tensors().filter(|tensor| tensor.name.starts_with("grad.")) {
        let ours = found.get(tensor.name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ours.shape, tensor.shape, "{}", tensor.name);
        let wanted = tensor.to_f32();
        let scale = wanted.iter().fold(1e-6, |largest: f32, value| largest.max(value.abs()));
        let worst = ours.to_f32().iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3 * scale.max(1e-3), "{} differs by {worst} of {scale}", tensor.name);
        compared += 1;
    }
    assert!(compared > 50, "only {compared} gradients were compared");
    let text = good(&folder, &["evaluate", &model, "--parity", &format!("{model}/fixtures.safetensors")]);
    assert!(text.contains("167 tokens compared") && text.contains("same top token      100.0 %"), "{text}");
}

#[test]
fn run_answers_and_says_how_long_it_took() {
    let folder = Folder::new("run");
    folder.model("model");
    let output = run(&folder, &["run", "model", "Say", "something", "--max-tokens", "6", "--verbose"]);
    assert!(output.status.success());
    let said = support::errors(&output);
    for line in ["total duration:", "load duration:", "prompt eval rate:", "eval count:", "eval rate:"] {
        assert!(said.contains(line), "{said}");
    }
    let sampled = ["run", "model", "x", "--max-tokens", "9", "--temperature", "1", "--seed", "4"];
    assert_eq!(good(&folder, &sampled), good(&folder, &sampled), "a seed decides");

    let mut child = lateen(&folder)
        .args(["run", "model", "--max-tokens", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(b"a prompt from a pipe").expect("it is read");
    assert!(child.wait_with_output().expect("it ends").status.success());
    assert!(support::bad(&folder, 1, &["run", "model"]).contains("the prompt is empty"));
    assert!(support::bad(&folder, 1, &["run", "model", "x", "--top-p", "3"]).contains("top_p is 3"));
}

#[test]
fn bench_holds_a_peer_beside_us_and_keeps_a_record() {
    let folder = Folder::new("bench");
    folder.model("model");
    let entries = r#"[{"n_prompt": 8, "n_gen": 0, "n_depth": 4, "avg_ts": 50.0, "samples_ts": [40.0, 60.0, 50.0]},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 4, "avg_ts": 10.0, "samples_ts": [10.0]}]"#;
    folder.write("peer.json", entries);
    let common = ["bench", "model", "-p", "8", "-n", "3", "--depth", "0,4", "--repetitions", "2"];
    let against = |command: &str| -> Vec<String> {
        common.iter().copied().chain(["--against", command]).map(str::to_owned).collect()
    };
    fn borrowed(words: &[String]) -> Vec<&str> {
        words.iter().map(String::as_str).collect()
    }
    let more = ["--json", "--record", "records"].map(str::to_owned);
    let found = json(&good(&folder, &borrowed(&[against("cat peer.json").as_slice(), &more].concat())));
    let all = found["against"]["comparisons"].as_array().expect("a list");
    assert_eq!(all.len(), 2, "{found}");
    assert_eq!(
        (&all[0]["phase"], all[0]["depth"].as_u64(), all[0]["theirs"].as_f64()),
        (&"prefill".into(), Some(4), Some(50.0))
    );
    for one in all {
        let [ours, theirs, ratio] = ["ours", "theirs", "ratio"].map(|key| one[key].as_f64().expect("a number"));
        assert!((ratio - ours / theirs).abs() < 1e-9 * ratio, "{one}");
    }
    let records: Vec<_> = fs::read_dir(folder.join("records")).expect("it was made").filter_map(Result::ok).collect();
    let [record] = &records[..] else { panic!("one record") };
    assert!(record.file_name().to_str().is_some_and(|name| name.starts_with("model-2") && name.ends_with("Z.json")));
    let record = json(&fs::read_to_string(record.path()).expect("it was written"));
    assert_eq!(record["measurements"], found["measurements"]);
    assert!(record["machine"]["processor"].is_string() && record["date"].is_string(), "{record}");
    assert!(record["peak_memory_bytes"].as_u64() > record["stored_bytes"].as_u64(), "{record}");
    // Half a gigabyte was held to measure the bandwidth, and is not the model's.
    assert!(record["peak_memory_bytes"].as_u64() < Some(400 << 20) || !cfg!(target_os = "linux"), "{record}");

    let shown = good(&folder, &borrowed(&against("echo 12")));
    assert!(shown.contains("beside `echo 12`") && shown.contains("× what is stored"), "{shown}");
    let said = support::bad(&folder, 1, &borrowed(&against("echo '[]'")));
    assert!(said.contains("printed nothing about what was measured here: prefill of 8 after 0"), "{said}");
    assert!(support::bad(&folder, 1, &borrowed(&against("false"))).contains("`false` ended with"));
}

#[test]
fn weights_are_rounded_while_they_are_loaded() {
    let folder = Folder::new("rounding");
    folder.model("model");
    let bytes = |model: &str, more: &[&str]| {
        let common = ["bench", model, "-p", "8", "-n", "2", "--repetitions", "1", "--json"];
        json(&good(&folder, &[common.as_slice(), more].concat()))["weights_bytes"].as_u64().expect("a number")
    };
    let (plain, rounded) = (bytes("model", &[]), bytes("model", &["--quantize", "mxfp4"]));
    assert!(rounded < plain / 2, "{plain} bytes became {rounded}");
    good(&folder, &["compress", "model", "--out", "small", "--quantize", "mxfp4"]);
    assert_eq!(bytes("small", &[]), rounded);
    good(&folder, &["run", "model", "hello", "--max-tokens", "2", "--quantize", "nvfp4"]);
    good(&folder, &["complete", "model", "--prefix-text", "a", "--max-tokens", "2", "--quantize", "q8_0"]);
    good(&folder, &["evaluate", "model", "--tasks", "none", "--quantize", "mxfp4"]);
    let said = support::bad(&folder, 1, &["run", "small", "hello", "--quantize", "q8_0"]);
    assert!(said.contains("no weight became Q8_0") && said.contains("hint: leave --quantize out"), "{said}");
}

#[test]
fn complete_fills_a_hole_from_flags_and_from_a_pipe() {
    let folder = Folder::new("complete");
    folder.model("model");
    let flags = ["complete", "model", "--prefix-text", "def f(", "--suffix-text", "): pass\n", "--max-tokens", "5"];
    let found = json(&good(&folder, &[flags.as_slice(), &["--json"]].concat()));
    assert!(found["tokens"].as_u64().is_some_and(|tokens| tokens <= 5));
    let mut child = lateen(&folder)
        .args(["complete", "model", "--max-tokens", "5", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(b"def f(<|cursor|>): pass\n").expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(json(&String::from_utf8_lossy(&output.stdout))["text"], found["text"]);
}

/// What is mined is what training reads.
#[test]
fn a_repository_is_mined_and_read_again() {
    let folder = Folder::new("mining");
    folder.model("model");
    let repository = folder.join("repository");
    fs::create_dir(&repository).expect("the folder can be made");
    let git = |arguments: &[&str]| {
        let author = ["-c", "user.name=Ann", "-c", "user.email=ann@lab.example", "-c", "commit.gpgSign=false"];
        let status = std::process::Command::new("git").arg("-C").arg(&repository).args(author).args(arguments).status();
        assert!(status.expect("mining needs the program git: install it").success(), "git {arguments:?}");
    };
    let commit = |text: &str, message: &str| {
        fs::write(repository.join("list.py"), text).expect("it can be written");
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "-m", message]);
    };
    git(&["init", "--quiet"]);
    let code = "def first(items):\n    if len(items) > 1:\n        return items[0]\n    return None\n";
    commit(code, "Add the first of a list");
    commit(&code.replace("> 1", "> 0"), "Fix lists of one element, which were taken for empty");

    let refused = support::bad(&folder, 1, &["prepare", "mine", "repository", "--out", "mined"]);
    assert!(refused.contains("no licence was found") && refused.contains("--any-licence"), "{refused}");
    let common = ["prepare", "mine", "repository", "--out", "mined", "--any-licence", "--model", "model"];
    let report = json(&good(&folder, &[common.as_slice(), &["--json"]].concat()));
    assert_eq!(report["kinds"]["debugging"]["forms"]["fix"], 1, "{report}");
    assert!(report["kinds"]["fim"]["tokens"].as_u64() > Some(0), "{report}");
    let table = good(&folder, &common);
    assert!(table.contains("debugging") && table.contains("secrets and addresses replaced"), "{table}");
    for name in ["replay", "debugging", "review", "fim", "reasoning"] {
        assert!(folder.join(&format!("mined/{name}.jsonl")).is_file(), "{name}");
    }
    for kind in ["debugging", "fim"] {
        let file = format!("mined/{kind}.jsonl");
        let found = json(&good(&folder, &["evaluate", "model", "--tasks", "none", "--perplexity", &file, "--json"]));
        assert!(found["file"]["perplexity"]["all"]["perplexity"].as_f64() > Some(1.0), "{found}");
    }
}

#[test]
fn episodes_are_written_and_can_be_measured() {
    let folder = Folder::new("episodes");
    folder.model("model");
    let write = |out: &str, seed: &str| {
        good(&folder, &["prepare", "kata", "--count", "6", "--kind", "solve,review", "--seed", seed, "--out", out]);
        fs::read_to_string(folder.join(out)).expect("it was written")
    };
    let (one, two) = (write("a.jsonl", "1"), write("b.jsonl", "1"));
    assert_eq!(one, two);
    assert_ne!(one, write("c.jsonl", "2"));
    assert!(one.lines().map(json).all(|line| line["kind"] == "solve" || line["kind"] == "review"));

    let common = ["evaluate", "model", "--teacher", "model", "--count", "1", "--max-tokens", "4", "--tasks", "kata"];
    let output = ["--perplexity", "a.jsonl", "--json", "--html", "page.html"];
    let found = json(&good(&folder, &[common.as_slice(), &output].concat()));
    assert_eq!(found["tasks"]["cells"].as_array().map(Vec::len), Some(12));
    assert!(found["divergence"]["mean"].as_f64().is_some_and(|mean| mean < 1e-6), "a model is its own teacher");
    let file = &found["file"];
    assert!(file["perplexity"]["all"]["perplexity"].as_f64().is_some_and(|perplexity| perplexity > 1.0), "{file}");
    assert!(file["perplexity"]["by_kind"]["solve"].is_object() && file["divergence"]["maximum"].is_number(), "{file}");
    let alone = json(&good(&folder, &["evaluate", "model", "--perplexity", "a.jsonl", "--json"]));
    assert_eq!(alone["file"]["perplexity"]["all"]["tokens"], file["perplexity"]["all"]["tokens"]);
    assert!(alone["tasks"].is_null() && alone["speed"].is_null() && alone["file"]["divergence"].is_null(), "{alone}");
    assert!(fs::read_to_string(folder.join("page.html")).is_ok_and(|page| page.contains("pass@1")));

    good(&folder, &["prepare", "kata", "--count", "2", "--split", "test", "--out", "held.jsonl"]);
    let held = json(&good(&folder, &["evaluate", "model", "--perplexity", "held.jsonl", "--json"]));
    assert!(held["file"]["perplexity"]["all"]["tokens"].as_u64() > Some(0), "what none trains on is measured: {held}");
}

/// A text in two formats of the same weights, from a folder and from a GGUF file.
#[test]
fn a_text_is_measured_in_two_formats() {
    let folder = Folder::new("perplexity");
    let model = folder.model("model");
    let text = "def f(x):\n    return x + 1  # \u{e9}\n".repeat(60);
    folder.write("text.py", &text);
    let tokens = text::Tokenizer::open(&model).expect("it opens").encode(&text).len();
    let measure = |words: &[&str]| {
        let common = ["--perplexity", "text.py", "--json"];
        json(&good(&folder, &[&["evaluate"], words, &common].concat()))["file"].take()
    };
    let (plain, rounded) = (measure(&["model"]), measure(&["model", "--quantize", "mxfp4", "--teacher", "model"]));
    assert_eq!(plain["perplexity"]["all"]["tokens"], tokens - 1);
    let far = &rounded["divergence"];
    assert!(far["mean"].as_f64().is_some_and(|mean| mean > 0.0 && mean < 0.1), "{far}");
    assert!(far["median"].as_f64() <= far["quantile_99"].as_f64() && far["same_top_token"]["trials"] == tokens - 1);
    let nats = |loss: &Value| loss["nats"].as_f64().expect("a number");
    assert!((nats(&far["teacher"]) - nats(&plain["perplexity"]["all"])).abs() < 1e-5, "{far}");
    assert_eq!(far["model"], rounded["perplexity"]["all"]);
    let cut = measure(&["model", "--context", "64"]);
    assert_eq!(cut["perplexity"]["all"]["tokens"], tokens - 1);
    assert_ne!(cut["perplexity"]["all"]["nats"], plain["perplexity"]["all"]["nats"]);

    let [exact, rounded] =
        ["f32", "q8_0"].map(|format| fixtures().join(format!("oracle/gguf/qwen3_next.{format}.gguf")));
    let [exact, rounded] = [&exact, &rounded].map(|path| path.to_str().expect("a path in UTF-8"));
    let far = measure(&[rounded, "--teacher", exact])["divergence"].take();
    assert!(far["mean"].as_f64().is_some_and(|mean| mean > 0.0 && mean < 1e-2), "{far}");
    let shown = good(&folder, &["evaluate", rounded, "--teacher", exact, "--perplexity", "text.py"]);
    for line in ["file ", "perplexity of the teacher", "KL from the teacher, mean", "99 of 100", "maximum", "same top"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("tokens/s") && !shown.contains("pass@1"), "only the file is asked for: {shown}");
}

const RECIPE: &str = r#"
title = "A build for a test"

[[stage]]
kind = "pretrain"
name = "base"
config = "config.json"
tokenizer.from = "text"
[stage.train]
steps = 4
batch_tokens = 256
sequence_length = 256
learning_rate = 1e-3
[stage.data]
validation = 2
[[stage.data.source]]
type = "kata"
episodes = 24

[[stage]]
kind = "prune"
keep = 2
tokens = 400
[stage.data]
validation = 0
[[stage.data.source]]
type = "kata"
episodes = 6

[[stage]]
kind = "quantize"
formats = { experts = "mxfp4", projections = "q8_0" }

[[stage]]
kind = "evaluate"
teacher = "base"
measure = { count = 1, max_tokens = 4, perplexity_tasks = 1, kinds = ["solve", "fill_in_the_middle"] }
"#;

#[test]
fn a_build_makes_each_stage_once_and_again_after_a_change() {
    let folder = Folder::new("build");
    let text = folder.model("text");
    fs::remove_file(text.join("config.json")).expect("only its tokenizer is wanted");
    folder.write("config.json", &support::config(512));
    folder.write("small.toml", RECIPE);
    let output = run(&folder, &["build", "small.toml"]);
    let said = support::errors(&output);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout);
    for word in
        ["stage", "experts", "solve", "all tasks", "unseen families", "FIM", "perplexity", "tokens/s", "quantize"]
    {
        assert!(table.contains(word), "{table}");
    }
    let stages = ["01-base", "02-prune", "03-quantize", "04-evaluate"];
    assert!(stages.iter().all(|stage| folder.join("runs/small").join(stage).join("manifest.json").is_file()));
    assert!(folder.join("runs/small/report.html").is_file());
    let page =
        fs::read_to_string(folder.join("runs/small/compression.html")).expect("a page of what became of experts");
    for wanted in
        ["KL from the teacher, nats a token", "prune (before recovery)", "quantize (after recovery)", "base (to begin"]
    {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!folder.join("runs/small/01-base/checkpoints").exists(), "what they would resume is done");

    let again = run(&folder, &["build", "small.toml", "--json"]);
    assert_eq!(support::errors(&again).matches("done before").count(), 4, "{}", support::errors(&again));
    assert_eq!(json(&String::from_utf8_lossy(&again.stdout)).as_array().map(Vec::len), Some(3));

    folder.write("small.toml", &RECIPE.replace("keep = 2", "keep = 3"));
    let third = support::errors(&run(&folder, &["build", "small.toml"]));
    assert_eq!(third.matches("done before").count(), 1, "{third}");
    assert!(third.contains("02-prune: making it again: its part of the recipe has changed"), "{third}");
    assert!(third.contains("03-quantize: making it again: its input model has changed"), "{third}");

    assert!(good(&folder, &["inspect", "small"]).contains("03-quantize"), "a run's name means its last model");
    assert!(good(&folder, &["train", "small.toml", "base"]).contains("01-base"));
    good(&folder, &["run", "small/01-base", "hello", "--max-tokens", "2"]);
}

/// Waits until the file has so many lines.
fn wait_for_lines(path: &std::path::Path, lines: usize) {
    for _ in 0..600 {
        if fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= lines) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} never had {lines} lines", path.display());
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_a_training_run_and_the_next_one_goes_on() {
    let folder = Folder::new("interrupt");
    let text = folder.model("text");
    fs::remove_file(text.join("config.json")).expect("only its tokenizer is wanted");
    folder.write("config.json", &support::config(512));
    folder.write("long.toml", &RECIPE.replace("steps = 4", "steps = 100_000"));
    let metrics = folder.join("runs/long/01-base/metrics.jsonl");
    let mut done = 0;
    for wanted in [4, 9] {
        let child = lateen(&folder)
            .args(["build", "long.toml"])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        wait_for_lines(&metrics, done + wanted);
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.expect("kill starts").success());
        let output = child.wait_with_output().expect("it ends");
        let said = support::errors(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("hint: saved after step") && said.contains("lateen build long.toml"), "{said}");
        assert_eq!(said.contains("resumed at step"), done > 0, "{said}");
        done = fs::read_to_string(&metrics).expect("it is there").lines().count();
    }
    let steps: Vec<u64> = fs::read_to_string(&metrics)
        .expect("it is there")
        .lines()
        .map(json)
        .filter(|line| line["event"] == "step")
        .filter_map(|line| line["step"].as_u64())
        .collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "no step is taken twice or left out");
}

#[test]
fn the_sandbox_holds_and_the_doctor_says_so() {
    let folder = Folder::new("doctor");
    folder.model("model");
    let checks = json(&good(&folder, &["doctor", "--model", "model", "--json"]));
    let names: Vec<&str> =
        checks.as_array().expect("a list").iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(names, ["program", "processor", "memory", "disk", "model", "sandbox"]);
    assert!(checks.as_array().expect("a list").iter().all(|check| check["good"] == true), "{checks}");
    let output = run(&folder, &["doctor", "--model", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("BAD model"));
}

#[test]
fn a_gguf_file_is_a_model() {
    let folder = Folder::new("gguf");
    let file = fixtures().join("oracle/gguf/qwen3_next.q8_0.gguf");
    let path = file.to_str().expect("a path in UTF-8");
    let found = json(&good(&folder, &["inspect", path, "--json"]));
    assert_eq!((found["model_type"].as_str(), found["layers"].as_u64()), (Some("qwen3_next"), Some(4)));
    assert_eq!(found["experts_per_layer"], serde_json::json!([8, 8, 8, 8]));
    assert!(found["formats"]["Q8_0"].as_u64() > found["formats"]["F32"].as_u64(), "{found}");
    assert!(good(&folder, &["inspect", path, "--tensors"]).contains("blk.0.ffn_down_exps.weight"));
    folder.write("tokens.json", "[[1, 2, 3, 500]]");
    good(&folder, &["inspect", "logits", path, "--tokens", "tokens.json", "--out", "logits.safetensors"]);
    let logits = TensorFile::open(folder.join("logits.safetensors")).expect("it was written");
    assert_eq!(logits.get("logits.0").expect("present").shape, [4, 512]);
    good(&folder, &["run", path, "hello", "--max-tokens", "4", "--temperature", "0"]);
    good(&folder, &["complete", path, "--prefix-text", "def f", "--suffix-text", "", "--max-tokens", "4"]);
    let exact = fixtures().join("oracle/gguf/qwen3_next.f32.gguf");
    let reference = fixtures().join("oracle/qwen3_next/fixtures.safetensors");
    let [exact, reference] = [&exact, &reference].map(|path| path.to_str().expect("a path in UTF-8"));
    let found = json(&good(&folder, &["evaluate", exact, "--parity", reference, "--json"]));
    assert!(found["largest_difference"].as_f64().is_some_and(|worst| worst < 2e-4), "{found}");
}
