//! Several runs in one page: the same curves over the same axes, and a table of what each came to.

use super::chart::{self, Line, number, smoothed};
use super::record::{FORGET, Point, Record, duration};
use super::{colour, document, escape, heat};
use crate::event::Event;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The page for several runs, each with the name that it has there.
pub fn render(title: &str, runs: &[(String, Vec<Event>)]) -> String {
    let runs: Vec<Named<'_>> = runs
        .iter()
        .enumerate()
        .map(|(index, (name, events))| Named { name: escape(name), style: colour(index), record: Record::of(events) })
        .collect();
    let mut body = format!("<h1>{}</h1><p class=\"lead\">{} runs, side by side.</p>", escape(title), runs.len());
    body.push_str("<div class=\"charts\">");
    body.push_str(&table(&runs));
    body.push_str(&charts(&runs));
    for run in &runs {
        if let Some((step, layers)) = run.record.loads.last() {
            body.push_str(&heat::figure(&format!("Expert load of {}, step {step}", run.name), layers));
        }
    }
    body.push_str("</div>");
    for run in &runs {
        for (step, message) in &run.record.warnings {
            let message = escape(message);
            write!(body, "<div class=\"warning\">{}, step {step}: {message}.</div>", run.name).expect("string");
        }
    }
    document(title, &body)
}

struct Named<'a> {
    name: String,
    style: &'static str,
    record: Record<'a>,
}

fn figure(title: &str, runs: &[Named<'_>], dots: bool, points: impl Fn(&Record<'_>) -> Vec<Point>) -> String {
    let line = |run: &Named<'_>| (run.name.clone(), run.style, points(&run.record));
    let lines: Vec<(String, &str, Vec<Point>)> = runs.iter().map(line).collect();
    let lines: Vec<Line<'_>> =
        lines.iter().map(|(label, style, points)| Line { label, style, points: points.clone(), dots }).collect();
    chart::figure(title, &lines, true, false)
}

fn charts(runs: &[Named<'_>]) -> String {
    let mut html = figure("Loss, smoothed, nats per token", runs, false, |run| run.smooth_loss());
    html += &figure("Validation loss", runs, true, |run| run.validation_curve());
    html += &figure("Loss over time, smoothed (seconds)", runs, false, |run| {
        let times = run.steps.iter().map(|step| (step.seconds, step.loss));
        smoothed(&times.collect::<Vec<Point>>(), FORGET)
    });
    html += &figure("Learning rate", runs, false, |run| run.curve(|step| step.learning_rate));
    html +=
        &figure("Gradient norm, smoothed", runs, false, |run| smoothed(&run.curve(|step| step.gradient_norm), FORGET));
    html += &figure("Tokens per second", runs, false, |run| run.curve(|step| step.tokens_per_second));
    let with_experts = |run: &Record<'_>| run.steps.iter().any(|step| step.expert_imbalance > 0.0);
    if runs.iter().any(|run| with_experts(&run.record)) {
        let some = |run: &Record<'_>, points: Vec<Point>| if with_experts(run) { points } else { Vec::new() };
        html += &figure("Busiest expert, × an even share", runs, false, |run| {
            some(run, run.curve(|step| step.expert_imbalance))
        });
        html += &figure("Router entropy, nats per token", runs, false, |run| {
            some(run, run.curve(|step| step.router_entropy))
        });
    }
    let kinds: BTreeSet<&str> = runs.iter().flat_map(|run| run.record.kinds()).collect();
    for kind in kinds.iter().filter(|_| kinds.len() > 1) {
        let title = format!("Validation: {}", escape(kind));
        html += &figure(&title, runs, true, |run| run.kind_validation_curve(kind));
    }
    html
}

fn table(runs: &[Named<'_>]) -> String {
    let dash = || "–".to_owned();
    let mut rows = String::new();
    for Named { name, style, record } in runs {
        let begin = record.begin;
        let best = record.best_validation();
        let cells = [
            begin.map_or_else(dash, |begin| escape(&begin.method)),
            begin.map_or_else(dash, |begin| number(begin.trained_parameters as f64, 1.0)),
            record.steps.last().map_or_else(dash, |step| step.step.to_string()),
            number(record.tokens() as f64, 1.0),
            record.smooth_loss().last().map_or_else(dash, |(_, loss)| format!("{loss:.3}")),
            best.map_or_else(dash, |best| format!("{:.3} (step {})", best.loss, best.step)),
            record.tokens_per_second().map_or_else(dash, |speed| number(speed, 1.0)),
            record.seconds().map_or_else(dash, duration),
            record.peak_memory_bytes().map_or_else(dash, |bytes| format!("{:.2} GB", bytes as f64 / 1e9)),
        ];
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        write!(rows, "<tr><td class=\"key\"><i class=\"{style}\"></i>{name}</td>{cells}</tr>").expect("string");
    }
    let heads = [
        "run",
        "trained",
        "parameters",
        "steps",
        "tokens",
        "loss",
        "best validation",
        "tokens/s",
        "time",
        "peak memory",
    ];
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    format!("<figure class=\"wide\"><table><tr>{heads}</tr>{rows}</table></figure>")
}
