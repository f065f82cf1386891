//! The streaming detokenizer against decoding everything at once.

mod support;

use support::{Dice, tiny};
use text::{Detokenizer, StopStrings};

#[test]
fn pieces_are_the_whole() {
    let tokenizer = tiny();
    let mut dice = Dice(4);
    for _ in 0..500 {
        // Tokens of a text, and tokens that no text would give.
        let mut ids = tokenizer.encode(&dice.text(20));
        for _ in 0..dice.below(8) {
            ids.insert(dice.below(ids.len() + 1), dice.below(520) as u32);
        }
        let mut detokenizer = Detokenizer::new(StopStrings::default());
        let mut shown: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
        shown += &detokenizer.finish();
        assert_eq!(shown, tokenizer.decode_without_special(&ids));
    }
}

#[test]
fn any_cut_of_the_bytes_gives_the_same_text() {
    let mut dice = Dice(6);
    let stop_sets: [&[&str]; 4] =
        [&[], &["\n\n"], &["hello world", "lo", "🦀"], &["<|im_end|>", "</tool_call>", "中文한"]];
    for round in 0..2000 {
        let mut bytes = dice.text(25).into_bytes();
        if !bytes.is_empty() && round % 3 == 0 {
            let at = dice.below(bytes.len());
            bytes[at] = dice.below(256) as u8;
        }
        let stops = StopStrings::new(stop_sets[round % 4].iter().copied());
        let mut at_once = Detokenizer::new(stops.clone());
        let expected = at_once.push_bytes(&bytes) + &at_once.finish();
        let mut detokenizer = Detokenizer::new(stops);
        let mut shown = String::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + dice.below(rest.len().min(5)));
            shown += &detokenizer.push_bytes(piece);
            rest = after;
        }
        shown += &detokenizer.finish();
        assert_eq!(shown, expected);
        assert_eq!(detokenizer.stopped_by(), at_once.stopped_by());
        let whole = String::from_utf8_lossy(&bytes);
        match detokenizer.stopped_by() {
            Some(stop) => assert!(whole.starts_with(&format!("{shown}{stop}"))),
            None => assert_eq!(shown, whole),
        }
    }
}
