//! Tasks through the whole path: prompt, batch, judge, report.

use engine::Settings;
use environment::{EpisodeKind, Sandbox, Split};
use evaluate::{EvaluateError, Subject, TaskProgress, TaskReport, TaskSettings, solve_tasks};
use models::{Config, Model};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use text::{Renderer, Template, Tokenizer};

struct World {
    model: Model,
    tokenizer: Tokenizer,
    template: Template,
    sandbox: Sandbox,
}

impl World {
    fn new() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/tokenizer_tiny");
        let tokenizer = Tokenizer::open(&folder).expect("the fixture opens");
        let vocabulary = tokenizer.vocabulary_size();
        let config = format!(
            r#"{{"model_type": "qwen3", "head_dim": 8, "hidden_size": 16, "intermediate_size": 16,
            "max_position_embeddings": 2048, "num_attention_heads": 2, "num_hidden_layers": 1,
            "num_key_value_heads": 1, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
            "vocab_size": {vocabulary}}}"#
        );
        let config = Config::from_json(&config).expect("the configuration is valid");
        let template = Template::open(&folder).expect("the fixture opens");
        Self { model: Model::random(config, 1), tokenizer, template, sandbox: Sandbox::in_process() }
    }

    fn solve(&self, settings: &TaskSettings) -> (Result<TaskReport, EvaluateError>, Vec<TaskProgress>) {
        let renderer = Renderer::new(&self.tokenizer, &self.template);
        let subject = Subject { model: &self.model, renderer, sandbox: &self.sandbox };
        let mut seen = Vec::new();
        let report = solve_tasks(&subject, settings, &AtomicBool::new(false), &mut |progress| seen.push(progress));
        (report, seen)
    }
}

fn small() -> TaskSettings {
    TaskSettings { count: 3, max_tokens: 8, max_turns: 2, ..TaskSettings::default() }
}

#[test]
fn a_model_that_knows_nothing_solves_nothing_and_every_try_is_counted() {
    let world = World::new();
    let settings = small();
    let (report, seen) = world.solve(&settings);
    let report = report.expect("it runs");
    assert_eq!(report.cells.len(), 12, "six kinds in two splits");
    let all = report.passed(|_| true);
    assert_eq!(all.trials, 36);
    // A verdict of a review may be guessed; nothing else may.
    assert_eq!(report.passed(|cell| cell.kind != EpisodeKind::Review).successes, 0);
    assert!(report.cells.iter().all(|cell| cell.mean_tokens <= 16.0 && cell.sampled.is_none()));
    assert!(!report.failures.is_empty() && report.failures.iter().all(|failure| !failure.detail.is_empty()));
    let last = seen.last().expect("there was progress");
    assert_eq!((last.done, last.total, last.generated_tokens), (36, 36, report.generated_tokens));
    let text = report.table().to_text();
    assert!(text.contains("fill_in_the_middle") && text.contains("unseen_families"), "{text}");
    let json = serde_json::to_string(&report).expect("reports are plain data");
    assert_eq!(serde_json::from_str::<TaskReport>(&json).expect("it reads back"), report);
}

#[test]
fn the_size_of_the_batch_changes_nothing() {
    let world = World::new();
    let settings = TaskSettings { samples: 2, splits: vec![Split::Test], count: 2, ..small() };
    let narrow =
        TaskSettings { engine: Settings { sequences: 2, pass_tokens: 64, ..Settings::default() }, ..settings.clone() };
    let (one, _) = world.solve(&settings);
    let (two, _) = world.solve(&narrow);
    let (one, two) = (one.expect("it runs"), two.expect("it runs"));
    assert_eq!(one.cells, two.cells);
    assert_eq!(one.failures, two.failures);
    let sampled = one.cells[0].sampled.as_ref().expect("samples were asked for");
    assert_eq!(sampled.pass_at.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(one.table().to_text().contains("pass@2"));
}

#[test]
fn stopping_and_asking_for_nothing_are_errors() {
    let world = World::new();
    let renderer = Renderer::new(&world.tokenizer, &world.template);
    let subject = Subject { model: &world.model, renderer, sandbox: &world.sandbox };
    let stopped = solve_tasks(&subject, &small(), &AtomicBool::new(true), &mut |_| ());
    assert!(matches!(stopped, Err(EvaluateError::Cancelled)));
    let (nothing, _) = world.solve(&TaskSettings { count: 0, ..small() });
    assert!(matches!(nothing, Err(EvaluateError::Nothing(_))));
}
