//! What a compression cost and what recovery gave back, as curves over rounds and as tables.

use super::{CompressionStage, Round};
use crate::table::{Table, bytes_in_words};
use crate::{Rate, Report};
use environment::{EpisodeKind, Split};
use train::report::chart::{Line, figure_over};
use train::report::escape;

/// `8`, or where layers differ their mean and their range.
pub(super) fn experts_in_words(counts: &[usize]) -> String {
    let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) else { return "0".to_owned() };
    match least == most {
        true => least.to_string(),
        false => format!("{:.1} ({least}–{most})", counts.iter().sum::<usize>() as f64 / counts.len() as f64),
    }
}

/// Colours that curves have.
const STYLES: usize = 8;

type Measure = fn(&CompressionStage) -> Option<f64>;

fn report(stage: &CompressionStage) -> Option<&Report> {
    stage.report.as_ref()
}

fn percent(rate: Option<Rate>) -> Option<f64> {
    rate.map(|rate| 100.0 * rate.rate)
}

fn passed_of(stage: &CompressionStage, kind: EpisodeKind) -> Option<Rate> {
    report(stage)?.passed_of(Split::Test, kind)
}

/// Everything that is drawn over rounds.
const MEASURES: [(&str, Measure); 9] = [
    ("KL from the teacher, nats a token", |stage| Some(report(stage)?.divergence.as_ref()?.mean)),
    ("Perplexity", |stage| Some(report(stage)?.perplexity.as_ref()?.all.perplexity)),
    ("Same top token as the teacher, % of tokens", |stage| {
        percent(Some(report(stage)?.divergence.as_ref()?.same_top_token))
    }),
    ("pass@1, all tasks, %", |stage| percent(report(stage)?.passed(Split::Test))),
    ("pass@1, programs from a description, %", |stage| percent(passed_of(stage, EpisodeKind::Solve))),
    ("pass@1, use of tools, %", |stage| percent(passed_of(stage, EpisodeKind::Replay))),
    ("pass@1, fill in the middle (FIM), %", |stage| percent(passed_of(stage, EpisodeKind::FillInTheMiddle))),
    ("pass@1, unseen families, %", |stage| percent(report(stage)?.passed(Split::UnseenFamilies))),
    ("Size, MB", |stage| Some(stage.bytes as f64 / 1e6)),
];

/// A curve of each measure before recovery, and one after, of each line of rounds.
pub(super) fn charts(lines: &[Vec<&Round<'_>>]) -> String {
    MEASURES.iter().map(|(title, measure)| chart(title, *measure, lines)).collect()
}

fn chart(title: &str, measure: Measure, lines: &[Vec<&Round<'_>>]) -> String {
    let mut curves = Vec::new();
    for rounds in lines {
        let start = rounds[0].start.and_then(measure).map(|value| (0.0, value));
        let points = |of: &dyn Fn(&Round<'_>) -> Option<f64>| -> Vec<(f64, f64)> {
            let each = rounds.iter().filter_map(|round| Some((round.number as f64, of(round)?)));
            start.into_iter().chain(each).collect()
        };
        let before = points(&|round| measure(round.pruned));
        let after = points(&|round| measure(round.recovered()?));
        if before.len().max(after.len()) > usize::from(start.is_some()) {
            let to = match lines.len() {
                1 => String::new(),
                _ => format!(", to {}", escape(&rounds[rounds.len() - 1].pruned.name)),
            };
            curves.push((format!("before recovery{to}"), before));
            curves.push((format!("after recovery{to}"), after));
        }
    }
    let styles = (0..curves.len()).map(|at| format!("c{}", (at ^ 1) % STYLES)).collect::<Vec<_>>();
    let with_style = curves.iter().zip(&styles);
    let lines: Vec<Line<'_>> =
        with_style.map(|((label, points), style)| Line { label, style, points: points.clone(), dots: true }).collect();
    figure_over("round", title, &lines, true, false)
}

/// What was measured of the models of one round, line by line.
pub(super) fn table(round: &Round<'_>) -> String {
    let mut table = Table::new(&[
        "model",
        "experts a layer",
        "size",
        "KL (nats a token)",
        "perplexity",
        "same top token",
        "pass@1, all tasks",
        "solve",
        "tools",
        "FIM",
        "unseen families",
    ]);
    let during = round.recovery.iter().map(|&stage| {
        let what = if round.ends_with(stage) { "after recovery" } else { "recovery" };
        (stage, what)
    });
    let start = round.start.map(|stage| (stage, "to begin with"));
    for (stage, what) in start.into_iter().chain([(round.pruned, "before recovery")]).chain(during) {
        table.push(row(stage, what));
    }
    let heading = "What it cost, and what came back";
    format!(
        "<figure class=\"wide\"><figcaption><h2>{heading}</h2></figcaption><div class=\"scroll\">{}</div><p \
         class=\"note\">KL: from the teacher, on demonstrations of the test split, as perplexity. Same top token: of \
         these tokens, those of which both think the same most probable. pass@1: greedy answers that pass all hidden \
         tests; all tasks with the 95 % interval. tools: changes to small repositories. A dash: not measured.</p>\
         </figure>",
        table.to_html()
    )
}

fn row(stage: &CompressionStage, what: &str) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| value.map_or_else(dash, |value| format!("{value:.digits$}"));
    let rate = |rate: Option<Rate>| rate.map_or_else(dash, |rate| rate.percent());
    let divergence = report(stage).and_then(|report| report.divergence.as_ref());
    let perplexity = report(stage).and_then(|report| report.perplexity.as_ref());
    let passed = |split| report(stage).and_then(|report| report.passed(split));
    vec![
        format!("{} ({what})", stage.name),
        experts_in_words(&stage.experts),
        bytes_in_words(stage.bytes),
        number(divergence.map(|divergence| divergence.mean), 4),
        number(perplexity.map(|perplexity| perplexity.all.perplexity), 3),
        rate(divergence.map(|divergence| divergence.same_top_token)),
        passed(Split::Test).map_or_else(dash, |rate| rate.in_words()),
        rate(passed_of(stage, EpisodeKind::Solve)),
        rate(passed_of(stage, EpisodeKind::Replay)),
        rate(passed_of(stage, EpisodeKind::FillInTheMiddle)),
        rate(passed(Split::UnseenFamilies)),
    ]
}

fn dash() -> String {
    "—".to_owned()
}
