//! What observing counts, held to its definition: one expert network and one token at a time, and finite differences.

mod support;

use compress::{
    Calibration, CompressError, LayerStatistics, ObserveOptions, ObservePlace, ObservePlan, ObserveStep, observe,
    saved_statistics,
};
use models::{Examples, FeedForward, KvFormat, LayerStream, Layers, Loading, Model, State, losses};
use ops::{Buffer, Execute, Infer, Moe, Precision, Record, Routing};
use support::{Folder, LENGTHS, open, oracle, tokens};

const ALL: ObserveOptions =
    ObserveOptions { chunk_tokens: 100, similarity_tokens: 40, gradient_tokens: 1000, memory_max: usize::MAX };

fn calibration(tokens: &[u32]) -> Calibration<'_> {
    Calibration { tokens, lengths: &LENGTHS }
}

fn observed(layers: Layers, tokens: &[u32], options: &ObserveOptions) -> Vec<LayerStatistics> {
    observe(layers, &[calibration(tokens)], options, None, &mut |_| true).expect("it is observed")
}

type Rows = Vec<Vec<f32>>;

/// What goes into each mixture and what its router decides, token by token.
#[derive(Default)]
struct Seen {
    layers: Vec<(Rows, Rows)>,
}

impl Record for Seen {
    const LOOKS: bool = true;

    fn experts(&mut self, _: &Moe, x: &Buffer, routing: &Routing, _: &Buffer) {
        let rows = |values: &Buffer| (0..values.rows).map(|row| values.row(row).to_vec()).collect();
        self.layers.push((rows(x), rows(&routing.probabilities)));
    }
}

fn seen(model: &Model, tokens: &[u32]) -> Seen {
    let mut e = Infer::recording(Precision::F32, Seen::default());
    let mut states = vec![State::empty(&model.config, KvFormat::F32); LENGTHS.len()];
    models::hidden(&mut e, model, &mut states, tokens, &LENGTHS);
    e.record
}

/// One expert on one token.
fn says(moe: &Moe, expert: usize, x: &[f32]) -> Vec<f64> {
    let mut e = Infer::new(Precision::F32);
    let x = Buffer::from_values(x.len(), x.to_vec());
    let expert = &moe.experts[expert];
    let (gate, up) = (e.linear(&x, &expert.gate), e.linear(&x, &expert.up));
    let hidden = e.swiglu(&gate, &up);
    e.linear(&hidden, &expert.down).iter().map(|&value| f64::from(value)).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The chosen experts and their weights, by sorting.
fn chosen(probabilities: &[f32], moe: &Moe) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
    order.truncate(moe.top_k);
    let sum: f64 = order.iter().map(|&expert| f64::from(probabilities[expert])).sum();
    let by = if moe.normalize { sum } else { 1.0 };
    order.into_iter().map(|expert| (expert, f64::from(probabilities[expert]) / by)).collect()
}

fn close(what: &str, found: f64, wanted: f64, tolerance: f64) {
    let scale = found.abs().max(wanted.abs()).max(1e-6);
    assert!((found - wanted).abs() <= tolerance * scale, "{what}: found {found}, want {wanted}");
}

fn moe_of(model: &Model, layer: usize) -> &Moe {
    match &model.weights.layers[layer].feed_forward {
        FeedForward::Moe(moe) => &moe.routed,
        FeedForward::Dense(_) => panic!("layer {layer} is no mixture"),
    }
}

#[test]
fn counts_are_what_they_are_defined_as() {
    for case in ["qwen3_moe", "qwen3_next"] {
        let (model, tokens) = (open(case), tokens());
        let seen = seen(&model, &tokens);
        let all = observed(Layers::Resident(&model), &tokens, &ALL);
        assert_eq!(all.len(), seen.layers.len());
        for (statistics, (x, probabilities)) in all.iter().zip(&seen.layers) {
            let moe = moe_of(&model, statistics.layer);
            let n_experts = moe.experts.len();
            assert_eq!(statistics.tokens, tokens.len() as u64);
            let mut together = vec![0; n_experts * n_experts];
            let mut wanted = vec![[0.0f64; 4]; n_experts];
            let mut entropy = 0.0;
            for (x, probabilities) in x.iter().zip(probabilities) {
                let chosen = chosen(probabilities, moe);
                for &(expert, gate) in &chosen {
                    let said = says(moe, expert, x);
                    let largest = said.iter().fold(0.0f64, |most, value| value.abs().max(most));
                    let [count, mass, weighted, most] = &mut wanted[expert];
                    (*count, *mass, *weighted) = (*count + 1.0, *mass + gate, *weighted + gate * norm(&said));
                    *most = most.max(largest);
                    chosen.iter().for_each(|(other, _)| together[expert * n_experts + other] += 1);
                }
                entropy -= probabilities.iter().map(|&p| f64::from(p) * f64::from(p).ln()).sum::<f64>();
            }
            assert_eq!(statistics.together, together, "{case} layer {}", statistics.layer);
            close("entropy", statistics.router_entropy, entropy / tokens.len() as f64, 1e-6);
            for (expert, (used, wanted)) in statistics.experts.iter().zip(&wanted).enumerate() {
                assert_eq!(used.tokens as f64, wanted[0]);
                close("gate mass", used.gate_mass, wanted[1], 1e-5);
                close("weighted norm", used.weighted_norm, wanted[2], 1e-4);
                close("largest activation", f64::from(used.activation_max), wanted[3], 1e-4);
                close("saliency", statistics.saliency(expert), wanted[2] / wanted[0].max(1.0), 1e-4);
            }
        }
    }
}

/// A large negative output is a large one.
#[test]
fn the_largest_activation_has_no_sign() {
    let (mut model, tokens) = (open("qwen3_moe"), tokens());
    let before = observed(Layers::Resident(&model), &tokens, &ObserveOptions::default());
    let FeedForward::Moe(moe) = &mut model.weights.layers[1].feed_forward else { panic!("a mixture") };
    for expert in &mut moe.routed.experts {
        expert.down.weight.matrix.as_f32_mut().iter_mut().for_each(|value| *value = -*value);
    }
    let after = observed(Layers::Resident(&model), &tokens, &ObserveOptions::default());
    for (before, after) in before[1].experts.iter().zip(&after[1].experts) {
        assert_eq!(before.activation_max, after.activation_max);
    }
}

#[test]
fn outputs_are_compared_on_a_sample_of_tokens() {
    let (mut model, tokens) = (open("qwen3_next"), tokens());
    // Expert 2 says what expert 6 says, and expert 1 its opposite.
    let FeedForward::Moe(moe) = &mut model.weights.layers[2].feed_forward else { panic!("a mixture") };
    moe.routed.experts[2] = moe.routed.experts[6].clone();
    moe.routed.experts[1] = moe.routed.experts[6].clone();
    moe.routed.experts[1].down.weight.matrix.as_f32_mut().iter_mut().for_each(|value| *value = -*value);
    let all = observed(Layers::Resident(&model), &tokens, &ALL);
    let (x, probabilities) = &seen(&model, &tokens).layers[2];
    let moe = moe_of(&model, 2);
    let n_experts = moe.experts.len();
    let stride = tokens.len().div_ceil(ALL.similarity_tokens);
    let sample: Vec<usize> = (0..tokens.len()).filter(|token| token % stride == stride / 2).collect();
    assert!(sample.len() <= ALL.similarity_tokens && sample.len() > ALL.similarity_tokens / 2);
    let similarity = |a: usize, b: usize| f64::from(all[2].output_similarity[a * n_experts + b]);
    for a in 0..n_experts {
        for b in 0..n_experts {
            let (mut sum, mut weights) = (0.0, 0.0);
            for &token in &sample {
                let (one, other) = (says(moe, a, &x[token]), says(moe, b, &x[token]));
                let weight = f64::from(probabilities[token][a].max(probabilities[token][b]));
                let product: f64 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
                sum += weight * product / (norm(&one) * norm(&other));
                weights += weight;
            }
            assert!((similarity(a, b) - sum / weights).abs() < 1e-4, "{a} and {b}");
        }
    }
    assert!((similarity(2, 6) - 1.0).abs() < 1e-5 && (similarity(1, 6) + 1.0).abs() < 1e-5);
}

/// The loss that is walked back, in nats.
fn total_loss(model: &Model, calibration: Calibration) -> f64 {
    let Calibration { tokens, lengths } = calibration;
    let mut targets = tokens[1..].to_vec();
    targets.push(0);
    let mut weights = vec![1.0; tokens.len()];
    let mut end = 0;
    for length in lengths {
        end += length;
        weights[end - 1] = 0.0;
    }
    let examples = Examples { tokens, lengths, targets: &targets, weights: &weights };
    losses(model, &examples, 4096).iter().map(|&loss| f64::from(loss)).sum()
}

/// The slope of the loss when the columns of one expert's down projection are multiplied: all, or one of them. Central
/// differences at two steps, from which what grows with the square of the step is taken out (Richardson): these small
/// models bend a lot.
fn slope(model: &Model, calibration: Calibration, (layer, expert): (usize, usize), neuron: Option<usize>) -> f64 {
    let at = |factor: f32| {
        let mut changed = model.clone();
        let FeedForward::Moe(moe) = &mut changed.weights.layers[layer].feed_forward else { panic!("a mixture") };
        let matrix = &mut moe.routed.experts[expert].down.weight.matrix;
        let columns = matrix.columns;
        for row in matrix.as_f32_mut().chunks_exact_mut(columns) {
            match neuron {
                Some(neuron) => row[neuron] *= factor,
                None => row.iter_mut().for_each(|value| *value *= factor),
            }
        }
        total_loss(&changed, calibration)
    };
    let central = |step: f32| (at(1.0 + step) - at(1.0 - step)) / (2.0 * f64::from(step));
    let step = if neuron.is_some() { 0.08 } else { 0.016 };
    (4.0 * central(step / 2.0) - central(step)) / 3.0
}

/// The model with all experts at work everywhere but in one layer: what a change of that layer's experts does is smooth
/// then, since no router after it can decide otherwise.
fn smooth_beside(case: &str, layer: usize) -> Model {
    let mut model = open(case);
    for (index, weights) in model.weights.layers.iter_mut().enumerate().filter(|(index, _)| *index != layer) {
        let FeedForward::Moe(moe) = &mut weights.feed_forward else { panic!("layer {index} is no mixture") };
        moe.routed.top_k = moe.routed.experts.len();
    }
    model
}

/// A mask on one expert, to first order.
#[test]
fn gradients_are_finite_differences_of_a_mask() {
    for (case, layer) in [("qwen3_moe", 0), ("qwen3_moe", 1), ("qwen3_next", 1), ("qwen3_next", 3)] {
        let (model, tokens) = (smooth_beside(case, layer), tokens());
        let all = observed(Layers::Resident(&model), &tokens, &ALL);
        let statistics = all.iter().find(|statistics| statistics.layer == layer).expect("it is a mixture");
        let scale = statistics.experts.iter().map(|used| used.taylor.abs()).fold(0.0, f64::max);
        assert!(scale > 0.1, "{case}: the loss asks next to nothing of the experts: {scale}");
        for (expert, used) in statistics.experts.iter().enumerate() {
            let wanted = slope(&model, calibration(&tokens), (layer, expert), None);
            let far = (used.taylor - wanted).abs();
            assert!(far < 0.02 * scale, "{case} {layer}.{expert}: {} against {wanted}", used.taylor);
            let least = used.taylor * used.taylor / used.tokens.max(1) as f64;
            assert!(used.fisher >= 0.999 * least, "Cauchy and Schwarz: {} of at least {least}", used.fisher);
        }
    }
}

/// Where an expert has one token, Fisher information is the slope squared: of the expert, and of each of its neurons.
#[test]
fn fisher_information_of_one_token_is_its_slope_squared() {
    // As few tokens as leave some experts with a single one.
    let few = Calibration { tokens: &tokens()[..9], lengths: &[9] };
    let mut found = 0;
    for layer in 0..4 {
        let model = smooth_beside("qwen3_next", layer);
        let all = observe(Layers::Resident(&model), &[few], &ALL, None, &mut |_| true).expect("it is observed");
        let statistics = &all[layer];
        let inner = statistics.neuron_fisher.len() / statistics.experts.len();
        let largest = statistics.neuron_fisher.iter().fold(0.0f32, |most, &value| most.max(value)).sqrt();
        for (expert, used) in statistics.experts.iter().enumerate().filter(|(_, used)| used.tokens == 1) {
            close("fisher", used.fisher, used.taylor * used.taylor, 1e-6);
            let neurons = &statistics.neuron_fisher[expert * inner..(expert + 1) * inner];
            let (neuron, &most) = neurons.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("neurons");
            let wanted = slope(&model, few, (layer, expert), Some(neuron)).abs();
            let of_one = f64::from(most).sqrt();
            assert!((of_one - wanted).abs() < 0.02 * f64::from(largest), "{layer}.{expert}: {of_one} against {wanted}");
            found += 1;
        }
    }
    assert!(found >= 3, "{found} experts had one token");
}

/// Streamed from a folder, with states on disk and other chunks, the same comes out to the bit where the sums are taken
/// in the same order.
#[test]
fn a_streamed_model_is_observed_as_one_in_memory() {
    let (model, tokens) = (open("qwen3_next"), tokens());
    let wanted = observed(Layers::Resident(&model), &tokens, &ALL);
    let stream = LayerStream::open(&oracle("qwen3_next"), Loading::F32).expect("it opens");
    assert_eq!(observed(Layers::Streamed(&stream), &tokens, &ALL), wanted);
    let folder = Folder::new("streamed");
    let place = Some(ObservePlace { folder: folder.path(), model: "oracle" });
    let options = without_room_for_states(&stream, &ALL);
    let found = observe(Layers::Streamed(&stream), &[calibration(&tokens)], &options, place, &mut |_| true);
    assert_eq!(found.expect("it is observed"), wanted);
    assert!(!folder.path().join("states").exists(), "states are gone when nobody needs them any more");
}

/// As much memory as an observation takes with its states on disk.
fn without_room_for_states(stream: &LayerStream, options: &ObserveOptions) -> ObserveOptions {
    let plan = ObservePlan::of(stream.outline(), stream.loading(), false, &LENGTHS, options);
    assert!(!plan.states_on_disk && plan.states > 0);
    let options = ObserveOptions { memory_max: plan.total() - plan.states, ..*options };
    assert!(ObservePlan::of(stream.outline(), stream.loading(), false, &LENGTHS, &options).states_on_disk);
    options
}

/// Stopped after every single batch, on disk and in memory, and gone on with.
#[test]
fn an_observation_goes_on_where_it_was_stopped() {
    let tokens = tokens();
    let stream = LayerStream::open(&oracle("qwen3_next"), Loading::F32).expect("it opens");
    let wanted = observed(Layers::Streamed(&stream), &tokens, &ALL);
    for options in [ALL, without_room_for_states(&stream, &ALL)] {
        let folder = Folder::new(&format!("resumed-{}", options.memory_max == usize::MAX));
        let place = Some(ObservePlace { folder: folder.path(), model: "oracle" });
        let (mut calls, mut work) = (0, 0);
        let found = loop {
            // A call that does a little more than the one before: each kind of step is the last one once.
            let most = 1 + calls;
            let mut last = ObserveStep { done: 0, total: 0, layer: 0, is_backward: false, bytes_read: 0 };
            let result = observe(Layers::Streamed(&stream), &[calibration(&tokens)], &options, place, &mut |step| {
                assert!(step.done <= step.total, "{step:?}");
                last = step;
                step.done < most
            });
            work += last.done;
            calls += 1;
            match result {
                Err(CompressError::Cancelled) => assert!(calls < 60, "it never ends"),
                result => break result.expect("it is observed"),
            }
        };
        assert_eq!(found, wanted);
        assert!(calls > 3 && work > 0);
        // What is complete is read, not made again.
        let again = observe(Layers::Streamed(&stream), &[calibration(&tokens)], &options, place, &mut |_| false);
        assert_eq!(again.expect("all of it is there"), wanted);
        // And by itself, for reports.
        assert_eq!(saved_statistics(folder.path()).expect("it is there"), wanted);
    }
}

#[test]
fn what_does_not_fit_or_belongs_elsewhere_is_refused() {
    let tokens = tokens();
    let stream = LayerStream::open(&oracle("qwen3_next"), Loading::F32).expect("it opens");
    let layers = Layers::Streamed(&stream);
    let refused = |calibration, options: &ObserveOptions, place| {
        observe(layers, &[calibration], options, place, &mut |_| panic!("nothing is begun")).expect_err("it is refused")
    };
    let small = ObserveOptions { memory_max: 1 << 20, ..ALL };
    let error = refused(calibration(&tokens), &small, None);
    assert!(matches!(error, CompressError::Memory { needed, allowed: 1_048_576 } if needed > 1 << 20), "{error}");
    // Without a place there is no disk for states.
    let error = refused(calibration(&tokens), &without_room_for_states(&stream, &ALL), None);
    assert!(matches!(error, CompressError::Memory { .. }), "{error}");
    let error = refused(Calibration { tokens: &[], lengths: &[] }, &ALL, None);
    assert!(error.to_string().contains("no token"), "{error}");
    let error = refused(Calibration { tokens: &[1, 99_999], lengths: &[2] }, &ALL, None);
    assert!(error.to_string().contains("token 99999 is not among the model's 512"), "{error}");
    let folder = Folder::new("other");
    let place = |model| Some(ObservePlace { folder: folder.path(), model });
    observe(layers, &[calibration(&tokens)], &ALL, place("one"), &mut |_| true).expect("it is observed");
    let error = refused(calibration(&tokens), &ALL, place("two"));
    assert!(error.to_string().contains("statistics of another model: remove it"), "{error}");
    let fewer = ObserveOptions { gradient_tokens: 0, ..ALL };
    let error = refused(calibration(&tokens), &fewer, place("one"));
    assert!(error.to_string().contains("statistics of another calibration"), "{error}");
}

/// Gradients of the first sequences alone, and without any.
#[test]
fn gradients_are_taken_of_as_many_tokens_as_asked() {
    let (model, tokens) = (open("qwen3_moe"), tokens());
    let layers = Layers::Resident(&model);
    let none = observed(layers, &tokens, &ObserveOptions { gradient_tokens: 0, ..ALL });
    assert!(none.iter().all(|layer| layer.neuron_fisher.is_empty() && layer.experts.iter().all(|e| e.taylor == 0.0)));
    let first = observed(layers, &tokens, &ObserveOptions { gradient_tokens: 1, ..ALL });
    let part = Calibration { tokens: &tokens[..LENGTHS[0]], lengths: &LENGTHS[..1] };
    let alone = observe(layers, &[part], &ALL, None, &mut |_| true).expect("it is observed");
    for (first, alone) in first.iter().zip(&alone) {
        assert_eq!(first.neuron_fisher, alone.neuron_fisher);
        assert!(first.tokens > alone.tokens, "the rest is counted all the same");
        let gradients = |layer: &LayerStatistics| -> Vec<(f64, f64)> {
            layer.experts.iter().map(|used| (used.taylor, used.fisher)).collect()
        };
        assert_eq!(gradients(first), gradients(alone));
    }
}
