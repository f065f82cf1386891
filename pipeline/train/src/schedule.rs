//! The learning rate of each step: a linear warm-up, then half a cosine down to a floor.

/// `peak` is reached after `warmup_steps`; the last of `steps` ends at `peak · floor_ratio`. A ratio of 1 keeps it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub floor_ratio: f64,
    pub warmup_steps: usize,
    pub steps: usize,
}

impl Schedule {
    /// The rate of the update number `step`, counted from 0. The first step of a warm-up already moves.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.steps.saturating_sub(self.warmup_steps + 1).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.peak * (self.floor_ratio + (1.0 - self.floor_ratio) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { peak: 2.0, floor_ratio: 0.1, warmup_steps: 4, steps: 105 };

    #[test]
    fn warms_up_peaks_falls_and_ends_at_the_floor() {
        let rates: Vec<f64> = (0..105).map(|step| SCHEDULE.rate(step)).collect();
        assert_eq!(&rates[..5], &[0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!((rates[54] - 1.1).abs() < 1e-12, "half way down: {}", rates[54]);
        assert!((rates[104] - 0.2).abs() < 1e-12);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(SCHEDULE.rate(500), rates[104]);
    }

    #[test]
    fn a_ratio_of_one_is_constant_and_short_runs_do_not_divide_by_zero() {
        let constant = Schedule { floor_ratio: 1.0, warmup_steps: 0, ..SCHEDULE };
        assert!((0..105).all(|step| constant.rate(step) == 2.0));
        let one = Schedule { steps: 1, warmup_steps: 0, ..SCHEDULE };
        assert_eq!(one.rate(0), 2.0);
        let only_warmup = Schedule { steps: 2, warmup_steps: 10, ..SCHEDULE };
        assert!(only_warmup.rate(1) < 2.0);
    }
}
