//! What people do with their own data: count it, look at it, train on it, and go on where training stopped.

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Folder, bad, errors, fixtures, good, lateen, run};

fn chat(question: &str, answer: &str) -> Value {
    let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
    json!({"kind": "review", "messages": messages})
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A folder with a tokenizer and a template, which is all that looking at data takes.
fn with_text(name: &str) -> Folder {
    let folder = Folder::new(name);
    fs::remove_file(folder.model("text").join("config.json")).expect("only its tokenizer is wanted");
    folder
}

#[test]
fn stats_counts_what_training_would_take() {
    let folder = with_text("stats");
    let chats = [
        chat("a?", "alpha"),
        chat("b?", "beta"),
        chat("b?", "beta"),
        json!({"messages": [{"role": "user", "content": "nothing learnt"}]}),
        json!({"text": "plain text"}),
    ];
    folder.write("chats.jsonl", &lines(&chats));
    folder.write("more.json", "[{\"prefix\": \"a\", \"middle\": \"b\", \"suffix\": \"c\", \"kind\": \"fim\"}]");
    folder.write("evaluation.jsonl", &lines(&[json!({"prompt": "short"})]));
    let common = ["prepare", "stats", "chats.jsonl", "more.json", "--model", "text"];
    let more = ["--evaluation-file", "evaluation.jsonl"];
    let text = good(&folder, &[common.as_slice(), &more].concat());
    for wanted in [
        "chats.jsonl ",
        "  review ",
        "  plain ",
        "  fill_in_the_middle ",
        "left out: 1 nothing to learn, 1 dup",
        "5 records: 4 chat, 1 text",
        "note: ",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in\n{text}");
    }
    let found = parsed(&good(&folder, &[common.as_slice(), &["--json"]].concat()));
    let source = &found["sources"][0];
    assert_eq!((&source["documents"], &source["samples"]), (&5.into(), &3.into()), "{found}");
    assert_eq!((&source["duplicates"], &source["untrained"]), (&1.into(), &1.into()));
    assert!(source["by_kind"]["review"]["lengths"]["longest"].as_u64() > Some(3), "{found}");
    assert_eq!(found["sources"][1]["by_kind"]["fill_in_the_middle"]["samples"], 1);
    folder.write("sft.toml", &recipe("chats.jsonl", 4));
    let of_recipe = parsed(&good(&folder, &["prepare", "stats", "sft.toml", "--model", "text", "--json"]));
    assert_eq!(of_recipe["samples"], 3);
}

#[test]
fn what_is_wrong_with_data_is_said_with_its_place() {
    let folder = with_text("wrong-data");
    folder.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"\n{\"text\": \"c\"}\n");
    let stats = ["prepare", "stats", "broken.jsonl", "--model", "text"];
    let said = bad(&folder, 1, &stats);
    assert!(said.contains("broken.jsonl, line 2: not JSON"), "{said}");
    let text = good(&folder, &[stats.as_slice(), &["--skip-broken"]].concat());
    assert!(text.contains("left out: 1 cannot be read") && text.contains("broken.jsonl, line 2"), "{text}");
    let said = bad(&folder, 1, &["prepare", "show", "nowhere.jsonl", "--model", "text"]);
    assert!(said.contains("there is no source nowhere.jsonl") && said.contains("hint: give a file"), "{said}");
    let said = bad(&folder, 2, &["prepare", "show", "broken.jsonl", "--model", "text", "--format", "poem"]);
    assert!(said.contains("want one of chat, sharegpt"), "{said}");
    let said = bad(&folder, 1, &["prepare", "stats", "broken.jsonl", "--model", "text", "--near-duplicates", "2"]);
    assert!(said.contains("near_duplicates must lie in"), "{said}");
}

#[test]
fn show_tells_what_is_learnt_with_colours_and_without() {
    let folder = with_text("show");
    let weighed = json!({"messages": [
        {"role": "user", "content": "question\u{1b}[2J"},
        {"role": "assistant", "content": "alpha", "weight": 0.5},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "beta"},
    ]});
    folder.write("chats.jsonl", &lines(&[weighed, chat("second?", "gamma"), chat("third?", "delta")]));
    let show = |more: &[&str]| good(&folder, &[&["prepare", "show", "chats.jsonl", "--model", "text"], more].concat());
    let text = show(&["-n", "2"]);
    assert!(text.contains("⟦0.5: alpha<|im_end|>\n⟧") && text.contains("⟦beta<|im_end|>\n⟧"), "{text}");
    assert!(text.contains("── chats.jsonl:1 · chat · ") && text.contains("gamma") && !text.contains("delta"), "{text}");
    assert!(text.contains("question\\u{1b}[2J") && !text.contains('\u{1b}'), "data does not move the cursor: {text}");
    let coloured = show(&["-n", "1", "--color", "always"]);
    assert!(coloured.contains("\u{1b}[33malpha") && coloured.contains("\u{1b}[32mbeta"), "{coloured}");
    assert!(!coloured.contains('⟦'));
    let without = lateen(&folder)
        .env("NO_COLOR", "1")
        .args(["prepare", "show", "chats.jsonl", "--model", "text"])
        .output()
        .expect("the program starts");
    assert!(!String::from_utf8_lossy(&without.stdout).contains('\u{1b}'));
    assert!(errors(&without).contains("⟦…⟧ is learnt"), "{}", errors(&without));
    let tokens = show(&["-n", "1", "--tokens"]);
    assert!(tokens.lines().any(|line| line.ends_with("0.5 \"<|im_end|>\"")), "{tokens}");
    let found = show(&["--skip", "1", "--json"]);
    let found: Vec<Value> = found.lines().map(parsed).collect();
    assert_eq!((found.len(), &found[0]["kind"], &found[1]["origin"]), (2, &"review".into(), &"chats.jsonl:3".into()));
    assert_eq!(found[0]["tokens"].as_array().map(Vec::len), found[0]["weights"].as_array().map(Vec::len));
}

fn recipe(path: &str, steps: usize) -> String {
    format!(
        r#"
[[stage]]
kind = "pretrain"
config = "config.json"
tokenizer.from = "text"
[stage.train]
steps = {steps}
batch_tokens = 128
sequence_length = 128
learning_rate = 1e-3
save_every = 5
[stage.data]
validation = 0
checked_against = 1
weights = {{ debugging = 0.5 }}
[[stage.data.source]]
type = "file"
path = "{path}"
kind = "chat"
"#
    )
}

/// The same run in one piece, and stopped in the middle: the same model, to the last bit.
#[cfg(unix)]
#[test]
fn training_on_mixed_files_goes_on_exactly_where_it_stopped() {
    let folder = with_text("resume-data");
    folder.write("config.json", &support::config(512));
    fs::copy(fixtures().join("data/chats.zstd.parquet"), folder.join("chats.parquet")).expect("copied");
    let texts: Vec<Value> = (0..30).map(|n| json!({"text": format!("number {n} is {} squared", n * n)})).collect();
    folder.write("texts.jsonl", &lines(&texts));
    let second = "portion = 2.0\n[[stage.data.source]]\ntype = \"file\"\npath = \"texts.jsonl\"\nportion = 1.0\n";
    let text = recipe("chats.parquet", 300) + second;
    folder.write("whole.toml", &text);
    folder.write("parts.toml", &text);
    assert!(run(&folder, &["train", "whole.toml"]).status.success());
    let mut child = lateen(&folder)
        .args(["train", "parts.toml"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let metrics = folder.join("runs/parts/01-pretrain/metrics.jsonl");
    let steps = || fs::read_to_string(&metrics).map_or(0, |text| text.matches("\"event\":\"step\"").count());
    for _ in 0..1000 {
        if steps() >= 20 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill starts").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "it was stopped before its end");
    assert!((20..300).contains(&steps()), "{} steps", steps());
    assert!(errors(&run(&folder, &["train", "parts.toml"])).contains("continuing"));
    let model =
        |run: &str| fs::read(folder.join(&format!("runs/{run}/01-pretrain/model.safetensors"))).expect("a model");
    assert!(model("whole") == model("parts"), "the weights differ");
    folder.write("texts.jsonl", &lines(&texts[1..]));
    let said = errors(&run(&folder, &["train", "parts.toml"]));
    assert!(said.contains("making it again"), "other data is another run: {said}");
}
