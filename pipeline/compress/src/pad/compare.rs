//! How far two models of one vocabulary are apart, layer by layer, of which one layer is in memory.

use crate::{Calibration, CompressError};
use models::{LayerStream, Layers, layer_from_empty};
use ops::{Buffer, Execute, Infer, Precision};

/// What was found over some tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LogitsApart {
    pub tokens: usize,
    /// The largest |difference| of a logit, and the largest |logit| of the first model.
    pub difference: f64,
    pub largest: f64,
}

/// Rows whose logits are there at once.
const ROWS: usize = 128;

/// Logits of both models on the same packs of sequences.
pub fn logits_apart(
    first: &LayerStream,
    second: &LayerStream,
    packs: &[Calibration],
) -> Result<LogitsApart, CompressError> {
    let mut apart = LogitsApart::default();
    let [first, second] = [first, second].map(Layers::Streamed);
    let states = [last_states(first, packs)?, last_states(second, packs)?];
    let heads = [first.head()?, second.head()?];
    let mut e = Infer::new(Precision::F32);
    for (one, other) in states[0].iter().zip(&states[1]) {
        apart.tokens += one.rows;
        for start in (0..one.rows).step_by(ROWS) {
            let rows: Vec<usize> = (start..one.rows.min(start + ROWS)).collect();
            let wanted = e.linear(&one.gathered(&rows), &heads[0]);
            let found = e.linear(&other.gathered(&rows), &heads[1]);
            for (&wanted, &found) in wanted.iter().zip(found.iter()) {
                let difference = f64::from((wanted - found).abs());
                // What is no number differs from everything.
                apart.difference = apart.difference.max(if difference.is_nan() { f64::INFINITY } else { difference });
                apart.largest = apart.largest.max(f64::from(wanted.abs()));
            }
        }
    }
    Ok(apart)
}

/// What the head is given, of each pack.
fn last_states(layers: Layers, packs: &[Calibration]) -> Result<Vec<Buffer>, CompressError> {
    let embedding = layers.embedding()?;
    let mut e = Infer::new(Precision::F32);
    let mut states: Vec<Buffer> = packs.iter().map(|pack| e.embedding(&embedding, pack.tokens)).collect();
    drop(embedding);
    for index in 0..layers.config().layers.len() {
        let layer = layers.layer(index)?;
        for (state, pack) in states.iter_mut().zip(packs) {
            let x = std::mem::replace(state, Buffer::zeros(0, 1));
            *state = layer_from_empty(&mut e, layers.config(), index, &layer, pack.lengths, x);
        }
    }
    let norm = layers.final_norm()?;
    Ok(states.iter().map(|state| e.rms_norm(state, &norm)).collect())
}
