//! A run that is stopped, or killed, and resumed is bit for bit the run that was not.

mod tiny;

use models::Model;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny::{Folder, model, recipe, samples};
use train::event::{Ending, Event, Progress, Silent};
use train::{LoraConfig, Method, Run, Summary, Supervised, TrainError, TrainRecipe, metrics};

fn go(
    model: &mut Model,
    recipe: &TrainRecipe,
    directory: &Path,
    progress: &mut dyn Progress,
    flag: &AtomicBool,
) -> Result<Summary, TrainError> {
    let (data, held_out) = (samples(60, 1), samples(10, 2));
    let run = Run {
        title: "test",
        recipe,
        samples: &data,
        validation: &held_out,
        directory,
        result_bytes: &[],
        cancelled: flag,
    };
    train::train(&run, model, &mut Supervised, progress)
}

fn bits(model: &Model) -> Vec<u32> {
    model.parameters().iter().flat_map(|parameter| parameter.values()).map(|value| value.to_bits()).collect()
}

/// Losses of all steps in a metrics file, by step.
fn losses(directory: &Path) -> Vec<(usize, u64)> {
    let events = metrics::read(&directory.join("metrics.jsonl")).expect("metrics");
    let step = |event: &Event| if let Event::Step(s) = event { Some((s.step, s.loss.to_bits())) } else { None };
    events.iter().filter_map(step).collect()
}

/// Raises the flag when a step is done, as Ctrl-C would.
struct StopAt<'a>(usize, &'a AtomicBool);

impl Progress for StopAt<'_> {
    fn record(&mut self, event: &Event) {
        if matches!(event, Event::Step(step) if step.step == self.0) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Dies in the middle of a step: nothing is saved, as after a power cut.
struct DieAt(usize);

impl Progress for DieAt {
    fn record(&mut self, event: &Event) {
        assert!(!matches!(event, Event::Step(step) if step.step == self.0), "the power is gone");
    }
}

fn check(name: &str, method: Method) {
    let recipe = TrainRecipe { save_every: 4, evaluate_every: 5, method, weight_decay: 0.1, ..recipe(14) };
    let never = AtomicBool::new(false);
    let (whole, cut) = (Folder::new(&format!("{name}-whole")), Folder::new(&format!("{name}-cut")));
    let mut uninterrupted = model(3);
    let summary = go(&mut uninterrupted, &recipe, &whole.0, &mut Silent, &never).expect("a whole run");
    assert_eq!((summary.ending, summary.step), (Ending::Finished, 14));

    let flag = AtomicBool::new(false);
    let summary = go(&mut model(3), &recipe, &cut.0, &mut StopAt(6, &flag), &flag).expect("an interrupted run");
    assert_eq!((summary.ending, summary.step), (Ending::Interrupted, 6));
    let killed =
        std::panic::catch_unwind(|| go(&mut model(3), &recipe, &cut.0, &mut DieAt(11), &AtomicBool::new(false)));
    assert!(killed.is_err(), "the second part dies after the checkpoint at 8");
    assert_eq!(losses(&cut.0).len(), 11, "the metrics know of steps that the checkpoint does not");
    let mut resumed = model(3);
    let summary = go(&mut resumed, &recipe, &cut.0, &mut Silent, &never).expect("the last part");
    assert_eq!((summary.ending, summary.step), (Ending::Finished, 14));

    assert_eq!(losses(&whole.0), losses(&cut.0), "every step once, with the same loss");
    assert!(bits(&uninterrupted) == bits(&resumed), "the parameters differ");
    assert!(bits(&uninterrupted) != bits(&model(3)), "nothing was learnt");
    if resumed.has_adapters() {
        check_directory(&resumed, &cut.0.join("checkpoints/step-00000014/adapter"));
    }
}

/// What a checkpoint keeps for others is the adapter that the run has.
fn check_directory(trained: &Model, directory: &Path) {
    let mut read = model(3);
    models::adapter::load_peft(&mut read, directory, &Default::default()).expect("it loads");
    let tokens: Vec<u32> = (0..40).map(|at| at * 11 % 64).collect();
    let (targets, weights, lengths) = (tokens.clone(), vec![1.0; 40], [40]);
    let examples = models::Examples { tokens: &tokens, lengths: &lengths, targets: &targets, weights: &weights };
    let pairs = models::losses(&read, &examples, models::CHUNK_TOKENS).into_iter().zip(models::losses(
        trained,
        &examples,
        models::CHUNK_TOKENS,
    ));
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "losses differ by {worst}");
}

#[test]
fn full_training_resumes_exactly() {
    check("full", Method::Full);
}

#[test]
fn adapters_resume_exactly() {
    let plain = LoraConfig::new(4, 8.0, &["q_proj", "in_proj_qkvz", "experts"]);
    check("lora", Method::Lora(plain.clone()));
    check("lora-dropout", Method::Lora(LoraConfig { dropout: 0.2, share_residual: true, ..plain.clone() }));
    let modules_to_save = ["embed_tokens", ".*norm", "conv1d"].map(str::to_owned).to_vec();
    check(
        "lora-whole",
        Method::Lora(LoraConfig { modules_to_save, b_rate_ratio: 4.0, whole_rate_ratio: 0.2, ..plain }),
    );
}

#[test]
fn a_finished_run_is_not_run_again() {
    let folder = Folder::new("finished");
    let never = AtomicBool::new(false);
    let mut first = model(3);
    go(&mut first, &recipe(4), &folder.0, &mut Silent, &never).expect("a run");
    let mut second = model(3);
    let summary = go(&mut second, &recipe(4), &folder.0, &mut DieAt(5), &never).expect("nothing to do");
    assert_eq!((summary.step, summary.loss), (4, None));
    assert!(bits(&first) == bits(&second));
}

#[test]
fn a_changed_recipe_is_refused_and_says_so() {
    let folder = Folder::new("changed");
    let flag = AtomicBool::new(false);
    go(&mut model(3), &recipe(8), &folder.0, &mut StopAt(3, &flag), &flag).expect("an interrupted run");
    let changed = TrainRecipe { learning_rate: 5e-3, ..recipe(8) };
    let error = go(&mut model(3), &changed, &folder.0, &mut Silent, &flag).expect_err("another recipe");
    let text = error.to_string();
    assert!(
        matches!(error, TrainError::Changed { .. }) && text.contains("run: learning_rate was 0.01, is 0.005. Restore"),
        "{text}"
    );
    let often = TrainRecipe { save_every: 1, ..recipe(8) };
    assert!(go(&mut model(3), &often, &folder.0, &mut Silent, &flag).is_ok(), "saving more often is the same run");
}

#[test]
fn a_half_written_checkpoint_is_passed_over_and_a_damaged_one_named() {
    let folder = Folder::new("damaged");
    let never = AtomicBool::new(false);
    let kept = TrainRecipe { save_every: 2, keep_last: 2, ..recipe(6) };
    go(&mut model(3), &kept, &folder.0, &mut Silent, &never).expect("a run");
    let checkpoints = folder.0.join("checkpoints");
    let mut names: Vec<String> = std::fs::read_dir(&checkpoints)
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000004", "step-00000006"]);
    std::fs::create_dir(checkpoints.join("step-00000009.partial")).expect("a crash left this");
    assert!(go(&mut model(3), &kept, &folder.0, &mut Silent, &never).is_ok());
    let tensors = checkpoints.join("step-00000006/tensors.safetensors");
    let half = std::fs::metadata(&tensors).expect("there").len() / 2;
    std::fs::OpenOptions::new().write(true).open(&tensors).and_then(|file| file.set_len(half)).expect("cut");
    let error = go(&mut model(3), &kept, &folder.0, &mut Silent, &never).expect_err("damaged");
    assert!(matches!(error, TrainError::Damaged { .. }) && error.to_string().contains("step-00000006"), "{error}");
}
