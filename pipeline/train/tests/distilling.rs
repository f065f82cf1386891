//! A pruned student and its teacher: the distance falls, runs resume bit for bit, each objective is measured.

#[path = "tiny/pair.rs"]
mod pair;
mod tiny;

use models::{Layers, Lineage, Model};
use pair::{NEVER, all_terms, bits, learn_from, mean, pair, steps};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny::{Folder, recipe};
use train::event::{Ending, Event, Progress, Silent};
use train::objective::distill::{ProjectionRecipe, Resident, SelfCorrection, StudentDivergence, Weight, check_pair};
use train::{DistillRecipe, Method, Summary, TrainError, TrainRecipe};

fn learn(
    (teacher, student, lineage): (&Model, &mut Model, &Lineage),
    recipe: &TrainRecipe,
    distill: &DistillRecipe,
    directory: &Path,
    watched: (&mut dyn Progress, &AtomicBool),
) -> Result<Summary, TrainError> {
    let mut resident = Resident { model: teacher, chunk_tokens: 64 };
    let pair = (Layers::Resident(teacher), student, lineage);
    learn_from(&mut resident, pair, recipe, distill, directory, watched)
}

#[test]
fn a_pruned_model_comes_back_to_its_teacher_and_every_objective_is_measured() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-all");
    let recipe = TrainRecipe { learning_rate: 3e-3, ..recipe(40) };
    let mut student = pruned.clone();
    let summary = learn((&teacher, &mut student, &lineage), &recipe, &all_terms(), &folder.0, (&mut Silent, &NEVER));
    assert_eq!(summary.expect("a run").ending, Ending::Finished);
    let steps = steps(&folder.0);
    let names: Vec<&str> = steps[0].terms.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["cross_entropy", "gram", "hidden", "output", "projection", "projection_drift", "routers", "self_correction"]
    );
    for term in ["output", "hidden", "self_correction"] {
        let (first, last) = (mean(&steps[..3], term), mean(&steps[28..31], term));
        let share = if term == "self_correction" { 0.9 } else { 0.7 };
        assert!(first > 0.0 && last < share * first, "{term} went from {first} to {last}");
    }
    assert!(steps[0].terms["projection_drift"] < 1e-9 && steps[30].terms["projection_drift"] > 1e-9);
    // The routers' weight is 0 from step 32 on, and what is not asked is not measured.
    assert!(steps[30].terms.contains_key("routers") && !steps[39].terms.contains_key("routers"));
    let page = std::fs::read_to_string(folder.0.join("report.html")).expect("a report");
    assert!(page.contains("Objective: self correction") && page.contains("Objective: output"));
}

#[test]
fn routers_alone_bring_some_of_it_back() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-routers");
    let recipe = TrainRecipe { method: Method::Routers, learning_rate: 1e-2, ..recipe(30) };
    let distill = DistillRecipe { hidden: Weight::constant(0.0), ..DistillRecipe::default() };
    let mut student = pruned.clone();
    learn((&teacher, &mut student, &lineage), &recipe, &distill, &folder.0, (&mut Silent, &NEVER)).expect("a run");
    let steps = steps(&folder.0);
    let (first, last) = (mean(&steps[..3], "output"), mean(&steps[27..], "output"));
    assert!(last < 0.95 * first, "from {first} to {last}");
    for (before, after) in pruned.parameters().iter().zip(student.parameters()) {
        let moved = before.values() != after.values();
        assert_eq!(moved, before.name.ends_with("mlp.gate.weight"), "{}", before.name);
    }
}

/// Where nothing else is asked routers follow their teacher's.
#[test]
fn routers_come_nearer_to_their_teachers() {
    let (teacher, pruned, lineage) = pair();
    for (name, method) in [("routers", Method::Routers), ("all", Method::Full)] {
        let folder = Folder::new(&format!("distill-nearer-{name}"));
        let recipe = TrainRecipe { method, learning_rate: 3e-3, ..recipe(40) };
        let (none, usual) = (Weight::constant(0.0), Weight::constant(0.1));
        let distill = DistillRecipe {
            cross_entropy: none,
            output: none,
            hidden: none,
            routers: usual,
            ..DistillRecipe::default()
        };
        let mut student = pruned.clone();
        learn((&teacher, &mut student, &lineage), &recipe, &distill, &folder.0, (&mut Silent, &NEVER)).expect("a run");
        let steps = steps(&folder.0);
        let (first, last) = (mean(&steps[..3], "routers"), mean(&steps[37..], "routers"));
        assert!(last < 0.8 * first, "{name}: from {first} to {last}");
    }
}

/// Raises the flag when a step is done, as Ctrl-C would.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Progress for StopAfter<'_> {
    fn record(&mut self, event: &Event) {
        if matches!(event, Event::Step(step) if step.step == self.0) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_run_with_its_own_texts_resumes_bit_for_bit() {
    let (teacher, pruned, lineage) = pair();
    let (whole, cut) = (Folder::new("distill-whole"), Folder::new("distill-cut"));
    let divergence = StudentDivergence::Mixed(0.5);
    let correction = SelfCorrection { max_tokens: 6, divergence, ..SelfCorrection::default() };
    // A projection that moves far enough for it to matter that it is resumed.
    let projection = ProjectionRecipe { rate: 0.015, ..ProjectionRecipe::default() };
    let distill = DistillRecipe { self_correction: Some(correction), projection, ..all_terms() };
    let recipe = TrainRecipe { save_every: 3, ..recipe(10) };
    let mut wanted = pruned.clone();
    learn((&teacher, &mut wanted, &lineage), &recipe, &distill, &whole.0, (&mut Silent, &NEVER)).expect("whole");
    let flag = AtomicBool::new(false);
    let stopped =
        learn((&teacher, &mut pruned.clone(), &lineage), &recipe, &distill, &cut.0, (&mut StopAfter(5, &flag), &flag));
    assert_eq!(stopped.expect("a part").ending, Ending::Interrupted);
    let mut resumed = pruned.clone();
    learn((&teacher, &mut resumed, &lineage), &recipe, &distill, &cut.0, (&mut Silent, &NEVER)).expect("the rest");
    assert!(bits(&resumed) == bits(&wanted));
    let terms = |folder: &Folder| steps(&folder.0).into_iter().map(|step| step.terms).collect::<Vec<_>>();
    assert_eq!(terms(&cut), terms(&whole));
    assert!(terms(&whole)[5]["projection_drift"] > 1e-4, "{:?}", terms(&whole)[5]);
    // What is learnt beside the model is of the run.
    let still = ProjectionRecipe { rate: 0.0, ..ProjectionRecipe::default() };
    let other = DistillRecipe { projection: still, ..distill };
    let refused = learn((&teacher, &mut pruned.clone(), &lineage), &recipe, &other, &cut.0, (&mut Silent, &NEVER));
    assert!(matches!(refused, Err(TrainError::Changed { .. })), "{refused:?}");
}

#[test]
fn a_step_that_is_given_up_while_writing_is_taken_again() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-given-up");
    let flag = AtomicBool::new(true);
    let recipe = recipe(4);
    let learnt = |student: &mut Model, flag: &AtomicBool| {
        learn((&teacher, student, &lineage), &recipe, &all_terms(), &folder.0, (&mut Silent, flag)).expect("a run")
    };
    let mut student = pruned.clone();
    assert_eq!((learnt(&mut student, &flag).step, bits(&student) == bits(&pruned)), (0, true));
    assert_eq!(learnt(&mut student, &NEVER).ending, Ending::Finished);
}

#[test]
fn teachers_of_another_kind_are_refused() {
    let (teacher, student, _) = pair();
    let recipe = DistillRecipe::default();
    let mut other = teacher.config.clone();
    other.vocab_size = 65;
    let error = check_pair(&recipe, &other, &student.config).expect_err("another vocabulary").to_string();
    assert!(error.contains("it knows 65 tokens, the student 64"), "{error}");
    let mut other = teacher.config.clone();
    other.layers.pop();
    let error = check_pair(&recipe, &other, &student.config).expect_err("fewer layers").to_string();
    assert!(error.contains("set routers to 0"), "{error}");
    let without = DistillRecipe { routers: Weight::constant(0.0), ..recipe.clone() };
    let error = check_pair(&without, &other, &student.config).expect_err("fewer layers").to_string();
    assert!(error.contains("set hidden and gram to 0"), "{error}");
    let beyond = DistillRecipe { layers: Some(vec![0, 4]), ..recipe };
    let error = check_pair(&beyond, &teacher.config, &student.config).expect_err("no layer 4").to_string();
    assert!(error.contains("names layer 4"), "{error}");
}
