//! The tokenizer of a GGUF file gives the ids of the one in `tokenizer.json`, and a file without a whole one says so.

#[path = "../../machine/formats/tests/gguf_writer/mod.rs"]
pub(super) mod gguf_writer;

use super::{open_text, tokenizer};
use formats::Gguf;
use gguf_writer::GgufWriter;
use serde_json::Value;
use std::path::PathBuf;
use text::{Message, RenderOptions, Role, Template, Tokenizer};

fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path)
}

fn json(path: &str) -> Value {
    formats::read_json(fixtures(path)).expect("a fixture reads")
}

/// The file that llama.cpp's converter writes of a tokenizer: rows without a token have names, and whatever looks like
/// a control token is one.
fn converted(folder: &str, rows: usize) -> GgufWriter {
    let file = json(&format!("{folder}/tokenizer.json"));
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![5; rows];
    let mut put = |id: &Value, name: &str, of_type: i32| {
        let id = id.as_u64().expect("an id") as usize;
        (tokens[id], types[id]) = (name.to_owned(), of_type);
    };
    let vocabulary = file["model"]["vocab"].as_object().expect("a vocabulary");
    vocabulary.iter().for_each(|(name, id)| put(id, name, 1));
    for token in file["added_tokens"].as_array().expect("added tokens") {
        let name = token["content"].as_str().expect("a name");
        put(&token["id"], name, if name.starts_with("<|") { 3 } else { 4 });
    }
    let pair = |merge: &Value| match merge {
        Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        pair => pair.as_str().expect("a merge").to_owned(),
    };
    let merges: Vec<String> = file["model"]["merges"].as_array().expect("merges").iter().map(pair).collect();
    fn borrowed(all: &[String]) -> Vec<&str> {
        all.iter().map(String::as_str).collect()
    }
    let mut writer = GgufWriter::new();
    writer.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    writer.texts("tokenizer.ggml.tokens", &borrowed(&tokens));
    writer.integers("tokenizer.ggml.token_type", &types);
    writer.texts("tokenizer.ggml.merges", &borrowed(&merges));
    writer.number("tokenizer.ggml.eos_token_id", 151_645).number("tokenizer.ggml.padding_token_id", 151_643);
    writer.flag("tokenizer.ggml.add_bos_token", false);
    writer
}

fn read(writer: &GgufWriter) -> anyhow::Result<Tokenizer> {
    tokenizer(&Gguf::from_bytes("test.gguf", writer.written()).expect("it is sound"))
}

#[test]
fn every_case_of_the_reference_is_met() {
    let found = read(&converted("text/tokenizer_qwen", 151_936)).expect("it is whole");
    let cases = json("text/tokenizer_cases.json");
    for case in cases.as_array().expect("cases") {
        let text = case["text"].as_str().expect("a text");
        let wanted: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(found.encode_with_control(text), wanted, "{text:?}");
        assert_eq!(found.decode_without_special(&wanted), case["decoded_skip"].as_str().expect("a text"));
    }
    assert_eq!((found.end_tokens(), found.pad_token()), (&[151_645, 151_643][..], Some(151_643)));
}

#[test]
fn the_oracles_files_have_the_tiny_tokenizer_and_template() {
    let wanted = Tokenizer::open(&fixtures("text/tokenizer_tiny")).expect("the fixture opens");
    let written = Template::open(&fixtures("text/tokenizer_tiny")).expect("the fixture opens");
    let text = "<|im_start|>user\nfn main() {}\n\u{e9} \u{4e2d} 123<|im_end|><tool_call><|fim_middle|>";
    let messages = [Message::new(Role::System, "Be brief."), Message::new(Role::User, text)];
    for case in ["qwen2", "qwen3", "qwen3_moe", "qwen3_next"] {
        let (found, template) = open_text(&fixtures(&format!("oracle/gguf/{case}.q8_0.gguf"))).expect("it opens");
        assert_eq!(found.encode_with_control(text), wanted.encode_with_control(text));
        assert_eq!(found.encode(text), wanted.encode(text));
        let control = |tokenizer: &Tokenizer| -> Vec<(String, u32, bool)> {
            let all = tokenizer.control_tokens();
            all.map(|(name, id)| (name.to_owned(), id, tokenizer.is_special(id))).collect()
        };
        assert_eq!(control(&found), control(&wanted), "{case}");
        assert_eq!((found.end_tokens(), found.pad_token()), (wanted.end_tokens(), wanted.pad_token()));
        let prompt = |template: &Template| template.render(&messages, &[], &RenderOptions::prompt(), &wanted);
        assert_eq!(prompt(&template).expect("it renders"), prompt(&written).expect("it renders"));
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let whole = GgufWriter::copy_of(&Gguf::open(fixtures("oracle/gguf/qwen2.q8_0.gguf")).expect("it opens"));
    let refused = |writer: &GgufWriter| format!("{:#}", read(writer).expect_err("it is not whole"));
    for key in ["model", "pre", "tokens", "token_type", "merges"] {
        let name = format!("tokenizer.ggml.{key}");
        let message = refused(&whole.clone().without_key(&name));
        assert!(message.contains(&format!("test.gguf: the key {name} is missing")), "{message}");
    }
    let with = |key: &str, spoil: &dyn Fn(&mut GgufWriter, &str)| {
        let name = format!("tokenizer.ggml.{key}");
        let mut writer = whole.clone().without_key(&name);
        spoil(&mut writer, &name);
        refused(&writer)
    };
    let cases = [
        (with("model", &|w, key| _ = w.text(key, "llama")), "is \"llama\", want \"gpt2\""),
        (with("pre", &|w, key| _ = w.text(key, "llama-bpe")), "is \"llama-bpe\", want \"qwen2\""),
        (with("add_bos_token", &|w, key| _ = w.flag(key, true)), "is true, want false"),
        (with("tokens", &|w, key| _ = w.integers(key, &[1])), "is an array of 1 × i32, want an array of strings"),
        (with("tokens", &|w, key| _ = w.texts(key, &["a"])), "1 tokens and the types of 512"),
        (with("eos_token_id", &|w, key| _ = w.number(key, 9999)), "has id 9999, there are 512 tokens"),
        (with("eos_token_id", &|w, key| _ = w.text(key, "x")), "want the id of a token"),
    ];
    for (message, wanted) in cases {
        assert!(message.contains(wanted), "wanted {wanted:?}: {message}");
    }
}
