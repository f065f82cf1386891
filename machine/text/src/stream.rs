//! Tokens to text while they arrive: characters split over tokens are held back until they are whole, and so is text
//! that may yet turn out to be the beginning of a stop string.

use crate::tokenizer::Tokenizer;

/// Texts that end an answer. The one that is complete first wins; of those, the longest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopStrings(Vec<String>);

impl StopStrings {
    /// Empty texts are left out: they would stop everything.
    pub fn new<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self(texts.into_iter().map(Into::into).filter(|text| !text.is_empty()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where in `text` a stop string begins, and which.
    fn find(&self, text: &str) -> Option<(usize, &str)> {
        let hits =
            self.0.iter().filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start, stop.as_str())));
        hits.min_by_key(|&(end, start, _)| (end, start)).map(|(_, start, stop)| (start, stop))
    }

    /// How many bytes at the end of `text` may be the beginning of a stop string.
    fn begun(&self, text: &str) -> usize {
        self.0.iter().map(|stop| begun(text, stop)).max().unwrap_or(0)
    }
}

/// The length of the longest end of `text` that begins `word` without being all of it.
pub(crate) fn begun(text: &str, word: &str) -> usize {
    let longest = text.len().min(word.len() - 1);
    (1..=longest).rev().find(|&length| text.as_bytes().ends_with(&word.as_bytes()[..length])).unwrap_or(0)
}

/// Turns tokens into text piece by piece. All pieces together are `decode_without_special` of all tokens, up to the
/// first stop string.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    stops: StopStrings,
    /// Bytes of a character that is not whole yet; at most three.
    pending: Vec<u8>,
    /// Text that may belong to a stop string.
    held: String,
    stopped: Option<String>,
}

impl Detokenizer {
    pub fn new(stops: StopStrings) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Takes one token and gives the text that is now safe to show. Special tokens have no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_special(id) { String::new() } else { self.push_bytes(tokenizer.token_bytes(id)) }
    }

    /// Takes the bytes of one token.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        self.pending.extend_from_slice(bytes);
        self.take_whole_characters();
        self.release()
    }

    /// The end of the tokens: what was held back is shown, and a broken character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        if !self.pending.is_empty() {
            self.pending.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        let text = self.release();
        if self.stopped.is_some() { text } else { text + &std::mem::take(&mut self.held) }
    }

    /// The stop string that ended the text, if one did.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Moves from `pending` to `held` everything that no further byte can change.
    fn take_whole_characters(&mut self) {
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(broken) = error.error_len() else { break };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        self.pending = rest.to_vec();
    }

    fn release(&mut self) -> String {
        if let Some((start, stop)) = self.stops.find(&self.held) {
            self.stopped = Some(stop.to_owned());
            self.held.truncate(start);
            self.pending.clear();
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.begun(&self.held);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
        let mut detokenizer = Detokenizer::new(StopStrings::new(stops.iter().copied()));
        let mut out: Vec<String> = pieces.iter().map(|piece| detokenizer.push_bytes(piece)).collect();
        out.push(detokenizer.finish());
        (out, detokenizer.stopped_by().map(str::to_owned))
    }

    #[test]
    fn characters_are_shown_when_they_are_whole() {
        let crab = "🦀".as_bytes();
        assert_eq!(run(&[], &[&crab[..1], &crab[1..3], &crab[3..], b"x"]).0, ["", "", "🦀", "x", ""]);
        // A byte that cannot continue shows the loss at once; one that never comes, at the end.
        assert_eq!(run(&[], &[&crab[..2], b"x", &crab[..3]]).0, ["", "\u{FFFD}x", "", "\u{FFFD}"]);
        assert_eq!(run(&[], &[b"a\xff\xc3", b"\xa9"]).0, ["a\u{FFFD}", "é", ""]);
    }

    #[test]
    fn stop_strings_are_held_back_and_found() {
        let (out, by) = run(&["\nUser:", "END"], &[b"a\nUs", b"e", b"d\nUser", b": x", b"y"]);
        assert_eq!(out, ["a", "", "\nUsed", "", "", ""]);
        assert_eq!(by.as_deref(), Some("\nUser:"));
        let (out, by) = run(&["END"], &[b"EN"]);
        assert_eq!((out, by), (vec![String::new(), "EN".into()], None));
        // What is complete first wins, however the text arrives.
        assert_eq!(run(&["abcX", "c"], &[b"abcX"]).0, ["ab", ""]);
        assert_eq!(run(&["abcX", "c"], &[b"a", b"b", b"c", b"X"]).0.concat(), "ab");
        assert_eq!(run(&["", "bc", "abc"], &[b"zab", b"cd"]).1.as_deref(), Some("abc"));
    }
}
