//! What the student writes itself: continuations of the data's own beginnings.

use super::recipe::SelfCorrection;
use crate::error::TrainError;
use engine::{Finish, Job, Request, Sampling, Settings};
use models::{KvFormat, Model};
use numeric::Rng;
use ops::Precision;
use prepare::Batch;
use std::sync::atomic::AtomicBool;

/// How continuations are made.
pub(super) struct Writing<'a> {
    pub(super) settings: &'a SelfCorrection,
    pub(super) precision: Precision,
    /// Tokens that end a text.
    pub(super) stop: &'a [u32],
    /// Another for every micro-batch of a run: what is written is a function of it and of the weights.
    pub(super) seed: u64,
    pub(super) cancelled: &'a AtomicBool,
}

/// A sequence that is to be continued.
struct Beginning {
    prompt: Vec<u32>,
    max_tokens: usize,
    /// Of the sequence in its batch.
    index: usize,
}

impl Writing<'_> {
    /// The sequences of `batch`, each from a trained token in the first half of its own on as the model continues it,
    /// and no longer than it was. Only what the model wrote counts; sequences without trained tokens are left out.
    /// Nothing if it was given up on the way.
    pub(super) fn write(&self, model: &Model, batch: &Batch) -> Result<Option<Batch>, TrainError> {
        let beginnings = self.beginnings(batch);
        let job = |(index, beginning): (usize, &Beginning)| Job {
            prompt: beginning.prompt.clone(),
            request: Request {
                sampling: Sampling::with_temperature(
                    self.settings.temperature,
                    Rng::new(self.seed).fork(index as u64).next_u64(),
                ),
                max_tokens: beginning.max_tokens,
                stop: self.stop.to_vec(),
            },
        };
        let jobs: Vec<Job> = beginnings.iter().enumerate().map(job).collect();
        let mut written: Vec<Option<Vec<u32>>> = vec![None; jobs.len()];
        let settings = Settings { precision: self.precision, kv: KvFormat::F32, ..Settings::default() };
        engine::generate_many(model, settings, &jobs, self.cancelled, |index, generation| {
            let mut tokens = generation.tokens;
            // That the text ends here was its own choice too.
            if let Finish::Stop(token) = generation.finish {
                tokens.push(token);
            }
            written[index] = Some(tokens);
        })?;
        let mut rolled = Batch::default();
        for (beginning, tokens) in beginnings.iter().zip(written) {
            let Some(tokens) = tokens else { return Ok(None) };
            push(&mut rolled, beginning, &tokens, batch);
        }
        Ok(Some(rolled))
    }

    fn beginnings(&self, batch: &Batch) -> Vec<Beginning> {
        let mut beginnings = Vec::new();
        let mut start = 0;
        for (index, &length) in batch.lengths.iter().enumerate() {
            let rows = start..start + length;
            start = rows.end;
            let trained: Vec<usize> = rows.clone().filter(|&row| batch.weights[row] > 0.0).collect();
            if trained.is_empty() {
                continue;
            }
            let mut rng = Rng::new(self.seed).fork(u64::MAX - index as u64);
            let last = trained[rng.below(trained.len().div_ceil(2))];
            let prompt = batch.tokens[rows.start..=last].to_vec();
            let max_tokens = self.settings.max_tokens.min(length - prompt.len());
            if max_tokens > 0 {
                beginnings.push(Beginning { prompt, max_tokens, index });
            }
        }
        beginnings
    }
}

/// Adds a continued sequence, of which the continuation counts.
fn push(rolled: &mut Batch, beginning: &Beginning, tokens: &[u32], batch: &Batch) {
    let Some(&last) = tokens.last() else { return };
    let whole: Vec<u32> = beginning.prompt.iter().chain(tokens).copied().collect();
    let given = beginning.prompt.len() - 1;
    rolled.targets.extend_from_slice(&whole[1..]);
    rolled.targets.push(last);
    rolled.weights.extend((0..whole.len()).map(|row| f32::from(u8::from(row >= given && row + 1 < whole.len()))));
    rolled.lengths.push(whole.len());
    rolled.tokens.extend(whole);
    rolled.kinds.extend(batch.kinds.get(beginning.index));
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::Config;

    fn model() -> Model {
        let text = include_str!("../../../../../fixtures/oracle/qwen3_moe/config.json");
        Model::random(Config::from_json(text).expect("the oracle's config reads"), 3)
    }

    fn batch() -> Batch {
        let lengths = vec![9, 4, 12];
        let tokens: Vec<u32> = (0..25).collect();
        let targets = tokens.iter().map(|token| token + 1).collect();
        // The second has nothing trained.
        let weights = (0..25).map(|row| if (3..8).contains(&row) || (15..24).contains(&row) { 1.0 } else { 0.0 });
        Batch { tokens, lengths, targets, weights: weights.collect(), ..Batch::default() }
    }

    #[test]
    fn what_is_written_counts_and_is_a_function_of_the_seed() {
        let (model, batch, cancelled) = (model(), batch(), AtomicBool::new(false));
        let settings = SelfCorrection { max_tokens: 5, ..SelfCorrection::default() };
        let write = |seed, stop: &[u32]| {
            let writing = Writing { settings: &settings, precision: Precision::F32, stop, seed, cancelled: &cancelled };
            writing.write(&model, &batch).expect("a sound model").expect("nobody stops it")
        };
        let rolled = write(1, &[]);
        assert_eq!(rolled.lengths.len(), 2, "one has nothing to continue");
        let mut start = 0;
        for (&length, (from, whole)) in rolled.lengths.iter().zip([(0, 9), (13, 12)]) {
            let rows = start..start + length;
            start = rows.end;
            let given = rows.clone().position(|row| rolled.weights[row] > 0.0).expect("something was written") + 1;
            assert_eq!(rolled.tokens[rows.start..rows.start + given], batch.tokens[from..from + given]);
            assert!(length <= whole && length - given <= 5 && length > given, "{length} of {whole} from {given}");
            let weights = &rolled.weights[rows.clone()];
            assert!(weights[given - 1..length - 1].iter().all(|&weight| weight == 1.0) && weights[length - 1] == 0.0);
            assert!(weights[..given - 1].iter().all(|&weight| weight == 0.0));
            assert_eq!(rolled.targets[rows.start..rows.end - 1], rolled.tokens[rows.start + 1..rows.end]);
        }
        assert_eq!(write(1, &[]), rolled);
        assert_ne!(write(2, &[]).tokens, rolled.tokens);
        // Whatever is written first ends the text, and is learnt.
        let all: Vec<u32> = (0..model.config.vocab_size as u32).collect();
        let ended = write(1, &all);
        assert!(ended.weights.iter().sum::<f32>() == 2.0, "one token each: {:?}", ended.weights);
    }
}
