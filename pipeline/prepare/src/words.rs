//! The words of documents: what is compared when data is looked through for duplicates and for what is measured.

use crate::source::Raw;
use serde_json::Value;
use text::{Document, Role};

/// Words and their hashes: letters, digits and `_` in a row, whatever their case. Punctuation is passed over.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_of_word(c)).filter(|word| !word.is_empty())
}

/// Words, and every character of punctuation as a word of its own: in code a minus for a plus is another text.
pub(crate) fn symbols(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let length = match is_of_word(first) {
            true => rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (symbol, behind) = rest.split_at(length);
        rest = behind;
        Some(symbol)
    })
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A hash of a word that is the same on every machine, in either case.
pub(crate) fn hash(word: &str) -> u64 {
    let mixed = word.chars().flat_map(char::to_lowercase).fold(0xCBF2_9CE4_8422_2325_u64, |state, c| {
        let state = (state ^ u64::from(u32::from(c))).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^ (state >> 32)
    });
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (mixed >> 29)
}

/// Hands out the texts of a document that its author wrote, and whether the model is to learn them. System texts and
/// tools are left out: whole data sets share them.
pub(crate) fn texts(raw: &Raw, each: &mut dyn FnMut(&str, bool)) {
    match &raw.document {
        Document::Chat { messages, .. } => {
            for message in messages.iter().filter(|message| message.role != Role::System) {
                let is_learnt = message.role == Role::Assistant;
                each(&message.content, is_learnt);
                message.reasoning_content.iter().for_each(|text| each(text, is_learnt));
                for call in &message.tool_calls {
                    each(&call.name, is_learnt);
                    call.arguments.values().for_each(|value| texts_within(value, &mut |text| each(text, is_learnt)));
                }
            }
        }
        Document::FillInTheMiddle { prefix, middle, suffix } => {
            each(prefix, false);
            each(middle, true);
            each(suffix, false);
        }
        Document::Repository { files, fill, .. } => {
            files.iter().for_each(|file| each(&file.text, fill.is_none()));
            if let Some(fill) = fill {
                each(&fill.prefix, false);
                each(&fill.middle, true);
                each(&fill.suffix, false);
            }
        }
        Document::Plain { text } => each(text, true),
        Document::Completion { prompt, completion } => {
            each(prompt, false);
            each(completion, true);
        }
    }
}

/// The texts of a JSON value, keys not among them.
pub(crate) fn texts_within(value: &Value, each: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(values) => values.iter().for_each(|value| texts_within(value, each)),
        Value::Object(fields) => fields.values().for_each(|value| texts_within(value, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pass_over_punctuation_and_symbols_do_not() {
        let text = "Größe_1 = a-b;\n\tx+=\"é\"";
        assert_eq!(words(text).collect::<Vec<_>>(), ["Größe_1", "a", "b", "x", "é"]);
        let all = ["Größe_1", "=", "a", "-", "b", ";", "x", "+", "=", "\"", "é", "\""];
        assert_eq!(symbols(text).collect::<Vec<_>>(), all);
        assert_eq!(hash("GRÖSSE"), hash("größe".replace('ß', "ss").as_str()));
        assert_ne!(hash("ab"), hash("ba"));
    }
}
