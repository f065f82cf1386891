//! The report of a run: one HTML file with its curves, readable in light and dark, nothing fetched from anywhere.

mod chart;
mod heat;

use crate::error::TrainError;
use crate::event::{Begin, Ending, Event, Step, Validation};
use crate::metrics;
use chart::{Line, number, smoothed};
use std::fmt::Write;
use std::path::Path;

/// The file's name in a run's folder.
pub const REPORT: &str = "report.html";

/// Reads a metrics file and writes its report.
pub fn write(title: &str, metrics_path: &Path, report_path: &Path) -> Result<(), TrainError> {
    let html = render(title, &metrics::read(metrics_path)?);
    formats::write_atomically(report_path, |file| file.write_all(html.as_bytes()))?;
    Ok(())
}

/// The page for a run's events.
pub fn render(title: &str, events: &[Event]) -> String {
    let run = Run::of(events);
    let title = escape(title);
    let mut body = format!("<h1>{title}</h1><p class=\"lead\">{}</p>", run.lead());
    body.push_str(&run.tiles());
    for (step, message) in &run.warnings {
        write!(body, "<div class=\"warning\">Step {step}: {}.</div>", escape(message)).expect("string");
    }
    write!(body, "<div class=\"charts\">{}</div>", run.charts()).expect("string");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{}</style></head>\
         <body><main>{body}</main></body></html>\n",
        include_str!("style.css")
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A run's events, sorted by what they are.
#[derive(Default)]
struct Run<'a> {
    begin: Option<&'a Begin>,
    resumed: usize,
    steps: Vec<&'a Step>,
    validations: Vec<&'a Validation>,
    warnings: Vec<(usize, &'a str)>,
    load: Option<&'a [Vec<f32>]>,
    ending: Option<Ending>,
}

impl<'a> Run<'a> {
    fn of(events: &'a [Event]) -> Self {
        let mut run = Self::default();
        for event in events {
            match event {
                Event::Begin(begin) => {
                    run.resumed += usize::from(run.begin.is_some());
                    run.begin = Some(begin);
                }
                Event::Step(step) => run.steps.push(step),
                Event::Validation(validation) => run.validations.push(validation),
                Event::ExpertLoad { layers, .. } => run.load = Some(layers),
                Event::Warning { step, message, .. } => run.warnings.push((*step, message)),
                Event::Checkpoint { .. } => {}
                Event::End { outcome, .. } => run.ending = Some(*outcome),
            }
        }
        run
    }

    fn lead(&self) -> String {
        let Some(begin) = self.begin else { return "Nothing has happened yet.".to_owned() };
        let state = match self.ending {
            Some(Ending::Finished) => "finished",
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
        if begin.auxiliary_coefficient > 0.0 {
            write!(text, "; balancing loss × {}", begin.auxiliary_coefficient).expect("string");
        }
        if self.resumed > 0 {
            write!(text, "; resumed {}×", self.resumed).expect("string");
        }
        text + "."
    }

    fn tiles(&self) -> String {
        let mut tiles = String::from("<div class=\"tiles\">");
        let mut tile = |value: String, label: &str| {
            write!(tiles, "<div class=\"tile\"><b>{value}</b><span>{label}</span></div>").expect("string");
        };
        if let Some(&(_, loss)) = smoothed(&self.curve(|step| step.loss), 0.95).last() {
            tile(format!("{loss:.3}"), "training loss, smoothed");
        }
        if let Some(best) = self.validations.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)) {
            tile(format!("{:.3}", best.loss), &format!("best validation loss (step {})", best.step));
            tile(format!("{:.3}", best.loss.exp()), "its perplexity");
        }
        if let Some(last) = self.steps.last() {
            let tokens: usize = self.steps.iter().map(|step| step.tokens).sum();
            tile(number(tokens as f64, 1.0), "tokens seen");
            tile(number(tokens as f64 / last.seconds.max(1e-9), 1.0), "tokens per second");
            tile(duration(last.seconds), "time");
        }
        tiles + "</div>"
    }

    fn curve(&self, value: impl Fn(&Step) -> f64) -> Vec<(f64, f64)> {
        self.steps.iter().map(|step| (step.step as f64, value(step))).collect()
    }

    fn charts(&self) -> String {
        let line = |label, style, points| Line { label, style, points, dots: false };
        let loss = self.curve(|step| step.loss);
        let validation = self.validations.iter().map(|v| (v.step as f64, v.loss)).collect();
        let smooth = smoothed(&loss, 0.95);
        let mut html = chart::figure(
            "Loss, nats per token",
            &[
                line("each step", "raw", loss),
                line("smoothed", "main", smooth),
                Line { label: "validation", style: "second", points: validation, dots: true },
            ],
            true,
            true,
        );
        let rates = line("", "main", self.curve(|step| step.learning_rate));
        html += &chart::figure("Learning rate", &[rates], true, false);
        let norms = self.curve(|step| step.gradient_norm);
        let smooth = line("smoothed", "main", smoothed(&norms, 0.95));
        html +=
            &chart::figure("Gradient norm before clipping", &[line("each step", "raw", norms), smooth], true, false);
        let speeds = self.curve(|step| step.tokens_per_second);
        html += &chart::figure("Tokens per second", &[line("", "third", speeds)], true, false);
        if self.steps.iter().any(|step| step.expert_imbalance > 0.0) {
            let imbalance = line("", "second", self.curve(|step| step.expert_imbalance));
            html += &chart::figure("Busiest expert, × an even share", &[imbalance], true, false);
        }
        html += &self.load.map_or(String::new(), |layers| heat::figure("Expert load", layers));
        html + &self.kinds()
    }

    /// Training and validation loss by kind of data: the mean of the last tenth of the steps, and the last validation.
    fn kinds(&self) -> String {
        let tail = &self.steps[self.steps.len() - self.steps.len().div_ceil(10)..];
        let mut sums = std::collections::BTreeMap::<&str, (f64, usize)>::new();
        for (kind, loss) in tail.iter().flat_map(|step| &step.losses).filter(|(_, loss)| loss.is_finite()) {
            let entry = sums.entry(kind).or_default();
            *entry = (entry.0 + loss, entry.1 + 1);
        }
        if sums.is_empty() {
            return String::new();
        }
        let mut rows = String::new();
        for (kind, (sum, count)) in sums {
            let held_out = self.validations.last().and_then(|v| v.losses.get(kind));
            let held_out = held_out.map_or("–".to_owned(), |loss| format!("{loss:.3}"));
            let (kind, loss) = (escape(kind), sum / count as f64);
            write!(rows, "<tr><td>{kind}</td><td>{loss:.3}</td><td>{held_out}</td></tr>").expect("string");
        }
        format!(
            "<figure class=\"wide\"><figcaption><h2>Loss by kind of data</h2></figcaption><table><tr><th>kind</th>\
             <th>training, last tenth</th><th>validation, last</th></tr>{rows}</table></figure>"
        )
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests;
