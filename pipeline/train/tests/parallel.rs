//! Training by several ranks against training by one: the same batches, cut along micro-batches and along sequences.

use models::adapter::{self, LoraConfig};
use models::{Loading, Model};
use prepare::{Batch, Kind};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use train::optimizer::Optimizer;
use train::parallel::{Distributed, Ranks, dismiss, serve};
use train::{Measured, Objective, StepWork, Supervised, TrainRecipe, gradient_options};

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
    let mut optimizer = Optimizer::new(model, &recipe);
    let mut gradients = ops::Gradients::default();
    let never = AtomicBool::new(false);
    let mut all = Vec::new();
    for step in 0..3u64 {
        gradients.clear();
        let options: Vec<_> = (0..batches.len() as u64)
            .map(|index| models::GradientOptions {
                dropout_seed: Some(10 * step + index),
                ..gradient_options(&recipe, model)
            })
            .collect();
        let (step, steps) = (step as usize, 3);
        let work = StepWork { batches: &batches, step_weight, options: &options, step, steps, cancelled: &never };
        let measured = objective.step(model, &work, &mut gradients).expect("it works");
        all.push(measured.expect("nobody stops it"));
        let norm = optimizer.gradient_norm(model, &gradients);
        optimizer.update(model, &mut gradients, norm, 1e-3);
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
                    scope.spawn(move || serve(&other, sequence_ranks, &mut model(case, lora)));
                }
                let found = learn(&mut model(case, lora), &mut Distributed::new(&first, sequence_ranks));
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
