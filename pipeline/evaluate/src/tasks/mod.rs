//! Tasks solved: many at once through one batch, judged beside it while the batch goes on.
//!
//! Every task is tried once greedily, which is what pass@1 means here, and as often as wanted with a temperature,
//! which is what pass@k for k > 1 needs. A replay is an agent's loop: generate, call tools, append their results,
//! until the model calls no more or its turns are used up; then its repository is judged.

mod attempt;
mod drive;
mod report;

pub use report::{Cell, Failure, Sampled, TaskReport};

use crate::EvaluateError;
use engine::Settings;
use environment::{EpisodeKind, Sandbox, Split, Task, task};
use models::Model;
use std::sync::atomic::AtomicBool;
use text::{FillOrder, Renderer};

/// Who is tried, and where its programs run.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub model: &'a Model,
    pub renderer: Renderer<'a>,
    pub sandbox: &'a Sandbox,
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct TaskSettings {
    pub kinds: Vec<EpisodeKind>,
    pub splits: Vec<Split>,
    /// Tasks of each kind in each split.
    pub count: u64,
    /// Tries with a temperature, besides the greedy one.
    pub samples: u64,
    pub temperature: f32,
    /// Tokens of one answer, or of one turn.
    pub max_tokens: usize,
    /// Answers of the model in one replay.
    pub max_turns: usize,
    /// Draws the tasks. Two models that are compared get the same seed.
    pub seed: u64,
    pub fill_order: FillOrder,
    pub engine: Settings,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            kinds: EpisodeKind::ALL.to_vec(),
            splits: vec![Split::Test, Split::UnseenFamilies],
            count: 50,
            samples: 0,
            temperature: 0.8,
            max_tokens: 384,
            max_turns: 8,
            seed: 0,
            fill_order: FillOrder::PrefixFirst,
            engine: Settings::default(),
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskProgress {
    pub done: u64,
    pub total: u64,
    pub generated_tokens: u64,
}

/// Draws the tasks and tries them all.
pub fn solve_tasks(
    subject: &Subject<'_>,
    settings: &TaskSettings,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(TaskProgress),
) -> Result<TaskReport, EvaluateError> {
    let tasks = draw(settings);
    if tasks.is_empty() {
        return Err(EvaluateError::Nothing("no kind, no split, or a count of 0 was asked for".into()));
    }
    let began = std::time::Instant::now();
    let outcomes = drive::run(subject, settings, &tasks, cancel, progress)?;
    Ok(TaskReport::of(&tasks, settings, &outcomes, began.elapsed()))
}

fn draw(settings: &TaskSettings) -> Vec<Task> {
    let mut tasks = Vec::new();
    for &split in &settings.splits {
        for &kind in &settings.kinds {
            // A stride keeps the draws of two seeds apart.
            tasks.extend((0..settings.count).map(|index| task(kind, split, settings.seed * 1_000_003 + index)));
        }
    }
    tasks
}
