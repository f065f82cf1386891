//! Walks over token data in passes of bounded size: short sequences side by side, long ones in pieces that continue
//! their state, so that memory does not grow with the data.

use crate::EvaluateError;
use models::{KvFormat, Model, State};
use ops::{Buffer, Infer, Precision};
use prepare::{Kind, Sample};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens in one pass.
pub(crate) const PASS_TOKENS: usize = 1024;

/// What one pass covers. `targets[i]` follows `tokens[i]`; rows of weight 0 are not measured.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) tokens: Vec<u32>,
    pub(crate) lengths: Vec<usize>,
    pub(crate) targets: Vec<u32>,
    pub(crate) weights: Vec<f32>,
    pub(crate) kinds: Vec<Kind>,
    /// The sequences begin here; otherwise the one sequence continues the pass before.
    pub(crate) fresh: bool,
}

impl Pass {
    pub(crate) fn measured_rows(&self) -> Vec<usize> {
        (0..self.tokens.len()).filter(|&row| self.weights[row] > 0.0).collect()
    }

    fn push(&mut self, sample: &Sample, range: Range<usize>) {
        let tokens = &sample.tokens;
        self.tokens.extend_from_slice(&tokens[range.clone()]);
        self.lengths.push(range.len());
        for at in range {
            self.targets.push(tokens.get(at + 1).copied().unwrap_or(tokens[at]));
            self.weights.push(sample.weights.get(at + 1).copied().unwrap_or(0.0));
            self.kinds.push(sample.kind);
        }
    }
}

/// The passes over `samples`, in order.
pub(crate) fn passes(samples: &[Sample], pass_tokens: usize) -> Vec<Pass> {
    let mut all = Vec::new();
    let mut open = Pass { fresh: true, ..Pass::default() };
    for sample in samples.iter().filter(|sample| sample.tokens.len() > 1) {
        let length = sample.tokens.len();
        if open.tokens.len() + length > pass_tokens && !open.tokens.is_empty() {
            all.push(std::mem::replace(&mut open, Pass { fresh: true, ..Pass::default() }));
        }
        if length <= pass_tokens {
            open.push(sample, 0..length);
            continue;
        }
        for start in (0..length).step_by(pass_tokens) {
            let mut piece = Pass { fresh: start == 0, ..Pass::default() };
            piece.push(sample, start..length.min(start + pass_tokens));
            all.push(piece);
        }
    }
    if !open.tokens.is_empty() {
        all.push(open);
    }
    all
}

/// Who hears how far a walk is, and may end it.
pub struct Watch<'a> {
    pub cancel: &'a AtomicBool,
    /// Called with the tokens that one pass has read.
    pub progress: &'a mut dyn FnMut(u64),
}

impl Watch<'_> {
    /// A pass is done.
    pub(crate) fn passed(&mut self, pass: &Pass) -> Result<(), EvaluateError> {
        (self.progress)(pass.tokens.len() as u64);
        if self.cancel.load(Ordering::Relaxed) { Err(EvaluateError::Cancelled) } else { Ok(()) }
    }
}

/// One long text as samples of at most `context` tokens, in which every token but the text's first is measured once: a
/// window begins with the token that the one before ended with.
pub fn windows(tokens: &[u32], context: usize) -> Vec<Sample> {
    assert!(context > 1, "a window of {context} tokens has none to predict");
    let starts = (0..tokens.len().saturating_sub(1)).step_by(context - 1);
    let window = |start: usize| &tokens[start..tokens.len().min(start + context)];
    starts.map(|start| Sample::new(window(start).to_vec(), vec![1.0; window(start).len()], Kind::Plain)).collect()
}

/// A model, and how it keeps keys and values while it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'m> {
    pub model: &'m Model,
    pub kv: KvFormat,
}

impl<'m> Measured<'m> {
    /// Keys and values as they are computed, so that the weights alone are measured.
    pub fn exactly(model: &'m Model) -> Self {
        Self { model, kv: KvFormat::F32 }
    }
}

/// A model and the states of the pass it is in.
pub(crate) struct Walker<'m> {
    pub(crate) model: &'m Model,
    pub(crate) executor: Infer,
    kv: KvFormat,
    states: Vec<State>,
}

impl<'m> Walker<'m> {
    pub(crate) fn new(Measured { model, kv }: Measured<'m>) -> Self {
        Self { model, executor: Infer::new(Precision::F32), kv, states: Vec::new() }
    }

    pub(crate) fn hidden(&mut self, pass: &Pass) -> Buffer {
        if pass.fresh {
            self.states = vec![State::empty(&self.model.config, self.kv); pass.lengths.len()];
        }
        models::hidden(&mut self.executor, self.model, &mut self.states, &pass.tokens, &pass.lengths)
    }

    pub(crate) fn logits(&mut self, hidden: &Buffer, rows: &[usize]) -> Buffer {
        models::logits(&mut self.executor, self.model, hidden, rows)
    }
}

/// Refuses data that another tokenizer made, and data without anything to predict.
pub(crate) fn check(model: &Model, samples: &[Sample]) -> Result<(), EvaluateError> {
    let vocabulary = model.config.vocab_size;
    let tokens = samples.iter().flat_map(|sample| &sample.tokens);
    if let Some(&token) = tokens.clone().find(|&&token| token as usize >= vocabulary) {
        return Err(EvaluateError::UnknownToken { token, vocabulary });
    }
    if samples.iter().all(|sample| sample.trained_tokens() == 0) {
        return Err(EvaluateError::Nothing("no token of the data has a weight".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: Range<u32>) -> Sample {
        let tokens: Vec<u32> = tokens.collect();
        Sample::new(tokens.clone(), vec![1.0; tokens.len()], Kind::Plain)
    }

    #[test]
    fn windows_measure_every_token_but_the_first() {
        let tokens: Vec<u32> = (0..10).collect();
        for (context, wanted) in [
            (10, &[(0, 10)][..]),
            (64, &[(0, 10)]),
            (9, &[(0, 9), (8, 10)]),
            (4, &[(0, 4), (3, 7), (6, 10)]),
            (2, &[(0, 2), (1, 3)]),
        ] {
            let found = windows(&tokens, context);
            let measured: usize = found.iter().map(Sample::trained_tokens).sum();
            assert_eq!(measured, 9, "context {context}");
            for (found, &(from, to)) in found.iter().zip(wanted) {
                assert_eq!(found.tokens, tokens[from..to], "context {context}");
            }
        }
        assert!(windows(&tokens[..1], 4).is_empty() && windows(&[], 4).is_empty());
    }

    #[test]
    fn short_sequences_share_a_pass_and_long_ones_are_cut() {
        let all = passes(&[sample(0..3), sample(10..14), sample(20..29), sample(40..41), sample(50..52)], 8);
        let shape: Vec<(bool, Vec<usize>)> = all.iter().map(|pass| (pass.fresh, pass.lengths.clone())).collect();
        assert_eq!(shape, [(true, vec![3, 4]), (true, vec![8]), (false, vec![1]), (true, vec![2])]);
        assert_eq!(all[0].targets, [1, 2, 2, 11, 12, 13, 13]);
        assert_eq!(all[0].measured_rows(), [0, 1, 3, 4, 5]);
        // The last row of a piece predicts the first token of the next.
        assert_eq!((all[1].targets[7], all[1].weights[7]), (28, 1.0));
        assert_eq!(all[2].weights, [0.0]);
    }
}
