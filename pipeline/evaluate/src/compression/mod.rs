//! The page of a compression: what each round took away, what that cost, and what recovery gave back.

mod fates;
mod matrix;
mod measures;

use crate::Report;
use compress::{LayerOutcome, LayerStatistics, Plan};
use fates::LayerFates;
use std::fmt::Write;
use train::report::{document, escape};

/// A model on the way, in the order in which they were made.
#[derive(Debug, Clone)]
pub struct CompressionStage {
    pub name: String,
    /// Experts of each layer that has any.
    pub experts: Vec<usize>,
    /// Of the weights.
    pub bytes: u64,
    /// What was measured of it.
    pub report: Option<Report>,
    /// What became of the experts of the model before, if it was made by taking some away.
    pub shrinking: Option<Shrinking>,
}

/// What became of a model's experts.
#[derive(Debug, Clone)]
pub struct Shrinking {
    pub plan: Plan,
    /// Of each mixture, where any were merged.
    pub outcomes: Vec<LayerOutcome>,
    /// What was observed of the experts before, where it was kept.
    pub statistics: Vec<LayerStatistics>,
}

/// Stages from one that takes experts away up to the next such.
struct Round<'a> {
    number: usize,
    /// The model that it begins with.
    start: Option<&'a CompressionStage>,
    pruned: &'a CompressionStage,
    shrinking: &'a Shrinking,
    /// What came of it, one after the other.
    recovery: &'a [CompressionStage],
}

impl Round<'_> {
    fn recovered(&self) -> Option<&CompressionStage> {
        self.recovery.last()
    }
}

fn rounds(stages: &[CompressionStage]) -> Vec<Round<'_>> {
    let mut rounds = Vec::new();
    for (at, pruned) in stages.iter().enumerate() {
        let Some(shrinking) = &pruned.shrinking else { continue };
        let after = &stages[at + 1..];
        let end = after.iter().position(|stage| stage.shrinking.is_some()).unwrap_or(after.len());
        let start = at.checked_sub(1).map(|before| &stages[before]);
        rounds.push(Round { number: rounds.len() + 1, start, pruned, shrinking, recovery: &after[..end] });
    }
    rounds
}

/// The page for models in the order in which they were made, the first of them the whole one.
pub fn compression_page(title: &str, stages: &[CompressionStage]) -> String {
    let rounds = rounds(stages);
    let mut body = format!("<h1>{}</h1><p class=\"lead\">{}</p>", escape(title), lead(&rounds));
    if !rounds.is_empty() {
        let note = "Curves: rounds across; 0 is the model that the first began with.";
        write!(body, "<div class=\"charts\">{}</div><p class=\"note\">{note}</p>", measures::charts(&rounds))
            .expect("string");
    }
    for round in &rounds {
        let heading = format!("Round {}: {}", round.number, escape(&round.pruned.name));
        write!(body, "<section><h2>{heading}</h2><div class=\"charts\">").expect("string");
        body.push_str(&measures::table(round));
        body.push_str(&experts(round.shrinking));
        body.push_str("</div></section>");
    }
    document(title, &body)
}

/// What became of the experts of a round, and how they are related.
fn experts(shrinking: &Shrinking) -> String {
    let fates: Vec<LayerFates<'_>> =
        shrinking.plan.layers.iter().map(|plan| LayerFates::of(plan, &shrinking.outcomes)).collect();
    let mut html = fates::figure(&fates);
    html += &fates::table(&fates, &shrinking.statistics);
    let full = matrix::full_similarity(&shrinking.statistics);
    for layer in &fates {
        if let Some(statistics) = shrinking.statistics.iter().find(|found| found.layer == layer.plan.layer) {
            html += &matrix::similarity(layer, statistics, full);
            html += &matrix::co_activation(layer, statistics);
        }
    }
    html
}

fn lead(rounds: &[Round<'_>]) -> String {
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else {
        return "No experts were taken away.".to_owned();
    };
    let counts = first.start.into_iter().chain(rounds.iter().map(|round| round.pruned));
    let counts: Vec<String> = counts.map(|stage| measures::experts_in_words(&stage.experts)).collect();
    let of = if rounds.len() == 1 { "one round".to_owned() } else { format!("{} rounds", rounds.len()) };
    let mut text = format!("Experts of a layer in {of}: {}.", counts.join(" → "));
    let end = last.recovered().unwrap_or(last.pruned);
    if let Some(start) = first.start {
        let (before, after) = (crate::table::bytes_in_words(start.bytes), crate::table::bytes_in_words(end.bytes));
        write!(text, " {} of {before} became {} of {after}.", escape(&start.name), escape(&end.name)).expect("string");
    }
    text
}

#[cfg(test)]
mod tests;
