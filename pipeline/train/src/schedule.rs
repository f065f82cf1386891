//! The learning rate of each step: a linear warm-up, then one of the usual ways down to a floor, or none.

use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine down to the floor.
    #[default]
    Cosine,
    /// A straight line down to the floor.
    Linear,
    /// It stays where it is.
    Constant,
    /// It stays until the last part of the steps, then a straight line down to the floor (warm-up, stable, decay).
    #[serde(alias = "warmup_stable_decay")]
    Wsd,
}

/// `peak` is reached after `warmup_steps`; the last of `steps` ends at `peak · floor_ratio`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub floor_ratio: f64,
    pub warmup_steps: usize,
    pub steps: usize,
    pub decay: Decay,
    /// The part of all steps in which [`Decay::Wsd`] goes down.
    pub decay_share: f64,
}

impl Schedule {
    /// The rate of the update number `step`, counted from 0. The first step of a warm-up already moves.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.steps.saturating_sub(self.warmup_steps + 1).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let height = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Linear => 1.0 - progress,
            Decay::Constant => return self.peak,
            Decay::Wsd => {
                let decay_steps = (self.steps as f64 * self.decay_share).ceil().max(1.0);
                let left = self.steps.saturating_sub(step + 1) as f64;
                (left / decay_steps).min(1.0)
            }
        };
        self.peak * (self.floor_ratio + (1.0 - self.floor_ratio) * height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule =
        Schedule { peak: 2.0, floor_ratio: 0.1, warmup_steps: 4, steps: 105, decay: Decay::Cosine, decay_share: 0.2 };

    #[test]
    fn it_rises_then_falls_to_the_floor() {
        let rates: Vec<f64> = (0..105).map(|step| SCHEDULE.rate(step)).collect();
        assert_eq!(&rates[..5], &[0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!((rates[54] - 1.1).abs() < 1e-12, "half way down: {}", rates[54]);
        assert!((rates[104] - 0.2).abs() < 1e-12);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(SCHEDULE.rate(500), rates[104]);
    }

    #[test]
    fn every_decay_has_the_same_warm_up_and_its_own_way_down() {
        let of = |decay| (0..105).map(|step| Schedule { decay, ..SCHEDULE }.rate(step)).collect::<Vec<f64>>();
        let (linear, constant, wsd) = (of(Decay::Linear), of(Decay::Constant), of(Decay::Wsd));
        for rates in [&linear, &constant, &wsd] {
            assert_eq!(&rates[..5], &[0.5, 1.0, 1.5, 2.0, 2.0]);
        }
        assert!(constant[4..].iter().all(|&rate| rate == 2.0));
        let falls: Vec<f64> = linear[4..].windows(2).map(|pair| pair[0] - pair[1]).collect();
        assert!(falls.iter().all(|fall| (fall - 0.018).abs() < 1e-12), "a straight line");
        assert!((linear[104] - 0.2).abs() < 1e-12);
        // 21 steps go down: the first that is lower is the one after 84 steps.
        assert!(wsd[4..84].iter().all(|&rate| rate == 2.0) && wsd[84] < 2.0);
        assert!((wsd[104] - 0.2).abs() < 1e-12);
        assert!(wsd[83..].windows(2).all(|pair| (pair[0] - pair[1] - 1.8 / 21.0).abs() < 1e-12));
    }

    #[test]
    fn a_ratio_of_one_is_constant_and_short_runs_do_not_divide_by_zero() {
        for decay in [Decay::Cosine, Decay::Linear, Decay::Wsd] {
            let constant = Schedule { floor_ratio: 1.0, warmup_steps: 0, decay, ..SCHEDULE };
            assert!((0..105).all(|step| constant.rate(step) == 2.0));
            let one = Schedule { steps: 1, warmup_steps: 0, decay, ..SCHEDULE };
            assert!(one.rate(0) == 2.0 || decay == Decay::Wsd && one.rate(0) == 0.2, "{}", one.rate(0));
            let only_warmup = Schedule { steps: 2, warmup_steps: 10, decay, ..SCHEDULE };
            assert!(only_warmup.rate(1) < 2.0);
        }
    }
}
