//! A tokenizer from the lists of a GGUF file is the one from `tokenizer.json`.

mod support;

use serde_json::Value;
use support::{Dice, fixture, ids, json, qwen, tiny};
use text::{TokenLists, Tokenizer};

/// The lists as llama.cpp's converter writes them from a `tokenizer.json`, with names for rows that have no token.
struct Lists {
    tokens: Vec<String>,
    types: Vec<i64>,
    merges: Vec<String>,
}

impl Lists {
    fn of(name: &str, rows: usize) -> Self {
        let file: Value = json(&format!("{name}/tokenizer.json"));
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![5; rows];
        let mut put = |id: &Value, name: &str, of_type: i64| {
            let id = id.as_u64().unwrap() as usize;
            (tokens[id], types[id]) = (name.to_owned(), of_type);
        };
        file["model"]["vocab"].as_object().unwrap().iter().for_each(|(name, id)| put(id, name, 1));
        for token in file["added_tokens"].as_array().unwrap() {
            let name = token["content"].as_str().unwrap();
            let looks_special = name.starts_with("<|") && name.ends_with("|>");
            let is_control = token["special"].as_bool().unwrap() || looks_special;
            put(&token["id"], name, if is_control { 3 } else { 4 });
        }
        let joined = |merge: &Value| match merge {
            Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            pair => pair.as_str().unwrap().to_owned(),
        };
        let merges = file["model"]["merges"].as_array().unwrap().iter().map(joined).collect();
        Self { tokens, types, merges }
    }

    fn borrowed(&self) -> TokenLists<'_> {
        TokenLists {
            tokens: self.tokens.iter().map(String::as_str).collect(),
            types: self.types.clone(),
            merges: self.merges.iter().map(String::as_str).collect(),
            end_tokens: vec![],
            pad_token: None,
        }
    }
}

fn names(tokenizer: &Tokenizer) -> Vec<(String, u32, bool)> {
    let all = tokenizer.control_tokens().map(|(name, id)| (name.to_owned(), id, tokenizer.is_special(id)));
    all.collect()
}

#[test]
fn every_case_of_the_reference_is_met() {
    let lists = Lists::of("tokenizer_qwen", 151_936);
    let mut lists = lists.borrowed();
    (lists.end_tokens, lists.pad_token) = (vec![151_645], Some(151_643));
    let (tokenizer, wanted) = (lists.tokenizer("a test").unwrap(), qwen());
    let cases = json("tokenizer_cases.json");
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode_with_control(text), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text), wanted.encode(text), "{text:?}");
        assert_eq!(tokenizer.decode(&expected), case["decoded"].as_str().unwrap());
        assert_eq!(tokenizer.decode_without_special(&expected), case["decoded_skip"].as_str().unwrap());
    }
    assert_eq!(names(&tokenizer), names(&wanted));
    assert_eq!(tokenizer.vocabulary_size(), wanted.vocabulary_size());
    assert_eq!((tokenizer.end_tokens(), tokenizer.pad_token()), (wanted.end_tokens(), wanted.pad_token()));
    assert_eq!(tokenizer.fill_end_tokens(), wanted.fill_end_tokens());
}

#[test]
fn control_tokens_may_stand_anywhere_and_rows_be_empty() {
    let mut lists = Lists::of("tokenizer_tiny", 512);
    // The control tokens move behind twenty rows that nothing uses, the last of them to the end of a gap.
    let moved: Vec<(String, i64)> = lists.tokens.drain(486..).zip(lists.types.drain(486..)).collect();
    for row in 486..506 {
        lists.tokens.push(format!("[PAD{row}]"));
        lists.types.push(if row % 2 == 0 { 5 } else { 4 });
    }
    for (name, of_type) in moved {
        lists.tokens.push(name);
        lists.types.push(of_type);
    }
    let tokenizer = lists.borrowed().tokenizer("a test").unwrap();
    let wanted = tiny();
    let mut dice = Dice(9);
    for _ in 0..300 {
        let text = dice.text(20);
        let expected: Vec<u32> =
            wanted.encode_with_control(&text).into_iter().map(|id| if id < 486 { id } else { id + 20 }).collect();
        assert_eq!(tokenizer.encode_with_control(&text), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected), wanted.decode(&wanted.encode_with_control(&text)));
    }
    assert!(tokenizer.token_bytes(490).is_empty() && tokenizer.id("[PAD490]").is_none());
    assert_eq!(tokenizer.id("<|im_end|>"), wanted.id("<|im_end|>").map(|id| id + 20));
}

#[test]
fn a_saved_tokenizer_is_the_same() {
    let folder = std::env::temp_dir().join(format!("lateen-vocabulary-{}", std::process::id()));
    let lists = Lists::of("tokenizer_tiny", 512);
    let tokenizer = lists.borrowed().tokenizer("a test").unwrap();
    tokenizer.save(&folder).unwrap();
    let again = Tokenizer::open(&folder).unwrap();
    assert_eq!(names(&again), names(&tokenizer));
    let original: Value =
        serde_json::from_slice(&std::fs::read(fixture("tokenizer_tiny/tokenizer.json")).unwrap()).unwrap();
    let saved: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(saved["added_tokens"], original["added_tokens"]);
    assert_eq!(saved["model"]["vocab"], original["model"]["vocab"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let whole = Lists::of("tokenizer_tiny", 512);
    let refused = |spoil: &dyn Fn(&mut TokenLists)| {
        let mut lists = whole.borrowed();
        spoil(&mut lists);
        lists.tokenizer("x.gguf").unwrap_err().to_string()
    };
    let cases = [
        (refused(&|lists| lists.types.truncate(511)), "512 tokens and the types of 511"),
        (refused(&|lists| lists.tokens[300] = lists.tokens[301]), "occurs twice"),
        (refused(&|lists| lists.types[300] = 7), "token 300 is of type 7, want 1 to 6"),
        (refused(&|lists| lists.types[0] = 5), "no token stands for the byte 0x21"),
        (refused(&|lists| lists.merges[3] = "ab"), "the merge ab is no pair"),
        (refused(&|lists| lists.merges[3] = "a zzzz"), "is not of ordinary tokens"),
        // A merge into a control token would let a text become one.
        (refused(&|lists| lists.types[lists.tokens.len() - 27] = 3), "is not of ordinary tokens"),
        (refused(&|lists| lists.end_tokens = vec![488, 512]), "has id 512, there are 512 tokens"),
        (refused(&|lists| lists.tokens.clear()), "0 tokens and the types of 512"),
        (refused(&|lists| *lists = TokenLists::default()), "no token stands for the byte 0x00"),
    ];
    for (message, wanted) in cases {
        assert!(message.contains(wanted) && message.contains("x.gguf"), "wanted {wanted:?}: {message}");
    }
}
