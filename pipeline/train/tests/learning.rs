//! A small model learns, in both precisions and by adapters, and a run leaves its records behind.

mod tiny;

use prepare::{Kind, Sample};
use std::sync::atomic::AtomicBool;
use tiny::{Folder, model, recipe, samples};
use train::event::{Event, Progress, Silent};
use train::{LoraConfig, Method, Run, Summary, Supervised, TrainError, TrainPrecision, TrainRecipe};

fn go(
    recipe: &TrainRecipe,
    data: &[Sample],
    folder: &Folder,
    progress: &mut dyn Progress,
) -> Result<Summary, TrainError> {
    let (held_out, never) = (samples(20, 2), AtomicBool::new(false));
    let run = Run {
        title: "tiny",
        recipe,
        samples: data,
        validation: &held_out,
        directory: &folder.0,
        result_bytes: &[],
        cancelled: &never,
    };
    train::train(&run, &mut model(5), &mut Supervised, progress)
}

/// As [`go`], from a given model and without validation.
fn tune(
    recipe: &TrainRecipe,
    samples: &[Sample],
    folder: &Folder,
    model: &mut models::Model,
) -> Result<Summary, TrainError> {
    let never = AtomicBool::new(false);
    let run = Run {
        title: "tuned",
        recipe,
        samples,
        validation: &[],
        directory: &folder.0,
        result_bytes: &[],
        cancelled: &never,
    };
    train::train(&run, model, &mut Supervised, &mut Silent)
}

#[test]
fn the_loss_falls_far_below_chance_on_data_never_seen() {
    for (name, precision, checkpoint_layers) in
        [("f32", TrainPrecision::F32, false), ("bf16", TrainPrecision::Bf16, true)]
    {
        let folder = Folder::new(name);
        let recipe = TrainRecipe { precision, checkpoint_layers, auxiliary_coefficient: 0.001, ..recipe(90) };
        let summary = go(&recipe, &samples(400, 1), &folder, &mut Silent).expect("a run");
        let validation = summary.validation.expect("validated at the end");
        assert!(validation.loss < 1.0, "{name}: validation at {}, chance is 4.16", validation.loss);
        assert_eq!(validation.losses.len(), 2);
    }
}

#[test]
fn adapters_learn_while_the_base_rests() {
    let folder = Folder::new("adapters");
    let lora = LoraConfig::new(8, 16.0, &["q_proj", "o_proj", "in_proj_qkvz", "out_proj", "experts"]);
    let method = Method::Lora(LoraConfig { dropout: 0.05, ..lora });
    let recipe = TrainRecipe { method, ..recipe(60) };
    let data = samples(200, 1);
    let (base, mut tuned) = (model(5), model(5));
    let summary = tune(&recipe, &data, &folder, &mut tuned).expect("a run");
    assert!(summary.loss.expect("steps were taken") < 3.9);
    let kept: Vec<_> = tuned.parameters().into_iter().filter(|p| !p.name.contains(".lora_")).collect();
    let base = base.parameters();
    assert_eq!(kept.len(), base.len());
    assert!(kept.iter().zip(&base).all(|(tuned, base)| tuned.values() == base.values()), "the base moved");
}

/// Adam's first update moves every number that has a gradient by the rate, so that ratios can be read off.
#[test]
fn each_group_learns_at_its_own_rate() {
    let lora = LoraConfig::new(4, 8.0, &["q_proj", "experts"]);
    let modules_to_save = vec!["embed_tokens".to_owned(), "model.norm".to_owned()];
    let lora = LoraConfig { modules_to_save, b_rate_ratio: 8.0, whole_rate_ratio: 0.25, ..lora };
    let recipe = TrainRecipe { method: Method::Lora(lora), warmup_steps: 0, ..recipe(1) };
    let (folder, data) = (Folder::new("groups"), samples(200, 1));
    let (base, mut tuned) = (model(5), model(5));
    tune(&recipe, &data, &folder, &mut tuned).expect("a step");
    let moved = |name: &str| {
        let find = |model: &models::Model| {
            let parameters = model.parameters();
            let found = parameters.iter().find(|parameter| parameter.name.ends_with(name));
            found.map(|parameter| parameter.values().to_vec())
        };
        let after = find(&tuned).expect("it is there");
        let before = find(&base).unwrap_or(vec![0.0; after.len()]);
        after.iter().zip(before).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max)
    };
    let rate = recipe.learning_rate as f32;
    for (name, ratio) in [("q_proj.lora_B.weight", 8.0), ("embed_tokens.weight", 0.25), ("model.norm.weight", 0.25)] {
        let found = moved(name) / rate;
        assert!((found - ratio).abs() < 0.02 * ratio, "{name} moved by {found} of the rate, {ratio} was wanted");
    }
    assert_eq!(moved("layers.0.input_layernorm.weight"), 0.0, "what nobody named rests");
}

#[derive(Default)]
struct Collect(Vec<Event>);

impl Progress for Collect {
    fn record(&mut self, event: &Event) {
        self.0.push(event.clone());
    }
}

#[test]
fn the_metrics_file_the_watcher_and_the_report_agree() {
    let folder = Folder::new("records");
    let mut watcher = Collect::default();
    let recipe = TrainRecipe { evaluate_every: 5, save_every: 5, ..recipe(10) };
    go(&recipe, &samples(60, 1), &folder, &mut watcher).expect("a run");
    let events = train::metrics::read(&folder.0.join("metrics.jsonl")).expect("metrics");
    assert_eq!(events, watcher.0);
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|e| matches!(e, Event::Step(_))), 10);
    assert_eq!(count(|e| matches!(e, Event::Validation(v) if [0, 5, 10].contains(&v.step))), 3);
    assert_eq!(count(|e| matches!(e, Event::Checkpoint { step } if [1, 5, 10].contains(step))), 3);
    let loads: Vec<_> = events
        .iter()
        .filter_map(|e| if let Event::ExpertLoad { layers, .. } = e { Some(layers) } else { None })
        .collect();
    assert_eq!((loads.len(), loads[0].len(), loads[0][0].len()), (10, 4, 6));
    assert!(loads.iter().flat_map(|layers| layers.iter()).all(|l| (l.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    let Some(Event::Step(step)) = events.iter().find(|e| matches!(e, Event::Step(_))) else { panic!("a step") };
    assert_eq!(step.losses.keys().collect::<Vec<_>>(), ["reasoning", "solve"]);
    assert!(
        (step.learning_rate - 1e-2 / 3.0).abs() < 1e-12 && step.gradient_norm > 0.0 && step.expert_imbalance >= 1.0
    );
    // Of six experts, the most undecided router has an entropy of ln 6.
    assert!(step.router_entropy > 0.1 && step.router_entropy < 6f64.ln() + 1e-6, "{}", step.router_entropy);
    let files: Vec<_> = std::fs::read_dir(folder.0.join("tensorboard")).expect("event files").collect();
    assert_eq!(files.len(), 1);
    let page = std::fs::read_to_string(folder.0.join("report.html")).expect("report");
    assert!(page.contains("10 of 10 steps, finished") && page.contains("Expert load"));
}

#[test]
fn what_cannot_be_trained_is_said_before_anything_starts() {
    let folder = Folder::new("refused");
    let silent = vec![Sample::new(vec![1, 2, 3], vec![0.0; 3], Kind::Chat)];
    assert!(matches!(go(&recipe(1), &silent, &folder, &mut Silent), Err(TrainError::NoData)));
    let foreign = vec![Sample::new(vec![1, 900], vec![1.0; 2], Kind::Chat)];
    let error = go(&recipe(1), &foreign, &folder, &mut Silent).expect_err("a token too many").to_string();
    assert!(error.contains("900") && error.contains("64"), "{error}");
    let lora = LoraConfig::new(2, 2.0, &["nothing_is_called_this"]);
    let lost = TrainRecipe { method: Method::Lora(lora), ..recipe(1) };
    let error = go(&lost, &samples(5, 1), &folder, &mut Silent).expect_err("no target").to_string();
    assert!(error.contains("nothing_is_called_this"), "{error}");
    assert!(!folder.0.exists(), "a refused run leaves nothing behind");
}
