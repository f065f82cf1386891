//! Runs of tokens shared with what is measured: a file that holds a test's answer is not trained on.

use std::collections::HashSet;

/// Tokens in a run. Programs of the kata world are short, and shorter runs are everybody's idioms.
const RUN: usize = 32;

/// The runs of a set of texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grams {
    hashes: HashSet<u64>,
}

impl Grams {
    pub(crate) fn add(&mut self, tokens: &[u32]) {
        self.hashes.extend(runs(tokens, RUN));
    }

    pub(crate) fn overlaps(&self, tokens: &[u32]) -> bool {
        !self.hashes.is_empty() && runs(tokens, RUN).any(|hash| self.hashes.contains(&hash))
    }
}

/// A rolling hash of every run of `length` values, in order.
pub(crate) fn runs<T: Copy + Into<u64>>(values: &[T], length: usize) -> impl Iterator<Item = u64> + '_ {
    const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
    let top = (1..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let value = move |at: usize| Into::<u64>::into(values[at]).wrapping_add(1);
    let mut state = 0u64;
    (0..values.len()).filter_map(move |at| {
        if at >= length {
            state = state.wrapping_sub(value(at - length).wrapping_mul(top));
        }
        state = state.wrapping_mul(BASE).wrapping_add(value(at));
        (at + 1 >= length).then_some(state ^ (state >> 31))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    #[test]
    fn a_shared_run_is_found_wherever_it_stands_and_shorter_ones_are_not() {
        let mut rng = Rng::new(8);
        let mut text = |length: usize| -> Vec<u32> { (0..length).map(|_| rng.below(500) as u32).collect() };
        let (measured, before, after) = (text(100), text(41), text(30));
        let mut grams = Grams::default();
        grams.add(&measured);
        let around = |inside: &[u32]| [&before, inside, &after].concat();
        assert!(grams.overlaps(&around(&measured[17..17 + RUN])));
        assert!(!grams.overlaps(&around(&measured[17..17 + RUN - 1])));
        assert!(!grams.overlaps(&measured[..RUN - 1]));
        assert!(!Grams::default().overlaps(&measured));
    }
}
