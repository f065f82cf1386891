//! How runs end, other than at their last step: early, on a disk that is full, by numbers that are none, in mid-step.

mod tiny;

use models::Model;
use ops::Gradients;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tiny::{Folder, model, recipe, samples};
use train::event::{Ending, Event, Progress, Silent, Step, Warning};
use train::objective::Measured;
use train::{Objective, ResultModel, Run, StepWork, Summary, Supervised, TrainError, TrainRecipe, metrics};

/// Data that is learnt, and held-out data of the same kind.
fn go(
    model: &mut Model,
    recipe: &TrainRecipe,
    directory: &Path,
    objective: &mut dyn Objective,
    cancelled: &AtomicBool,
) -> Result<Summary, TrainError> {
    let (data, held_out) = (samples(60, 1), samples(10, 2));
    let (result_bytes, title) = (&[][..], "endings");
    let run = Run { title, recipe, samples: &data, validation: &held_out, directory, result_bytes, cancelled };
    train::train(&run, model, objective, &mut Silent)
}

static NEVER: AtomicBool = AtomicBool::new(false);

fn bits(model: &Model) -> Vec<u32> {
    model.parameters().iter().flat_map(|parameter| parameter.values()).map(|value| value.to_bits()).collect()
}

fn events(directory: &Path) -> Vec<Event> {
    metrics::read(&directory.join("metrics.jsonl")).expect("metrics")
}

fn steps(directory: &Path) -> Vec<Step> {
    events(directory).into_iter().filter_map(|e| if let Event::Step(step) = e { Some(step) } else { None }).collect()
}

fn warnings(directory: &Path) -> Vec<Warning> {
    let warning = |e| if let Event::Warning { warning, .. } = e { Some(warning) } else { None };
    events(directory).into_iter().filter_map(warning).collect()
}

/// Changes the gradients of some micro-batches.
struct Meddling<F: FnMut(usize, &mut Measured, &mut Gradients, &Model)>(usize, F);

impl<F: FnMut(usize, &mut Measured, &mut Gradients, &Model)> Objective for Meddling<F> {
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError> {
        let mut all = Vec::new();
        for index in 0..work.batches.len() {
            let one = StepWork {
                batches: &work.batches[index..=index],
                own: &[0],
                options: &work.options[index..=index],
                ..*work
            };
            let Some(measured) = Supervised.step(model, &one, gradients)? else { return Ok(None) };
            for mut measured in measured {
                self.1(self.0, &mut measured, gradients, model);
                self.0 += 1;
                all.push(measured);
            }
        }
        Ok(Some(all))
    }
}

fn scale(gradients: &mut Gradients, model: &Model, factor: f32) {
    for parameter in model.parameters().into_iter().filter(|parameter| parameter.trained) {
        gradients.entry(parameter).iter_mut().for_each(|gradient| *gradient *= factor);
    }
}

#[test]
fn a_step_without_numbers_is_left_out_and_counted_and_five_in_a_row_end_the_run() {
    let folder = Folder::new("numbers");
    let once = TrainRecipe { accumulation: 1, save_every: 2, ..recipe(6) };
    let mut tuned = model(3);
    let mut objective = Meddling(0, |at, measured: &mut Measured, gradients: &mut Gradients, model: &Model| {
        if at == 2 {
            measured.losses.fill(f32::NAN);
        }
        if at == 3 {
            scale(gradients, model, f32::INFINITY);
        }
    });
    let summary = go(&mut tuned, &once, &folder.0, &mut objective, &NEVER).expect("two steps are left out");
    assert_eq!((summary.ending, summary.step), (Ending::Finished, 6));
    let skipped: Vec<usize> = steps(&folder.0).iter().filter(|step| step.skipped).map(|step| step.step).collect();
    assert_eq!(skipped, [3, 4]);
    assert_eq!(warnings(&folder.0), [Warning::NotANumber]);
    assert!(tuned.parameters().iter().all(|p| p.values().iter().all(|value| value.is_finite())));
    let page = std::fs::read_to_string(folder.0.join("report.html")).expect("the report is still written");
    assert!(page.contains("2 updates left out"));

    let folder = Folder::new("diverged");
    let mut objective = Meddling(0, |at, measured: &mut Measured, _: &mut Gradients, _: &Model| {
        if at >= 2 {
            measured.losses.fill(f32::NAN);
        }
    });
    let longer = TrainRecipe { steps: Some(20), ..once };
    let error = go(&mut model(3), &longer, &folder.0, &mut objective, &NEVER).expect_err("it goes on and on");
    assert!(matches!(error, TrainError::Diverged { step: 7, times: 5, what: "loss" }), "{error}");
}

#[test]
fn a_spike_is_told_and_left_out_where_the_recipe_says_so() {
    for (skip_spikes, wanted) in [(0.0, vec![]), (20.0, vec![15])] {
        let folder = Folder::new(&format!("spike-{skip_spikes}"));
        let recipe = TrainRecipe { accumulation: 1, skip_spikes, ..recipe(18) };
        let mut objective = Meddling(0, |at, _: &mut Measured, gradients: &mut Gradients, model: &Model| {
            if at == 14 {
                scale(gradients, model, 1000.0);
            }
        });
        go(&mut model(3), &recipe, &folder.0, &mut objective, &NEVER).expect("a run");
        let skipped: Vec<usize> = steps(&folder.0).iter().filter(|step| step.skipped).map(|step| step.step).collect();
        assert_eq!(skipped, wanted);
        assert!(warnings(&folder.0).contains(&Warning::Spike));
    }
}

#[test]
fn patience_ends_a_run_and_the_best_model_is_the_result() {
    let folder = Folder::new("patience");
    // So high a rate that it learns, and then destroys what it learnt.
    let recipe = TrainRecipe {
        learning_rate: 3e-2,
        evaluate_every: 2,
        result: ResultModel::Best,
        patience: 3,
        patience_gain: 0.02,
        final_ratio: 1.0,
        ..recipe(400)
    };
    let mut tuned = model(3);
    let mut destroying = Meddling(0, |at, _: &mut Measured, gradients: &mut Gradients, model: &Model| {
        if at >= 40 {
            scale(gradients, model, -1.0);
        }
    });
    let summary = go(&mut tuned, &recipe, &folder.0, &mut destroying, &NEVER).expect("a run");
    let best = summary.best.expect("it was validated");
    assert_eq!(summary.ending, Ending::StoppedEarly);
    assert!(summary.step < 400 && best.step + 6 <= summary.step && best.step > 0, "{summary:?}");
    let mut kept: Vec<String> = std::fs::read_dir(folder.0.join("checkpoints"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    kept.sort();
    assert_eq!(kept, [format!("step-{:08}", best.step), format!("step-{:08}", summary.step)]);

    // The run that ends at that step by itself, with the same rates, ends with the same model.
    let twin = Folder::new("patience-twin");
    let short = TrainRecipe { steps: Some(best.step), result: ResultModel::Last, patience: 0, ..recipe.clone() };
    let mut wanted = model(3);
    let mut same = Meddling(0, |at, _: &mut Measured, gradients: &mut Gradients, model: &Model| {
        if at >= 40 {
            scale(gradients, model, -1.0);
        }
    });
    go(&mut wanted, &short, &twin.0, &mut same, &NEVER).expect("a shorter run");
    assert!(bits(&tuned) == bits(&wanted), "the parameters are not those of the best step");
    let mut again = model(3);
    let resumed = go(&mut again, &recipe, &folder.0, &mut Supervised, &NEVER).expect("it is over already");
    assert_eq!((resumed.ending, resumed.step, resumed.best), (Ending::StoppedEarly, summary.step, Some(best)));
    assert!(bits(&again) == bits(&wanted));
}

#[test]
fn where_training_only_harms_the_model_before_it_is_the_result() {
    let folder = Folder::new("harm");
    let recipe = TrainRecipe { evaluate_every: 2, result: ResultModel::Best, patience: 2, ..recipe(50) };
    let mut unlearning = Meddling(0, |_, _: &mut Measured, gradients: &mut Gradients, model: &Model| {
        scale(gradients, model, -1.0);
    });
    let mut harmed = model(3);
    let summary = go(&mut harmed, &recipe, &folder.0, &mut unlearning, &NEVER).expect("a run");
    assert_eq!((summary.ending, summary.best.map(|best| best.step)), (Ending::StoppedEarly, Some(0)));
    assert!(bits(&harmed) == bits(&model(3)));
    assert!(warnings(&folder.0).contains(&Warning::NoGain));
}

#[test]
fn a_step_that_is_cut_short_changes_nothing_and_is_taken_again() {
    let (whole, cut) = (Folder::new("mid-whole"), Folder::new("mid-cut"));
    let recipe = TrainRecipe { accumulation: 4, ..recipe(6) };
    let mut wanted = model(3);
    go(&mut wanted, &recipe, &whole.0, &mut Supervised, &NEVER).expect("a whole run");
    let (flag, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut stopping = Meddling(0, |at, _: &mut Measured, _: &mut Gradients, _: &Model| {
        seen.store(at, Ordering::Relaxed);
        flag.store(at == 13, Ordering::Relaxed);
    });
    let summary = go(&mut model(3), &recipe, &cut.0, &mut stopping, &flag).expect("an interrupted run");
    assert_eq!((summary.ending, summary.step, seen.into_inner()), (Ending::Interrupted, 3, 13));
    let mut resumed = model(3);
    go(&mut resumed, &recipe, &cut.0, &mut Supervised, &NEVER).expect("the rest");
    assert!(bits(&resumed) == bits(&wanted));
}

/// Counts what is asked of whoever watches.
#[derive(Default)]
struct Trying(Vec<u64>);

impl Progress for Trying {
    fn record(&mut self, _: &Event) {}

    fn try_tasks(&mut self, model: &Model, per_kind: u64) -> Option<train::Scores> {
        assert!(model.parameter_count() > 0);
        self.0.push(per_kind);
        (self.0.len() != 2).then(|| [("solve".to_owned(), 0.5)].into())
    }
}

#[test]
fn tasks_are_tried_before_between_and_after() {
    let folder = Folder::new("tasks");
    let recipe = TrainRecipe { evaluate_every: 4, tasks_every: 3, tasks: 7, ..recipe(7) };
    let data = samples(60, 1);
    let run = Run {
        title: "tasks",
        recipe: &recipe,
        samples: &data,
        validation: &data[..5],
        directory: &folder.0,
        result_bytes: &[],
        cancelled: &NEVER,
    };
    let mut trying = Trying::default();
    train::train(&run, &mut model(3), &mut Supervised, &mut trying).expect("a run");
    assert_eq!(trying.0, [7; 4]);
    let found: Vec<usize> = events(&folder.0)
        .iter()
        .filter_map(|e| if let Event::Tasks { step, .. } = e { Some(*step) } else { None })
        .collect();
    assert_eq!(found, [0, 6, 7], "the trial at 3 came to nothing");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_cannot_hold_the_run_is_known_before_the_first_step() {
    let folder = Folder::new("room");
    let data = samples(60, 1);
    let recipe = recipe(5);
    let run = Run {
        title: "room",
        recipe: &recipe,
        samples: &data,
        validation: &[],
        directory: &folder.0,
        result_bytes: &[1 << 62],
        cancelled: &NEVER,
    };
    let error = train::train(&run, &mut model(3), &mut Supervised, &mut Silent).expect_err("four exabytes");
    let text = error.to_string();
    assert!(matches!(error, TrainError::NoRoom { checkpoints: 2, .. }) && text.contains("Free some space"), "{text}");
    assert_eq!(std::fs::read_dir(&folder.0).expect("it is there").count(), 0, "nothing was begun");
}
