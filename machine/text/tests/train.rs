//! Training of tokenizers.

mod support;

use support::Dice;
use text::{TextError, Tokenizer, train};

fn corpus(seed: u64) -> Vec<String> {
    let mut dice = Dice(seed);
    let words = [
        "let", " value", " = ", "compute", "(", ")", ";\n", "    ", "return", " total", "naïve", " 世界", "12", "aaaa",
    ];
    (0..400).map(|_| (0..40).map(|_| dice.pick(&words)).collect::<String>() + "<|im_end|>").collect()
}

fn saved(tokenizer: &Tokenizer, name: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = std::env::temp_dir().join(format!("lateen-train-{name}-{}", std::process::id()));
    tokenizer.save(&folder).unwrap();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let both = (read("tokenizer.json"), read("tokenizer_config.json"));
    std::fs::remove_dir_all(&folder).unwrap();
    both
}

#[test]
fn the_same_texts_give_the_same_tokenizer_in_any_order() {
    let texts = corpus(1);
    let first = saved(&train::train(&texts, 350).unwrap(), "a");
    let second = saved(&train::train(texts.iter().rev(), 350).unwrap(), "b");
    assert!(first == second);
    assert!(first != saved(&train::train(corpus(2).iter().take(9), 350).unwrap(), "c"));
}

#[test]
fn a_trained_tokenizer_has_the_form_of_the_family() {
    let texts = corpus(1);
    let tokenizer = train::train(&texts, 350).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 350);
    for (index, (name, special)) in train::CONTROL_TOKENS.iter().enumerate() {
        let id = (350 - 26 + index) as u32;
        assert_eq!(tokenizer.id(name), Some(id));
        assert_eq!(tokenizer.is_special(id), *special);
    }
    assert_eq!(tokenizer.end_tokens(), [326, 324]);
    let plain: usize = texts.iter().map(|text| tokenizer.encode(text).len()).sum();
    let bytes: usize = texts.iter().map(String::len).sum();
    assert!(plain * 2 < bytes, "{plain} tokens for {bytes} bytes");
    assert_eq!(tokenizer.encode("1234").len(), 4);
    let (_, config) = saved(&tokenizer, "form");
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["tokenizer_class"], "Qwen2Tokenizer");
    assert_eq!((&config["eos_token"], &config["pad_token"]), (&"<|im_end|>".into(), &"<|endoftext|>".into()));
    assert_eq!(config["added_tokens_decoder"]["324"]["content"], "<|endoftext|>");
}

#[test]
fn merges_are_the_most_frequent_pairs() {
    // "ab" 6 times, "cd" 5 times, "abcd" never within one word more often than that.
    let texts = ["ab ab ab cd cd cd cd", "ab ab ab cd"];
    let tokenizer = train::train(texts, 256 + 26 + 2).unwrap();
    // " ab" is a word: the pairs " a" and "ab" occur 5 and 6 times.
    assert_eq!(tokenizer.token_bytes(256), b"ab");
    assert_eq!(tokenizer.token_bytes(257), b"cd");
    assert_eq!(tokenizer.decode(&tokenizer.encode("abcd")), "abcd");
}

#[test]
fn any_text_and_any_bytes_come_back() {
    let tokenizer = train::train(corpus(1), 350).unwrap();
    let mut dice = Dice(5);
    for _ in 0..300 {
        let text = dice.text(30);
        let normal = tokenizer.decode(&tokenizer.encode(&text));
        // NFC joins a letter and a combining accent; a second pass changes nothing more.
        assert_eq!(tokenizer.decode(&tokenizer.encode(&normal)), normal);
        if !text.contains('\u{301}') {
            assert_eq!(normal, text);
        }
        let bytes: Vec<u8> = (0..dice.below(40)).map(|_| dice.below(256) as u8).collect();
        let lossy = String::from_utf8_lossy(&bytes);
        let once = tokenizer.decode(&tokenizer.encode(&lossy));
        assert_eq!(tokenizer.decode(&tokenizer.encode(&once)), once);
        if lossy.chars().all(|c| c < '\u{300}' || c == '\u{FFFD}') {
            assert_eq!(once, lossy);
        }
    }
    for byte in 0..=255u8 {
        assert!((0..256).any(|id| tokenizer.token_bytes(id) == [byte]));
    }
}

#[test]
fn too_little_text_or_too_small_a_vocabulary_is_an_error() {
    let error = train::train(["abc abc"], 1000).unwrap_err();
    assert!(matches!(error, TextError::TooLittleText { wanted: 1000, reached } if reached < 300), "{error}");
    assert!(matches!(train::train(["abc"], 200), Err(TextError::VocabularyTooSmall { least: 282, .. })));
}
