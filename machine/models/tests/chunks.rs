//! Training in chunks against training whole: many packed sequences, prompts without losses, the balance of routers,
//! adapters on a frozen base, rounded checkpoints.

use models::{CHUNK_TOKENS, Examples, GradientOptions, Loading, Model, Record, adapter};
use numeric::wire::Message;
use ops::{Gradients, Precision, Ring};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

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

/// Ranks that are threads, in a circle.
struct Circle {
    rank: usize,
    size: usize,
    to_next: Sender<Vec<u8>>,
    from_before: Receiver<Vec<u8>>,
}

impl Ring for Circle {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn pass(&mut self, message: Message) -> Vec<u8> {
        self.to_next.send(message.into_bytes()).expect("the next rank is there");
        self.from_before.recv().expect("the rank before is there")
    }
}

fn circle(size: usize) -> Vec<Circle> {
    let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
    receivers.rotate_right(1);
    let ends = senders.into_iter().zip(receivers).enumerate();
    ends.map(|(rank, (to_next, from_before))| Circle { rank, size, to_next, from_before }).collect()
}

/// One batch on several ranks that are threads, in one round and in many: sequences through many strips, strips shorter
/// than the convolution.
#[test]
fn ranks_that_share_a_batch_are_the_whole() {
    for case in CASES {
        let model = open(case);
        for (lengths, size, chunk_tokens) in [
            (&[31, 203, 20][..], 2, CHUNK_TOKENS),
            (&[31, 203, 20], 3, 17),
            (&[254], 4, 9),
            (&LENGTHS, 3, 40),
            (&[3, 0, 5, 1, 4], 4, CHUNK_TOKENS),
        ] {
            let what = format!("{case}, {lengths:?} on {size} by {chunk_tokens}");
            let batch = Batch::new(lengths, model.config.vocab_size);
            let options = options(chunk_tokens, true, Precision::F32);
            let (record, wanted) = run(&model, &batch, &options);
            let found: Vec<(Record, Gradients)> = std::thread::scope(|scope| {
                let work = |mut ring: Circle| {
                    let (model, batch, options) = (&model, &batch, &options);
                    scope.spawn(move || {
                        let mut gradients = Gradients::default();
                        let record =
                            models::shared_gradients(model, &batch.examples(), options, &mut gradients, &mut ring);
                        (record, gradients)
                    })
                };
                let threads: Vec<_> = circle(size).into_iter().map(work).collect();
                threads.into_iter().map(|thread| thread.join().expect("no rank fails")).collect()
            });
            let sum = |of: fn(&Record) -> &[f32]| {
                let mut sum = vec![0.0; of(&found[0].0).len()];
                for (record, _) in &found {
                    sum.iter_mut().zip(of(record)).for_each(|(sum, part)| *sum += part);
                }
                sum
            };
            let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let losses = far(&sum(|record| &record.losses), &record.losses);
            assert!(losses < 2e-4, "{what}: losses differ by {losses}");
            let entropies = far(&sum(|record| &record.router_entropies), &record.router_entropies);
            assert!(entropies < 1e-4, "{what}: routers differ by {entropies}");
            let mut gradients = Gradients::default();
            for (part, own) in &found {
                assert_eq!(part.expert_counts, record.expert_counts, "{what}: every rank knows of all tokens");
                for parameter in model.parameters() {
                    let Some(own) = own.get(parameter.id) else { continue };
                    gradients.entry(parameter).iter_mut().zip(own).for_each(|(sum, part)| *sum += part);
                }
            }
            let (off, name) = worst(&model, &gradients, &wanted);
            assert!(off < 1e-3, "{what}: gradient of {name} is off by {off}");
        }
    }
}
