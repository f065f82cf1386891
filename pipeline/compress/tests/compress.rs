//! Compression of the oracle's small mixtures.

use compress::{
    Calibration, LayerStatistics, ObserveOptions, Plan, PlanError, PlanRecipe, QuantizeRecipe, StoredFormat, observe,
    prune, quantize,
};
use models::{FeedForward, KvFormat, Layers, Loading, Model, ModelError, Quantization, State};
use numeric::{Format, Matrix};
use ops::{Buffer, Infer, Moe, Precision, Record, Routing};
use std::path::PathBuf;

fn open(case: &str) -> Model {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case);
    Model::open(&directory, Loading::F32).expect("the oracle's model opens")
}

fn tokens() -> Vec<u32> {
    (0..150).map(|i| (i * 37 + i * i * 5) % 512).collect()
}

fn run(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    models::hidden(&mut e, model, &mut [State::empty(&model.config, KvFormat::F32)], tokens, &[tokens.len()]).to_vec()
}

fn observed(model: &Model, tokens: &[u32]) -> Vec<LayerStatistics> {
    let calibration = [Calibration { tokens, lengths: &[100, 50] }];
    let options = ObserveOptions::default();
    observe(Layers::Resident(model), &calibration, &options, None, &mut |_| true).expect("it is observed")
}

/// Keeps the first mixture's probabilities and choices.
#[derive(Default)]
struct First(Option<(Vec<f32>, Vec<u32>, Vec<f32>)>);

impl Record for First {
    const LOOKS: bool = true;

    fn experts(&mut self, _: &Moe, _: &Buffer, routing: &Routing, _: &Buffer) {
        let seen = (routing.probabilities.to_vec(), routing.indices.clone(), routing.weights.clone());
        self.0.get_or_insert(seen);
    }
}

fn first_mixture(model: &Model, tokens: &[u32]) -> (Vec<f32>, Vec<u32>, Vec<f32>) {
    let mut e = Infer::recording(Precision::F32, First::default());
    models::hidden(&mut e, model, &mut [State::empty(&model.config, KvFormat::F32)], tokens, &[tokens.len()]);
    e.record.0.expect("the model has mixtures")
}

/// A pruned router chooses the best of what is left, with the weights that the full one's probabilities imply.
#[test]
fn pruned_routing_is_routing_among_the_rest() {
    let mut model = open("qwen3_next");
    let tokens = tokens();
    let (probabilities, ..) = first_mixture(&model, &tokens);
    let mut plan = keeping(&model, &observed(&model, &tokens), 5).expect("five of eight can stay");
    plan.layers[0].keep = vec![0, 2, 3, 5, 7];
    plan.layers[0].drop = vec![1, 4, 6];
    plan.layers[0].super_experts.clear();
    let wanted_experts: Vec<Vec<f32>> = [0, 2, 3, 5, 7].map(|expert| down(&model, expert)).to_vec();
    prune(&mut model, &plan).expect("the plan fits");
    assert_eq!(model.config.expert_counts(), [5; 4]);
    assert_eq!((0..5).map(|expert| down(&model, expert)).collect::<Vec<_>>(), wanted_experts);
    let names: Vec<_> = model.parameters().iter().map(|p| p.name.clone()).collect();
    assert!(names.iter().any(|name| name == "model.layers.0.mlp.experts.4.down_proj.weight"));
    assert!(!names.iter().any(|name| name.contains(".experts.5.")));

    let (_, indices, weights) = first_mixture(&model, &tokens);
    for (token, full) in probabilities.chunks_exact(8).enumerate() {
        let mut left: Vec<(f32, u32)> = [0, 2, 3, 5, 7].iter().zip(0..).map(|(&old, new)| (full[old], new)).collect();
        left.sort_by(|a, b| b.0.total_cmp(&a.0));
        let sum = left[0].0 + left[1].0;
        for choice in 0..2 {
            assert_eq!(indices[2 * token + choice], left[choice].1, "token {token}");
            assert!((weights[2 * token + choice] - left[choice].0 / sum).abs() < 1e-4, "token {token}");
        }
    }
    let scratch = std::env::temp_dir().join(format!("lateen-pruned-{}", std::process::id()));
    model.save(&scratch, Format::F32).expect("it saves");
    let again = Model::open(&scratch, Loading::F32).expect("a pruned model is an ordinary model");
    assert_eq!(run(&again, &tokens), run(&model, &tokens));
    std::fs::remove_dir_all(scratch).expect("scratch is ours");
}

fn down(model: &Model, expert: usize) -> Vec<f32> {
    let FeedForward::Moe(moe) = &model.weights.layers[0].feed_forward else { panic!("a mixture") };
    moe.routed.experts[expert].down.weight.values().to_vec()
}

fn keeping(model: &Model, statistics: &[LayerStatistics], keep: usize) -> Result<Plan, PlanError> {
    Plan::decide(model, statistics, &PlanRecipe::keeping(keep), None)
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let mut model = open("qwen3_moe");
    let statistics = observed(&model, &tokens());
    let refused = keeping(&model, &statistics, 1).expect_err("a token takes two").to_string();
    assert!(refused.contains("layer 0 would keep 1 experts of 8: keep from 2 to 8"), "{refused}");
    assert_eq!(keeping(&model, &[], 4), Err(PlanError::Unobserved(0)));
    let mut plan = keeping(&model, &statistics, 4).expect("four of eight");
    let layer = &mut plan.layers[1];
    layer.super_experts.clear();
    let merge = compress::Merge { into: layer.keep[0], from: vec![layer.drop.remove(0)] };
    layer.merge.push(merge);
    let refused = prune(&mut model, &plan).expect_err("pruning merges nothing").to_string();
    assert!(refused.starts_with("layer 1 of the plan: it merges experts"), "{refused}");
    plan.layers[1].keep[3] = 8;
    assert!(matches!(prune(&mut model, &plan), Err(PlanError::Layer { layer: 1, .. })));
    plan.layers.pop();
    assert_eq!(prune(&mut model, &plan), Err(PlanError::Layers { planned: 1, has: 2 }));
}

#[test]
fn quantized_models_survive_a_file_and_stay_close() {
    let tokens = tokens();
    for (format, columns_fit, tolerance) in [
        (StoredFormat::Nvfp4, Format::Nvfp4, 0.5),
        (StoredFormat::Mxfp4, Format::Mxfp4, 0.6),
        (StoredFormat::Q8_0, Format::Q8_0, 0.05),
    ] {
        let mut model = open("qwen3");
        let wanted = run(&model, &tokens);
        let before = model.bytes();
        let recipe = QuantizeRecipe { experts: format, projections: format, ..Default::default() };
        let after = quantize(&mut model, &recipe).expect("finite weights");
        assert!(after < before / 2, "{before} bytes became {after}");
        let formats: Vec<Format> = model.parameters().iter().map(|p| p.matrix.format()).collect();
        assert!(formats.contains(&columns_fit));
        let scratch = std::env::temp_dir().join(format!("lateen-quantized-{}-{format:?}", std::process::id()));
        model.save(&scratch, Format::Bf16).expect("it saves");
        let again = Model::open(&scratch, Loading::Stored).expect("it opens as stored");
        assert_eq!(run(&again, &tokens), run(&model, &tokens), "{format:?}: a file changed the model");
        let wide = Model::open(&scratch, Loading::F32).expect("it opens for training");
        let d = relative(&run(&wide, &tokens), &run(&again, &tokens));
        assert!(d < 1e-3, "{format:?}: the dequantised model differs by {d}");
        let d = relative(&run(&model, &tokens), &wanted);
        assert!(d < tolerance && d > 0.0, "{format:?}: rounding moved hidden states by {d}");
        std::fs::remove_dir_all(scratch).expect("scratch is ours");
    }
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let hidden =
        models::hidden(&mut e, model, &mut [State::empty(&model.config, KvFormat::F32)], tokens, &[tokens.len()]);
    let rows: Vec<usize> = (0..tokens.len()).collect();
    models::logits(&mut e, model, &hidden, &rows).to_vec()
}

/// Every recipe that a format of the command line stands for.
fn whole(format: StoredFormat) -> (QuantizeRecipe, Loading) {
    let recipe = QuantizeRecipe { experts: format, projections: format, ..Default::default() };
    let format = match format {
        StoredFormat::Nvfp4 => Format::Nvfp4,
        StoredFormat::Mxfp4 => Format::Mxfp4,
        _ => Format::Q8_0,
    };
    (recipe, Loading::Quantized(Quantization::to(format)))
}

const FORMATS: [StoredFormat; 3] = [StoredFormat::Nvfp4, StoredFormat::Mxfp4, StoredFormat::Q8_0];

#[test]
fn rounding_while_loading_is_rounding_before() {
    let tokens = tokens();
    let scratch = std::env::temp_dir().join(format!("lateen-rounding-{}", std::process::id()));
    let (plain, rounded) = (scratch.join("plain"), scratch.join("rounded"));
    for case in ["qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_next_odd"] {
        // As models are released.
        open(case).save(&plain, Format::Bf16).expect("it saves");
        for format in FORMATS {
            let (recipe, loading) = whole(format);
            let mut model = Model::open(&plain, Loading::Stored).expect("it opens");
            quantize(&mut model, &recipe).expect("finite weights");
            model.save(&rounded, Format::Bf16).expect("it saves");
            let before = Model::open(&rounded, Loading::Packed).expect("it opens");
            let now = Model::open(&plain, loading).expect("it opens");
            assert_eq!(now.bytes(), before.bytes(), "{case} in {format:?}");
            assert!(logits(&now, &tokens) == logits(&before, &tokens), "{case} in {format:?}: other logits");
            std::fs::remove_dir_all(&rounded).expect("scratch is ours");
        }
        std::fs::remove_dir_all(&plain).expect("scratch is ours");
    }
    std::fs::remove_dir_all(scratch).expect("scratch is ours");
}

#[test]
fn a_gguf_file_is_rounded_while_loading_too() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/gguf");
    for case in ["qwen2", "qwen3_moe", "qwen3_next"] {
        let file = folder.join(format!("{case}.f32.gguf"));
        for format in FORMATS {
            let (recipe, loading) = whole(format);
            let mut wanted = Model::open(&file, Loading::Stored).expect("it opens");
            quantize(&mut wanted, &recipe).expect("finite weights");
            let found = Model::open(&file, loading).expect("it opens");
            for (found, wanted) in found.parameters().iter().zip(wanted.parameters()) {
                assert_eq!((&found.name, found.matrix.format()), (&wanted.name, wanted.matrix.format()));
                assert!(found.matrix.to_f32() == wanted.matrix.to_f32(), "{}", found.name);
            }
        }
        // What is quantized in the file stays; where that is everything, there was nothing to ask for.
        let quantized = folder.join(format!("{case}.q8_0.gguf"));
        let refused = Model::open(&quantized, whole(StoredFormat::Nvfp4).1).expect_err("all of it is Q8_0");
        assert!(matches!(refused, ModelError::AlreadyQuantized { wanted: Format::Nvfp4 }), "{refused}");
        Model::open(&quantized, whole(StoredFormat::Q8_0).1).expect("it is what is wanted");
    }
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let scratch = std::env::temp_dir().join(format!("lateen-infinite-{}", std::process::id()));
    let mut model = open("qwen3");
    let FeedForward::Dense(network) = &mut model.weights.layers[1].feed_forward else { panic!("a dense network") };
    let Matrix { rows, columns, .. } = network.down.weight.matrix;
    network.down.weight.matrix.as_f32_mut()[rows * columns - 1] = f32::INFINITY;
    model.save(&scratch, Format::F32).expect("it saves");
    let wanted = "tensor model.layers.1.mlp.down_proj.weight: it holds inf, which MXFP4 cannot store";
    let (recipe, loading) = whole(StoredFormat::Mxfp4);
    assert_eq!(Model::open(&scratch, loading).expect_err("infinite").to_string(), wanted);
    assert_eq!(quantize(&mut model, &recipe).expect_err("infinite").to_string(), wanted);
    std::fs::remove_dir_all(scratch).expect("scratch is ours");
}

fn relative(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(wanted).map(|(a, b)| square(a - b)).sum();
    (error / wanted.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}
