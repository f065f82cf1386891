//! Batches: packed sequences with the next token of each position and what that prediction counts.
//!
//! The order is a function of the seed and the epoch alone, and a [`Cursor`] says where in it a run stands, so that an
//! interrupted run continues with exactly the batch it would have seen.

use crate::kind::Kind;
use crate::pack::{Bin, Packing, Piece, pack};
use numeric::Rng;
use serde::{Deserialize, Serialize};

/// A tokenized piece of training data. `weights[i]` is what predicting `tokens[i]` counts; the first token is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub weights: Vec<f32>,
    pub kind: Kind,
    /// How often it is seen in one epoch, on average.
    pub repeat: f32,
}

impl Sample {
    pub fn new(tokens: Vec<u32>, weights: Vec<f32>, kind: Kind) -> Self {
        assert_eq!(tokens.len(), weights.len(), "every token has a weight");
        Self { tokens, weights, kind, repeat: 1.0 }
    }

    /// Tokens that the model learns to predict.
    pub fn trained_tokens(&self) -> usize {
        self.weights.iter().skip(1).filter(|&&weight| weight > 0.0).count()
    }

    /// What they count together.
    pub fn weight(&self) -> f64 {
        self.weights.iter().skip(1).map(|&weight| f64::from(weight)).sum()
    }
}

/// Sequences one after the other. `targets[i]` follows `tokens[i]` in its own sequence; the last token of each sequence
/// has nothing to predict and weight 0 (its target is itself, so that it is a valid token).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub lengths: Vec<usize>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
    /// One for each sequence.
    pub kinds: Vec<Kind>,
    /// Where each sequence comes from.
    pub pieces: Vec<Piece>,
}

impl Batch {
    /// Lays pieces of samples out one after the other.
    pub fn of_pieces(samples: &[Sample], pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut batch = Self::default();
        for piece in pieces {
            let sample = &samples[piece.sample];
            let range = piece.start..piece.start + piece.length;
            batch.push(&sample.tokens[range.clone()], &sample.weights[range], sample.kind);
            batch.pieces.extend((piece.length > 0).then_some(piece));
        }
        batch
    }

    fn push(&mut self, tokens: &[u32], weights: &[f32], kind: Kind) {
        let Some((&last, _)) = tokens.split_last() else { return };
        self.tokens.extend_from_slice(tokens);
        self.targets.extend_from_slice(&tokens[1..]);
        self.targets.push(last);
        self.weights.extend_from_slice(&weights[1..]);
        self.weights.push(0.0);
        self.lengths.push(tokens.len());
        self.kinds.push(kind);
    }

    /// What the predictions of this batch count together.
    pub fn total_weight(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    pub fn trained_tokens(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight > 0.0).count()
    }

    /// The kind of each token's sequence.
    pub fn token_kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.kinds.iter().zip(&self.lengths).flat_map(|(&kind, &length)| std::iter::repeat_n(kind, length))
    }
}

/// Where in the order of all batches a run stands: the next sequence to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    pub epoch: u64,
    pub bin: usize,
}

/// How samples become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderSettings {
    pub sequence_length: usize,
    /// Packed sequences in one batch.
    pub sequences: usize,
    pub packing: Packing,
    pub seed: u64,
}

/// Hands out batches without end, epoch after epoch.
#[derive(Debug)]
pub struct Loader<'a> {
    samples: &'a [Sample],
    settings: LoaderSettings,
    cursor: Cursor,
    bins: Vec<Bin>,
}

impl<'a> Loader<'a> {
    /// Starts (or continues) at `cursor`. There must be something to hand out.
    pub fn new(samples: &'a [Sample], settings: LoaderSettings, cursor: Cursor) -> Self {
        assert!(settings.sequences > 0, "a batch holds at least one sequence");
        assert!(samples.iter().any(|s| s.repeat > 0.0 && !s.tokens.is_empty()), "a loader needs at least one sample");
        let bins = epoch_bins(samples, &settings, cursor.epoch);
        Self { samples, settings, cursor, bins }
    }

    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Packed sequences in the present epoch.
    pub fn epoch_sequences(&self) -> usize {
        self.bins.len()
    }

    /// The next batch; it takes from the next epoch where this one runs out.
    pub fn next_batch(&mut self) -> Batch {
        let mut pieces = Vec::new();
        for _ in 0..self.settings.sequences {
            while self.cursor.bin >= self.bins.len() {
                self.cursor = Cursor { epoch: self.cursor.epoch + 1, bin: 0 };
                self.bins = epoch_bins(self.samples, &self.settings, self.cursor.epoch);
            }
            pieces.extend_from_slice(&self.bins[self.cursor.bin]);
            self.cursor.bin += 1;
        }
        Batch::of_pieces(self.samples, pieces)
    }
}

/// The sequences of one epoch, in order: which samples take part, packed, then shuffled.
fn epoch_bins(samples: &[Sample], settings: &LoaderSettings, epoch: u64) -> Vec<Bin> {
    let mut rng = Rng::new(settings.seed).fork(epoch);
    let mut chosen: Vec<usize> = Vec::with_capacity(samples.len());
    for (index, sample) in samples.iter().enumerate() {
        let copies = sample.repeat.trunc() as usize + usize::from(rng.chance(f64::from(sample.repeat.fract())));
        chosen.extend(std::iter::repeat_n(index, copies));
    }
    rng.shuffle(&mut chosen);
    let lengths: Vec<usize> = chosen.iter().map(|&index| samples[index].tokens.len()).collect();
    let mut bins = pack(&lengths, settings.sequence_length, settings.packing);
    bins.iter_mut().flatten().for_each(|piece| piece.sample = chosen[piece.sample]);
    rng.shuffle(&mut bins);
    bins
}

/// A short text that differs where the samples do, in content or order: for a checkpoint to know its data again.
pub fn fingerprint(samples: &[Sample]) -> String {
    let mut state = 0x243F_6A88_85A3_08D3_u64;
    let mut mix = |value: u64| {
        state = (state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^= state >> 29;
    };
    for sample in samples {
        mix(sample.tokens.len() as u64);
        mix(u64::from(sample.repeat.to_bits()) << 8 | sample.kind as u64);
        for (&token, weight) in sample.tokens.iter().zip(&sample.weights) {
            mix(u64::from(token) << 32 | u64::from(weight.to_bits()));
        }
    }
    format!("{state:016x}")
}
