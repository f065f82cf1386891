//! What goes wrong is told with what to do, and an exit code that a script can use.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Folder, bad, config, errors, fixtures, good, lateen, run};

#[test]
fn an_unknown_key_of_a_recipe_is_named_with_its_line() {
    let folder = Folder::new("recipe");
    folder.write("tiny.toml", "[[stage]]\nkind = \"quantize\"\nfrom = \"model\"\nformats.expert = \"mxfp4\"\n");
    let said = bad(&folder, 1, &["build", "tiny.toml"]);
    assert!(said.contains("error: tiny.toml:4: unknown field `expert`"), "{said}");
    assert!(said.contains("hint: did you mean experts?"), "{said}");
    let said = bad(&folder, 1, &["build", "nothing.toml"]);
    assert!(said.contains("cannot read the recipe nothing.toml"), "{said}");
}

#[test]
fn a_model_that_is_not_there_lists_those_that_are() {
    let folder = Folder::new("no-model");
    let said = bad(&folder, 1, &["inspect", "nothing"]);
    assert!(said.contains("error: there is no model \"nothing\"") && said.contains("hint: "), "{said}");
    let said = bad(&folder, 1, &["inspect", "."]);
    assert!(said.contains("holds no config.json"), "{said}");
}

#[test]
fn wrong_use_is_exit_code_two() {
    let folder = Folder::new("usage");
    assert!(bad(&folder, 2, &["inspekt"]).contains("unrecognized subcommand"));
    assert!(bad(&folder, 2, &["run", "--temperature", "warm"]).contains("warm"));
    assert!(bad(&folder, 2, &[]).contains("Usage: lateen"));
}

#[test]
fn a_config_that_cannot_be_is_refused_before_anything_is_loaded() {
    let folder = Folder::new("config");
    let model = folder.model("model");
    let path = model.join("config.json");
    let write = |text: &str| fs::write(&path, text).expect("the file can be written");
    let good = config(512);
    let cases = [
        (good.replace("qwen3_next", "llama"), "llama"),
        (good.replace("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3"), "3 kv heads"),
        (good.replace("\"hidden_size\": 32", "\"hidden_size\": 48"), "want shape"),
        ("{".into(), "config.json"),
    ];
    for (text, wanted) in cases {
        write(&text);
        let said = bad(&folder, 1, &["run", "model", "hello"]);
        assert!(said.starts_with("error: ") && said.contains(wanted), "wanted {wanted:?}: {said}");
    }
}

#[test]
fn a_file_that_is_cut_off_says_how_much_is_missing() {
    let folder = Folder::new("truncated");
    let model = folder.model("model");
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("it was written");
    fs::write(&path, &bytes[..bytes.len() - 100]).expect("the file can be written");
    let said = bad(&folder, 1, &["inspect", "model"]);
    assert!(said.contains("is cut off") && said.contains(&bytes.len().to_string()), "{said}");
    fs::write(&path, &bytes[..5]).expect("the file can be written");
    assert!(bad(&folder, 1, &["inspect", "model"]).contains("model.safetensors"));
}

#[test]
fn a_tensor_that_is_missing_is_named() {
    let folder = Folder::new("missing");
    let model = folder.model("model");
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("it was written");
    let name = b"model.layers.1.self_attn.q_proj.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the tensor is there");
    let mut renamed = bytes;
    renamed[at + name.len() - 1] = b'x';
    fs::write(&path, renamed).expect("the file can be written");
    let said = bad(&folder, 1, &["run", "model", "hello"]);
    assert!(said.contains("model.layers.1.self_attn.q_proj.weight") && said.contains("missing"), "{said}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = Folder::new("tokenizer");
    let model = folder.model("model");
    let qwen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/text/tokenizer_tiny/tokenizer.json");
    let text = fs::read_to_string(qwen).expect("the fixture");
    fs::write(model.join("tokenizer.json"), text.replacen("{", "[", 1)).expect("the file can be written");
    let said = bad(&folder, 1, &["run", "model", "hello"]);
    assert!(said.contains("cannot read the tokenizer") && said.contains("hint: a model folder needs"), "{said}");
    fs::remove_file(model.join("tokenizer.json")).expect("it is there");
    assert!(bad(&folder, 1, &["run", "model", "hello"]).contains("tokenizer.json"));
}

#[test]
fn a_text_that_cannot_be_measured_says_why() {
    let folder = Folder::new("texts");
    folder.model("model");
    fs::write(folder.join("latin"), b"caf\xe9 au lait").expect("the file can be written");
    for (name, text) in [("empty.txt", ""), ("short.txt", "a"), ("whole.txt", "a text of some words"), ("no.jsonl", "")]
    {
        folder.write(name, text);
    }
    for (words, wanted) in [
        (&["missing.txt"][..], "cannot read missing.txt"),
        (&["empty.txt"], "empty.txt is empty"),
        (&["short.txt"], "short.txt is a single token"),
        (&["latin"], "latin is not text in UTF-8: byte 3 cannot be read"),
        (&["whole.txt", "--context", "1"], "--context 1 is not from 2 to 1024"),
        (&["whole.txt", "--context", "1025"], "--context 1025 is not from 2 to 1024"),
        (&["no.jsonl"], "there is nothing to measure"),
    ] {
        let said = bad(&folder, 1, &[&["evaluate", "model", "--perplexity"], words].concat());
        assert!(said.contains(wanted), "{words:?}: {said}");
    }
    bad(&folder, 2, &["evaluate", "model", "--context", "64"]);
}

#[test]
fn nobody_reading_on_is_no_failure() {
    let folder = Folder::new("pipe");
    folder.model("model");
    let mut child = lateen(&folder)
        .args(["inspect", "model", "--tensors"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(errors(&output), "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_leaves_nothing_behind() {
    let folder = Folder::new("full");
    folder.model("model");
    let out = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = lateen(&folder).args(["inspect", "model"]).stdout(out).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("No space left on device"), "{}", errors(&output));

    folder.write("tokens.json", "[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]");
    // Files of at most 8 blocks of 512 bytes; the signal is ignored, as a full disk sends none.
    let line =
        "trap '' XFSZ; ulimit -f 8; exec \"$0\" inspect logits model --tokens tokens.json --out logits.safetensors";
    let output = Command::new("sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_lateen")])
        .current_dir(folder.path())
        .output()
        .expect("the shell starts");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no room for logits.safetensors") && said.contains("free some space"), "{said}");
    let left: Vec<String> = fs::read_dir(folder.path())
        .expect("the folder is there")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.contains("logits"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn token_files_are_checked() {
    let folder = Folder::new("tokens");
    folder.model("model");
    for (text, wanted) in [
        ("[1, 2]", "not a list of token lists"),
        ("[]", "there is no sequence"),
        ("[[]]", "sequence 0 is empty"),
        ("[[1], [99999]]", "sequence 1 has token 99999"),
    ] {
        folder.write("tokens.json", text);
        let said =
            bad(&folder, 1, &["inspect", "logits", "model", "--tokens", "tokens.json", "--out", "o.safetensors"]);
        assert!(said.contains(wanted) && said.contains("hint: the file holds a list of lists"), "{text}: {said}");
    }
    folder.write("tokens.json", "[[1]]");
    let said = bad(&folder, 1, &["inspect", "gradients", "model", "--tokens", "tokens.json", "--out", "o.safetensors"]);
    assert!(said.contains("no sequence has a next token"), "{said}");
}

#[test]
fn folders_that_no_build_made_are_left_alone() {
    let folder = Folder::new("foreign");
    folder.model("model");
    folder.write("small.toml", "[[stage]]\nkind = \"quantize\"\nfrom = \"model\"\n");
    let stage = folder.join("runs/small/01-quantize");
    fs::create_dir_all(&stage).expect("the folder can be made");
    fs::write(stage.join("thesis.txt"), "years of work").expect("the file can be written");
    let said = bad(&folder, 1, &["build", "small.toml", "--fresh"]);
    assert!(said.contains("no build made it") && said.contains("hint: move it away"), "{said}");
    assert!(stage.join("thesis.txt").is_file());
}

#[test]
fn compare_tells_methods_that_cannot_be_from_those_that_can() {
    let folder = Folder::new("compare");
    folder.model("model");
    let compare = |more: &[&'static str]| [&["compare", "model", "--keep", "3", "--tokens", "5000"], more].concat();
    folder.write("wrong.toml", "[[method]]\nname = \"mine\"\nplan = { merges = true }\n");
    let said = bad(&folder, 1, &compare(&["--methods", "wrong.toml"]));
    assert!(said.contains("wrong.toml is no list of methods") && said.contains("merges"), "{said}");
    assert!(bad(&folder, 1, &compare(&["--seeds", "0"])).contains("compares nothing"));
    folder.write(
        "mine.toml",
        "[[method]]\nname = \"nothing refitted\"\nplan = { merge = true }\nmerge = { refit = \"none\" }\n",
    );
    let said = good(&folder, &compare(&["--methods", "mine.toml", "--json"]));
    let found: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
    let found = found.as_array().expect("one entry to each method");
    assert_eq!(found.len(), 8);
    assert_eq!(found[7]["method"], "nothing refitted");
    assert!(found.iter().all(|found| found["keep"] == 3 && found["seeds"][0]["mean"].as_f64() > Some(0.0)), "{said}");
}

#[test]
fn compress_wants_something_to_do_and_a_place_of_its_own() {
    let folder = Folder::new("compress");
    folder.model("model");
    assert!(bad(&folder, 1, &["compress", "model", "--out", "x"]).contains("nothing is to be done"));
    let said = bad(&folder, 1, &["compress", "model", "--out", "model", "--quantize", "q8-0"]);
    assert!(said.contains("holds a model already"), "{said}");
    let said = bad(&folder, 1, &["compress", "model", "--out", "x", "--keep", "1", "--tokens", "500"]);
    assert!(said.contains("keep from 2 to 4"), "{said}");
    good(&folder, &["compress", "model", "--out", "y", "--quantize", "q8-0"]);
    assert!(run(&folder, &["inspect", "y"]).status.success());
}

#[test]
fn a_gguf_file_that_cannot_be_used_says_why() {
    let folder = Folder::new("gguf-failures");
    let whole = fs::read(fixtures().join("oracle/gguf/qwen3.q8_0.gguf")).expect("the fixture reads");
    let said = bad(&folder, 1, &["run", "model.gguf", "hello"]);
    assert!(said.contains("error: there is no file model.gguf"), "{said}");
    fs::write(folder.join("model.gguf"), &whole[..whole.len() - 100]).expect("the file can be written");
    for words in [&["run", "model.gguf", "hello"][..], &["inspect", "model.gguf"]] {
        let said = bad(&folder, 1, words);
        assert!(said.contains("model.gguf is cut off") && said.contains(&whole.len().to_string()), "{said}");
    }
    fs::write(folder.join("model.gguf"), "not a model").expect("the file can be written");
    assert!(bad(&folder, 1, &["inspect", "model.gguf"]).contains("wanted it to begin with \"GGUF\""));
    fs::write(folder.join("model.gguf"), &whole).expect("the file can be written");
    let said = bad(&folder, 1, &["compress", "model.gguf", "--keep", "2", "--out", "small"]);
    assert!(said.contains("can be run and measured, but not trained or pruned") && said.contains("hint: "), "{said}");
}

/// Many heads and a long context: keys and values that no machine holds, for a model of a few hundred kilobytes.
#[test]
fn what_does_not_fit_is_refused_with_the_numbers_before_anything_is_loaded() {
    let folder = Folder::new("memory");
    folder.model_of("model", |config| {
        config
            .replace("\"max_position_embeddings\": 1024", "\"max_position_embeddings\": 16777216")
            .replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 256")
            .replace("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 256")
    });
    let long = ["--context", "16777216"];
    let plan = |more: &[&str]| {
        let text = good(&folder, &[&["plan", "model", "--json"], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON")
    };
    let short = plan(&[]);
    assert_eq!((&short["fits"], &short["context"], &short["kv"]), (&true.into(), &8192.into(), &"f16".into()));
    assert_eq!(short["plan"]["cache"], 8192 * 2 * 2 * 256 * 16);
    assert_eq!(plan(&["--kv", "int8"])["plan"]["cache"], 8192 * 2 * 256 * 20);
    let found = plan(&long);
    assert_eq!((&found["fits"], &found["plan"]["weights"]), (&false.into(), &short["plan"]["weights"]));
    let fits = found["context_max"].as_u64().expect("a number");
    assert!(fits > 8192 && plan(&["--context", &(fits / 2).to_string()])["fits"] == true, "{found}");
    let said = good(&folder, &[&["plan", "model"], &long[..]].concat());
    assert!(said.contains("it does not fit; with a context of"), "{said}");

    for verb in [&["run", "model", "hello"][..], &["complete", "model", "--prefix-text", "x"]] {
        let said = bad(&folder, 1, &[verb, &long[..]].concat());
        assert!(said.contains("does not fit into memory") && said.contains("tokens in f16 275 GB"), "{said}");
        assert!(said.contains("hint: --context ") && said.contains("--kv int8 takes 103 GB less"), "{said}");
    }
    let said = bad(&folder, 1, &["bench", "model", "-p", "8", "--depth", "16777000", "-n", "0"]);
    assert!(said.contains("does not fit into memory"), "{said}");
    let said = bad(&folder, 1, &["run", "model", "hello", "--context", "16777217"]);
    assert!(said.contains("--context 16777217 is not from 1 to 16777216"), "{said}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_and_an_answer_ends_there() {
    let folder = Folder::new("context");
    folder.model("model");
    let said = bad(&folder, 1, &["run", "model", "--raw", "one two three four five six seven", "--context", "3"]);
    assert!(said.contains("the context is one of 3"), "{said}");
    let text = good(&folder, &["complete", "model", "--prefix-text", "a", "--context", "12", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let all = found["prompt_tokens"].as_u64().expect("a number") + found["tokens"].as_u64().expect("a number");
    assert!(all <= 13 && (found["finish"] == "stop" || all == 13), "{found}");
}
