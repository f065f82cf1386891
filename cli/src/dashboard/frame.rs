//! What the dashboard shows, as rows of text: figures, the curve of the loss, the experts, and what was said.

use super::curve;
use evaluate::table::{bytes_in_words, count_in_words, duration_in_words};
use std::time::Duration;
use train::event::{Begin, Scores, Step, Validation};

/// Losses that the smoothed figure remembers, about.
const REMEMBERED: f64 = 20.0;

/// What is known of a run.
#[derive(Default)]
pub(crate) struct View {
    pub(super) what: String,
    pub(super) begin: Option<Begin>,
    pub(super) losses: Vec<(f64, f64)>,
    pub(super) smooth: Option<f64>,
    pub(super) last: Option<Step>,
    pub(super) skipped: usize,
    pub(super) validation: Option<Validation>,
    pub(super) best: Option<(usize, f64)>,
    pub(super) scores: Option<(usize, Scores)>,
    pub(super) saved: Option<usize>,
    /// Shares of each layer's choices.
    pub(super) load: Vec<Vec<f32>>,
}

/// What is not the run's own.
pub(crate) struct Around {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Since this call began.
    pub(super) elapsed: Duration,
    pub(super) peak_memory: Option<u64>,
    /// The newest of what was said.
    pub(super) said: Vec<String>,
}

/// How a row is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Quiet,
    Curve,
    Warm,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) tone: Tone,
    pub(super) text: String,
}

impl Row {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }

    /// For a terminal: cut to its width, with colours if it has them (ECMA-48).
    pub(super) fn painted(&self, columns: usize, colours: bool) -> String {
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(columns).collect();
        let code = match self.tone {
            Tone::Plain => return text,
            Tone::Strong => "1",
            Tone::Quiet => "2",
            Tone::Curve => "36",
            Tone::Warm => "33",
        };
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }
}

impl View {
    pub(super) fn take_step(&mut self, step: &Step) {
        if step.loss.is_finite() {
            let weight = 1.0 / REMEMBERED;
            self.smooth = Some(self.smooth.map_or(step.loss, |smooth| smooth + weight * (step.loss - smooth)));
            self.losses.push((step.step as f64, step.loss));
        }
        self.skipped += usize::from(step.skipped);
        self.last = Some(step.clone());
    }

    pub(super) fn take_validation(&mut self, found: &Validation) {
        if found.loss.is_finite() && self.best.is_none_or(|(_, best)| found.loss < best) {
            self.best = Some((found.step, found.loss));
        }
        self.validation = Some(found.clone());
    }

    /// The picture, at most as many rows as there are.
    pub(super) fn frame(&self, around: &Around) -> Vec<Row> {
        let mut head = vec![
            Row::new(Tone::Strong, self.title(around)),
            Row::new(Tone::Plain, self.bar(around.columns)),
            Row::new(Tone::Plain, self.learning()),
            Row::new(Tone::Plain, self.speed(around)),
        ];
        let foot = self.foot(around);
        let left = around.rows.saturating_sub(head.len() + foot.len());
        let experts = self.experts(around.columns, left / 2);
        head.extend(self.curve(around.columns, left.saturating_sub(experts.len() + 1)));
        head.extend(experts);
        head.extend(foot);
        head.truncate(around.rows);
        head
    }

    fn step(&self) -> usize {
        let begun = self.begin.as_ref().map_or(0, |begin| begin.step);
        self.last.as_ref().map_or(begun, |step| step.step)
    }

    fn steps(&self) -> usize {
        self.begin.as_ref().map_or(0, |begin| begin.steps)
    }

    fn title(&self, around: &Around) -> String {
        let Some(begin) = &self.begin else { return format!("{}: preparing", self.what) };
        let left = self.time_left(around.elapsed).map_or_else(String::new, |left| format!(" · {left} left"));
        let trained = count_in_words(begin.trained_parameters as u64);
        format!("{} · step {} of {}{left} · {trained} parameters trained", self.what, self.step(), begin.steps)
    }

    /// From the rate of this call alone: what was done before an interruption says nothing about it.
    fn time_left(&self, elapsed: Duration) -> Option<String> {
        let done = self.step().checked_sub(self.begin.as_ref()?.step).filter(|&done| done > 0)?;
        let seconds = elapsed.as_secs_f64() / done as f64 * self.steps().saturating_sub(self.step()) as f64;
        Some(duration_in_words(Duration::try_from_secs_f64(seconds).ok()?))
    }

    fn bar(&self, columns: usize) -> String {
        let width = columns.saturating_sub(8).min(100);
        let share = self.step() as f64 / self.steps().max(1) as f64;
        let full = ((share * width as f64) as usize).min(width);
        format!("▕{}{}▏{:>4.0} %", "█".repeat(full), " ".repeat(width - full), 100.0 * share)
    }

    fn learning(&self) -> String {
        let mut parts = Vec::new();
        if let (Some(smooth), Some(last)) = (self.smooth, &self.last) {
            parts.push(format!("loss {smooth:.4} (last {:.4})", last.loss));
        }
        if let (Some(found), Some((step, best))) = (&self.validation, self.best) {
            parts.push(format!("validation {:.4}, best {best:.4} at {step}", found.loss));
        }
        if let Some(last) = &self.last {
            parts.push(format!("rate {:.2e}", last.learning_rate));
            parts.push(format!("gradient {:.3}", last.gradient_norm));
        }
        if self.skipped > 0 {
            parts.push(format!("{} updates left out", self.skipped));
        }
        parts.join(" · ")
    }

    fn speed(&self, around: &Around) -> String {
        let mut parts = Vec::new();
        if let Some(last) = &self.last {
            parts.push(format!("{:.0} tokens/s", last.tokens_per_second));
            parts.push(format!("epoch {}", last.epoch + 1));
        }
        parts.push(format!("{} so far", duration_in_words(around.elapsed)));
        if let Some(bytes) = around.peak_memory {
            parts.push(format!("peak memory {}", bytes_in_words(bytes)));
        }
        if let Some(step) = self.saved {
            parts.push(format!("saved at step {step}"));
        }
        if let Some((step, scores)) = &self.scores {
            let solved: Vec<String> =
                scores.iter().map(|(kind, share)| format!("{kind} {:.0} %", 100.0 * share)).collect();
            parts.push(format!("solved at step {step}: {}", solved.join(", ")));
        }
        parts.join(" · ")
    }

    fn curve(&self, columns: usize, rows: usize) -> Vec<Row> {
        const LABEL: usize = 9;
        let Some(curve) = curve::draw(&self.losses, columns.saturating_sub(LABEL), rows) else { return Vec::new() };
        let last = curve.rows.len() - 1;
        let label = |row: usize| match row {
            0 => format!("{:>7.3} ▏", curve.top),
            row if row == last => format!("{:>7.3} ▏", curve.bottom),
            _ => format!("{:7} ▏", ""),
        };
        let row = |(index, text): (usize, &String)| Row::new(Tone::Curve, label(index) + text);
        let title = Row::new(Tone::Quiet, format!("loss, steps {} to {}", self.losses[0].0, self.step()));
        std::iter::once(title).chain(curve.rows.iter().enumerate().map(row)).collect()
    }

    /// A row for each layer, or for the most uneven ones where there are too many, in the order of layers.
    fn experts(&self, columns: usize, rows: usize) -> Vec<Row> {
        const LABEL: usize = 9;
        let width = columns.saturating_sub(LABEL);
        if self.load.is_empty() || rows < 2 || width == 0 {
            return Vec::new();
        }
        let busiest = |layer: &Vec<f32>| layer.iter().copied().fold(0.0, f32::max) * layer.len() as f32;
        let mut shown: Vec<usize> = (0..self.load.len()).collect();
        shown.sort_by(|&a, &b| busiest(&self.load[b]).total_cmp(&busiest(&self.load[a])));
        shown.truncate(rows - 1);
        shown.sort_unstable();
        let of = if shown.len() < self.load.len() { ", the most uneven layers" } else { "" };
        let title =
            format!("experts, by load: · under ¼, ░ under ¾, ▒ even, ▓ over 1¼, █ over 2 times an even share{of}");
        let row = |&layer: &usize| Row::new(Tone::Warm, format!("{layer:>7} ▏{}", shades(&self.load[layer], width)));
        std::iter::once(Row::new(Tone::Quiet, title)).chain(shown.iter().map(row)).collect()
    }

    fn foot(&self, around: &Around) -> Vec<Row> {
        let said = around.said.iter().map(|line| Row::new(Tone::Warm, line.trim()));
        let how = "Ctrl-C saves and stops; run the same command again to go on";
        said.chain([Row::new(Tone::Quiet, how)]).collect()
    }
}

/// One character for each expert, or for the busiest of several where there are more experts than places.
fn shades(shares: &[f32], width: usize) -> String {
    let even = 1.0 / shares.len() as f32;
    let shade = |experts: &[f32]| {
        let times = experts.iter().copied().fold(0.0, f32::max) / even;
        match times {
            t if t < 0.25 => '·',
            t if t < 0.75 => '░',
            t if t <= 1.25 => '▒',
            t if t <= 2.0 => '▓',
            _ => '█',
        }
    };
    shares.chunks(shares.len().div_ceil(width)).map(shade).collect()
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
