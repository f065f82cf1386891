//! Early warnings: signs in what a run measures that a person would want to know before the run is over.

use crate::event::{Event, Step, Validation, Warning};
use serde::{Deserialize, Serialize};

/// Below this a model repeats its data rather than learning from it (if held-out data does not come as easily).
const MEMORISING_LOSS: f64 = 0.3;
/// Above this, late in a run, a model has not learnt its data.
const NOT_LEARNING_LOSS: f64 = 1.0;
/// Validation this much above training is a gap.
const GAP: f64 = 1.5;
/// A smoothed value forgets with this factor a step.
const SMOOTHING: f64 = 0.9;
/// Steps after which a smoothed value says something.
const SETTLED: usize = 10;
/// Steps after which a loss that is where it began is a sign.
const FLAT_STEPS: usize = 100;
/// A gradient so many times its usual size is a spike.
const SPIKE: f64 = 10.0;
/// What one spike counts at most in the usual size, so that a lasting change is followed and one batch is not.
const SPIKE_COUNTS: f64 = 4.0;
/// Below this share of trained tokens most of the work is for nothing.
const TRAINED_SHARE: f64 = 0.01;

/// Watches a run go by; each warning is given once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    steps: usize,
    warmup_steps: usize,
    smooth: Option<f64>,
    /// The sum of the first losses, [`SETTLED`] of them.
    first: f64,
    seen: usize,
    usual_norm: Option<f64>,
    norms_seen: usize,
    validation: Option<f64>,
    best_validation: Option<f64>,
    /// As many experts as would be used evenly, of each layer, in the first record.
    first_experts: Vec<f64>,
    given: Vec<Warning>,
}

impl Watch {
    pub fn new(steps: usize, warmup_steps: usize) -> Self {
        Self { steps, warmup_steps, ..Self::default() }
    }

    /// Takes notice of how much of the data is trained.
    pub fn data(&mut self, tokens: usize, trained_tokens: usize) -> Option<Event> {
        let share = trained_tokens as f64 / tokens.max(1) as f64;
        let message = format!(
            "only {:.2} % of the data's tokens are trained ({trained_tokens} of {tokens}): are the assistant's turns \
             marked, and not cut off by sequence_length?",
            100.0 * share
        );
        if share < TRAINED_SHARE { self.once(0, Warning::FewTrained, message) } else { None }
    }

    /// How many times its usual size a gradient's norm is; 0 while too few were seen to say.
    pub fn norm_ratio(&self, norm: f64) -> f64 {
        match self.usual_norm {
            Some(usual) if self.norms_seen >= SETTLED && usual > 0.0 => norm / usual,
            _ => 0.0,
        }
    }

    /// Takes notice of a step.
    pub fn step(&mut self, seen: &Step) -> Vec<Event> {
        let step = seen.step;
        if !seen.loss.is_finite() || !seen.gradient_norm.is_finite() {
            let what = if seen.loss.is_finite() { "gradient" } else { "loss" };
            let message = format!("the {what} was no number; the update was left out");
            return self.once(step, Warning::NotANumber, message).into_iter().collect();
        }
        let mut events = Vec::new();
        if seen.trained_tokens == 0 {
            let message = "no token of this step is trained, so it changed nothing: are the weights of the data right?";
            events.extend(self.once(step, Warning::FewTrained, message.to_owned()));
            return events;
        }
        if seen.learning_rate == 0.0 && step < self.steps {
            let message = format!(
                "the learning rate is 0, {} steps before the end: look at final_ratio and schedule",
                self.steps - step
            );
            events.extend(self.once(step, Warning::NoRate, message));
        }
        events.extend(self.norm(seen));
        events.extend(self.loss(step, seen.loss));
        events
    }

    fn norm(&mut self, seen: &Step) -> Option<Event> {
        let (norm, ratio) = (seen.gradient_norm, self.norm_ratio(seen.gradient_norm));
        let usual = self.usual_norm.unwrap_or(norm);
        let counted = if self.norms_seen >= SETTLED { norm.min(SPIKE_COUNTS * usual) } else { norm };
        self.usual_norm = Some(SMOOTHING * usual + (1.0 - SMOOTHING) * counted);
        self.norms_seen += 1;
        if ratio <= SPIKE {
            return None;
        }
        let done = if seen.skipped {
            "the update was left out"
        } else {
            "clip bounds what it did; skip_spikes = 10 would leave such updates out"
        };
        let message = format!("the gradient's norm was {norm:.3}, {ratio:.0} times the usual {usual:.3}: {done}");
        self.once(seen.step, Warning::Spike, message)
    }

    fn loss(&mut self, step: usize, loss: f64) -> Option<Event> {
        let smooth = self.smooth.map_or(loss, |before| SMOOTHING * before + (1.0 - SMOOTHING) * loss);
        self.smooth = Some(smooth);
        if self.seen < SETTLED {
            self.first += loss / SETTLED as f64;
        }
        self.seen += 1;
        if self.seen < SETTLED {
            return None;
        }
        if smooth < MEMORISING_LOSS {
            return self.memorising(step, smooth);
        }
        let first = self.first;
        let flat_from = FLAT_STEPS.max(self.steps / 4).max(2 * self.warmup_steps);
        if self.seen >= flat_from && smooth > 0.98 * first {
            let message = format!(
                "after {step} steps the loss is {smooth:.3}, where it began ({first:.3}): try a higher learning_rate, \
                 and look at what is trained"
            );
            return self.once(step, Warning::Flat, message);
        }
        let late = step >= 200 && 2 * step >= self.steps;
        if late && smooth > NOT_LEARNING_LOSS {
            let message = format!(
                "the loss is still {smooth:.3} after {step} steps, above {NOT_LEARNING_LOSS}: try a higher \
                 learning_rate or more steps, and look at the data"
            );
            return self.once(step, Warning::NotLearning, message);
        }
        None
    }

    fn memorising(&mut self, step: usize, smooth: f64) -> Option<Event> {
        let judgement = match self.validation {
            Some(validation) if validation < GAP * smooth.max(0.05) => {
                format!("validation is at {validation:.3}: the data may simply be easy to predict")
            }
            Some(validation) => format!("validation is at {validation:.3}: stop earlier or bring more data"),
            None => "hold some data out for validation to know".to_owned(),
        };
        let message =
            format!("the loss is {smooth:.3}, below {MEMORISING_LOSS}: the model may be memorising; {judgement}");
        self.once(step, Warning::Memorising, message)
    }

    /// Takes notice of a validation.
    pub fn validation(&mut self, seen: &Validation) -> Option<Event> {
        let loss = seen.loss;
        if !loss.is_finite() {
            return None;
        }
        self.validation = Some(loss);
        let best = self.best_validation.map_or(loss, |best: f64| best.min(loss));
        self.best_validation = Some(best);
        if loss > best * 1.1 && self.smooth.is_some_and(|smooth| smooth * GAP < loss) {
            let message = format!("validation rose from {best:.3} to {loss:.3} while training went on falling");
            return self.once(seen.step, Warning::Overfitting, message);
        }
        None
    }

    /// Takes notice of how the experts were used: `layers[l][e]` is a share of layer `l`'s choices, `top_k` of which
    /// each token makes.
    pub fn experts(&mut self, step: usize, layers: &[Vec<f32>], top_k: usize) -> Option<Event> {
        let used: Vec<f64> = layers.iter().map(|layer| used_evenly(layer)).collect();
        if self.first_experts.len() != used.len() {
            self.first_experts.clone_from(&used);
        }
        let fallen = |&layer: &usize| {
            let (now, first, all) = (used[layer], self.first_experts[layer], layers[layer].len() as f64);
            // All tokens with the same few experts, or half as many experts as when the run began.
            all > 2.0 * top_k as f64 && (now < 1.25 * top_k as f64 || now < 0.5 * first)
        };
        let worst = (0..used.len()).filter(fallen).min_by(|&a, &b| used[a].total_cmp(&used[b]))?;
        let message = format!(
            "in layer {worst} of those with experts, the choices fall upon {:.1} of {} experts ({:.1} at first): lower \
             learning_rate, or give auxiliary_coefficient = 0.001",
            used[worst],
            layers[worst].len(),
            self.first_experts[worst],
        );
        self.once(step, Warning::ExpertCollapse, message)
    }

    /// Says that the model before training was the best.
    pub fn no_gain(&mut self, step: usize, loss: f64) -> Option<Event> {
        let message = format!(
            "no validation was below {loss:.3}, that of the model before training, which is the result: lower \
             learning_rate, or bring data that is more like what is validated"
        );
        self.once(step, Warning::NoGain, message)
    }

    fn once(&mut self, step: usize, warning: Warning, message: String) -> Option<Event> {
        if self.given.contains(&warning) {
            return None;
        }
        self.given.push(warning);
        Some(Event::Warning { step, warning, message })
    }
}

/// The number of experts that, used evenly, would be as uneven as these shares: e to their entropy.
pub(crate) fn used_evenly(shares: &[f32]) -> f64 {
    let terms = shares.iter().map(|&share| f64::from(share)).filter(|&share| share > 0.0);
    terms.map(|share| -share * share.ln()).sum::<f64>().exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(step: usize, loss: f64) -> Step {
        Step {
            step,
            loss,
            losses: Default::default(),
            terms: Default::default(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            skipped: false,
            expert_imbalance: 0.0,
            router_entropy: 0.0,
            tokens: 100,
            trained_tokens: 50,
            tokens_per_second: 1.0,
            seconds: step as f64,
            epoch: 0,
            peak_memory_bytes: None,
        }
    }

    fn kind(event: Event) -> (Warning, String) {
        if let Event::Warning { warning, message, .. } = event { (warning, message) } else { panic!("{event:?}") }
    }

    fn warned(steps: usize, step: impl Fn(usize) -> Step) -> Vec<Warning> {
        let mut watch = Watch::new(steps, 0);
        (1..=steps).flat_map(|at| watch.step(&step(at))).map(|event| kind(event).0).collect()
    }

    fn falling(from: f64, to: f64, steps: usize) -> impl Fn(usize) -> Step {
        move |step| seen(step, from + (to - from) * step as f64 / steps as f64)
    }

    #[test]
    fn low_losses_warn_once_and_high_ones_only_late() {
        assert_eq!(warned(50, |step| seen(step, 0.2)), [Warning::Memorising]);
        assert_eq!(warned(150, falling(4.0, 2.0, 150)), []);
        assert_eq!(warned(1000, falling(4.0, 1.5, 1000)), [Warning::NotLearning]);
        assert_eq!(warned(1000, falling(4.0, 0.4, 1000)), [Warning::NotLearning], "it was high at half time");
        assert_eq!(warned(1000, falling(1.2, 0.5, 1000)), []);
        assert_eq!(warned(20, |step| seen(step, if step == 1 { 1.0 } else { f64::NAN })), [Warning::NotANumber]);
        let no_norm = |step| Step { gradient_norm: if step == 3 { f64::INFINITY } else { 1.0 }, ..seen(step, 2.0) };
        assert_eq!(warned(20, no_norm), [Warning::NotANumber]);
    }

    #[test]
    fn a_loss_that_stays_is_flat_once_the_warm_up_is_long_over() {
        assert_eq!(warned(150, |step| seen(step, 0.9)), [Warning::Flat]);
        assert_eq!(warned(99, |step| seen(step, 0.9)), []);
        let mut slow = Watch::new(150, 100);
        assert_eq!((1..=150).flat_map(|step| slow.step(&seen(step, 0.9))).count(), 0);
    }

    #[test]
    fn one_huge_gradient_is_a_spike_and_a_lasting_change_is_followed() {
        let spike = |step| Step { gradient_norm: if step == 30 { 50.0 } else { 1.0 }, ..falling(2.0, 0.5, 60)(step) };
        assert_eq!(warned(60, spike), [Warning::Spike]);
        let mut watch = Watch::new(60, 0);
        (1..=29).for_each(|step| drop(watch.step(&spike(step))));
        assert!((watch.norm_ratio(50.0) - 50.0).abs() < 1e-9);
        let told = watch.step(&Step { skipped: true, ..spike(30) });
        assert!(kind(told[0].clone()).1.contains("left out"), "{told:?}");
        assert!((watch.norm_ratio(1.0) - 1.0 / 1.3).abs() < 1e-9, "one spike counts a little");
        (31..=60).for_each(|step| drop(watch.step(&Step { gradient_norm: 50.0, ..seen(step, 1.0) })));
        assert!(watch.norm_ratio(50.0) < 2.0, "the new size is usual by now");
        assert_eq!(Watch::new(9, 0).norm_ratio(1e9), 0.0, "nothing is usual at first");
    }

    #[test]
    fn a_rate_of_zero_and_steps_without_trained_tokens_are_told() {
        let still = |step| Step { learning_rate: 0.0, ..falling(2.0, 0.5, 40)(step) };
        assert_eq!(warned(40, still), [Warning::NoRate]);
        let last = |step| Step { learning_rate: if step == 40 { 0.0 } else { 1.0 }, ..falling(2.0, 0.5, 40)(step) };
        assert_eq!(warned(40, last), [], "a schedule may end at 0");
        assert_eq!(warned(5, |step| Step { trained_tokens: 0, ..seen(step, 0.0) }), [Warning::FewTrained]);
        assert_eq!(Watch::new(9, 0).data(1000, 20), None);
        let told = Watch::new(9, 0).data(100_000, 20).expect("a share of 0.02 %");
        assert!(kind(told).1.contains("0.02 %"));
    }

    #[test]
    fn choices_that_fall_upon_few_experts_are_a_collapse() {
        let even = vec![vec![1.0 / 16.0; 16]; 3];
        let halved = |count: usize| (0..16).map(|e| if e < count { 1.0 / count as f32 } else { 0.0 }).collect();
        let mut watch = Watch::new(100, 0);
        assert_eq!(watch.experts(1, &even, 2), None);
        assert_eq!(watch.experts(2, &[even[0].clone(), halved(12), even[2].clone()], 2), None);
        let told = watch.experts(3, &[even[0].clone(), halved(5), even[2].clone()], 2).expect("5 of 16");
        let (warning, text) = kind(told);
        assert_eq!(warning, Warning::ExpertCollapse);
        assert!(text.contains("layer 1 ") && text.contains("5.0 of 16"), "{text}");
        assert_eq!(
            Watch::new(9, 0).experts(1, &[halved(2)], 2).map(|event| kind(event).0),
            Some(Warning::ExpertCollapse)
        );
        assert_eq!(Watch::new(9, 0).experts(1, &[vec![0.5, 0.5, 0.0]], 2), None, "two of three are no collapse");
    }

    #[test]
    fn the_memorising_warning_says_what_validation_says() {
        for (loss, wanted) in [(0.21, "easy to predict"), (0.9, "bring more data")] {
            let mut watch = Watch::new(20, 0);
            watch.validation(&validation(1, loss));
            let event = (1..=20).flat_map(|step| watch.step(&seen(step, 0.2))).next().expect("a warning");
            assert!(kind(event).1.contains(wanted));
        }
    }

    fn validation(step: usize, loss: f64) -> Validation {
        Validation { step, loss, losses: Default::default(), seconds: 1.0 }
    }

    #[test]
    fn a_rising_validation_over_a_falling_loss_is_overfitting() {
        let mut watch = Watch::new(1000, 0);
        (1..100).for_each(|step| drop(watch.step(&seen(step, 0.5))));
        assert_eq!(watch.validation(&validation(100, 0.8)), None);
        let told = watch.validation(&validation(200, 0.95)).expect("it rose");
        assert_eq!(kind(told).0, Warning::Overfitting);
        assert_eq!(watch.validation(&validation(300, 1.2)), None, "once is enough");
        assert_eq!(watch.validation(&validation(400, f64::NAN)), None);
    }
}
