//! Whether a model computes what another program computed from the same weights.

use crate::divergence::compare_rows;
use crate::walk::{Measured, PASS_TOKENS, Walker, check, passes};
use crate::{EvaluateError, Rate};
use prepare::{Kind, Sample};
use serde::{Deserialize, Serialize};

/// Our logits against the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    pub tokens: u64,
    pub largest_difference: f64,
    pub rms_difference: f64,
    /// KL(reference ‖ ours), nats per token.
    pub divergence: f64,
    pub same_top_token: Rate,
    /// Sequence and position of the largest difference.
    pub worst: (usize, usize),
}

/// `logits[i]` holds a row of the vocabulary for each token of `sequences[i]`.
pub fn parity(measured: Measured<'_>, sequences: &[Vec<u32>], logits: &[Vec<f32>]) -> Result<Parity, EvaluateError> {
    let model = measured.model;
    assert_eq!(sequences.len(), logits.len(), "one reference for each sequence");
    let vocabulary = model.config.vocab_size;
    for (sequence, (tokens, logits)) in sequences.iter().zip(logits).enumerate() {
        let (wanted, found) = (tokens.len() * vocabulary, logits.len());
        if wanted != found {
            return Err(EvaluateError::Reference { sequence, wanted, found });
        }
    }
    let mut walker = Walker::new(measured);
    let (mut squares, mut divergence, mut same, mut tokens) = (0.0, 0.0, 0, 0u64);
    let (mut largest, mut worst) = (0.0f64, (0, 0));
    for (sequence, (ids, reference)) in sequences.iter().zip(logits).enumerate() {
        let sample = Sample::new(ids.clone(), vec![1.0; ids.len()], Kind::Plain);
        check(model, std::slice::from_ref(&sample))?;
        let mut position = 0;
        for pass in passes(std::slice::from_ref(&sample), PASS_TOKENS) {
            let hidden = walker.hidden(&pass);
            for row in 0..pass.tokens.len() {
                let ours = walker.logits(&hidden, &[row]);
                let wanted = &reference[position * vocabulary..(position + 1) * vocabulary];
                for (&a, &b) in ours.row(0).iter().zip(wanted) {
                    let difference = (f64::from(a) - f64::from(b)).abs();
                    squares += difference * difference;
                    // A difference that is not a number must not pass for a small one.
                    if difference > largest || difference.is_nan() {
                        (largest, worst) = (difference, (sequence, position));
                    }
                }
                let row = compare_rows(ours.row(0), wanted);
                divergence += row.divergence;
                same += u64::from(row.same_top);
                tokens += 1;
                position += 1;
            }
        }
    }
    if tokens == 0 {
        return Err(EvaluateError::Nothing("the reference has no sequence of two tokens or more".into()));
    }
    Ok(Parity {
        tokens,
        largest_difference: largest,
        rms_difference: (squares / (tokens as f64 * vocabulary as f64)).sqrt(),
        divergence: divergence / tokens as f64,
        same_top_token: Rate::of(same, tokens),
        worst,
    })
}
