//! Running calibration tokens through a model and counting what its experts do.

use models::{KvFormat, Model, State};
use ops::{Observe, Precision, Statistics};

/// Packed sequences to calibrate on.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    pub tokens: &'a [u32],
    pub lengths: &'a [usize],
}

/// Statistics of every expert over all batches. `progress` hears how many tokens are done.
pub fn observe<'a>(
    model: &Model,
    batches: impl IntoIterator<Item = Calibration<'a>>,
    mut progress: impl FnMut(usize),
) -> Statistics {
    let mut e = Observe::observing(Precision::F32);
    let mut done = 0;
    for Calibration { tokens, lengths } in batches {
        let mut states = vec![State::empty(&model.config, KvFormat::F32); lengths.len()];
        models::hidden(&mut e, model, &mut states, tokens, lengths);
        done += tokens.len();
        progress(done);
    }
    e.record
}
