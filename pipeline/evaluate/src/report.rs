//! Everything that is measured of one model, and several of them side by side.

use crate::divergence::{Divergence, divergence};
use crate::perplexity::{Perplexity, perplexity};
use crate::speed::{Speed, SpeedSettings, speed};
use crate::statistics::Rate;
use crate::table::{Table, bytes_in_words, count_in_words, escape, page};
use crate::tasks::{Subject, TaskProgress, TaskReport, TaskSettings, solve_tasks};
use crate::walk::{Measured, Watch};
use crate::{EvaluateError, Failure};
use engine::Settings;
use environment::{EpisodeKind, Split, task};
use models::{KvFormat, Model};
use prepare::{Kind, Sample, Weighing};
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;
use text::{FillOrder, Renderer};

/// What an evaluation measures: the table of a recipe's stage, and the flags of the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateRecipe {
    /// Tasks of each kind in each split; 0 leaves tasks out.
    pub count: u64,
    pub kinds: Vec<EpisodeKind>,
    pub splits: Vec<Split>,
    /// Tries with a temperature, besides the greedy one.
    pub samples: u64,
    pub temperature: f32,
    /// Tokens of one answer.
    pub max_tokens: usize,
    /// Answers in one replay.
    pub max_turns: usize,
    /// Demonstrations of each kind whose perplexity is measured; 0 leaves it out.
    pub perplexity_tasks: u64,
    /// Whether tokens per second are measured.
    pub speed: bool,
    pub seed: u64,
    /// How keys and values are kept. If it is not said, measures keep them exactly, and tasks and speed as running
    /// does.
    #[serde(skip)]
    pub kv: Option<KvFormat>,
}

impl Default for EvaluateRecipe {
    fn default() -> Self {
        let tasks = TaskSettings::default();
        Self {
            count: tasks.count,
            kinds: tasks.kinds,
            splits: tasks.splits,
            samples: tasks.samples,
            temperature: tasks.temperature,
            max_tokens: tasks.max_tokens,
            max_turns: tasks.max_turns,
            perplexity_tasks: 30,
            speed: true,
            seed: tasks.seed,
            kv: None,
        }
    }
}

/// What was measured of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub model: String,
    /// Of the weights, as they are in memory.
    pub bytes: u64,
    pub parameters: u64,
    /// Experts of each layer that has any.
    pub experts: Vec<usize>,
    /// On demonstrations of the test split.
    pub perplexity: Option<Perplexity>,
    /// On the same, against the teacher if there was one.
    pub divergence: Option<Divergence>,
    pub tasks: Option<TaskReport>,
    pub speed: Option<Speed>,
}

/// Measures a model as the recipe says; `name` is what reports call it.
pub fn evaluate(
    name: &str,
    subject: &Subject<'_>,
    teacher: Option<&Model>,
    recipe: &EvaluateRecipe,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(TaskProgress),
) -> Result<Report, EvaluateError> {
    let model = subject.model;
    // A template that does not mark what the assistant says leaves nothing to measure the perplexity of.
    let is_marked = subject.renderer.template().has_generation_blocks();
    let count = if is_marked { recipe.perplexity_tasks } else { 0 };
    let held_out = kata_samples(&subject.renderer, Split::Test, count, recipe.seed)?;
    let with_text = !held_out.is_empty();
    let mut watch = Watch { cancel, progress: &mut |_| () };
    let measured = Measured { model, kv: recipe.kv.unwrap_or(KvFormat::F32) };
    let perplexity = with_text.then(|| perplexity(measured, &held_out, &mut watch)).transpose()?;
    let teacher = teacher.filter(|_| with_text).map(Measured::exactly);
    let divergence = teacher.map(|teacher| divergence(measured, teacher, &held_out, &mut watch)).transpose()?;
    let divergence = divergence.map(|(divergence, _)| divergence);
    let timing = SpeedSettings { kv: recipe.kv.unwrap_or_default(), ..SpeedSettings::default() };
    let speed = recipe.speed.then(|| speed(model, &timing)).transpose()?;
    let settings = recipe.task_settings();
    let tasks = (recipe.count > 0).then(|| solve_tasks(subject, &settings, cancel, progress)).transpose()?;
    Ok(Report {
        model: name.to_owned(),
        bytes: model.bytes() as u64,
        parameters: model.parameter_count() as u64,
        experts: model.config.expert_counts(),
        perplexity,
        divergence,
        tasks,
        speed,
    })
}

/// Demonstrations of every kind as token data, weighted as training weighs them.
pub fn kata_samples(
    renderer: &Renderer<'_>,
    split: Split,
    count: u64,
    seed: u64,
) -> Result<Vec<Sample>, EvaluateError> {
    let weighing = Weighing::default();
    let mut samples = Vec::new();
    for kind in EpisodeKind::ALL {
        for index in 0..count {
            let document = task(kind, split, seed * 1_000_003 + index).demonstration();
            let pieces = renderer.document(&document, FillOrder::PrefixFirst)?;
            samples.push(weighing.sample(&pieces, Kind::of_episode(kind), 1.0));
        }
    }
    Ok(samples)
}

impl EvaluateRecipe {
    pub fn task_settings(&self) -> TaskSettings {
        TaskSettings {
            kinds: self.kinds.clone(),
            splits: self.splits.clone(),
            count: self.count,
            samples: self.samples,
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            max_turns: self.max_turns,
            seed: self.seed,
            engine: Settings { kv: self.kv.unwrap_or_default(), ..Settings::default() },
            ..TaskSettings::default()
        }
    }
}

impl Report {
    /// pass@1 over all kinds of one split.
    pub fn passed(&self, split: Split) -> Option<Rate> {
        let rate = self.tasks.as_ref()?.passed(|cell| cell.split == split);
        (rate.trials > 0).then_some(rate)
    }

    /// pass@1 of one kind in one split.
    pub fn passed_of(&self, split: Split, kind: EpisodeKind) -> Option<Rate> {
        let rate = self.tasks.as_ref()?.passed(|cell| cell.split == split && cell.kind == kind);
        (rate.trials > 0).then_some(rate)
    }

    /// `8` where all layers agree, else the list; 0 without experts.
    pub fn experts_in_words(&self) -> String {
        match self.experts.as_slice() {
            [] => "0".into(),
            [first, rest @ ..] if rest.iter().all(|count| count == first) => first.to_string(),
            counts => counts.iter().map(usize::to_string).collect::<Vec<_>>().join("/"),
        }
    }

    /// The numbers that have no place in the table of tasks.
    pub fn summary(&self) -> Table {
        let mut table = Table::new(&["measure", "value"]);
        let mut line = |name: &str, value: String| table.push(vec![name.to_owned(), value]);
        line("size in memory", bytes_in_words(self.bytes));
        line("parameters", count_in_words(self.parameters));
        line("experts per layer", self.experts_in_words());
        if let Some(perplexity) = &self.perplexity {
            line("perplexity (test)", format!("{:.4}", perplexity.all.perplexity));
            for (kind, loss) in &perplexity.by_kind {
                line(&format!("perplexity ({kind})"), format!("{:.4}", loss.perplexity));
            }
        }
        if let Some(divergence) = &self.divergence {
            line("KL from the teacher, mean (nats)", format!("{:.6}", divergence.mean));
            line("KL, median", format!("{:.6}", divergence.median));
            line("KL, 99 of 100 below", format!("{:.6}", divergence.quantile_99));
            line("same top token", divergence.same_top_token.percent());
        }
        if let Some(speed) = &self.speed {
            line("prefill (tokens/s)", format!("{:.0}", speed.prefill_tokens_per_second));
            line("decode (tokens/s)", format!("{:.0}", speed.decode_tokens_per_second));
        }
        table
    }

    /// The report as parts of a page.
    pub fn to_html(&self) -> String {
        let mut html = format!("<h2>{}</h2>\n{}", escape(&self.model), self.summary().to_html());
        if let Some(tasks) = &self.tasks {
            html += &format!("<h3>Tasks</h3>\n{}", tasks.table().to_html());
            html += "<details><summary>Some answers that did not pass</summary>\n";
            html.extend(tasks.failures.iter().map(failure_html));
            html += "</details>\n";
        }
        html
    }
}

fn failure_html(failure: &Failure) -> String {
    let (task, detail, answer) = (escape(&failure.task), escape(&failure.detail), escape(&failure.answer));
    format!("<p><b>{task}</b>: {detail}</p><pre>{answer}</pre>\n")
}

/// One line for each model.
pub fn comparison(reports: &[Report]) -> Table {
    let headings = [
        "stage",
        "size",
        "parameters",
        "experts",
        "solve",
        "all tasks",
        "unseen families",
        "FIM",
        "perplexity",
        "KL",
        "tokens/s",
    ];
    let mut table = Table::new(&headings);
    let dash = || "—".to_owned();
    for report in reports {
        let rate = |rate: Option<Rate>| rate.map_or_else(dash, |rate| rate.percent());
        table.push(vec![
            report.model.clone(),
            bytes_in_words(report.bytes),
            count_in_words(report.parameters),
            report.experts_in_words(),
            rate(report.passed_of(Split::Test, EpisodeKind::Solve)),
            rate(report.passed(Split::Test)),
            rate(report.passed(Split::UnseenFamilies)),
            rate(report.passed_of(Split::Test, EpisodeKind::FillInTheMiddle)),
            report.perplexity.as_ref().map_or_else(dash, |perplexity| format!("{:.3}", perplexity.all.perplexity)),
            report.divergence.as_ref().map_or_else(dash, |divergence| format!("{:.3}", divergence.mean)),
            report.speed.as_ref().map_or_else(dash, |speed| format!("{:.0}", speed.decode_tokens_per_second)),
        ]);
    }
    table
}

/// A page with the comparison on top and each model below.
pub fn comparison_page(title: &str, reports: &[Report]) -> String {
    const NOTE: &str = "<p class=\"note\">solve, all tasks, unseen families, FIM: greedy answers that pass all hidden \
        tests (pass@1), of the test split but for unseen families, which count all kinds of tasks; brackets hold the \
        95 % interval. test: known families with unseen constants, names and compositions. unseen families: never \
        trained on. FIM: holes filled. Perplexity: of demonstrations of the test split. KL: from the teacher, in nats \
        a token. tokens/s: decoding, one reader.</p>\n";
    let mut parts = vec![comparison(reports).to_html(), NOTE.to_owned()];
    parts.extend(reports.iter().map(Report::to_html));
    page(title, &parts)
}
