//! Early warnings: signs in the losses that a person would want to know before the run is over.

use crate::event::{Event, Warning};
use serde::{Deserialize, Serialize};

/// Below this a model repeats its data rather than learning from it (if held-out data does not come as easily).
const MEMORISING_LOSS: f64 = 0.3;
/// Above this, late in a run, a model has not learnt its data.
const NOT_LEARNING_LOSS: f64 = 1.0;
/// Validation this much above training is a gap.
const GAP: f64 = 1.5;
/// A smoothed loss forgets with this factor a step.
const SMOOTHING: f64 = 0.9;

/// Watches the losses go by; each warning is given once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    steps: usize,
    smooth: Option<f64>,
    seen: usize,
    validation: Option<f64>,
    best_validation: Option<f64>,
    given: Vec<Warning>,
}

impl Watch {
    pub fn new(steps: usize) -> Self {
        Self { steps, ..Self::default() }
    }

    /// Takes notice of a step's loss.
    pub fn step(&mut self, step: usize, loss: f64) -> Option<Event> {
        if !loss.is_finite() {
            return self.once(step, Warning::NotANumber, "the loss was no number; the step was skipped".into());
        }
        let smooth = self.smooth.map_or(loss, |before| SMOOTHING * before + (1.0 - SMOOTHING) * loss);
        self.smooth = Some(smooth);
        self.seen += 1;
        let settled = self.seen >= 10;
        if settled && smooth < MEMORISING_LOSS {
            let judgement = match self.validation {
                Some(validation) if validation < GAP * smooth.max(0.05) => {
                    format!("validation is at {validation:.3}: the data may simply be easy to predict")
                }
                Some(validation) => format!("validation is at {validation:.3}: stop earlier or bring more data"),
                None => "hold some data out for validation to know".to_owned(),
            };
            let message =
                format!("the loss is {smooth:.3}, below {MEMORISING_LOSS}: the model may be memorising; {judgement}");
            return self.once(step, Warning::Memorising, message);
        }
        let late = step >= 200 && 2 * step >= self.steps;
        if settled && late && smooth > NOT_LEARNING_LOSS {
            let message = format!(
                "the loss is still {smooth:.3} after {step} steps, above {NOT_LEARNING_LOSS}: try a higher \
                 learning_rate or more steps, and look at the data"
            );
            return self.once(step, Warning::NotLearning, message);
        }
        None
    }

    /// Takes notice of a validation.
    pub fn validation(&mut self, step: usize, loss: f64) -> Option<Event> {
        self.validation = Some(loss);
        let best = self.best_validation.map_or(loss, |best: f64| best.min(loss));
        self.best_validation = Some(best);
        if loss > best * 1.1 && self.smooth.is_some_and(|smooth| smooth * GAP < loss) {
            let message = format!("validation rose from {best:.3} to {loss:.3} while training went on falling");
            return self.once(step, Warning::Overfitting, message);
        }
        None
    }

    fn once(&mut self, step: usize, warning: Warning, message: String) -> Option<Event> {
        if self.given.contains(&warning) {
            return None;
        }
        self.given.push(warning);
        Some(Event::Warning { step, warning, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(watch: &mut Watch, losses: impl Iterator<Item = f64>) -> Vec<Warning> {
        let events = losses.enumerate().filter_map(|(i, loss)| watch.step(i + 1, loss));
        events.map(|e| if let Event::Warning { warning, .. } = e { warning } else { panic!("{e:?}") }).collect()
    }

    #[test]
    fn low_losses_warn_once_and_high_ones_only_late() {
        assert_eq!(warnings(&mut Watch::new(50), (0..50).map(|_| 0.2)), [Warning::Memorising]);
        assert_eq!(warnings(&mut Watch::new(150), (0..150).map(|_| 2.0)), []);
        assert_eq!(warnings(&mut Watch::new(1000), (0..499).map(|_| 2.0)), []);
        assert_eq!(warnings(&mut Watch::new(1000), (0..1000).map(|_| 2.0)), [Warning::NotLearning]);
        assert_eq!(warnings(&mut Watch::new(1000), (0..1000).map(|_| 0.7)), []);
        assert_eq!(warnings(&mut Watch::new(20), [1.0, f64::NAN, f64::NAN].into_iter()), [Warning::NotANumber]);
    }

    #[test]
    fn the_memorising_warning_says_what_validation_says() {
        for (validation, wanted) in [(0.21, "easy to predict"), (0.9, "bring more data")] {
            let mut watch = Watch::new(20);
            watch.validation(1, validation);
            let event = (1..=20).find_map(|step| watch.step(step, 0.2)).expect("a warning");
            assert!(matches!(event, Event::Warning { message, .. } if message.contains(wanted)));
        }
    }

    #[test]
    fn a_rising_validation_over_a_falling_loss_is_overfitting() {
        let mut watch = Watch::new(1000);
        (1..100).for_each(|step| drop(watch.step(step, 0.5)));
        assert_eq!(watch.validation(100, 0.8), None);
        assert!(matches!(watch.validation(200, 0.95), Some(Event::Warning { warning: Warning::Overfitting, .. })));
        assert_eq!(watch.validation(300, 1.2), None, "once is enough");
    }
}
