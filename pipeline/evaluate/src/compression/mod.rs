//! The page of a compression: what each round took away, what that cost, and what recovery gave back.

mod fates;
mod matrix;
mod measures;

use crate::Report;
use compress::{LayerOutcome, LayerPlan, LayerStatistics, Plan};
use fates::LayerFates;
use std::fmt::Write;
use train::report::{document, escape};

/// A model on the way, in the order in which they were made.
#[derive(Debug, Clone)]
pub struct CompressionStage {
    pub name: String,
    /// The name of the model that it was made from; where nobody knows, that is the one before it.
    pub from: Option<String>,
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

/// A stage that takes experts away, and what was made of it up to the next such.
struct Round<'a> {
    /// One more than the round that it follows, if it follows one.
    number: usize,
    /// The round that made the model that it begins with, among all.
    follows: Option<usize>,
    /// The model that it begins with.
    start: Option<&'a CompressionStage>,
    pruned: &'a CompressionStage,
    shrinking: &'a Shrinking,
    /// What came of it, in the order in which they were made.
    recovery: Vec<&'a CompressionStage>,
}

impl<'a> Round<'a> {
    /// What came of it last.
    fn recovered(&self) -> Option<&'a CompressionStage> {
        self.recovery.last().copied()
    }

    /// Whether nothing else came of what came of it here.
    fn ends_with(&self, stage: &CompressionStage) -> bool {
        let last = self.recovered().is_some_and(|last| last.name == stage.name);
        last || (stage.from.is_some() && self.recovery.iter().all(|other| other.from.as_ref() != Some(&stage.name)))
    }
}

/// The place of the model that each was made from.
fn parents(stages: &[CompressionStage]) -> Vec<Option<usize>> {
    let parent = |(at, stage): (usize, &CompressionStage)| match &stage.from {
        Some(name) => stages[..at].iter().rposition(|earlier| earlier.name == *name),
        None => at.checked_sub(1),
    };
    stages.iter().enumerate().map(parent).collect()
}

fn rounds(stages: &[CompressionStage]) -> Vec<Round<'_>> {
    let parents = parents(stages);
    let mut rounds: Vec<Round<'_>> = Vec::new();
    // The round that each stage belongs to.
    let mut belongs: Vec<Option<usize>> = Vec::with_capacity(stages.len());
    for (stage, &parent) in stages.iter().zip(&parents) {
        let before = parent.and_then(|parent| belongs[parent]);
        belongs.push(match (&stage.shrinking, before) {
            (Some(shrinking), follows) => {
                let number = follows.map_or(1, |round| rounds[round].number + 1);
                let start = parent.map(|parent| &stages[parent]);
                rounds.push(Round { number, follows, start, pruned: stage, shrinking, recovery: Vec::new() });
                Some(rounds.len() - 1)
            }
            (None, Some(round)) => {
                rounds[round].recovery.push(stage);
                Some(round)
            }
            (None, None) => None,
        });
    }
    rounds
}

/// Rounds that follow each other, up to each that none follows.
fn lines<'r, 'a>(rounds: &'r [Round<'a>]) -> Vec<Vec<&'r Round<'a>>> {
    let is_last = |&at: &usize| rounds.iter().all(|round| round.follows != Some(at));
    let line = |at: usize| {
        let mut line: Vec<&Round<'_>> =
            std::iter::successors(Some(&rounds[at]), |round| Some(&rounds[round.follows?])).collect();
        line.reverse();
        line
    };
    (0..rounds.len()).filter(is_last).map(line).collect()
}

/// The page for models in the order in which they were made, the first of them the whole one.
pub fn compression_page(title: &str, stages: &[CompressionStage]) -> String {
    let rounds = rounds(stages);
    let lines = lines(&rounds);
    let mut body = format!("<h1>{}</h1><p class=\"lead\">{}</p>", escape(title), lead(&lines));
    if !rounds.is_empty() {
        let note = "Curves: rounds across; 0 is the model that the first began with.";
        write!(body, "<div class=\"charts\">{}</div><p class=\"note\">{note}</p>", measures::charts(&lines))
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

fn lead(lines: &[Vec<&Round<'_>>]) -> String {
    if lines.is_empty() {
        return "No experts were taken away.".to_owned();
    }
    lines.iter().map(|line| lead_of(line)).collect::<Vec<_>>().join(" ")
}

fn experts_before(layer: &LayerPlan) -> usize {
    layer.keep.len() + layer.drop.len() + layer.merge.iter().map(|merge| merge.from.len()).sum::<usize>()
}

/// What rounds that follow each other did.
fn lead_of(rounds: &[&Round<'_>]) -> String {
    let (first, last) = (rounds[0], rounds[rounds.len() - 1]);
    // The model that the first began with need not be here.
    let before = first.shrinking.plan.layers.iter().map(experts_before).collect();
    let counts = [before].into_iter().chain(rounds.iter().map(|round| round.pruned.experts.clone()));
    let counts: Vec<String> = counts.map(|counts| measures::experts_in_words(&counts)).collect();
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
