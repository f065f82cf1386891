//! What came of all tries.

use super::TaskSettings;
use crate::statistics::{Rate, pass_at_k};
use crate::table::Table;
use environment::{EpisodeKind, Split, Task};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Failures kept for each cell of the report.
const FAILURES_KEPT: usize = 3;

/// One try, judged.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) task: usize,
    /// `None` is the greedy try.
    pub(super) sample: Option<u64>,
    pub(super) passed: bool,
    pub(super) exact: bool,
    pub(super) tokens: usize,
    pub(super) turns: usize,
    pub(super) cut_short: bool,
    pub(super) detail: String,
    pub(super) answer: String,
}

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    pub cells: Vec<Cell>,
    /// A few answers that did not pass.
    pub failures: Vec<Failure>,
    pub generated_tokens: u64,
    pub seconds: f64,
}

/// One kind of task in one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub split: Split,
    pub kind: EpisodeKind,
    /// Greedy tries that passed: pass@1.
    pub passed: Rate,
    /// Greedy answers equal to the reference.
    pub exact: Rate,
    /// Greedy answers that ran into a limit of length.
    pub cut_short: u64,
    /// Of the greedy tries.
    pub mean_tokens: f64,
    pub mean_turns: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<Sampled>,
}

/// Tries with a temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    pub samples: u64,
    pub temperature: f32,
    /// k → mean over the tasks of the unbiased estimate of pass@k.
    pub pass_at: BTreeMap<u64, f64>,
}

/// An answer that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub task: String,
    pub split: Split,
    pub kind: EpisodeKind,
    pub detail: String,
    pub answer: String,
}

impl TaskReport {
    pub(super) fn of(tasks: &[Task], settings: &TaskSettings, outcomes: &[Outcome], elapsed: Duration) -> Self {
        let mut cells = Vec::new();
        let mut failures = Vec::new();
        for &split in &settings.splits {
            for &kind in &settings.kinds {
                let belongs =
                    |outcome: &&Outcome| tasks[outcome.task].split == split && tasks[outcome.task].kind == kind;
                let here: Vec<&Outcome> = outcomes.iter().filter(belongs).collect();
                if here.is_empty() {
                    continue;
                }
                let failed = here.iter().filter(|outcome| outcome.sample.is_none() && !outcome.passed);
                failures.extend(failed.take(FAILURES_KEPT).map(|outcome| Failure {
                    task: tasks[outcome.task].id.clone(),
                    split,
                    kind,
                    detail: outcome.detail.clone(),
                    answer: outcome.answer.clone(),
                }));
                cells.push(Cell::of(split, kind, settings, &here));
            }
        }
        let generated_tokens = outcomes.iter().map(|outcome| outcome.tokens as u64).sum();
        Self { cells, failures, generated_tokens, seconds: elapsed.as_secs_f64() }
    }

    /// pass@1 over the chosen cells together.
    pub fn passed(&self, belongs: impl Fn(&Cell) -> bool) -> Rate {
        self.total(belongs, |cell| cell.passed)
    }

    /// Answers equal to the reference, over the chosen cells together.
    pub fn exact(&self, belongs: impl Fn(&Cell) -> bool) -> Rate {
        self.total(belongs, |cell| cell.exact)
    }

    fn total(&self, belongs: impl Fn(&Cell) -> bool, rate: impl Fn(&Cell) -> Rate) -> Rate {
        let rates = self.cells.iter().filter(|cell| belongs(cell)).map(rate);
        let (successes, trials) = rates.fold((0, 0), |sum, rate| (sum.0 + rate.successes, sum.1 + rate.trials));
        Rate::of(successes, trials)
    }

    /// Kinds downwards, one line for each split, and a line for each split as a whole.
    pub fn table(&self) -> Table {
        let ks: Vec<u64> =
            self.cells.iter().filter_map(|cell| cell.sampled.as_ref()).fold(Vec::new(), |mut ks, sampled| {
                ks.extend(sampled.pass_at.keys().filter(|k| !ks.contains(k)).collect::<Vec<_>>());
                ks
            });
        let mut headings: Vec<String> =
            ["task", "split", "pass@1", "exact", "tokens", "turns", "cut short"].map(str::to_owned).to_vec();
        headings.extend(ks.iter().map(|k| format!("pass@{k} (sampled)")));
        let mut table = Table { headings, rows: Vec::new() };
        for cell in &self.cells {
            let mut row = vec![
                cell.kind.name().to_owned(),
                cell.split.name().to_owned(),
                cell.passed.in_words(),
                cell.exact.percent(),
                format!("{:.0}", cell.mean_tokens),
                format!("{:.1}", cell.mean_turns),
                cell.cut_short.to_string(),
            ];
            row.extend(ks.iter().map(|k| {
                let value = cell.sampled.as_ref().and_then(|sampled| sampled.pass_at.get(k));
                value.map_or_else(|| "—".to_owned(), |value| format!("{:.1} %", 100.0 * value))
            }));
            table.push(row);
        }
        for split in Split::ALL {
            let whole = |cell: &Cell| cell.split == split;
            if self.cells.iter().filter(|cell| whole(cell)).count() < 2 {
                continue;
            }
            let mut row = vec!["all".to_owned(), split.name().to_owned(), self.passed(whole).in_words()];
            row.push(self.exact(whole).percent());
            row.resize(table.headings.len(), String::new());
            table.push(row);
        }
        table
    }
}

impl Cell {
    fn of(split: Split, kind: EpisodeKind, settings: &TaskSettings, outcomes: &[&Outcome]) -> Self {
        let greedy: Vec<&&Outcome> = outcomes.iter().filter(|outcome| outcome.sample.is_none()).collect();
        let mean = |value: fn(&Outcome) -> usize| {
            greedy.iter().map(|outcome| value(outcome) as f64).sum::<f64>() / greedy.len().max(1) as f64
        };
        Self {
            split,
            kind,
            passed: Rate::of_outcomes(greedy.iter().map(|outcome| outcome.passed)),
            exact: Rate::of_outcomes(greedy.iter().map(|outcome| outcome.exact)),
            cut_short: greedy.iter().filter(|outcome| outcome.cut_short).count() as u64,
            mean_tokens: mean(|outcome| outcome.tokens),
            mean_turns: mean(|outcome| outcome.turns),
            sampled: (settings.samples > 0).then(|| sampled(settings, outcomes)),
        }
    }
}

fn sampled(settings: &TaskSettings, outcomes: &[&Outcome]) -> Sampled {
    let mut correct: BTreeMap<usize, u64> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.sample.is_some()) {
        *correct.entry(outcome.task).or_default() += u64::from(outcome.passed);
    }
    let mut ks: Vec<u64> = [1, 2, 5, 10, 20, 50, 100].into_iter().filter(|&k| k < settings.samples).collect();
    ks.push(settings.samples);
    let estimate = |k: u64| {
        let all = correct.values().map(|&correct| pass_at_k(settings.samples, correct, k));
        (k, all.sum::<f64>() / correct.len() as f64)
    };
    let pass_at = ks.into_iter().map(estimate).collect();
    Sampled { samples: settings.samples, temperature: settings.temperature, pass_at }
}
