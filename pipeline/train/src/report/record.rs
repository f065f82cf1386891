//! A run's events, sorted by what they are, with the figures and curves that pages take from them.

use super::chart::{number, smoothed};
use crate::event::{Begin, Ending, Event, Losses, Scores, Step, Validation};
use std::collections::BTreeSet;
use std::fmt::Write;

/// A point of a curve: a step, and a value.
pub(super) type Point = (f64, f64);

/// How long a smoothed curve remembers.
pub(super) const FORGET: f64 = 0.95;

#[derive(Default)]
pub(super) struct Record<'a> {
    pub(super) begin: Option<&'a Begin>,
    resumed: usize,
    pub(super) steps: Vec<&'a Step>,
    pub(super) validations: Vec<&'a Validation>,
    pub(super) trials: Vec<(usize, &'a Scores)>,
    pub(super) warnings: Vec<(usize, &'a str)>,
    pub(super) loads: Vec<(usize, &'a [Vec<f32>])>,
    ending: Option<Ending>,
}

impl<'a> Record<'a> {
    pub(super) fn of(events: &'a [Event]) -> Self {
        let mut run = Self::default();
        for event in events {
            match event {
                Event::Begin(begin) => {
                    run.resumed += usize::from(run.begin.is_some());
                    run.begin = Some(begin);
                    run.ending = None;
                }
                Event::Step(step) => run.steps.push(step),
                Event::Validation(validation) => run.validations.push(validation),
                Event::Tasks { step, scores, .. } => run.trials.push((*step, scores)),
                Event::ExpertLoad { step, layers, .. } => run.loads.push((*step, layers)),
                Event::Warning { step, message, .. } => run.warnings.push((*step, message)),
                Event::Checkpoint { .. } => {}
                Event::End { outcome, .. } => run.ending = Some(*outcome),
            }
        }
        run
    }

    /// What happened, in a sentence.
    pub(super) fn lead(&self) -> String {
        let Some(begin) = self.begin else { return "Nothing has happened yet.".to_owned() };
        let state = match self.ending {
            Some(Ending::Finished) => "finished",
            Some(Ending::StoppedEarly) => "ended early, as validation got no better",
            Some(Ending::Interrupted) => "interrupted; it can be resumed",
            None => "running",
        };
        let done = self.steps.last().map_or(begin.step, |step| step.step);
        let mut text = format!(
            "{done} of {} steps, {state}. {} samples, {} of {} parameters trained",
            begin.steps,
            begin.samples,
            number(begin.trained_parameters as f64, 1.0),
            number(begin.parameters as f64, 1.0),
        );
        if !begin.method.is_empty() {
            write!(text, " ({})", begin.method).expect("string");
        }
        if begin.auxiliary_coefficient > 0.0 {
            write!(text, "; balancing loss × {}", begin.auxiliary_coefficient).expect("string");
        }
        let skipped = self.steps.iter().filter(|step| step.skipped).count();
        if skipped > 0 {
            write!(text, "; {skipped} updates left out").expect("string");
        }
        if self.resumed > 0 {
            write!(text, "; resumed {}×", self.resumed).expect("string");
        }
        text + "."
    }

    pub(super) fn curve(&self, value: impl Fn(&Step) -> f64) -> Vec<Point> {
        self.steps.iter().map(|step| (step.step as f64, value(step))).collect()
    }

    pub(super) fn smooth_loss(&self) -> Vec<Point> {
        smoothed(&self.curve(|step| step.loss), FORGET)
    }

    pub(super) fn validation_curve(&self) -> Vec<Point> {
        self.validations.iter().map(|found| (found.step as f64, found.loss)).collect()
    }

    pub(super) fn best_validation(&self) -> Option<&'a Validation> {
        let finite = self.validations.iter().copied().filter(|found| found.loss.is_finite());
        finite.min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    pub(super) fn tokens(&self) -> usize {
        self.steps.iter().map(|step| step.tokens).sum()
    }

    /// In seconds, without the time between an interruption and a resumption.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.steps.last().map(|step| step.seconds)
    }

    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        Some(self.tokens() as f64 / self.seconds()?.max(1e-9))
    }

    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        self.steps.iter().filter_map(|step| step.peak_memory_bytes).max()
    }

    /// Of everything that was trained or validated on.
    pub(super) fn kinds(&self) -> BTreeSet<&'a str> {
        let losses = self.steps.iter().map(|step| &step.losses);
        let all = losses.chain(self.validations.iter().map(|found| &found.losses));
        all.flat_map(|losses| losses.keys().map(String::as_str)).collect()
    }

    pub(super) fn kind_curve(&self, kind: &str) -> Vec<Point> {
        let at = |step: &&Step| Some((step.step as f64, *step.losses.get(kind)?));
        smoothed(&self.steps.iter().filter_map(at).collect::<Vec<Point>>(), FORGET)
    }

    pub(super) fn kind_validation_curve(&self, kind: &str) -> Vec<Point> {
        let at = |found: &&Validation| Some((found.step as f64, *found.losses.get(kind)?));
        self.validations.iter().filter_map(at).collect()
    }

    /// Mean losses by kind over the last tenth of the steps.
    pub(super) fn last_losses(&self) -> Losses {
        let tail = &self.steps[self.steps.len() - self.steps.len().div_ceil(10)..];
        let mut sums = std::collections::BTreeMap::<&str, (f64, usize)>::new();
        for (kind, loss) in tail.iter().flat_map(|step| &step.losses).filter(|(_, loss)| loss.is_finite()) {
            let entry = sums.entry(kind).or_default();
            *entry = (entry.0 + loss, entry.1 + 1);
        }
        sums.into_iter().map(|(kind, (sum, count))| (kind.to_owned(), sum / count as f64)).collect()
    }

    /// For each record of the load, the busiest expert of each layer as a multiple of an even share.
    pub(super) fn busiest(&self) -> Vec<(usize, Vec<f64>)> {
        let busiest = |layer: &Vec<f32>| f64::from(layer.iter().copied().fold(0.0, f32::max)) * layer.len() as f64;
        self.loads.iter().map(|(step, layers)| (*step, layers.iter().map(busiest).collect())).collect()
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}
