//! Control tokens: the added tokens of a vocabulary, which are matched in text before anything else.

use crate::error::TextError;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;

/// One entry of `added_tokens` in tokenizer.json.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ControlToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) special: bool,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ControlTokens {
    tokens: Vec<ControlToken>,
    by_name: HashMap<String, usize>,
    by_id: HashMap<u32, usize>,
    /// Indices of the tokens that begin with a byte, longest first.
    by_first_byte: HashMap<u8, Vec<usize>>,
}

impl ControlTokens {
    pub(crate) fn new(tokens: Vec<ControlToken>, origin: &str) -> Result<Self, TextError> {
        let mut by_first_byte: HashMap<u8, Vec<usize>> = HashMap::new();
        for (index, token) in tokens.iter().enumerate() {
            let Some(&first) = token.content.as_bytes().first() else {
                let reason = format!("added token {} is empty", token.id);
                return Err(TextError::Tokenizer { origin: origin.into(), reason });
            };
            by_first_byte.entry(first).or_default().push(index);
        }
        for indices in by_first_byte.values_mut() {
            indices.sort_by_key(|&index| std::cmp::Reverse(tokens[index].content.len()));
        }
        let by_name = tokens.iter().enumerate().map(|(index, token)| (token.content.clone(), index)).collect();
        let by_id = tokens.iter().enumerate().map(|(index, token)| (token.id, index)).collect();
        Ok(Self { tokens, by_name, by_id, by_first_byte })
    }

    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).map(|&index| self.tokens[index].id)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&ControlToken> {
        self.by_id.get(&id).map(|&index| &self.tokens[index])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ControlToken> {
        self.tokens.iter()
    }

    /// The occurrences in `text`, leftmost first and the longest at each place, that touch none of the `protected`
    /// ranges (sorted, disjoint). A token that swallows the white space beside it has that in its range.
    pub(crate) fn find(&self, text: &str, protected: &[Range<usize>]) -> Vec<(Range<usize>, u32)> {
        let bytes = text.as_bytes();
        let mut found: Vec<(Range<usize>, u32)> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let hit = self.by_first_byte.get(&bytes[at]).and_then(|candidates| {
                candidates.iter().map(|&index| &self.tokens[index]).find(|token| {
                    bytes[at..].starts_with(token.content.as_bytes())
                        && (!token.single_word || stands_alone(text, at, at + token.content.len()))
                        && !touches(protected, &(at..at + token.content.len()))
                })
            });
            let Some(token) = hit else {
                at += 1;
                continue;
            };
            let mut range = at..at + token.content.len();
            if token.lstrip {
                let floor = found.last().map_or(0, |(range, _)| range.end);
                range.start = floor + text[floor..at].trim_end().len();
            }
            if token.rstrip {
                range.end = text.len() - text[range.end..].trim_start().len();
            }
            at = range.end;
            found.push((range, token.id));
        }
        found
    }
}

/// Does any of the sorted, disjoint ranges overlap this one?
fn touches(sorted: &[Range<usize>], range: &Range<usize>) -> bool {
    let first = sorted.partition_point(|other| other.end <= range.start);
    sorted.get(first).is_some_and(|other| other.start < range.end)
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..start].chars().next_back().is_some_and(is_word) && !text[end..].chars().next().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> ControlTokens {
        let one = |id, content: &str| ControlToken {
            id,
            content: content.into(),
            special: false,
            single_word: false,
            lstrip: false,
            rstrip: false,
        };
        let mut wide = one(4, "<wide>");
        (wide.lstrip, wide.rstrip) = (true, true);
        let mut word = one(5, "mask");
        word.single_word = true;
        ControlTokens::new(vec![one(1, "<a>"), one(2, "<a><b>"), one(3, "<c>"), wide, word], "test").unwrap()
    }

    #[test]
    fn the_longest_wins_unless_protected() {
        assert_eq!(tokens().find("x<a><b><c>", &[]), vec![(1..7, 2), (7..10, 3)]);
        assert_eq!(tokens().find("x<a><b><c>", std::slice::from_ref(&(5..6))), vec![(1..4, 1), (7..10, 3)]);
        assert_eq!(tokens().find("x<a><b><c>", &[0..1, 2..3, 9..20]), vec![]);
    }

    #[test]
    fn flags_of_a_token_are_followed() {
        assert_eq!(tokens().find("<a>  <wide> \n x", &[]), vec![(0..3, 1), (3..14, 4)]);
        assert_eq!(tokens().find("mask unmask masks é mask", &[]), vec![(0..4, 5), (21..25, 5)]);
    }

    #[test]
    fn an_empty_token_is_refused() {
        let empty = ControlToken {
            id: 9,
            content: String::new(),
            special: true,
            single_word: false,
            lstrip: false,
            rstrip: false,
        };
        assert!(ControlTokens::new(vec![empty], "test").is_err());
    }
}
