//! How many experts may stay: what a search must hold to, both as a choice and in expectation.
//!
//! Legend: a logits, `p = σ(a)` the chance to stay.

use std::ops::Range;

/// Candidates stand mixture after mixture.
pub(super) struct Limits {
    /// Each mixture's candidates.
    pub(super) ranges: Vec<Range<usize>>,
    /// How many of each stay at least.
    pub(super) minima: Vec<usize>,
    /// How many stay of all.
    pub(super) total: usize,
}

/// No chance is nearer to 0 or 1 than this shift takes it.
const SHIFT_MAX: f64 = 60.0;
const BISECTIONS: usize = 80;

pub(super) fn sigmoid(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

fn expected(logits: &[f64], shift: f64) -> f64 {
    logits.iter().map(|a| sigmoid(a + shift)).sum()
}

/// The largest shift at which `found`, which grows with it, is at most `wanted`.
fn bisected(wanted: usize, found: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-SHIFT_MAX, SHIFT_MAX);
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (low + high);
        if found(middle) <= wanted as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

impl Limits {
    /// The candidates with the highest scores: of each mixture its minimum, and of all that are left the rest.
    pub(super) fn choose(&self, scores: &[f64]) -> Vec<bool> {
        let best_first = |mut candidates: Vec<usize>| {
            candidates.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            candidates
        };
        let mut stays = vec![false; scores.len()];
        for (range, &minimum) in self.ranges.iter().zip(&self.minima) {
            best_first(range.clone().collect())[..minimum].iter().for_each(|&candidate| stays[candidate] = true);
        }
        let left = self.total - self.minima.iter().sum::<usize>();
        let open = (0..scores.len()).filter(|&candidate| !stays[candidate]).collect();
        best_first(open)[..left].iter().for_each(|&candidate| stays[candidate] = true);
        stays
    }

    /// Shifts logits until as many are expected to stay as may: all by as much, but those of a mixture that would keep
    /// less than its minimum by as much as that takes.
    pub(super) fn project(&self, logits: &mut [f64]) {
        let bounded = |range: &Range<usize>, minimum: usize, shift: f64| {
            expected(&logits[range.clone()], shift).max(minimum as f64)
        };
        let all = || self.ranges.iter().zip(&self.minima);
        let common = bisected(self.total, |shift| all().map(|(range, &least)| bounded(range, least, shift)).sum());
        for (range, &minimum) in self.ranges.iter().zip(&self.minima) {
            let own = &mut logits[range.clone()];
            let shift = match expected(own, common) < minimum as f64 {
                true => bisected(minimum, |shift| expected(own, shift)),
                false => common,
            };
            own.iter_mut().for_each(|a| *a += shift);
        }
    }

    /// Takes out of a direction what would change how many are expected to stay, to first order: its part along the
    /// normal `∂Σp/∂a = p·(1 − p)`. Where each mixture keeps as many as it must, each has a normal of its own.
    pub(super) fn level(&self, direction: &mut [f64], logits: &[f64]) {
        let is_each = self.minima.iter().sum::<usize>() == self.total;
        let whole = 0..logits.len();
        for range in if is_each { &self.ranges[..] } else { std::slice::from_ref(&whole) } {
            let normal = |a: &f64| sigmoid(*a) * (1.0 - sigmoid(*a));
            let normal: Vec<f64> = logits[range.clone()].iter().map(normal).collect();
            let square: f64 = normal.iter().map(|n| n * n).sum();
            if square > 0.0 {
                let own = &mut direction[range.clone()];
                let along = own.iter().zip(&normal).map(|(d, n)| d * n).sum::<f64>() / square;
                own.iter_mut().zip(&normal).for_each(|(d, n)| *d -= along * n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    fn limits(minima: [usize; 3], total: usize) -> Limits {
        Limits { ranges: vec![0..8, 8..14, 14..30], minima: minima.to_vec(), total }
    }

    fn counts(limits: &Limits, of: impl Fn(usize) -> f64) -> Vec<f64> {
        limits.ranges.iter().map(|range| range.clone().map(&of).sum()).collect()
    }

    #[test]
    fn as_many_stay_as_may_and_of_each_mixture_its_minimum() {
        let mut rng = Rng::new(3);
        for (minima, total) in
            [([2, 2, 2], 13), ([4, 3, 8], 15), ([0, 0, 0], 1), ([8, 6, 16], 30), ([2, 6, 2], 12), ([0, 0, 0], 0)]
        {
            let limits = limits(minima, total);
            // The first mixture is worth less than its minimum, the last more than the others.
            let mut logits: Vec<f64> = (0..30).map(|i| rng.normal() + [-5.0, 0.0, 3.0][(i / 8).min(2)]).collect();
            let stays = limits.choose(&logits);
            let chosen = counts(&limits, |i| f64::from(u8::from(stays[i])));
            assert_eq!(chosen.iter().sum::<f64>(), total as f64, "{minima:?} of {total}");
            assert!(chosen.iter().zip(minima).all(|(found, least)| *found >= least as f64), "{chosen:?}");
            let before = logits.clone();
            limits.project(&mut logits);
            let kept = counts(&limits, |i| sigmoid(logits[i]));
            assert!((kept.iter().sum::<f64>() - total as f64).abs() < 1e-6, "{kept:?} for {total}");
            assert!(kept.iter().zip(minima).all(|(found, least)| *found > least as f64 - 1e-6), "{kept:?}");
            // Within a mixture nobody overtakes anybody.
            for range in &limits.ranges {
                let shift = logits[range.start] - before[range.start];
                assert!(range.clone().all(|i| (logits[i] - before[i] - shift).abs() < 1e-9));
            }
            let again = logits.clone();
            limits.project(&mut logits);
            assert!(logits.iter().zip(&again).all(|(a, b)| (sigmoid(*a) - sigmoid(*b)).abs() < 1e-9), "it is there");
        }
    }

    #[test]
    fn a_level_step_keeps_the_expectation() {
        let mut rng = Rng::new(4);
        for limits in [limits([2, 2, 2], 13), limits([4, 3, 8], 15)] {
            let mut logits: Vec<f64> = (0..30).map(|_| rng.normal()).collect();
            limits.project(&mut logits);
            let mut direction: Vec<f64> = (0..30).map(|_| rng.normal()).collect();
            let raw = direction.clone();
            limits.level(&mut direction, &logits);
            let after = |direction: &[f64]| {
                let moved = |i: usize| sigmoid(logits[i] + 1e-4 * direction[i]);
                (counts(&limits, moved), counts(&limits, |i| sigmoid(logits[i])))
            };
            let (found, wanted) = after(&direction);
            let far = |found: &[f64], wanted: &[f64]| (found.iter().sum::<f64>() - wanted.iter().sum::<f64>()).abs();
            assert!(far(&found, &wanted) < 1e-7);
            assert!(far(&after(&raw).0, &wanted) > 1e-5, "the raw step does change it");
            let is_each = limits.total == 15;
            assert_eq!(is_each, found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-7));
        }
    }
}
