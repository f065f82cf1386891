//! A pruned student and its teacher, and a run in which one learns from the other.

use crate::tiny::{Folder, model, recipe, samples};
use models::{FeedForward, Layers, Lineage, Model};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use train::event::{Event, Progress, Silent, Step};
use train::objective::distill::{SelfCorrection, Students, Teacher, Weight, check_pair, fit_projection};
use train::{DistillRecipe, Distillation, Run, Summary, TrainError, TrainRecipe, metrics};

pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

/// A teacher that knows the data, and the same without two of its six experts in every layer.
pub(crate) fn pair() -> (Model, Model, Lineage) {
    let mut teacher = model(3);
    let folder = Folder::new(&format!("teacher-{:?}", std::thread::current().id()));
    let data = samples(60, 1);
    let run = Run {
        title: "teacher",
        recipe: &TrainRecipe { accumulation: 1, ..recipe(60) },
        samples: &data,
        validation: &[],
        directory: &folder.0,
        result_bytes: &[],
        cancelled: &NEVER,
    };
    train::train(&run, &mut teacher, &mut train::Supervised, &mut Silent).expect("a teacher");
    let keep = [0, 2, 3, 5];
    let mut student = teacher.clone();
    for layer in &mut student.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
        let router = &mut moe.routed.router.weight;
        let width = router.matrix.columns;
        let rows = keep.iter().flat_map(|&expert| router.values()[expert * width..(expert + 1) * width].to_vec());
        let rows: Vec<f32> = rows.collect();
        router.matrix = numeric::Matrix::from_f32(keep.len(), width, rows);
        router.shape = vec![keep.len(), width];
        moe.routed.experts = keep.iter().map(|&expert| moe.routed.experts[expert].clone()).collect();
    }
    student.config.set_expert_counts(&[4; 4]);
    student.renumber();
    let place = |expert| keep.iter().position(|&kept| kept == expert);
    (teacher, student, Lineage { layers: vec![(0..6).map(place).collect(); 4] })
}

pub(crate) fn all_terms() -> DistillRecipe {
    DistillRecipe {
        hidden: Weight::constant(0.2),
        gram: Weight::constant(0.5),
        gram_tokens: 32,
        self_correction: Some(SelfCorrection { max_tokens: 6, ..SelfCorrection::default() }),
        ..DistillRecipe::default()
    }
}

/// From a teacher that is asked as `said`.
pub(crate) fn learn_from(
    said: &mut dyn Teacher,
    (teacher, student, lineage): (Layers, &mut Model, &Lineage),
    recipe: &TrainRecipe,
    distill: &DistillRecipe,
    directory: &Path,
    (progress, cancelled): (&mut dyn Progress, &AtomicBool),
) -> Result<Summary, TrainError> {
    let (data, held_out) = (samples(60, 1), samples(10, 2));
    distill.check(recipe)?;
    check_pair(distill, teacher.config(), &student.config)?;
    let projection = fit_projection(distill, (teacher, &*student), lineage, (&data, recipe))?;
    let mut objective = Distillation::new(Students {
        recipe: distill.clone(),
        teacher: said,
        projection,
        student: &student.config,
        stop: vec![0],
        seed: recipe.seed,
    });
    let run = Run {
        title: "distill",
        recipe,
        samples: &data,
        validation: &held_out,
        directory,
        result_bytes: &[],
        cancelled,
    };
    train::train(&run, student, &mut objective, progress)
}

pub(crate) fn steps(directory: &Path) -> Vec<Step> {
    let events = metrics::read(&directory.join("metrics.jsonl")).expect("metrics");
    events.into_iter().filter_map(|e| if let Event::Step(step) = e { Some(step) } else { None }).collect()
}

pub(crate) fn bits(model: &Model) -> Vec<u32> {
    model.parameters().iter().flat_map(|parameter| parameter.values()).map(|value| value.to_bits()).collect()
}

/// The mean of a term over some steps.
pub(crate) fn mean(steps: &[Step], term: &str) -> f64 {
    steps.iter().map(|step| step.terms[term]).sum::<f64>() / steps.len() as f64
}
