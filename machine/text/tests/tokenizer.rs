//! The tokenizer against ids that the Hugging Face library gave.

mod support;

use support::{Dice, fixture, ids, json, qwen, tiny};
use text::Tokenizer;

#[test]
fn every_case_of_the_reference_is_met() {
    let tokenizer = qwen();
    let cases = json("tokenizer_cases.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 400);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode_with_control(text), expected, "{text:?}");
        // The normaliser is NFC, so a decoded text may differ from the text; the reference says how.
        assert_eq!(tokenizer.decode(&expected), case["decoded"].as_str().unwrap());
        assert_eq!(tokenizer.decode_without_special(&expected), case["decoded_skip"].as_str().unwrap());
        let guarded = tokenizer.encode_guarded(text, &[]);
        assert_eq!(guarded.iter().map(|token| token.id).collect::<Vec<_>>(), expected);
        if !expected.iter().any(|&id| tokenizer.is_control(id)) {
            assert_eq!(tokenizer.encode(text), expected);
        }
    }
    assert_eq!(tokenizer.vocabulary_size(), 151_669);
    assert_eq!(tokenizer.id("<|im_end|>"), Some(151_645));
    assert_eq!(tokenizer.end_tokens(), [151_645, 151_643]);
    assert_eq!(tokenizer.pad_token(), Some(151_643));
    assert_eq!(tokenizer.fill_end_tokens(), [151_645, 151_643, 151_662, 151_663, 151_664]);
    assert_eq!(tokenizer.token_bytes(220), b" ");
    assert!(tokenizer.token_bytes(1 << 30).is_empty());
}

#[test]
fn text_of_others_never_becomes_a_control_token() {
    let tokenizer = tiny();
    let names: Vec<String> = tokenizer.control_tokens().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), 26);
    for name in &names {
        let ids = tokenizer.encode(&format!("a{name}b"));
        assert!(ids.iter().all(|&id| !tokenizer.is_control(id)), "{name}");
        assert_eq!(tokenizer.decode(&ids), format!("a{name}b"));
        let inside = format!("{name}{name}");
        let guarded = tokenizer.encode_guarded(&inside, std::slice::from_ref(&(name.len() + 1..name.len() + 2)));
        assert_eq!(guarded.iter().filter(|token| token.is_control).count(), 1, "{name}");
        assert!(guarded[0].is_control && guarded[0].range == (0..name.len()));
    }
}

#[test]
fn ranges_cover_the_text_in_order() {
    let tokenizer = tiny();
    let mut dice = Dice(3);
    for _ in 0..300 {
        // A combining accent that NFC joins to its letter has no token of its own.
        let text = dice.text(20).replace('\u{301}', "");
        let tokens = tokenizer.encode_guarded(&text, &[]);
        let mut end = 0;
        for token in &tokens {
            assert!(token.range.start <= end && token.range.end >= end, "{text:?}: {tokens:?}");
            end = token.range.end;
        }
        assert_eq!(end, text.len());
    }
}

#[test]
fn a_saved_tokenizer_is_the_same() {
    let folder = std::env::temp_dir().join(format!("lateen-text-{}", std::process::id()));
    let tokenizer = tiny();
    tokenizer.save(&folder).unwrap();
    let original = std::fs::read(fixture("tokenizer_tiny/tokenizer.json")).unwrap();
    assert_eq!(std::fs::read(folder.join("tokenizer.json")).unwrap(), original);
    let again = Tokenizer::open(&folder).unwrap();
    assert_eq!(again.encode_with_control("<|im_start|>héllo"), tokenizer.encode_with_control("<|im_start|>héllo"));
    assert_eq!(again.end_tokens(), tokenizer.end_tokens());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn unusable_files_are_refused_with_a_reason() {
    let shown = |json: &str| Tokenizer::from_json(json.as_bytes().to_vec()).unwrap_err().to_string();
    assert!(shown("{").contains("cannot be used"));
    let other = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
        "decoder":null,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    assert!(shown(other).contains("byte-level"));
    let missing = Tokenizer::open(&fixture("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
}

#[test]
fn long_texts_without_words_are_encoded() {
    let tokenizer = tiny();
    for text in [" ".repeat(300_000), "a".repeat(100_000), "\n".repeat(100_000), "🦀".repeat(50_000)] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
    }
    // The pattern leaves the last space to the word, however long the run before it.
    for spaces in [10, 1000, 200_000] {
        let expected = [tokenizer.encode(&" ".repeat(spaces - 1)), tokenizer.encode(" a")].concat();
        assert_eq!(tokenizer.encode(&(" ".repeat(spaces) + "a")), expected, "{spaces}");
    }
}
