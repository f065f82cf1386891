//! What is kept of a teacher's distributions: written once by a pass over the training samples, then read from a mapped
//! file. It is a safetensors file, whose metadata say what it was made from.
//!
//! k tokens are kept of each distribution, with their log-probabilities in f16, and the probability of all others.

use super::recipe::{CacheRecipe, Keep};
use super::teacher::{KeptParts, Lesson, Output, Teacher};
use crate::error::TrainError;
use formats::{DType, TensorFile, TensorPlan};
use kernels::pool;
use models::{Asked, Layers, Questions, teach};
use numeric::wire::{Message, Reading};
use numeric::{Rng, f16};
use ops::{Buffer, Execute, Infer, Linear, Precision};
use prepare::{Batch, Sample, fingerprint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The file's name in a run's folder.
pub const TEACHER_CACHE: &str = "teacher-cache.safetensors";

const VERSION: &str = "1";
/// Rows of logits alive at once.
const ROWS: usize = 256;
/// Tokens that a pass of the teacher reads, about.
const PASS_TOKENS: usize = 4096;
/// Tokens whose states wait between the layers of a teacher on disk.
pub const GROUP_TOKENS: usize = 1 << 16;

/// What a cache is made from: it is of use for nothing else.
#[derive(Debug, Clone)]
pub struct CacheKey<'a> {
    /// The hash of the teacher's folder.
    pub teacher: String,
    pub vocabulary: usize,
    pub samples: &'a [Sample],
    pub sequence_length: usize,
    /// Whether what is longer than a sequence loses its tail.
    pub truncates: bool,
    pub temperature: f32,
    pub recipe: &'a CacheRecipe,
    /// Of the draws.
    pub seed: u64,
}

impl CacheKey<'_> {
    /// By the name that an error tells it by.
    fn facts(&self) -> BTreeMap<&'static str, String> {
        let keep = match self.recipe.keep {
            Keep::Top => "top".to_owned(),
            Keep::Sampled => format!("sampled with seed {}", self.seed),
        };
        BTreeMap::from([
            ("version", VERSION.to_owned()),
            ("teacher", self.teacher.clone()),
            ("vocabulary", self.vocabulary.to_string()),
            ("samples", fingerprint(self.samples)),
            ("tokens", self.tokens().to_string()),
            ("sequence_length", format!("{}{}", self.sequence_length, if self.truncates { "" } else { ", cut" })),
            ("temperature", self.temperature.to_string()),
            ("keep", keep),
            ("kept_tokens", self.recipe.tokens.to_string()),
        ])
    }

    /// Tokens kept of each distribution.
    fn per_row(&self) -> usize {
        match self.recipe.keep {
            Keep::Top => self.recipe.tokens.min(self.vocabulary),
            Keep::Sampled => self.recipe.tokens,
        }
    }

    /// What of a sample is ever trained on.
    fn length(&self, sample: &Sample) -> usize {
        if self.truncates { sample.tokens.len().min(self.sequence_length) } else { sample.tokens.len() }
    }

    fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| self.length(sample)).sum()
    }

    /// The first row of each sample.
    fn starts(&self) -> Vec<usize> {
        let lengths = self.samples.iter().map(|sample| self.length(sample));
        lengths.scan(0, |next, length| Some(std::mem::replace(next, *next + length))).collect()
    }

    /// Samples and pieces of long ones, as many as make a pass, in the order of rows.
    fn passes(&self) -> Vec<(Vec<u32>, Vec<usize>)> {
        let mut passes: Vec<(Vec<u32>, Vec<usize>)> = Vec::new();
        for sample in self.samples {
            for piece in sample.tokens[..self.length(sample)].chunks(self.sequence_length) {
                match passes.last_mut().filter(|pass| pass.0.len() + piece.len() <= PASS_TOKENS) {
                    Some((tokens, lengths)) => {
                        tokens.extend_from_slice(piece);
                        lengths.push(piece.len());
                    }
                    None => passes.push((piece.to_vec(), vec![piece.len()])),
                }
            }
        }
        passes
    }
}

/// A teacher that is known from its cache.
pub struct Cached {
    file: TensorFile,
    keep: Keep,
    per_row: usize,
    starts: Vec<usize>,
    /// First rows of the file's blocks.
    blocks: Vec<usize>,
}

/// Writes the cache of a teacher; `progress` hears the tokens that are done. A teacher on disk is read once for every
/// [`GROUP_TOKENS`]. Gives `false`, and leaves nothing, if it is cancelled.
pub fn write(
    path: &Path,
    teacher: Layers,
    key: &CacheKey,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(usize),
) -> Result<bool, TrainError> {
    let passes = key.passes();
    let mut plan = TensorPlan::new();
    key.facts().into_iter().for_each(|(name, fact)| plan.set_metadata(name, fact));
    for (index, (tokens, _)) in passes.iter().enumerate() {
        plan.declare(format!("tokens.{index}"), DType::U32, &[tokens.len(), key.per_row()]);
        plan.declare(format!("logs.{index}"), DType::F16, &[tokens.len(), key.per_row()]);
        plan.declare(format!("rest.{index}"), DType::F32, &[tokens.len()]);
    }
    let mut writer = plan.create_file(path)?;
    let head = teacher.head()?;
    let at_a_time = match teacher {
        Layers::Resident(_) => 1,
        Layers::Streamed(_) => (GROUP_TOKENS / PASS_TOKENS).max(1),
    };
    let questions = Questions { output: true, ..Questions::default() };
    let (mut index, mut done) = (0, 0);
    for group in passes.chunks(at_a_time) {
        if cancelled.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let asked = group.iter().map(|(tokens, lengths)| Asked { tokens, lengths, questions: &questions });
        for taught in teach(teacher, &asked.collect::<Vec<_>>(), PASS_TOKENS, &mut |_, _, _| ())? {
            let hidden = taught.hidden.expect("it was asked for");
            let kept = keep(&hidden, &head, key, done);
            let ids: Vec<u8> = kept.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            writer.write(&format!("tokens.{index}"), &ids)?;
            writer.write_f32(&format!("logs.{index}"), &kept.logs)?;
            writer.write_f32(&format!("rest.{index}"), &kept.rest)?;
            index += 1;
            done += hidden.rows;
            progress(hidden.rows);
        }
    }
    writer.finish()?;
    Ok(true)
}

/// What is kept of the distributions that these hidden states stand for; the first is row `first` of all.
fn keep(hidden: &Buffer, head: &Linear, key: &CacheKey, first: usize) -> KeptParts {
    let mut kept = KeptParts::default();
    let mut e = Infer::new(Precision::F32);
    for start in (0..hidden.rows).step_by(ROWS) {
        let rows = ROWS.min(hidden.rows - start);
        let values = hidden[start * hidden.width..(start + rows) * hidden.width].to_vec();
        let logits = e.linear(&Buffer::from_values(hidden.width, values), head);
        let mut found: Vec<Row> = (0..rows).map(|_| Row::default()).collect();
        pool::for_each_chunk(&mut found, 1, |row, found| {
            found[0] = match key.recipe.keep {
                Keep::Top => top(logits.row(row), key.temperature, key.per_row()),
                Keep::Sampled => {
                    let rng = Rng::new(key.seed).fork((first + start + row) as u64);
                    sampled(logits.row(row), key.temperature, key.per_row(), rng)
                }
            };
        });
        for row in found {
            kept.tokens.extend(row.tokens);
            kept.logs.extend(row.logs);
            kept.rest.push(row.rest);
        }
    }
    kept
}

#[derive(Default)]
struct Row {
    tokens: Vec<u32>,
    logs: Vec<f32>,
    rest: f32,
}

/// log Σ exp(z/τ)
fn log_total(logits: &[f32], temperature: f32) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) / temperature);
    most + logits.iter().map(|z| (f64::from(z / temperature) - most).exp()).sum::<f64>().ln()
}

/// The k most probable tokens, the lower first among equals, and what the others add up to.
fn top(logits: &[f32], temperature: f32, k: usize) -> Row {
    let total = log_total(logits, temperature);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, by_logit);
    }
    let mut tokens = order[..k].to_vec();
    tokens.sort_unstable_by(by_logit);
    let log = |token: u32| f64::from(logits[token as usize] / temperature) - total;
    let rest: f64 = order[k..].iter().map(|&token| log(token).exp()).sum();
    Row { logs: tokens.iter().map(|&token| log(token) as f32).collect(), tokens, rest: rest as f32 }
}

/// n draws from the distribution.
fn sampled(logits: &[f32], temperature: f32, n: usize, mut rng: Rng) -> Row {
    let total = log_total(logits, temperature);
    let mut draws: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
    draws.sort_unstable_by(f64::total_cmp);
    let mut row = Row { rest: 0.0, ..Row::default() };
    let mut draws = draws.into_iter().peekable();
    let mut sum = 0.0;
    for (token, z) in logits.iter().enumerate() {
        let log = f64::from(z / temperature) - total;
        sum += log.exp();
        // Rounding may leave a sliver beyond the last token.
        while draws.next_if(|&draw| draw < sum || token + 1 == logits.len()).is_some() {
            row.tokens.push(token as u32);
            row.logs.push(log as f32);
        }
    }
    row
}

impl Cached {
    /// Opens a cache; one that was made from anything else is refused.
    pub fn open(path: &Path, key: &CacheKey) -> Result<Self, TrainError> {
        let file = TensorFile::open(path)?;
        let stale = |what: String| TrainError::StaleCache { path: PathBuf::from(path), what };
        for (name, wanted) in key.facts() {
            match file.metadata().get(name) {
                Some(found) if *found == wanted => {}
                Some(found) => return Err(stale(format!("its {name} is {found}, this run's {wanted}"))),
                None => return Err(stale(format!("it does not say its {name}"))),
            }
        }
        let mut blocks = Vec::new();
        let mut rows = 0;
        for (index, (tokens, _)) in key.passes().iter().enumerate() {
            blocks.push(rows);
            rows += tokens.len();
            let (wide, narrow) = ([tokens.len(), key.per_row()], [tokens.len()]);
            for (part, shape) in [("tokens", &wide[..]), ("logs", &wide[..]), ("rest", &narrow[..])] {
                let tensor = file.get(&format!("{part}.{index}"))?;
                tensor.expect_shape(shape).map_err(|error| stale(error.to_string()))?;
            }
            let tokens = file.get(&format!("tokens.{index}"))?;
            let numbers = tokens.bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four")));
            if numbers.max().is_some_and(|token| token as usize >= key.vocabulary) {
                return Err(stale(format!("it holds a token beyond the vocabulary of {}", key.vocabulary)));
            }
        }
        let (keep, per_row, starts) = (key.recipe.keep, key.per_row(), key.starts());
        Ok(Self { file, keep, per_row, starts, blocks })
    }

    /// All but the file, for another process that sees it too.
    pub fn put(&self, message: &mut Message) {
        let numbers = |numbers: &[usize]| numbers.iter().map(|&number| number as u64).collect::<Vec<_>>();
        message.put_u64s(&[u64::from(self.keep == Keep::Sampled), self.per_row as u64]);
        message.put_u64s(&numbers(&self.starts));
        message.put_u64s(&numbers(&self.blocks));
    }

    /// The cache that another process has opened and put.
    pub fn take(path: &Path, reading: &mut Reading) -> Result<Self, TrainError> {
        let mut numbers = || reading.take_u64s().into_iter().map(|number| number as usize).collect::<Vec<_>>();
        let (kind, starts, blocks) = (numbers(), numbers(), numbers());
        let keep = if kind[0] == 1 { Keep::Sampled } else { Keep::Top };
        Ok(Self { file: TensorFile::open(path)?, keep, per_row: kind[1], starts, blocks })
    }

    /// Adds `rows` of the file.
    fn read(&self, rows: std::ops::Range<usize>, into: &mut KeptParts) {
        let mut row = rows.start;
        while row < rows.end {
            let block = self.blocks.partition_point(|&first| first <= row) - 1;
            let end = self.blocks.get(block + 1).map_or(rows.end, |&next| next.min(rows.end));
            let of = |part: &str| self.file.get(&format!("{part}.{block}")).expect("it was there when it was opened");
            let (from, to) = (row - self.blocks[block], end - self.blocks[block]);
            let places = from * self.per_row..to * self.per_row;
            let ids = &of("tokens").bytes[4 * places.start..4 * places.end];
            let logs = &of("logs").bytes[2 * places.start..2 * places.end];
            let rest = &of("rest").bytes[4 * from..4 * to];
            into.tokens.extend(ids.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four"))));
            into.logs
                .extend(logs.chunks_exact(2).map(|bytes| f16::from_le_bytes(bytes.try_into().expect("two")).to_f32()));
            into.rest.extend(rest.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))));
            row = end;
        }
    }
}

impl Cached {
    fn lesson(&self, batch: &Batch) -> Lesson {
        let mut parts = KeptParts::default();
        for piece in &batch.pieces {
            let first = self.starts[piece.sample] + piece.start;
            self.read(first..first + piece.length, &mut parts);
        }
        parts.shares = match self.keep {
            Keep::Top => parts.logs.iter().map(|log| log.exp()).collect(),
            Keep::Sampled => vec![1.0 / self.per_row as f32; parts.logs.len()],
        };
        assert_eq!(parts.rest.len(), batch.tokens.len(), "the cache knows every token of the data");
        Lesson { output: Some(Output::Parts(parts)), ..Lesson::default() }
    }
}

impl Teacher for Cached {
    fn teach(&mut self, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError> {
        Ok(asked.iter().map(|(batch, _)| self.lesson(batch)).collect())
    }

    fn head(&self) -> Option<&Linear> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_are_kept_and_the_others_are_one() {
        let logits = [1.0f32, 3.0, -2.0, 3.0, 0.5];
        let row = top(&logits, 2.0, 2);
        let total: f64 = logits.iter().map(|z| f64::from(z / 2.0).exp()).sum();
        assert_eq!(row.tokens, [1, 3]);
        let share = (1.5f64).exp() / total;
        assert!((f64::from(row.logs[0]) - share.ln()).abs() < 1e-6 && row.logs[0] == row.logs[1]);
        assert!((f64::from(row.rest) - (1.0 - 2.0 * share)).abs() < 1e-6);
        let all = top(&logits, 1.0, 5);
        assert_eq!((all.tokens.len(), all.rest), (5, 0.0));
    }

    #[test]
    fn draws_are_as_frequent_as_probable() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
        let mut counts = [0usize; 4];
        for row in 0..4000 {
            let row = sampled(&logits, 1.0, 5, Rng::new(1).fork(row));
            assert_eq!((row.tokens.len(), row.rest), (5, 0.0));
            row.tokens.iter().for_each(|&token| counts[token as usize] += 1);
        }
        for (count, z) in counts.iter().zip(logits) {
            let share = f64::from(z).exp() / total;
            let deviation = (share * (1.0 - share) / 20_000.0).sqrt();
            assert!((*count as f64 / 20_000.0 - share).abs() < 4.0 * deviation, "{counts:?}");
        }
    }
}
