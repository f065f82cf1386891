//! What is measured with is not trained on: documents that share a run of words with an evaluation file are found.
//!
//! Runs of thirteen words, as GPT-3's authors looked for them (Brown et al. 2020, appendix C), without their case and
//! their punctuation. Shorter texts than a run cannot be found this way, and are counted.

use crate::error::PrepareError;
use crate::overlap::runs;
use crate::read::all_texts;
use crate::source::Raw;
use crate::words::{hash, texts, words};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// The runs of all evaluation files.
#[derive(Debug, Default)]
pub(crate) struct Evaluations {
    words: usize,
    runs: HashMap<u64, u32>,
    /// The record that a run was first seen in.
    records: Vec<String>,
    pub(crate) too_short: usize,
}

/// A document that gives something away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The document.
    pub origin: String,
    /// The record that is measured with.
    pub evaluation: String,
    /// The words that both have.
    pub shared: String,
}

impl Evaluations {
    /// Reads the files. Every text in them counts, whatever its field is called.
    pub(crate) fn read(files: &[PathBuf], words_in_run: usize) -> Result<Self, PrepareError> {
        let mut all = Self { words: words_in_run, ..Self::default() };
        for file in files {
            all_texts(file, |origin, text| all.add(origin, text))?;
        }
        Ok(all)
    }

    fn add(&mut self, origin: &str, text: &str) {
        let hashes: Vec<u64> = words(text).map(hash).collect();
        self.too_short += usize::from(hashes.len() < self.words && hashes.len() > 1);
        if hashes.len() < self.words {
            return;
        }
        if self.records.last().is_none_or(|last| last != origin) {
            self.records.push(origin.to_owned());
        }
        let record = (self.records.len() - 1) as u32;
        for run in runs(&hashes, self.words) {
            self.runs.entry(run).or_insert(record);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first thing that a document shares with what is measured.
    pub(crate) fn find(&self, raw: &Raw) -> Option<Hit> {
        if self.is_empty() {
            return None;
        }
        let mut hit = None;
        texts(raw, &mut |text, _| {
            if hit.is_none() {
                hit = self.find_in(text, &raw.origin);
            }
        });
        hit
    }

    fn find_in(&self, text: &str, origin: &str) -> Option<Hit> {
        let found: Vec<&str> = words(text).collect();
        let hashes: Vec<u64> = found.iter().map(|word| hash(word)).collect();
        let mut hits = runs(&hashes, self.words).enumerate();
        let (at, record) = hits.find_map(|(at, run)| Some((at, *self.runs.get(&run)?)))?;
        Some(Hit {
            origin: origin.to_owned(),
            evaluation: self.records[record as usize].clone(),
            shared: found[at..at + self.words].join(" "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use text::Document;

    #[test]
    fn thirteen_words_are_found_without_case_and_punctuation_and_twelve_are_not() {
        let mut evaluations = Evaluations { words: 13, ..Evaluations::default() };
        evaluations.add("test:1", "one two three four five six seven eight nine ten eleven twelve thirteen fourteen");
        evaluations.add("test:2", "too short");
        let find =
            |text: &str| evaluations.find(&Raw::new(Document::Plain { text: text.to_owned() }, Kind::Plain, "here:7"));
        let hit = find("Well: TWO, three (four) five-six seven; eight nine ten \"eleven\" twelve. Thirteen fourteen!");
        let hit = hit.expect("thirteen words in a row");
        assert_eq!((hit.origin.as_str(), hit.evaluation.as_str()), ("here:7", "test:1"));
        assert!(hit.shared.starts_with("TWO three") && hit.shared.ends_with("Thirteen fourteen"), "{}", hit.shared);
        assert_eq!(find("two three four five six seven eight nine ten eleven twelve thirteen and fourteen"), None);
        assert_eq!((find("too short"), evaluations.too_short), (None, 1));
    }
}
