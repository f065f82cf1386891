//! Merging: what must not change does not, what is measured is true, and the result is an ordinary model.

use compress::{
    Calibration, Importance, LayerPlan, LayerStatistics, Merge, MergeError, MergeRecipe, ObserveOptions, Plan,
    PlanRecipe, Refit, RouterRow, Rows, Tokens, carry_out, merge_layer, observe, prune,
};
use models::{FeedForward, KvFormat, Layers, Loading, Model, State};
use numeric::{Format, Matrix, Rng};
use ops::{Buffer, Execute, Expert, Infer, Linear, Moe, Parameter, Precision};
use std::path::PathBuf;

fn open(case: &str) -> Model {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(case);
    Model::open(&directory, Loading::F32).expect("the fixture opens")
}

fn linear(name: &str, rows: usize, columns: usize, values: Vec<f32>) -> Linear {
    let matrix = Matrix::from_f32(rows, columns, values);
    let weight =
        Parameter { id: 0, name: format!("{name}.weight"), shape: vec![rows, columns], trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

const WIDTH: usize = 16;
const NEURONS: usize = 12;

fn normal(rng: &mut Rng, len: usize, scale: f64) -> Vec<f32> {
    (0..len).map(|_| (scale * rng.normal()) as f32).collect()
}

fn expert(rng: &mut Rng, index: usize) -> Expert {
    let name = |map: &str| format!("model.layers.0.mlp.experts.{index}.{map}_proj");
    Expert {
        gate: linear(&name("gate"), NEURONS, WIDTH, normal(rng, NEURONS * WIDTH, 0.5)),
        up: linear(&name("up"), NEURONS, WIDTH, normal(rng, NEURONS * WIDTH, 0.5)),
        down: linear(&name("down"), WIDTH, NEURONS, normal(rng, NEURONS * WIDTH, 0.5)),
    }
}

fn mixture(rng: &mut Rng, experts: usize, top_k: usize) -> Moe {
    Moe {
        layer: 0,
        router: linear("model.layers.0.mlp.gate", experts, WIDTH, normal(rng, experts * WIDTH, 0.5)),
        experts: (0..experts).map(|index| expert(rng, index)).collect(),
        adapters: [None, None, None],
        top_k,
        normalize: true,
    }
}

fn rows(rng: &mut Rng, count: usize) -> Buffer {
    Buffer::from_values(WIDTH, normal(rng, count * WIDTH, 1.0))
}

fn said(moe: &Moe, x: &Buffer) -> Buffer {
    Infer::new(Precision::F32).moe(x, moe)
}

fn relative(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(wanted).map(|(a, b)| square(a - b)).sum();
    (error / wanted.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// As if every expert were chosen alike, with neurons of known weight.
fn statistics(rng: &mut Rng, experts: usize) -> LayerStatistics {
    let used = compress::ExpertUse { tokens: 100, gate_mass: 50.0, weighted_norm: 80.0, ..Default::default() };
    LayerStatistics {
        layer: 0,
        tokens: 400,
        experts: vec![used; experts],
        together: vec![25; experts * experts],
        output_similarity: vec![0.0; experts * experts],
        neuron_fisher: (0..experts * NEURONS).map(|_| 0.1 + rng.uniform() as f32).collect(),
        router_entropy: 1.0,
    }
}

/// Neuron i becomes what `order[i]` was, scaled and with a sign; the function stays.
fn shuffled(expert: &Expert, rng: &mut Rng) -> (Expert, Vec<usize>) {
    let mut order: Vec<usize> = (0..NEURONS).collect();
    rng.shuffle(&mut order);
    let mut changed = expert.clone();
    for (new, &old) in order.iter().enumerate() {
        let scale = (0.3 + 3.0 * rng.uniform()) as f32 * if rng.chance(0.5) { -1.0 } else { 1.0 };
        for column in 0..WIDTH {
            let (to, from) = (new * WIDTH + column, old * WIDTH + column);
            changed.gate.weight.matrix.as_f32_mut()[to] = expert.gate.weight.values()[from];
            changed.up.weight.matrix.as_f32_mut()[to] = expert.up.weight.values()[from] * scale;
            changed.down.weight.matrix.as_f32_mut()[column * NEURONS + new] =
                expert.down.weight.values()[column * NEURONS + old] / scale;
        }
    }
    (changed, order)
}

fn plan(keep: &[usize], merge: &[(usize, &[usize])], experts: usize) -> LayerPlan {
    let merge: Vec<Merge> = merge.iter().map(|&(into, from)| Merge { into, from: from.to_vec() }).collect();
    let placed = |expert: &usize| keep.contains(expert) || merge.iter().any(|merge| merge.from.contains(expert));
    let drop = (0..experts).filter(|expert| !placed(expert)).collect();
    LayerPlan { keep: keep.to_vec(), drop, merge, ..LayerPlan::default() }
}

/// The order, scale and sign of neurons mean nothing: the same layer in another dress merges into the same function.
#[test]
fn the_order_scale_and_sign_of_neurons_mean_nothing() {
    let mut rng = Rng::new(1);
    let moe = mixture(&mut rng, 6, 2);
    let known = statistics(&mut rng, 6);
    let (mut other, mut also_known) = (moe.clone(), known.clone());
    for index in 0..6 {
        let (changed, order) = shuffled(&moe.experts[index], &mut rng);
        other.experts[index] = changed;
        for (new, old) in order.into_iter().enumerate() {
            also_known.neuron_fisher[index * NEURONS + new] = known.neuron_fisher[index * NEURONS + old];
        }
    }
    let rows = Rows { calibration: rows(&mut rng, 600), held_out: rows(&mut rng, 200) };
    assert!(relative(&said(&other, &rows.held_out), &said(&moe, &rows.held_out)) < 1e-5, "the same function");
    let plan = plan(&[0, 2, 4], &[(0, &[1, 3]), (4, &[5])], 6);
    let always = MergeRecipe { check: false, ..MergeRecipe::default() };
    let averaged = MergeRecipe { select: false, energy: 1.0, refit: Refit::None, ..always.clone() };
    for recipe in [always, averaged.clone(), MergeRecipe { refit: Refit::Members, ..averaged }] {
        let (merged, outcome) = merge_layer(&moe, &plan, &known, &rows, &recipe).expect("it merges");
        let (also, _) = merge_layer(&other, &plan, &also_known, &rows, &recipe).expect("it merges");
        assert!(outcome.groups.iter().all(|group| group.merged));
        let apart = relative(&said(&also, &rows.held_out), &said(&merged, &rows.held_out));
        assert!(apart < 1e-5, "{recipe:?}: {apart}");
    }
    // Where neurons are not aligned, the dress matters: that is what is measured above.
    let careless = MergeRecipe::averaging();
    let merged = merge_layer(&moe, &plan, &known, &rows, &careless).expect("it merges").0;
    let also = merge_layer(&other, &plan, &also_known, &rows, &careless).expect("it merges").0;
    assert!(relative(&said(&also, &rows.held_out), &said(&merged, &rows.held_out)) > 1e-2);
}

/// Two experts in different dress that share the work, and a third that nobody asks: the pair is found, becomes one,
/// and nothing is lost. Dropping one of the two would send half of the tokens to the third.
#[test]
fn duplicates_are_found_and_merged_without_loss() {
    let mut rng = Rng::new(2);
    let mut moe = mixture(&mut rng, 3, 1);
    moe.experts[1] = shuffled(&moe.experts[0], &mut rng).0;
    // Tokens have a constant first number, and go by the sign of the second.
    let mut router = vec![0.0; 3 * WIDTH];
    (router[1], router[WIDTH + 1]) = (4.0, -4.0);
    moe.router = linear("model.layers.0.mlp.gate", 3, WIDTH, router);
    let constant = |mut x: Buffer| {
        for row in 0..x.rows {
            let values = x.row_mut(row);
            values[0] = 1.0;
            values[1] += 0.5f32.copysign(values[1]);
        }
        x
    };
    let rows = Rows { calibration: constant(rows(&mut rng, 500)), held_out: constant(rows(&mut rng, 200)) };
    let mut known = statistics(&mut rng, 3);
    known.experts[2].weighted_norm = 90.0;
    known.experts[0].weighted_norm = 85.0;
    (known.output_similarity[1], known.output_similarity[3]) = (1.0, 1.0);
    let decided = PlanRecipe { merge: true, keep_super_experts: false, ..PlanRecipe::keeping(2) };
    let plan = compress::decide_layer(&moe, &known, 2, &[], &decided).expect("two of three");
    assert_eq!(plan.merge, [Merge { into: 0, from: vec![1] }]);
    for refit in [Refit::None, Refit::Layer] {
        let recipe = MergeRecipe { refit, ..MergeRecipe::default() };
        let (merged, outcome) = merge_layer(&moe, &plan, &known, &rows, &recipe).expect("it merges");
        let group = &outcome.groups[0];
        assert!(group.merged && group.router == RouterRow::Weighted, "{group:?}");
        assert!(group.error_dropped > 0.1 && group.error_merged < 1e-8 && group.error_tied < 1e-8, "{group:?}");
        assert!(group.distance_after < 1e-6 && group.distance_before > 0.5, "{group:?}");
        let loss = relative(&said(&merged, &rows.held_out), &said(&moe, &rows.held_out));
        assert!(loss < 1e-4, "{loss}");
        assert!((outcome.error.sqrt() - loss).abs() < 1e-5, "what is reported is what is there");
    }
}

#[test]
fn errors_that_are_reported_are_those_of_the_layer() {
    let mut rng = Rng::new(3);
    let moe = mixture(&mut rng, 8, 2);
    let known = statistics(&mut rng, 8);
    let rows = Rows { calibration: rows(&mut rng, 800), held_out: rows(&mut rng, 300) };
    let plan = plan(&[0, 2, 4, 6], &[(0, &[1]), (4, &[5, 7])], 8);
    let wanted = said(&moe, &rows.held_out);
    for recipe in [MergeRecipe::default(), MergeRecipe::averaging(), MergeRecipe::as_planned()] {
        let (merged, outcome) = merge_layer(&moe, &plan, &known, &rows, &recipe).expect("it merges");
        assert_eq!((merged.experts.len(), merged.router.weight.shape.clone()), (4, vec![4, WIDTH]));
        assert_eq!(merged.experts[3].up.weight.name, "model.layers.0.mlp.experts.3.up_proj.weight");
        let error = relative(&said(&merged, &rows.held_out), &wanted).powi(2);
        assert!((error - outcome.error).abs() < 1e-5 * error, "{error} is not {}", outcome.error);
        let (_, dropped) =
            merge_layer(&moe, &plan.without_merges(), &known, &rows, &MergeRecipe::as_planned()).expect("it drops");
        assert!((dropped.error - outcome.error_dropped).abs() < 1e-6 && dropped.error == dropped.error_dropped);
        for group in &outcome.groups {
            assert_eq!(group.merged, !recipe.check || group.error_merged <= 0.95 * group.error_dropped, "{group:?}");
        }
    }
    // Fits are only taken where they help on rows that they were not made on.
    let (_, fitted) = merge_layer(&moe, &plan, &known, &rows, &MergeRecipe::default()).expect("it merges");
    let unfitted = MergeRecipe { refit: Refit::Members, ..MergeRecipe::default() };
    let (_, unfitted) = merge_layer(&moe, &plan, &known, &rows, &unfitted).expect("it merges");
    assert!(fitted.error < unfitted.error && unfitted.error <= unfitted.error_dropped, "{fitted:?} {unfitted:?}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let mut rng = Rng::new(4);
    let moe = mixture(&mut rng, 4, 2);
    let known = statistics(&mut rng, 4);
    let plan = plan(&[0, 2], &[(0, &[1])], 4);
    let refused = |statistics: &LayerStatistics, rows: &Rows, recipe: &MergeRecipe, wanted: &str| {
        let refused = merge_layer(&moe, &plan, statistics, rows, recipe).expect_err(wanted).to_string();
        assert!(refused.contains(wanted), "{refused}");
    };
    let good = Rows { calibration: rows(&mut rng, 30), held_out: rows(&mut rng, 30) };
    let none = Rows { calibration: rows(&mut rng, 30), held_out: Buffer::zeros(0, WIDTH) };
    let mut broken = Rows { calibration: rows(&mut rng, 30), held_out: rows(&mut rng, 30) };
    broken.calibration.row_mut(3)[2] = f32::INFINITY;
    let recipe = MergeRecipe::default();
    refused(&known, &none, &recipe, "layer 0: there are no held-out rows");
    refused(&known, &broken, &recipe, "the calibration rows hold what is no number");
    refused(&statistics(&mut rng, 5), &good, &recipe, "5 experts were observed, the layer has 4");
    let unwatched = LayerStatistics { neuron_fisher: Vec::new(), ..known.clone() };
    refused(&unwatched, &good, &recipe, "no gradients were observed");
    refused(&known, &good, &MergeRecipe { energy: 1.5, ..recipe.clone() }, "energy is 1.5, want a share");
    let mut infinite = moe.clone();
    infinite.experts[1].down.weight.matrix.as_f32_mut()[5] = f32::INFINITY;
    let refused = merge_layer(&infinite, &plan, &known, &good, &recipe).expect_err("infinite").to_string();
    assert!(refused.contains("expert 1 holds what is no number"), "{refused}");
    broken.calibration.row_mut(3)[2] = 1e30;
    let failed = merge_layer(&moe, &plan, &known, &broken, &recipe);
    assert!(matches!(failed, Err(MergeError::NotPositive { layer: 0, .. })), "{:?}", failed.map(|(_, found)| found));
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config, KvFormat::F32)];
    let hidden = models::hidden(&mut e, model, &mut states, tokens, &[tokens.len()]);
    models::logits(&mut e, model, &hidden, &(0..tokens.len()).collect::<Vec<_>>()).to_vec()
}

fn merged_and_pruned(case: &str, keep: usize, vocabulary: u32) {
    let mut model = open(case);
    let tokens: Vec<u32> = (0..900u32).map(|i| (i * 37 + i * i * 5) % vocabulary).collect();
    let fitted = [Calibration { tokens: &tokens[..600], lengths: &[400, 200] }];
    let held_out = [Calibration { tokens: &tokens[600..], lengths: &[300] }];
    let options = ObserveOptions { gradient_tokens: usize::MAX, ..ObserveOptions::default() };
    let statistics = observe(Layers::Resident(&model), &fitted, &options, None, &mut |_| true);
    let statistics = statistics.expect("it is observed");
    let recipe = PlanRecipe { merge: true, distance_max: 4.0, ..PlanRecipe::keeping(keep) };
    let plan = Plan::decide(&model, &statistics, &recipe, None).expect("so many can stay");
    let before = model.clone();
    let tokens_of_both = Tokens { calibration: &fitted, held_out: &held_out };
    let mut heard = 0;
    let recipe = MergeRecipe::default();
    let outcomes = carry_out(&mut model, &plan, &statistics, &tokens_of_both, &recipe, |_| heard += 1);
    let outcomes = outcomes.expect("it merges");
    assert_eq!((outcomes.len(), heard), (plan.layers.len(), plan.layers.len()));
    assert!(model.config.expert_counts().iter().all(|&count| count == keep));

    let scratch = std::env::temp_dir().join(format!("lateen-merged-{}-{keep}-{}", std::process::id(), case.len()));
    model.save(&scratch, Format::F32).expect("it saves");
    let again = Model::open(&scratch, Loading::F32).expect("a merged model is an ordinary model");
    assert_eq!(logits(&again, &tokens[600..]), logits(&model, &tokens[600..]));
    std::fs::remove_dir_all(scratch).expect("scratch is ours");

    // A plan that only drops is what pruning does.
    let dropping = Plan { layers: plan.layers.iter().map(LayerPlan::without_merges).collect() };
    let (mut pruned, mut carried) = (before.clone(), before);
    prune(&mut pruned, &dropping).expect("it prunes");
    carry_out(&mut carried, &dropping, &statistics, &tokens_of_both, &MergeRecipe::as_planned(), |_| ())
        .expect("it drops");
    assert_eq!(logits(&pruned, &tokens[..300]), logits(&carried, &tokens[..300]));
    let names = |model: &Model| model.parameters().iter().map(|p| (p.id, p.name.clone())).collect::<Vec<_>>();
    assert_eq!(names(&pruned), names(&model));
}

#[test]
fn merged_models_are_ordinary_models() {
    merged_and_pruned("oracle/qwen3_next", 4, 512);
    merged_and_pruned("oracle/qwen3_moe", 5, 512);
}

#[test]
fn the_shipped_model_merges() {
    merged_and_pruned("base", 16, 2000);
}

/// Experts stored in blocks are merged like those that they are rounded to.
#[test]
fn stored_formats_are_widened() {
    let rng = Rng::new(5);
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/gguf/qwen3_moe.q8_0.gguf");
    let models = [Loading::Stored, Loading::F32].map(|loading| Model::open(&directory, loading).expect("it opens"));
    let merged = models.map(|model| {
        let FeedForward::Moe(moe) = &model.weights.layers[0].feed_forward else { panic!("a mixture") };
        let (width, experts) = (moe.routed.router.input_width(), moe.routed.experts.len());
        let mut rng = rng.fork(1);
        let x = |rng: &mut Rng, count| Buffer::from_values(width, normal(rng, count * width, 1.0));
        let rows = Rows { calibration: x(&mut rng, 200), held_out: x(&mut rng, 100) };
        let mut known = statistics(&mut rng, experts);
        known.neuron_fisher.clear();
        let keep: Vec<usize> = (0..experts / 2).collect();
        let plan = plan(&keep, &[(0, &[experts - 1])], experts);
        let recipe = MergeRecipe { importance: Importance::Saliency, ..MergeRecipe::default() };
        merge_layer(&moe.routed, &plan, &known, &rows, &recipe).expect("it merges").0
    });
    for (stored, wide) in merged[0].experts.iter().zip(&merged[1].experts) {
        let apart = relative(stored.down.weight.values(), wide.down.weight.values());
        assert!(apart < 1e-3, "{apart}");
    }
}
