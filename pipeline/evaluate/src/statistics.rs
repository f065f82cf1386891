//! What a count of successes says, and how surely.

use serde::{Deserialize, Serialize};

/// Successes among trials, with the interval that holds the true rate in 95 of 100 such experiments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub successes: u64,
    pub trials: u64,
    /// 0 where nothing was tried.
    pub rate: f64,
    pub low: f64,
    pub high: f64,
}

impl Rate {
    /// Wilson's score interval (E. B. Wilson, 1927), which stays inside `[0, 1]` and does not collapse at 0 and 1.
    pub fn of(successes: u64, trials: u64) -> Self {
        assert!(successes <= trials, "{successes} successes among {trials} trials");
        if trials == 0 {
            return Self { successes, trials, rate: 0.0, low: 0.0, high: 1.0 };
        }
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (trials as f64, successes as f64 / trials as f64);
        let scale = 1.0 / (1.0 + Z * Z / n);
        let center = (p + Z * Z / (2.0 * n)) * scale;
        let half = Z * scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        // At the ends the bound is exact, and rounding must not say otherwise.
        let low = if successes == 0 { 0.0 } else { center - half };
        let high = if successes == trials { 1.0 } else { center + half };
        Self { successes, trials, rate: p, low, high }
    }

    pub fn of_outcomes(outcomes: impl IntoIterator<Item = bool>) -> Self {
        let mut counts = (0, 0);
        for success in outcomes {
            counts.0 += u64::from(success);
            counts.1 += 1;
        }
        Self::of(counts.0, counts.1)
    }

    /// `62.5 % (48.4–74.8, n=48)`, or a dash where nothing was tried.
    pub fn in_words(&self) -> String {
        if self.trials == 0 {
            return "—".into();
        }
        format!("{:.1} % ({:.1}–{:.1}, n={})", 100.0 * self.rate, 100.0 * self.low, 100.0 * self.high, self.trials)
    }

    /// `62.5 %`, or a dash where nothing was tried.
    pub fn percent(&self) -> String {
        if self.trials == 0 { "—".into() } else { format!("{:.1} %", 100.0 * self.rate) }
    }
}

/// The probability that at least one of `k` samples passes, estimated without bias from `correct` of `samples` that
/// did: 1 − C(samples − correct, k) / C(samples, k) (Chen et al., 2021, arXiv:2107.03374).
pub fn pass_at_k(samples: u64, correct: u64, k: u64) -> f64 {
    assert!(correct <= samples && (1..=samples).contains(&k), "pass@{k} of {correct} in {samples}");
    if samples - correct < k {
        return 1.0;
    }
    // The quotient of the binomials, one factor at a time, so that nothing overflows.
    1.0 - (samples - correct + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// The value below which `share` of the values lie; the nearest one, not interpolated. 0 for no values.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_match_published_values() {
        // R: prop.test(x, n, correct = FALSE)$conf.int
        for (x, n, low, high) in
            [(15, 20, 0.531_299, 0.888_138), (1, 10, 0.017_876, 0.404_150), (50, 100, 0.403_832, 0.596_168)]
        {
            let rate = Rate::of(x, n);
            assert!((rate.low - low).abs() < 1e-5 && (rate.high - high).abs() < 1e-5, "{rate:?}");
        }
        let none = Rate::of(0, 10);
        assert_eq!(none.low, 0.0);
        assert!((none.high - 0.277_533).abs() < 1e-5, "{none:?}");
        assert_eq!(Rate::of(10, 10).high, 1.0);
        assert_eq!(Rate::of(0, 0).in_words(), "—");
        assert_eq!(Rate::of_outcomes([true, false, true, true]).in_words(), "75.0 % (30.1–95.4, n=4)");
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_success() {
        for (samples, correct, k) in [(5u64, 2u64, 1u64), (5, 2, 3), (6, 1, 4), (4, 0, 2), (4, 4, 1), (7, 3, 2)] {
            let (mut with, mut all) = (0, 0);
            for subset in 0u32..1 << samples {
                if u64::from(subset.count_ones()) == k {
                    all += 1;
                    with += u32::from(subset & ((1 << correct) - 1) != 0);
                }
            }
            let wanted = f64::from(with) / f64::from(all);
            assert!((pass_at_k(samples, correct, k) - wanted).abs() < 1e-12, "{samples} {correct} {k}");
        }
        assert!((pass_at_k(200_000, 3, 100) - 0.001_499_25).abs() < 1e-7);
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), 3.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
