//! Training in chunks against training whole: many packed sequences, prompts without losses, the balance of routers,
//! adapters on a frozen base, rounded checkpoints.

use models::{
    Beside, CHUNK_TOKENS, Examples, GradientOptions, LayerState, Loading, Model, Neighbours, Record, adapter,
};
use ops::{Carried, Gradients, Precision};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};

const CASES: [&str; 5] = ["qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_next_odd"];

fn open(case: &str) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case);
    Model::open(&path, Loading::F32).expect("the oracle's model opens")
}

/// A batch of several sequences; of the longest only the last tokens count, and of one none.
struct Batch {
    tokens: Vec<u32>,
    lengths: Vec<usize>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Batch {
    fn new(lengths: &[usize], vocabulary: usize) -> Self {
        let total: usize = lengths.iter().sum();
        let token = |i: usize| ((i * 7919 + i * i) % vocabulary) as u32;
        let mut weights: Vec<f32> = (0..total).map(|i| [1.0, 0.5, 0.0, 2.0][i % 4] / total as f32).collect();
        let mut start = 0;
        for (index, &length) in lengths.iter().enumerate() {
            let silent = if index == 3 { length } else { length * 2 / 3 * usize::from(length > 60) };
            weights[start..start + silent].fill(0.0);
            start += length;
        }
        Self {
            tokens: (0..total).map(token).collect(),
            lengths: lengths.to_vec(),
            targets: (0..total).map(|i| token(i + 1)).collect(),
            weights,
        }
    }

    fn examples(&self) -> Examples<'_> {
        Examples { tokens: &self.tokens, lengths: &self.lengths, targets: &self.targets, weights: &self.weights }
    }
}

fn options(chunk_tokens: usize, checkpoint_layers: bool, precision: Precision) -> GradientOptions {
    GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient: 0.01, dropout_seed: Some(7) }
}

fn run(model: &Model, batch: &Batch, options: &GradientOptions) -> (Record, Gradients) {
    let mut gradients = Gradients::default();
    let record = models::loss_and_gradients(model, &batch.examples(), options, &mut gradients);
    (record, gradients)
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// How far a gradient is from another, as a share of its norm; of the worst parameter.
fn worst(model: &Model, found: &Gradients, wanted: &Gradients) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for parameter in model.parameters() {
        let zeros = vec![0.0; parameter.matrix.rows * parameter.matrix.columns];
        let [a, b] = [found, wanted].map(|gradients| gradients.get(parameter.id).unwrap_or(&zeros));
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let off = norm(&difference) / norm(b).max(1e-6);
        if off > worst.0 || off.is_nan() {
            worst = (off, parameter.name.clone());
        }
    }
    worst
}

const LENGTHS: [usize; 7] = [5, 71, 1, 40, 2, 301, 33];

#[test]
fn any_chunks_give_the_same_losses_counts_and_gradients() {
    for case in CASES {
        let model = open(case);
        let batch = Batch::new(&LENGTHS, model.config.vocab_size);
        let (record, gradients) = run(&model, &batch, &options(CHUNK_TOKENS, false, Precision::F32));
        for (chunk_tokens, again) in [(CHUNK_TOKENS, true), (3, true), (64, false), (97, true), (256, true)] {
            let options = options(chunk_tokens, again, Precision::F32);
            let (found, found_gradients) = run(&model, &batch, &options);
            assert_eq!(found.expert_counts, record.expert_counts, "{case} by {chunk_tokens}");
            for (row, (a, b)) in found.losses.iter().zip(&record.losses).enumerate() {
                assert!((a - b).abs() < 2e-4, "{case} by {chunk_tokens}: loss {row} is {a}, whole {b}");
            }
            let (off, name) = worst(&model, &found_gradients, &gradients);
            assert!(off < 1e-3, "{case} by {chunk_tokens}, again {again}: gradient of {name} is off by {off}");
            let losses = models::losses(&model, &batch.examples(), chunk_tokens);
            let far = losses.iter().zip(&record.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 2e-4, "{case} by {chunk_tokens}: losses alone differ by {far}");
        }
    }
}

/// Running a layer again from its exact input gives the same bits.
#[test]
fn an_exact_checkpoint_changes_nothing() {
    for case in CASES {
        let model = open(case);
        let batch = Batch::new(&LENGTHS, model.config.vocab_size);
        for chunk_tokens in [64, CHUNK_TOKENS] {
            let (_, kept) = run(&model, &batch, &options(chunk_tokens, false, Precision::F32));
            let (_, again) = run(&model, &batch, &options(chunk_tokens, true, Precision::F32));
            for ((id, a), (_, b)) in kept.iter().zip(again.iter()) {
                assert!(a == b, "{case} by {chunk_tokens}: {}", model.parameters()[id].name);
            }
        }
    }
}

/// With bf16 products checkpoints, keys and values are rounded too: choices of experts stay, gradients keep direction.
#[test]
fn rounded_checkpoints_keep_choices_and_directions() {
    for case in CASES {
        let model = open(case);
        let batch = Batch::new(&LENGTHS, model.config.vocab_size);
        let (record, gradients) = run(&model, &batch, &options(64, false, Precision::Bf16));
        let (found, found_gradients) = run(&model, &batch, &options(64, true, Precision::Bf16));
        assert_eq!(found.expert_counts, record.expert_counts, "{case}");
        assert_eq!(found.losses, record.losses, "{case}: nothing is rounded on the way there");
        for (id, wanted) in gradients.iter().filter(|(_, wanted)| norm(wanted) > 1e-4) {
            let found = found_gradients.get(id).expect("the same parameters have gradients");
            let dot: f64 = found.iter().zip(wanted).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let cosine = dot / (norm(found) * norm(wanted));
            assert!(cosine > 0.99, "{case}: {} turned to {cosine}", model.parameters()[id].name);
        }
    }
}

#[test]
fn adapters_on_some_layers_are_walked_back_to_no_further() {
    for case in ["qwen3_moe", "qwen3_next"] {
        let mut model = open(case);
        // What dropout leaves out depends on the token, not on the chunk that it lies in.
        let config = adapter::LoraConfig::new(3, 6.0, &["q_proj", "v_proj", "experts"]);
        let config = adapter::LoraConfig { dropout: 0.2, ..config };
        adapter::attach(&mut model, &config, 3).expect("it attaches");
        // The first layer learns nothing: nobody asks for what lies below the second.
        model.weights.visit_mut(&mut |parameter| {
            if parameter.name.contains(".layers.0.") {
                parameter.trained = false;
            } else if parameter.name.ends_with("lora_B.weight") {
                parameter.matrix.as_f32_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i % 5) as f32 * 0.02);
            }
        });
        let batch = Batch::new(&LENGTHS, model.config.vocab_size);
        let (_, gradients) = run(&model, &batch, &options(CHUNK_TOKENS, false, Precision::F32));
        for (chunk_tokens, again) in [(CHUNK_TOKENS, true), (61, false), (61, true)] {
            let (_, found) = run(&model, &batch, &options(chunk_tokens, again, Precision::F32));
            let (off, name) = worst(&model, &found, &gradients);
            assert!(off < 1e-3, "{case} by {chunk_tokens}, again {again}: gradient of {name} is off by {off}");
        }
        let parameters = model.parameters();
        assert!(gradients.iter().all(|(id, _)| parameters[id].trained), "only what learns has gradients");
        assert!(gradients.iter().count() > 4);
    }
}

/// What goes from one part to the next, and back.
struct Ends {
    states: (Option<Receiver<LayerState>>, Option<Sender<LayerState>>),
    asked: (Option<Receiver<Carried>>, Option<Sender<Carried>>),
    sums: Arc<(Mutex<Vec<u64>>, Barrier)>,
}

impl Neighbours for Ends {
    fn found(&mut self, _: usize) -> LayerState {
        self.states.0.as_ref().expect("somebody is before").recv().expect("it is still there")
    }

    fn leave(&mut self, _: usize, state: LayerState) {
        self.states.1.as_ref().expect("somebody is after").send(state).expect("it is still there");
    }

    fn asked(&mut self, _: usize) -> Carried {
        self.asked.0.as_ref().expect("somebody is after").recv().expect("it is still there")
    }

    fn ask(&mut self, _: usize, carried: Carried) {
        self.asked.1.as_ref().expect("somebody is before").send(carried).expect("it is still there");
    }

    fn sum(&mut self, numbers: &mut [u64]) {
        let (sums, barrier) = &*self.sums;
        {
            let mut sums = sums.lock().expect("nobody failed");
            sums.resize(numbers.len(), 0);
            sums.iter_mut().zip(&*numbers).for_each(|(sum, number)| *sum += number);
        }
        barrier.wait();
        numbers.copy_from_slice(&sums.lock().expect("nobody failed"));
    }
}

/// Parts of one batch in threads that hear of each other through [`Neighbours`] alone: two cuts, one in the middle of a
/// sequence that goes through a whole part.
#[test]
fn parts_that_pass_states_on_are_the_whole() {
    for case in CASES {
        let model = open(case);
        let batch = Batch::new(&[31, 203, 20], model.config.vocab_size);
        let (record, wanted) = run(&model, &batch, &options(CHUNK_TOKENS, false, Precision::F32));
        // Rows, sequences in them, tokens of the first that lie before, and whether the last goes on.
        let parts =
            [(0..90, vec![31, 59], 0, true), (90..150, vec![60], 59, true), (150..254, vec![84, 20], 119, false)];
        let sums = Arc::new((Mutex::new(Vec::new()), Barrier::new(parts.len())));
        let mut ends: Vec<Ends> = (0..parts.len())
            .map(|_| Ends { states: (None, None), asked: (None, None), sums: Arc::clone(&sums) })
            .collect();
        for before in 0..parts.len() - 1 {
            let (to_after, from_before) = channel();
            let (to_before, from_after) = channel();
            (ends[before].states.1, ends[before + 1].states.0) = (Some(to_after), Some(from_before));
            (ends[before + 1].asked.1, ends[before].asked.0) = (Some(to_before), Some(from_after));
        }
        let found: Vec<(Record, Gradients)> = std::thread::scope(|scope| {
            let work = |((rows, lengths, start, goes_on), mut neighbours): (_, Ends)| {
                let rows: std::ops::Range<usize> = rows;
                let (model, batch) = (&model, &batch);
                scope.spawn(move || {
                    let lengths: Vec<usize> = lengths;
                    let first_token = rows.start;
                    let examples = Examples {
                        tokens: &batch.tokens[rows.clone()],
                        lengths: &lengths,
                        targets: &batch.targets[rows.clone()],
                        weights: &batch.weights[rows],
                    };
                    let beside = Beside { start, first_token, goes_on, neighbours: &mut neighbours };
                    let mut gradients = Gradients::default();
                    let options = options(37, true, Precision::F32);
                    let record = models::loss_and_gradients_beside(model, &examples, &options, &mut gradients, beside);
                    (record, gradients)
                })
            };
            let threads: Vec<_> = parts.into_iter().zip(ends).map(work).collect();
            threads.into_iter().map(|thread| thread.join().expect("no part fails")).collect()
        });
        let losses: Vec<f32> = found.iter().flat_map(|(record, _)| record.losses.clone()).collect();
        let far = losses.iter().zip(&record.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(losses.len() == record.losses.len() && far < 2e-4, "{case}: losses differ by {far}");
        let mut sum = Gradients::default();
        for (part, gradients) in &found {
            assert_eq!(part.expert_counts, record.expert_counts, "{case}: every part knows of all tokens");
            for parameter in model.parameters() {
                let Some(gradient) = gradients.get(parameter.id) else { continue };
                sum.entry(parameter).iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part);
            }
        }
        let (off, name) = worst(&model, &sum, &wanted);
        assert!(off < 1e-3, "{case}: gradient of {name} is off by {off}");
    }
}
