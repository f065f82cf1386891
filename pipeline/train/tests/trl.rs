//! Runs of TRL's own trainer, step by step: losses and gradient norms with packing, accumulation, mixtures and the
//! balancing loss (`fixtures/trl/train.json`).

use models::{GradientOptions, Loading, Model};
use ops::Gradients;
use prepare::batch::{Batch, Sample};
use prepare::{Kind, pack::Piece};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use train::optimizer::Optimizer;
use train::{Objective, StepWork, Supervised, TrainRecipe, gradient_options};

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"))
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().expect("array").iter().map(|n| n.as_i64().expect("number")).collect()
}

/// A recorded micro-batch: one packed row with its boundaries, or padded rows with their masks.
fn batch(recorded: &Value) -> Batch {
    let mut samples = Vec::new();
    for (row, ids) in recorded["input_ids"].as_array().expect("rows").iter().enumerate() {
        let (ids, labels) = (numbers(ids), numbers(&recorded["labels"][row]));
        let ends = match recorded.get("cu_seq_lens_q") {
            Some(ends) => numbers(ends)[1..].to_vec(),
            None => vec![numbers(&recorded["attention_mask"][row]).iter().sum()],
        };
        let mut start = 0;
        for end in ends {
            let range = start as usize..end as usize;
            let tokens = ids[range.clone()].iter().map(|&id| id as u32).collect();
            let weights = labels[range].iter().map(|&label| if label == -100 { 0.0 } else { 1.0 }).collect();
            samples.push(Sample::new(tokens, weights, Kind::Chat));
            start = end;
        }
    }
    let pieces = samples.iter().enumerate().map(|(sample, s)| Piece { sample, start: 0, length: s.tokens.len() });
    Batch::of_pieces(&samples, pieces)
}

/// Worst relative differences of the step losses and of the gradient norms. `auxiliary` is TRL's coefficient.
fn replay(run: &Value, auxiliary: f32) -> (f64, f64) {
    let case = run["case"].as_str().expect("case");
    let mut model = Model::open(&fixtures().join("oracle").join(case), Loading::F32).expect("model");
    let accumulation = run["config"]["gradient_accumulation_steps"].as_u64().unwrap_or(1) as usize;
    let recipe =
        TrainRecipe { betas: [0.9, 0.999], auxiliary_coefficient: auxiliary, accumulation, ..TrainRecipe::default() };
    let mut optimizer = Optimizer::new(&model.parameters(), &recipe);
    let (mut loss_error, mut norm_error) = (0f64, 0f64);
    let micro_batches = run["batches"].as_array().expect("batches");
    for (step, recorded) in micro_batches.chunks(accumulation).enumerate() {
        let batches: Vec<Batch> = recorded.iter().map(batch).collect();
        let weight: f64 = batches.iter().map(Batch::total_weight).sum();
        assert_eq!(weight, recorded[0]["num_items_in_batch"].as_f64().expect("number"), "trained tokens of the step");
        let options = GradientOptions { checkpoint_layers: step % 2 == 1, ..gradient_options(&recipe, &model) };
        let mut gradients = Gradients::default();
        let mut loss = 0.0;
        let (options, cancelled) = (vec![options; batches.len()], AtomicBool::new(false));
        let (step_weight, cancelled) = (weight, &cancelled);
        let (own, steps) = ((0..batches.len()).collect::<Vec<_>>(), 1);
        let work = StepWork { batches: &batches, own: &own, step_weight, options: &options, step, steps, cancelled };
        let all = Supervised.step(&model, &work, &mut gradients).expect("it works").expect("nobody stops it");
        for (batch, measured) in batches.iter().zip(all) {
            let terms = measured.losses.iter().zip(&batch.weights);
            loss += terms.map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum::<f64>() / weight;
        }
        let log = &run["logs"][step];
        // TRL's loss includes the balancing loss; ours is reported without it.
        let wanted = log["loss"].as_f64().expect("loss")
            - f64::from(auxiliary) * log.get("aux_loss").and_then(Value::as_f64).unwrap_or(0.0);
        let norm = optimizer.gradient_norm(&model.parameters(), &gradients);
        let wanted_norm = log["grad_norm"].as_f64().expect("norm");
        loss_error = loss_error.max((loss - wanted).abs() / wanted);
        norm_error = norm_error.max((norm - wanted_norm).abs() / wanted_norm);
        optimizer.update(model.parameters_mut(), &mut gradients, norm, 1e-3);
    }
    (loss_error, norm_error)
}

#[test]
fn losses_and_norms_of_every_run_are_reproduced() {
    let text = std::fs::read_to_string(fixtures().join("trl/train.json")).expect("fixture");
    let fixture: Value = serde_json::from_str(&text).expect("JSON");
    let runs = fixture["runs"].as_object().expect("runs");
    assert_eq!(runs.len(), 6);
    for (name, run) in runs {
        let auxiliary = run["router_aux_loss_coef"].as_f64().expect("number") as f32;
        let (loss, norm) = replay(run, auxiliary);
        // TRL pools the balancing loss over all layers, ours is the mean of each layer's own: close, not equal. A
        // choice of expert that falls the other way after an update does the rest.
        let (loss_most, norm_most) = if auxiliary > 0.0 { (1e-4, 1e-2) } else { (1e-5, 1e-4) };
        assert!(loss < loss_most, "{name}: losses are off by {loss:e}");
        assert!(norm < norm_most, "{name}: gradient norms are off by {norm:e}");
    }
}
