//! Training by several ranks against training by one: the same batches, cut along micro-batches and along sequences;
//! and along micro-batches with a teacher.

use models::adapter::{self, LoraConfig};
use models::{Config, FeedForward, Layers, Lineage, Loading, Model};
use numeric::wire::{Message, Reading};
use prepare::{Batch, Kind, Sample};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use train::objective::distill::{
    DistillRecipe, Projection, ProjectionRecipe, Resident, SelfCorrection, Students, Teacher, Weight, fit_projection,
};
use train::optimizer::Optimizer;
use train::parallel::{Distributed, Ranks, Sharing, check, dismiss, ready, serve, wait};
use train::{Companion, Distillation, Measured, Objective, StepWork, Supervised, TrainRecipe, gradient_options};

/// Ranks that are threads.
struct Thread {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&self, to: usize, message: &[u8]) {
        self.to[to].send(message.to_vec()).expect("the other rank is there");
    }

    fn receive(&self, from: usize) -> Vec<u8> {
        self.from[from].recv().expect("the other rank is there")
    }
}

fn threads(size: usize) -> Vec<Thread> {
    let mut ranks: Vec<Thread> = (0..size).map(|rank| Thread { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..size {
        for to in 0..size {
            let (sender, receiver) = channel();
            ranks[from].to.push(sender);
            ranks[to].from.push(receiver);
        }
    }
    ranks
}

fn model(case: &str, lora: bool) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case);
    let mut model = Model::open(&path, Loading::F32).expect("the oracle's model opens");
    if lora {
        let config = LoraConfig { dropout: 0.2, ..LoraConfig::new(4, 8.0, &["experts", "q_proj", "in_proj_qkvz"]) };
        adapter::attach(&mut model, &config, 3).expect("it attaches");
    }
    model
}

fn batch(lengths: &[usize], vocabulary: usize, seed: usize) -> Batch {
    let total: usize = lengths.iter().sum();
    let token = |i: usize| ((i * 7919 + i * i + seed * 31) % vocabulary) as u32;
    Batch {
        tokens: (0..total).map(token).collect(),
        lengths: lengths.to_vec(),
        targets: (0..total).map(|i| token(i + 1)).collect(),
        weights: (0..total).map(|i| [1.0, 0.5, 0.0, 2.0][i % 4]).collect(),
        kinds: vec![Kind::Replay; lengths.len()],
        pieces: Vec::new(),
    }
}

/// Three steps; what each measured, and the trained parameters after them.
fn learn(model: &mut Model, objective: &mut dyn Objective) -> (Vec<Vec<Measured>>, Vec<f32>) {
    let recipe = TrainRecipe {
        accumulation: 4,
        checkpoint_layers: true,
        chunk_tokens: 29,
        auxiliary_coefficient: 0.01,
        weight_decay: 0.1,
        // With a smaller one an update is the sign of its gradient, of one that is noise around zero too.
        epsilon: 1e-4,
        ..TrainRecipe::default()
    };
    let vocabulary = model.config.vocab_size;
    let batches: Vec<Batch> = [vec![90, 7], vec![20, 50], vec![64], vec![3, 1, 70]]
        .iter()
        .zip(1..)
        .map(|(l, s)| batch(l, vocabulary, s))
        .collect();
    let step_weight = batches.iter().map(Batch::total_weight).sum();
    let mut optimizer = Optimizer::new(&model.parameters(), &recipe);
    let mut gradients = ops::Gradients::default();
    let never = AtomicBool::new(false);
    let mut all = Vec::new();
    for step in 0..3u64 {
        gradients.clear();
        objective.companion().into_iter().for_each(Companion::clear);
        let options: Vec<_> = (0..batches.len() as u64)
            .map(|index| models::GradientOptions {
                dropout_seed: Some(10 * step + index),
                ..gradient_options(&recipe, model)
            })
            .collect();
        let (step, steps) = (step as usize, 3);
        let own: Vec<usize> = (0..batches.len()).collect();
        let work =
            StepWork { batches: &batches, own: &own, step_weight, options: &options, step, steps, cancelled: &never };
        let measured = objective.step(model, &work, &mut gradients).expect("it works");
        all.push(measured.expect("nobody stops it"));
        let norm = optimizer.gradient_norm(&model.parameters(), &gradients);
        optimizer.update(model.parameters_mut(), &mut gradients, norm, 1e-3);
        objective.companion().into_iter().for_each(|companion| companion.update(1e-3));
    }
    let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
    (all, trained.flat_map(|parameter| parameter.values().to_vec()).collect())
}

#[test]
fn ranks_learn_what_one_learns() {
    for (case, lora) in [("qwen3_next", false), ("qwen3_next_odd", true), ("qwen2", false)] {
        let (wanted, wanted_weights) = learn(&mut model(case, lora), &mut Supervised);
        for (size, sequence_ranks) in [(2, 1), (2, 2), (4, 2), (4, 4), (3, 3)] {
            let mut ranks = threads(size);
            let others = ranks.split_off(1);
            let first = ranks.remove(0);
            let (found, weights) = std::thread::scope(|scope| {
                for other in others {
                    scope.spawn(move || {
                        let served = serve(&other, sequence_ranks, &mut model(case, lora), &mut Supervised);
                        served.expect("it computes");
                    });
                }
                let mut objective = Supervised;
                let mut together = Distributed::new(&first, sequence_ranks, &mut objective);
                let found = learn(&mut model(case, lora), &mut together);
                dismiss(&first);
                found
            });
            let what = format!("{case}, {size} ranks, {sequence_ranks} to a sequence");
            for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
                assert!(
                    worst(&found.losses, &wanted.losses) < 1e-4,
                    "{what}: {}",
                    worst(&found.losses, &wanted.losses)
                );
                assert_eq!(found.expert_counts, wanted.expert_counts, "{what}");
                let entropies = worst(&found.router_entropies, &wanted.router_entropies);
                assert!(entropies < 1e-3, "{what}: {entropies}");
            }
            assert!(worst(&weights, &wanted_weights) < 1e-4, "{what}: {}", worst(&weights, &wanted_weights));
        }
    }
}

/// The largest difference over 1 + |b|.
fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
}

/// The first experts of a teacher, and where its experts went.
fn pruned(teacher: &Model, keep: usize) -> (Model, Lineage) {
    let mut student = teacher.clone();
    let counts = teacher.config.expert_counts();
    for layer in &mut student.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
        let router = &mut moe.routed.router.weight;
        let width = router.matrix.columns;
        let rows = router.values()[..keep * width].to_vec();
        router.matrix = numeric::Matrix::from_f32(keep, width, rows);
        router.shape = vec![keep, width];
        moe.routed.experts.truncate(keep);
    }
    student.config.set_expert_counts(&vec![keep; counts.len()]);
    student.renumber();
    let place = |expert: usize| (expert < keep).then_some(expert);
    (student, Lineage { layers: counts.iter().map(|&count| (0..count).map(place).collect()).collect() })
}

fn all_terms() -> DistillRecipe {
    DistillRecipe {
        hidden: Weight::constant(0.2),
        gram: Weight::constant(0.5),
        gram_tokens: 16,
        // Enough of a rate for a projection that is not shared to show.
        projection: ProjectionRecipe { steps: 20, tokens: 32, rate: 50.0, ..ProjectionRecipe::default() },
        self_correction: Some(SelfCorrection { max_tokens: 5, ..SelfCorrection::default() }),
        ..DistillRecipe::default()
    }
}

fn distillation<'t>(
    recipe: &DistillRecipe,
    teacher: &'t mut dyn Teacher,
    projection: Option<Projection>,
    student: &Config,
) -> Distillation<'t> {
    Distillation::new(Students { recipe: recipe.clone(), teacher, projection, student, stop: vec![1], seed: 7 })
}

fn companions(objective: &mut dyn Objective) -> Vec<f32> {
    let companion = objective.companion().expect("a projection learns");
    companion.parameters().iter().flat_map(|parameter| parameter.values().to_vec()).collect()
}

#[test]
fn ranks_learn_from_a_teacher_what_one_learns() {
    let teacher = model("qwen3_next", false);
    let (student, lineage) = pruned(&teacher, teacher.config.expert_counts()[0] / 2);
    let (recipe, train) = (all_terms(), TrainRecipe { epsilon: 1e-4, accumulation: 4, ..TrainRecipe::default() });
    let tokens: Vec<u32> = (0..64).map(|i| (i * 7) % teacher.config.vocab_size as u32).collect();
    let samples = [Sample::new(tokens, vec![1.0; 64], Kind::Replay)];
    let layers = Layers::Resident(&teacher);
    let projection = fit_projection(&recipe, (layers, &student), &lineage, (&samples, &train)).expect("it is there");
    let config = &student.config;
    let mut said = Resident { model: &teacher, chunk_tokens: 29 };
    let mut objective = distillation(&recipe, &mut said, projection.clone(), config);
    let (wanted, wanted_weights) = learn(&mut student.clone(), &mut objective);
    let wanted_logits = companions(&mut objective);
    for size in [2, 3, 4] {
        let mut ranks = threads(size);
        let others = ranks.split_off(1);
        let first = ranks.remove(0);
        let (found, weights, logits) = std::thread::scope(|scope| {
            for other in others {
                let (teacher, student, recipe, train) = (&teacher, &student, &recipe, &train);
                scope.spawn(move || {
                    let made = wait(&other).expect("it begins");
                    let projection = Projection::take(&mut Reading::new(&made), recipe, train);
                    let mut said = Resident { model: teacher, chunk_tokens: 29 };
                    let mut objective = distillation(recipe, &mut said, Some(projection), &student.config);
                    serve(&other, 1, &mut student.clone(), &mut objective).expect("it computes");
                });
            }
            let mut made = Message::default();
            projection.as_ref().expect("routers are taught").put(&mut made);
            ready(&first, &made);
            let mut said = Resident { model: &teacher, chunk_tokens: 29 };
            let mut objective = distillation(&recipe, &mut said, projection.clone(), config);
            let mut together = Distributed::new(&first, 1, &mut objective);
            let (found, weights) = learn(&mut student.clone(), &mut together);
            dismiss(&first);
            (found, weights, companions(&mut objective))
        });
        for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
            assert!(worst(&found.losses, &wanted.losses) < 1e-4, "{size} ranks");
            assert_eq!(found.expert_counts, wanted.expert_counts, "{size} ranks");
            assert_eq!(found.terms.keys().collect::<Vec<_>>(), wanted.terms.keys().collect::<Vec<_>>());
            for (name, wanted) in &wanted.terms {
                let (found, wanted) = (found.terms[name].sum, wanted.sum);
                assert!((found - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{name}: {found} for {wanted}");
            }
        }
        assert!(worst(&weights, &wanted_weights) < 1e-4, "{size} ranks: {}", worst(&weights, &wanted_weights));
        assert!(worst(&logits, &wanted_logits) < 1e-4, "{size} ranks: {}", worst(&logits, &wanted_logits));
    }
    // All of it was there to be shared.
    let names: Vec<&str> = wanted[0].iter().flat_map(|measured| measured.terms.keys().copied()).collect();
    for name in ["output", "hidden", "gram", "routers", "projection", "projection_drift", "self_correction"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    drop(objective);
    let before = companions(&mut distillation(&recipe, &mut said, projection, config));
    assert!(worst(&before, &wanted_logits) > 1e-3, "the projection has moved");
}

#[test]
fn sequences_are_not_cut_under_a_teacher() {
    let sharing = Sharing { size: 4, sequence_ranks: 2, micro_batches: 4, tokens: 100, has_teacher: true };
    let why = check(sharing).expect_err("a part of a micro-batch has no teacher");
    assert!(why.contains("leave --sequence-ranks at 1"), "{why}");
    assert_eq!(check(Sharing { sequence_ranks: 1, ..sharing }), Ok(()));
    assert_eq!(check(Sharing { has_teacher: false, ..sharing }), Ok(()));
}

/// Fails at its second step.
struct Failing(usize);

impl Objective for Failing {
    fn step(
        &mut self,
        _: &Model,
        work: &StepWork,
        _: &mut ops::Gradients,
    ) -> Result<Option<Vec<Measured>>, train::TrainError> {
        self.0 += 1;
        match self.0 {
            1 => Ok(Some(vec![Measured::default(); work.own.len()])),
            _ => Err(train::TrainError::NoData),
        }
    }
}

#[test]
fn where_the_first_fails_the_others_are_let_go() {
    let mut ranks = threads(3);
    let others = ranks.split_off(1);
    let first = ranks.remove(0);
    let student = model("qwen2", false);
    std::thread::scope(|scope| {
        let others: Vec<_> = others
            .into_iter()
            .map(|other| scope.spawn(move || serve(&other, 1, &mut model("qwen2", false), &mut Supervised)))
            .collect();
        let mut failing = Failing(0);
        let mut together = Distributed::new(&first, 1, &mut failing);
        let batches = [batch(&[20], 64, 1), batch(&[20], 64, 2), batch(&[9], 64, 3)];
        let options = [gradient_options(&TrainRecipe::default(), &student); 3];
        let never = AtomicBool::new(false);
        let (own, cancelled) = (&[0, 1, 2][..], &never);
        let work =
            StepWork { batches: &batches, own, step_weight: 1.0, options: &options, step: 0, steps: 2, cancelled };
        let mut gradients = ops::Gradients::default();
        assert_eq!(together.step(&student, &work, &mut gradients).expect("a step").map(|all| all.len()), Some(3));
        assert!(together.step(&student, &work, &mut gradients).is_err());
        dismiss(&first);
        others.into_iter().for_each(|other| other.join().expect("no panic").expect("they have done their part"));
    });
}
