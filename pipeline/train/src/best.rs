//! The lowest validation loss so far, and how long ago that was.

use serde::{Deserialize, Serialize};

/// The best validation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    pub step: usize,
    pub loss: f64,
    /// Validations since then.
    pub since: usize,
}

impl Best {
    /// Takes notice of a validation; whether it is the best so far, by `gain` at least.
    pub(crate) fn take(best: &mut Option<Self>, step: usize, loss: f64, gain: f64) -> bool {
        let better = loss.is_finite() && best.is_none_or(|best| loss < best.loss - gain);
        match best {
            _ if better => *best = Some(Self { step, loss, since: 0 }),
            Some(best) => best.since += 1,
            None => {}
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gain_makes_a_new_best_and_what_is_no_number_never_does() {
        let mut best = None;
        let losses = [f64::NAN, 2.0, 1.95, f64::NAN, 1.8, 1.8, 2.5];
        let taken: Vec<bool> = (0..).zip(losses).map(|(step, loss)| Best::take(&mut best, step, loss, 0.1)).collect();
        assert_eq!(taken, [false, true, false, false, true, false, false]);
        assert_eq!(best, Some(Best { step: 4, loss: 1.8, since: 2 }));
    }
}
