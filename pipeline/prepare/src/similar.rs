//! Near duplicates: documents that share most of their runs of words, found by MinHash and locality-sensitive hashing
//! (Broder 1997; Indyk and Motwani 1998) without comparing every pair.
//!
//! A document is kept as [`SIGNATURE`] numbers of 16 bits, whatever its length, and as a place in each of the tables:
//! together half a kilobyte at the usual threshold, half a gigabyte for a million documents that stay. Two documents
//! are the same only if both all that they say and what the model learns of them are: ten holes in one file differ in
//! what fills them, and ten answers "yes" in what was asked.

use crate::overlap::runs;
use crate::source::Raw;
use crate::words::{hash, symbols, texts};
use numeric::Rng;

/// Words in a run.
const RUN: usize = 5;
/// Numbers of a signature that stand for all of a document, and for what is learnt of it.
const WHOLE: usize = 112;
const LEARNT: usize = 48;
const SIGNATURE: usize = WHOLE + LEARNT;
/// Of pairs that are just as similar as the threshold, this share is found; of more similar ones nearly all.
const FOUND: f64 = 0.95;
/// Documents that agree in one band and are kept in its table, at most.
const COMPARED_MAX: usize = 16;

/// A document in few numbers.
pub(crate) type Signature = Box<[u16; SIGNATURE]>;

/// Makes signatures; always the same ones.
pub(crate) struct Signatures {
    /// Multipliers and summands.
    functions: Vec<(u64, u64)>,
}

impl Signatures {
    pub(crate) fn new() -> Self {
        let mut rng = Rng::new(0x51_6E47);
        Self { functions: (0..SIGNATURE).map(|_| (rng.next_u64() | 1, rng.next_u64())).collect() }
    }

    pub(crate) fn of(&self, raw: &Raw) -> Signature {
        let (mut whole, mut learnt) = (Vec::new(), Vec::new());
        texts(raw, &mut |text, is_learnt| {
            let from = whole.len();
            whole.extend(symbols(text).map(hash));
            if is_learnt {
                learnt.extend_from_slice(&whole[from..]);
            }
        });
        let mut signature = Box::new([0; SIGNATURE]);
        let (for_whole, for_learnt) = self.functions.split_at(WHOLE);
        smallest(&whole, for_whole, &mut signature[..WHOLE]);
        smallest(&learnt, for_learnt, &mut signature[WHOLE..]);
        signature
    }
}

/// For each function the smallest value that it takes on any run, as 16 of its bits.
fn smallest(words: &[u64], functions: &[(u64, u64)], into: &mut [u16]) {
    let mut least = vec![u32::MAX; functions.len()];
    for run in runs(words, RUN.min(words.len()).max(1)) {
        for (least, &(multiplier, summand)) in least.iter_mut().zip(functions) {
            let value = (run.wrapping_mul(multiplier).wrapping_add(summand) >> 32) as u32;
            *least = (*least).min(value);
        }
    }
    // The smallest values are all small: their lower bits tell them apart.
    into.iter_mut().zip(least).for_each(|(number, least)| *number = (least.wrapping_mul(0x9E37_79B1) >> 16) as u16);
}

/// The documents that stay, and where to look for one like another.
pub(crate) struct Similar {
    threshold: f64,
    rows: usize,
    signatures: Vec<[u16; SIGNATURE]>,
    tables: Vec<Table>,
}

/// Documents by the hash of one band; 0 is a free place, `n + 1` document `n`.
struct Table {
    places: Vec<u32>,
    used: usize,
}

impl Similar {
    /// `threshold` is the share of runs that two documents have in common, in (0, 1).
    pub(crate) fn new(threshold: f64) -> Self {
        assert!(threshold > 0.0 && threshold < 1.0, "the recipe's check allows no other threshold");
        let rows = rows(threshold);
        let tables = (0..WHOLE / rows).map(|_| Table { places: vec![0; 1024], used: 0 }).collect();
        Self { threshold, rows, signatures: Vec::new(), tables }
    }

    /// Whether nothing like it was there; then it is kept.
    pub(crate) fn is_new(&mut self, signature: &Signature) -> bool {
        let found = self.tables.iter().enumerate().any(|(index, table)| {
            let band = index * self.rows..(index + 1) * self.rows;
            table.probe(band_hash(&signature[band.clone()])).any(|document| {
                let other = &self.signatures[document];
                other[band.clone()] == signature[band.clone()] && self.is_like(signature, other)
            })
        });
        if !found {
            self.keep(signature);
        }
        !found
    }

    fn is_like(&self, one: &[u16; SIGNATURE], other: &[u16; SIGNATURE]) -> bool {
        let share = |range: std::ops::Range<usize>| {
            let length = range.len();
            let equal = one[range.clone()].iter().zip(&other[range]).filter(|(a, b)| a == b).count();
            equal as f64 / length as f64
        };
        share(0..WHOLE) >= self.threshold && share(WHOLE..SIGNATURE) >= self.threshold
    }

    fn keep(&mut self, signature: &Signature) {
        let document = self.signatures.len();
        self.signatures.push(**signature);
        let (rows, signatures) = (self.rows, &self.signatures);
        for (index, table) in self.tables.iter_mut().enumerate() {
            let band_of = |document: usize| &signatures[document][index * rows..(index + 1) * rows];
            let hash = band_hash(band_of(document));
            let agreeing = table.probe(hash).filter(|&other| band_of(other) == band_of(document));
            // All the pieces of one file may agree: enough of them stand for the rest, or each would be compared with
            // all others.
            if agreeing.take(COMPARED_MAX).count() == COMPARED_MAX {
                continue;
            }
            if (table.used + 1) * 2 > table.places.len() {
                table.grow(|document| band_hash(band_of(document)));
            }
            table.insert(document, hash);
        }
    }
}

impl Table {
    /// The documents that may be meant by a hash, in the order in which they came.
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let mask = self.places.len() - 1;
        let places = (0..self.places.len()).map(move |step| self.places[(hash as usize + step) & mask]);
        places.take_while(|&place| place != 0).map(|place| place as usize - 1)
    }

    fn insert(&mut self, document: usize, hash: u64) {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != 0 {
            at = (at + 1) & mask;
        }
        self.places[at] = u32::try_from(document + 1).expect("four thousand million documents do not fit in memory");
        self.used += 1;
    }

    fn grow(&mut self, hash_of: impl Fn(usize) -> u64) {
        let doubled = vec![0; self.places.len() * 2];
        let mut documents = std::mem::replace(&mut self.places, doubled);
        self.used = 0;
        // In the order in which they came, so that a table does not depend on when it grew.
        documents.retain(|&place| place != 0);
        documents.sort_unstable();
        documents.iter().map(|&place| place as usize - 1).for_each(|document| self.insert(document, hash_of(document)));
    }
}

fn band_hash(band: &[u16]) -> u64 {
    band.iter().fold(0xCBF2_9CE4_8422_2325_u64, |state, &number| {
        let state = (state ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^ (state >> 32)
    })
}

/// The most numbers in a band with which enough pairs at the threshold agree in some band: wide bands let few others
/// through.
fn rows(threshold: f64) -> usize {
    let found = |rows: usize| 1.0 - (1.0 - threshold.powi(rows as i32)).powi((WHOLE / rows) as i32);
    (1..=16).rev().find(|&rows| found(rows) >= FOUND).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use text::Document;

    fn words(rng: &mut Rng, count: usize) -> Vec<String> {
        (0..count).map(|_| format!("w{}", rng.below(100_000))).collect()
    }

    fn plain(words: &[String]) -> Raw {
        Raw::new(Document::Plain { text: words.join(" ") }, Kind::Plain, "")
    }

    /// A copy with every n-th word another one.
    fn changed(words: &[String], every: usize) -> Vec<String> {
        let one = |(at, word): (usize, &String)| if at % every == every / 2 { format!("x{at}") } else { word.clone() };
        words.iter().enumerate().map(one).collect()
    }

    #[test]
    fn copies_with_few_changes_are_found_among_many_and_others_are_not() {
        let (mut rng, signatures, mut similar) = (Rng::new(3), Signatures::new(), Similar::new(0.8));
        let documents: Vec<Vec<String>> = (0..3000).map(|_| words(&mut rng, 120)).collect();
        let fresh = documents.iter().filter(|words| similar.is_new(&signatures.of(&plain(words)))).count();
        assert_eq!(fresh, 3000, "random texts have nothing in common");
        // One word of 120 changed breaks at most 5 of 116 runs: a similarity of 111 / 121, 0.92.
        let near = documents.iter().filter(|words| !similar.is_new(&signatures.of(&plain(&changed(words, 120)))));
        let near = near.count();
        assert!(near > 2950, "{near} of 3000 were found");
        // Every eighth word: most runs are broken, the similarity is about 0.25.
        let far = documents.iter().filter(|words| !similar.is_new(&signatures.of(&plain(&changed(words, 8))))).count();
        assert!(far < 10, "{far} of 3000 are no duplicates");
    }

    #[test]
    fn what_is_learnt_must_be_alike_too() {
        let (mut rng, signatures, mut similar) = (Rng::new(4), Signatures::new(), Similar::new(0.8));
        let file = words(&mut rng, 400);
        let hole = |at: usize| {
            let part = |range: std::ops::Range<usize>| file[range].join(" ");
            let (prefix, middle, suffix) = (part(0..at), part(at..at + 10), part(at + 10..400));
            Raw::new(Document::FillInTheMiddle { prefix, middle, suffix }, Kind::CodeInfilling, "")
        };
        let mut is_new = |at| similar.is_new(&signatures.of(&hole(at)));
        assert!([50, 120, 300].into_iter().all(&mut is_new), "other holes in the same file");
        assert!(!is_new(120), "the same hole again");
        let answer =
            |question: &[String]| Document::Completion { prompt: question.join(" "), completion: "yes".into() };
        for question in [words(&mut rng, 30), words(&mut rng, 30)] {
            assert!(similar.is_new(&signatures.of(&Raw::new(answer(&question), Kind::Plain, ""))));
        }
    }

    #[test]
    fn many_pieces_of_one_file_do_not_slow_each_other_down() {
        let (mut rng, signatures, mut similar) = (Rng::new(5), Signatures::new(), Similar::new(0.8));
        let file = words(&mut rng, 60).join(" ");
        let signature = |n: usize| {
            let completion = format!("answer {n} {}", n * 7919);
            signatures.of(&Raw::new(Document::Completion { prompt: file.clone(), completion }, Kind::Plain, ""))
        };
        assert!((0..2000).all(|n| similar.is_new(&signature(n))));
        let most = similar.tables.iter().map(|table| table.used).max();
        assert!(most < Some(2000), "whole bands agree, and only some of them are kept: {most:?}");
        assert!(!similar.is_new(&signature(0)));
    }

    #[test]
    fn short_and_empty_texts_are_compared_as_wholes() {
        let (signatures, mut similar) = (Signatures::new(), Similar::new(0.8));
        let mut is_new = |text: &str| similar.is_new(&signatures.of(&plain(&[text.to_owned()])));
        assert!(is_new("a") && is_new("b") && is_new("a - b") && is_new("a + b") && is_new(""));
        assert!(!is_new("A  -  b") && !is_new(""));
    }

    #[test]
    fn bands_find_what_they_promise() {
        for threshold in [0.3, 0.5, 0.7, 0.8, 0.9, 0.95] {
            let rows = rows(threshold);
            let found = 1.0 - (1.0 - threshold.powi(rows as i32)).powi((WHOLE / rows) as i32);
            assert!(found >= FOUND && WHOLE / rows > 1, "{threshold}: {rows} rows find {found}");
        }
        assert!(rows(0.9) > rows(0.5));
    }
}
