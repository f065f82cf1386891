//! The page of one run.

use super::chart::{self, Line, number, smoothed};
use super::record::{FORGET, Record, duration};
use super::{colour, document, escape, heat};
use crate::event::Event;
use std::fmt::Write;

/// The page for a run's events.
pub fn render(title: &str, events: &[Event]) -> String {
    let run = Record::of(events);
    let mut body = format!("<h1>{}</h1><p class=\"lead\">{}</p>", escape(title), escape(&run.lead()));
    body.push_str(&tiles(&run));
    for (step, message) in &run.warnings {
        write!(body, "<div class=\"warning\">Step {step}: {}.</div>", escape(message)).expect("string");
    }
    write!(body, "<div class=\"charts\">{}</div>", charts(&run)).expect("string");
    document(title, &body)
}

fn tiles(run: &Record<'_>) -> String {
    let mut tiles = String::from("<div class=\"tiles\">");
    let mut tile = |value: String, label: &str| {
        write!(tiles, "<div class=\"tile\"><b>{value}</b><span>{label}</span></div>").expect("string");
    };
    if let Some(&(_, loss)) = run.smooth_loss().last() {
        tile(format!("{loss:.3}"), "training loss, smoothed");
    }
    if let Some(best) = run.best_validation() {
        tile(format!("{:.3}", best.loss), &format!("best validation loss (step {})", best.step));
        tile(format!("{:.3}", best.loss.exp()), "its perplexity");
    }
    if let (Some(seconds), Some(speed)) = (run.seconds(), run.tokens_per_second()) {
        tile(number(run.tokens() as f64, 1.0), "tokens seen");
        tile(number(speed, 1.0), "tokens per second");
        tile(duration(seconds), "time");
    }
    if let Some(bytes) = run.peak_memory_bytes() {
        tile(format!("{:.2} GB", bytes as f64 / 1e9), "peak memory");
    }
    tiles + "</div>"
}

fn charts(run: &Record<'_>) -> String {
    let line = |label, style, points| Line { label, style, points, dots: false };
    let loss = run.curve(|step| step.loss);
    let mut html = chart::figure(
        "Loss, nats per token",
        &[
            line("each step", "raw", loss),
            line("smoothed", "main", run.smooth_loss()),
            Line { label: "validation", style: "second", points: run.validation_curve(), dots: true },
        ],
        true,
        true,
    );
    html += &kind_charts(run);
    html += &term_charts(run);
    let rates = line("", "main", run.curve(|step| step.learning_rate));
    html += &chart::figure("Learning rate", &[rates], true, false);
    let norms = run.curve(|step| step.gradient_norm);
    let smooth = line("smoothed", "main", smoothed(&norms, FORGET));
    html += &chart::figure("Gradient norm before clipping", &[line("each step", "raw", norms), smooth], true, false);
    let speeds = run.curve(|step| step.tokens_per_second);
    html += &chart::figure("Tokens per second", &[line("", "third", speeds)], true, false);
    html += &expert_charts(run);
    html + &kind_table(run)
}

/// Each objective beside the data's own loss, on a scale of its own.
fn term_charts(run: &Record<'_>) -> String {
    let names: std::collections::BTreeSet<&str> =
        run.steps.iter().flat_map(|step| step.terms.keys().map(String::as_str)).collect();
    let chart = |name: &&str| {
        let at = |step: &&crate::event::Step| Some((step.step as f64, *step.terms.get(*name)?));
        let points: Vec<(f64, f64)> = run.steps.iter().filter_map(at).collect();
        let smooth = Line { label: "smoothed", style: "main", points: smoothed(&points, FORGET), dots: false };
        let raw = Line { label: "each step", style: "raw", points, dots: false };
        chart::figure(&format!("Objective: {}", name.replace('_', " ")), &[raw, smooth], true, false)
    };
    names.iter().map(chart).collect()
}

/// One line for each kind of data, in training and in validation, and the tasks that were solved.
fn kind_charts(run: &Record<'_>) -> String {
    let kinds = run.kinds();
    if kinds.len() < 2 && run.trials.is_empty() {
        return String::new();
    }
    let lines = |points: &dyn Fn(&str) -> Vec<(f64, f64)>, dots: bool| -> Vec<Line<'_>> {
        let of = |(index, &kind)| Line { label: kind, style: colour(index), points: points(kind), dots };
        kinds.iter().enumerate().map(of).collect()
    };
    let mut html = chart::figure("Loss by kind, smoothed", &lines(&|kind| run.kind_curve(kind), false), true, false);
    html += &chart::figure("Validation by kind", &lines(&|kind| run.kind_validation_curve(kind), true), true, false);
    let names: std::collections::BTreeSet<&str> =
        run.trials.iter().flat_map(|(_, scores)| scores.keys().map(String::as_str)).collect();
    let solved = |kind: &str| {
        let at = |(step, scores): &(usize, &crate::event::Scores)| Some((*step as f64, 100.0 * scores.get(kind)?));
        run.trials.iter().filter_map(at).collect()
    };
    let of = |(index, &kind)| Line { label: kind, style: colour(index), points: solved(kind), dots: true };
    let solved: Vec<Line<'_>> = names.iter().enumerate().map(of).collect();
    html + &chart::figure("Tasks solved, %", &solved, true, true)
}

fn expert_charts(run: &Record<'_>) -> String {
    if run.steps.iter().all(|step| step.expert_imbalance == 0.0) {
        return String::new();
    }
    let line = |style, points| Line { label: "", style, points, dots: false };
    let imbalance = line("second", run.curve(|step| step.expert_imbalance));
    let mut html = chart::figure("Busiest expert, × an even share", &[imbalance], true, false);
    if run.steps.iter().any(|step| step.router_entropy > 0.0) {
        let entropy = line("third", run.curve(|step| step.router_entropy));
        html += &chart::figure("Router entropy, nats per token", &[entropy], true, false);
    }
    html += &run.loads.last().map_or(String::new(), |(_, layers)| heat::figure("Expert load", layers));
    html + &heat::over_steps("Busiest expert of each layer over time", &run.busiest())
}

/// Training and validation loss by kind of data: the mean of the last tenth of the steps, and the last validation.
fn kind_table(run: &Record<'_>) -> String {
    let losses = run.last_losses();
    if losses.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for (kind, loss) in losses {
        let held_out = run.validations.last().and_then(|found| found.losses.get(&kind));
        let held_out = held_out.map_or("–".to_owned(), |loss| format!("{loss:.3}"));
        write!(rows, "<tr><td>{}</td><td>{loss:.3}</td><td>{held_out}</td></tr>", escape(&kind)).expect("string");
    }
    format!(
        "<figure class=\"wide\"><figcaption><h2>Loss by kind of data</h2></figcaption><table><tr><th>kind</th>\
         <th>training, last tenth</th><th>validation, last</th></tr>{rows}</table></figure>"
    )
}
