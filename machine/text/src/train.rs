//! Training of a byte-level BPE tokenizer: Qwen's normaliser, word pattern and control tokens, our own vocabulary.
//!
//! The result depends on the texts only, not on their order of arrival or on threads: of the pairs that occur most
//! often, the one with the smallest ids is merged first.

use crate::byte_alphabet;
use crate::control::ControlToken;
use crate::error::TextError;
use crate::tokenizer::Tokenizer;
use crate::vocabulary::tokenizer_json;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

/// How text falls into words, within which pairs are merged (Qwen2's pattern: digits one by one).
pub const WORD_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The control tokens of Qwen3 in their order, and whether each is special (never shown).
pub const CONTROL_TOKENS: [(&str, bool); 26] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|object_ref_start|>", true),
    ("<|object_ref_end|>", true),
    ("<|box_start|>", true),
    ("<|box_end|>", true),
    ("<|quad_start|>", true),
    ("<|quad_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<|vision_pad|>", true),
    ("<|image_pad|>", true),
    ("<|video_pad|>", true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<|fim_prefix|>", false),
    ("<|fim_middle|>", false),
    ("<|fim_suffix|>", false),
    ("<|fim_pad|>", false),
    ("<|repo_name|>", false),
    ("<|file_sep|>", false),
    ("<tool_response>", false),
    ("</tool_response>", false),
    ("<think>", false),
    ("</think>", false),
];

/// A word must be seen this often before it can decide a merge.
const LEAST_OCCURRENCES: u64 = 2;

/// How much text is cut into words at once; bounds the memory beside the counts.
const BATCH_BYTES: usize = 8 << 20;

/// Trains a tokenizer with exactly `vocabulary_size` tokens, the 256 bytes and 26 control tokens among them.
/// Control tokens written in the texts are cut out: they never become ordinary tokens.
pub fn train<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    vocabulary_size: usize,
) -> Result<Tokenizer, TextError> {
    let least = 256 + CONTROL_TOKENS.len();
    if vocabulary_size < least {
        return Err(TextError::VocabularyTooSmall { wanted: vocabulary_size, least });
    }
    let counts = count_words(texts);
    let merges_wanted = vocabulary_size - least;
    let (vocabulary, merges) = merge_pairs(&counts, merges_wanted);
    if merges.len() < merges_wanted {
        return Err(TextError::TooLittleText { wanted: vocabulary_size, reached: least + merges.len() });
    }
    Tokenizer::from_json(finished(&vocabulary, &merges))
}

/// How often each word occurs. Ordered, so that nothing after it depends on hashing.
fn count_words<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> BTreeMap<Vec<u8>, u64> {
    let pattern = SplitPattern::Regex(WORD_PATTERN.into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("the word pattern is valid");
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut batch: Vec<T> = Vec::new();
    let mut batch_bytes = 0;
    for text in texts {
        batch_bytes += text.as_ref().len();
        batch.push(text);
        if batch_bytes >= BATCH_BYTES {
            count_batch(&split, &mut counts, &batch);
            batch.clear();
            batch_bytes = 0;
        }
    }
    count_batch(&split, &mut counts, &batch);
    counts.into_iter().collect()
}

fn count_batch<T: AsRef<str>>(split: &Split, counts: &mut HashMap<Vec<u8>, u64>, texts: &[T]) {
    // `T` need not be shareable between threads; string slices are.
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    let partial = texts.par_iter().fold(HashMap::<Vec<u8>, u64>::new, |mut counts, text| {
        for part in without_control_tokens(text) {
            count_part(split, &mut counts, part);
        }
        counts
    });
    let total = partial.reduce(HashMap::new, |mut left, right| {
        right.into_iter().for_each(|(word, count)| *left.entry(word).or_default() += count);
        left
    });
    total.into_iter().for_each(|(word, count)| *counts.entry(word).or_default() += count);
}

fn count_part(split: &Split, counts: &mut HashMap<Vec<u8>, u64>, part: &str) {
    let mut normalized = NormalizedString::from(part);
    NFC.normalize(&mut normalized).expect("NFC takes all text");
    let mut words = PreTokenizedString::from(normalized);
    split.pre_tokenize(&mut words).expect("splitting takes all text");
    for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
        match counts.get_mut(word.as_bytes()) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.as_bytes().to_vec(), 1);
            }
        }
    }
}

/// The parts of a text between control tokens.
fn without_control_tokens(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices('<') {
        if at < start {
            continue;
        }
        if let Some((name, _)) = CONTROL_TOKENS.iter().find(|(name, _)| text[at..].starts_with(name)) {
            parts.push(&text[start..at]);
            start = at + name.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

type Pair = (u32, u32);

/// A pair that may be merged next. The greatest is the most frequent one; among equals, the one with the smallest ids.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: u64,
    pair: std::cmp::Reverse<Pair>,
}

/// The state of training: all distinct words as token ids, and for each pair how often it occurs and in which words.
struct Merger {
    words: Vec<(Vec<u32>, u64)>,
    pairs: HashMap<Pair, (u64, HashSet<u32>)>,
    queue: BinaryHeap<Candidate>,
}

/// The tokens in the order of their ids, and the pairs of ids that are merged, in order.
fn merge_pairs(counts: &BTreeMap<Vec<u8>, u64>, merges_wanted: usize) -> (Vec<Vec<u8>>, Vec<Pair>) {
    let order = byte_alphabet::bytes_in_vocabulary_order();
    let mut vocabulary: Vec<Vec<u8>> = order.iter().map(|&byte| vec![byte]).collect();
    let mut known: HashSet<Vec<u8>> = vocabulary.iter().cloned().collect();
    let mut id_of_byte = [0u32; 256];
    order.iter().zip(0..).for_each(|(&byte, id)| id_of_byte[byte as usize] = id);
    let mut merger = Merger::new(counts, &id_of_byte);
    let mut merges = Vec::new();
    while merges.len() < merges_wanted {
        let Some(pair) = merger.next() else { break };
        let token = [&vocabulary[pair.0 as usize][..], &vocabulary[pair.1 as usize][..]].concat();
        // The same bytes by another way ("a"+"aa" after "aa"+"a") would be a merge without a token of its own.
        if !known.insert(token.clone()) {
            merger.pairs.remove(&pair);
            continue;
        }
        let id = vocabulary.len() as u32;
        vocabulary.push(token);
        merges.push(pair);
        merger.apply(pair, id);
    }
    (vocabulary, merges)
}

impl Merger {
    fn new(counts: &BTreeMap<Vec<u8>, u64>, id_of_byte: &[u32; 256]) -> Self {
        let as_ids = |word: &Vec<u8>| word.iter().map(|&byte| id_of_byte[byte as usize]).collect();
        let words: Vec<(Vec<u32>, u64)> = counts.iter().map(|(word, &count)| (as_ids(word), count)).collect();
        let mut merger = Self { words, pairs: HashMap::new(), queue: BinaryHeap::new() };
        for (index, (word, count)) in merger.words.iter().enumerate() {
            for pair in word.windows(2) {
                let entry = merger.pairs.entry((pair[0], pair[1])).or_default();
                entry.0 += count;
                entry.1.insert(index as u32);
            }
        }
        let all = merger.pairs.iter();
        merger.queue = all.map(|(&pair, &(count, _))| Candidate { count, pair: std::cmp::Reverse(pair) }).collect();
        merger
    }

    /// The pair to merge now. Counts in the queue may be too high: such an entry goes back with its true count.
    fn next(&mut self) -> Option<Pair> {
        while let Some(Candidate { count, pair }) = self.queue.pop() {
            let current = self.pairs.get(&pair.0).map_or(0, |entry| entry.0);
            if current < LEAST_OCCURRENCES {
                continue;
            }
            if current == count {
                return Some(pair.0);
            }
            self.queue.push(Candidate { count: current, pair });
        }
        None
    }

    /// Replaces the pair by its token in every word that has it.
    fn apply(&mut self, pair: Pair, id: u32) {
        let (_, places) = self.pairs.remove(&pair).expect("a pair from the queue is counted");
        let mut born: HashSet<Pair> = HashSet::new();
        for place in places {
            let (word, count) = &mut self.words[place as usize];
            let merged = merged(word, pair, id);
            if merged.len() == word.len() {
                continue;
            }
            for old in word.windows(2) {
                if let Some(entry) = self.pairs.get_mut(&(old[0], old[1])) {
                    entry.0 = entry.0.saturating_sub(*count);
                }
            }
            for new in merged.windows(2) {
                let new = (new[0], new[1]);
                if new == pair {
                    continue;
                }
                // A pair refused before stays out: it would only be refused again.
                let is_born = new.0 == id || new.1 == id;
                let entry = if is_born { Some(self.pairs.entry(new).or_default()) } else { self.pairs.get_mut(&new) };
                if let Some(entry) = entry {
                    entry.0 += *count;
                    entry.1.insert(place);
                }
                if is_born {
                    born.insert(new);
                }
            }
            *word = merged;
        }
        for pair in born {
            let count = self.pairs[&pair].0;
            self.queue.push(Candidate { count, pair: std::cmp::Reverse(pair) });
        }
    }
}

/// The word with every occurrence of the pair replaced, from the left.
fn merged(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        if word.get(at + 1).is_some_and(|&next| (word[at], next) == pair) {
            out.push(id);
            at += 2;
        } else {
            out.push(word[at]);
            at += 1;
        }
    }
    out
}

/// The `tokenizer.json` of a new vocabulary, with the control tokens behind it.
fn finished(vocabulary: &[Vec<u8>], merges: &[Pair]) -> Vec<u8> {
    let names: Vec<String> = vocabulary.iter().map(|token| byte_alphabet::written(token)).collect();
    let pairs: Vec<[&str; 2]> =
        merges.iter().map(|&(left, right)| [names[left as usize].as_str(), names[right as usize].as_str()]).collect();
    let ids: Map<String, Value> = names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    let control = CONTROL_TOKENS.iter().enumerate().map(|(index, (content, special))| ControlToken {
        id: (vocabulary.len() + index) as u32,
        content: (*content).to_owned(),
        special: *special,
        single_word: false,
        lstrip: false,
        rstrip: false,
    });
    tokenizer_json(ids, &pairs, &control.collect::<Vec<_>>())
}
