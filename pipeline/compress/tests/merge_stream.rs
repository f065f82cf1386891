//! Merging from folder to folder: what merging in memory makes, whatever happens on the way.

mod support;

use compress::{
    Calibration, CompressError, GroupSize, LayerOutcome, LayerStatistics, MergePlan, MergeRecipe, MergeRewrite,
    ObserveOptions, Plan, PlanRecipe, QuantizeRecipe, Tokens, carry_out, observe, quantize, rewrite_merged,
};
use models::{LayerStream, Layers, Loading, Model, RewriteStep};
use numeric::Format;
use std::path::Path;
use support::{Folder, open, oracle, same};

const FITTED: [usize; 2] = [200, 100];
const HELD_OUT: [usize; 1] = [150];

/// Also where dropping measures better: these models say what chance says.
fn always() -> MergeRecipe {
    MergeRecipe { check: false, ..MergeRecipe::default() }
}

/// A model, what is known of it, and what is to become of it.
struct World {
    model: Model,
    tokens: Vec<u32>,
    statistics: Vec<LayerStatistics>,
    recipe: PlanRecipe,
    plan: Plan,
}

impl World {
    fn new(case: &str) -> Self {
        let model = open(case);
        let tokens: Vec<u32> = (0..450u32).map(|i| (i * 37 + i * i * 5) % 512).collect();
        let options = ObserveOptions { gradient_tokens: 300, ..ObserveOptions::default() };
        let all = [Calibration { tokens: &tokens[..300], lengths: &FITTED }];
        let statistics = observe(Layers::Resident(&model), &all, &options, None, &mut |_| true).expect("observed");
        let recipe = PlanRecipe { merge: true, distance_max: 4.0, ..PlanRecipe::keeping(4) };
        let plan = Plan::decide(&model, &statistics, &recipe, None).expect("so many can stay");
        assert!(plan.merges());
        Self { model, tokens, statistics, recipe, plan }
    }

    fn packs(&self) -> [Calibration<'_>; 2] {
        let (fitted, held_out) = self.tokens.split_at(300);
        [Calibration { tokens: fitted, lengths: &FITTED }, Calibration { tokens: held_out, lengths: &HELD_OUT }]
    }

    /// Each pack goes through a layer at once.
    fn in_memory(&self, out: &Path, recipe: Option<&QuantizeRecipe>) -> Vec<LayerOutcome> {
        let [fitted, held_out] = self.packs();
        let tokens = Tokens { calibration: &[fitted], held_out: &[held_out] };
        let mut model = self.model.clone();
        let outcomes = carry_out(&mut model, &self.plan, &self.statistics, &tokens, &always(), |_| ());
        if let Some(recipe) = recipe {
            quantize(&mut model, recipe).expect("finite weights");
        }
        model.save(out, Format::Bf16).expect("it saves");
        outcomes.expect("it merges")
    }

    fn streamed(
        &self,
        stream: &LayerStream,
        out: &Path,
        recipe: Option<&QuantizeRecipe>,
        watch: &mut dyn FnMut(RewriteStep) -> bool,
    ) -> Result<Vec<LayerOutcome>, CompressError> {
        self.streamed_with(stream, out, recipe, &mut || Ok(()), watch)
    }

    /// With what is written beside the model before it is one.
    fn streamed_with(
        &self,
        stream: &LayerStream,
        out: &Path,
        recipe: Option<&QuantizeRecipe>,
        beside: &mut dyn FnMut() -> Result<(), CompressError>,
        watch: &mut dyn FnMut(RewriteStep) -> bool,
    ) -> Result<Vec<LayerOutcome>, CompressError> {
        let [fitted, held_out] = self.packs();
        let job = MergeRewrite {
            from: stream,
            out,
            plan: &self.plan,
            statistics: &self.statistics,
            tokens: Tokens { calibration: &[fitted], held_out: &[held_out] },
            recipe: &always(),
            quantization: recipe.map(QuantizeRecipe::quantization),
        };
        let mut became = Vec::new();
        let beside = |outcomes: Vec<LayerOutcome>| {
            assert!(!out.join("config.json").exists(), "it is no model before that");
            became = outcomes;
            beside()
        };
        rewrite_merged(&job, &mut { beside }, watch)?;
        Ok(became)
    }
}

/// JSON leaves a number its last digit or not.
fn rounded(outcomes: &[LayerOutcome]) -> Vec<LayerOutcome> {
    let round = |value: &mut f64| *value = (*value * 1e9).round() / 1e9;
    let mut outcomes = outcomes.to_vec();
    for outcome in &mut outcomes {
        [&mut outcome.error, &mut outcome.error_dropped].into_iter().for_each(round);
        for group in &mut outcome.groups {
            let errors = [&mut group.error_dropped, &mut group.error_merged, &mut group.error_tied];
            let rest = [&mut group.distance_before, &mut group.distance_after, &mut group.lambda];
            errors.into_iter().chain(rest).for_each(round);
        }
    }
    outcomes
}

#[test]
fn a_streamed_model_is_merged_as_one_in_memory() {
    for case in ["qwen3_moe", "qwen3_next", "qwen3_next_odd"] {
        let world = World::new(case);
        for quantized in [false, true] {
            let folder = Folder::new(&format!("merged-{case}-{quantized}"));
            let (wanted, found) = (folder.path().join("wanted"), folder.path().join("found"));
            let recipe = quantized.then(QuantizeRecipe::default);
            let stream = LayerStream::open_plain(&oracle(case)).expect("it opens");
            let decided = Plan::decide_streamed(&stream, &world.statistics, &world.recipe, &mut |_| true);
            assert_eq!(decided.expect("it is decided"), world.plan);
            let outcomes = world.in_memory(&wanted, recipe.as_ref());
            let mut steps = 0;
            let mut watch = |step: RewriteStep| {
                steps += 1;
                assert_eq!(step.done, steps);
                true
            };
            let streamed = world.streamed(&stream, &found, recipe.as_ref(), &mut watch).expect("it merges");
            assert_eq!(rounded(&streamed), rounded(&outcomes), "{case}");
            assert!(outcomes.iter().flat_map(|layer| &layer.groups).any(|group| group.merged), "something is merged");
            same(&found, &wanted);
            assert!(!found.join("merging").exists(), "states are gone when nobody needs them any more");
            let again = Model::open(&found, Loading::F32).expect("it is an ordinary model");
            assert!(again.config.expert_counts().iter().all(|&count| count == 4));
        }
    }
}

/// Stopped after every part, and gone on with; no layer is merged twice.
#[test]
fn merging_goes_on_where_it_was_stopped() {
    let world = World::new("qwen3_next");
    let stream = LayerStream::open_plain(&oracle("qwen3_next")).expect("it opens");
    let folder = Folder::new("merged-in-steps");
    let (wanted, found) = (folder.path().join("wanted"), folder.path().join("found"));
    let outcomes = world.in_memory(&wanted, None);
    let n_layers = stream.outline().config.layers.len();
    let mut calls = 0;
    let streamed = loop {
        let mut last = None;
        // The first part of each call is a new one.
        let result = world.streamed(&stream, &found, None, &mut |step| {
            last = Some(step.done);
            false
        });
        calls += 1;
        match result {
            Err(CompressError::Cancelled) => assert_eq!(last, Some(calls), "the parts before were not made again"),
            result => break result.expect("it merges"),
        }
        assert!(calls <= n_layers + 2 && !found.join("config.json").exists());
    };
    assert_eq!((calls, rounded(&streamed)), (n_layers + 3, rounded(&outcomes)));
    same(&found, &wanted);
}

/// Cut short when all layers are there and what stands beside them is not: the folder is no model yet, and the next
/// call completes it without merging anything again.
#[test]
fn what_stands_beside_a_model_is_there_before_it_is_one() {
    let world = World::new("qwen3_next");
    let stream = LayerStream::open_plain(&oracle("qwen3_next")).expect("it opens");
    let folder = Folder::new("merged-beside");
    let out = folder.path().join("out");
    let cut = world.streamed_with(&stream, &out, None, &mut || Err(CompressError::Cancelled), &mut |_| true);
    assert!(matches!(cut, Err(CompressError::Cancelled)) && !out.join("config.json").exists());
    let outcomes =
        world.streamed(&stream, &out, None, &mut |_| panic!("all parts are there")).expect("it is completed");
    assert_eq!(outcomes.len(), world.plan.layers.len());
    assert!(out.join("config.json").exists() && !out.join("merging").exists());
}

#[test]
fn what_belongs_to_another_job_or_is_gone_is_refused() {
    let mut world = World::new("qwen3_moe");
    let stream = LayerStream::open_plain(&oracle("qwen3_moe")).expect("it opens");
    let folder = Folder::new("merged-other");
    let out = folder.path().join("out");
    let once = |steps: usize, world: &World| {
        let mut done = 0;
        world.streamed(&stream, &out, None, &mut |_| {
            done += 1;
            done < steps
        })
    };
    assert!(matches!(once(2, &world), Err(CompressError::Cancelled)));
    world.tokens[0] = 9;
    let error = once(2, &world).expect_err("other tokens").to_string();
    assert!(error.contains("the half-made model of another job"), "{error}");
    world.tokens[0] = 0;
    std::fs::remove_dir_all(out.join("merging")).expect("it is there");
    let error = once(9, &world).expect_err("its states are gone").to_string();
    assert!(error.contains("what goes into layer 1 is gone: remove the new folder"), "{error}");
    world.statistics[1].neuron_fisher.clear();
    let elsewhere = folder.path().join("elsewhere");
    let error = world.streamed(&stream, &elsewhere, None, &mut |_| true).expect_err("no gradients").to_string();
    assert!(error.contains("layer 1: no gradients were observed"), "{error}");
}

/// More tokens, more that stays and larger groups take more, and hidden states none of the memory.
#[test]
fn a_plan_counts_what_grows() {
    let stream = LayerStream::open_plain(&oracle("qwen3_next")).expect("it opens");
    let outline = stream.outline();
    let plan = |packs: usize, keep: usize, members: usize| {
        let (fitted, held_out) = (vec![vec![2048]; packs], vec![vec![2048]]);
        let group = GroupSize { members, rows: 1000 };
        let keep = vec![keep; outline.config.layers.len()];
        MergePlan::of(outline, stream.loading(), [&fitted, &held_out], &keep, group)
    };
    let small = plan(3, 4, 2);
    let row = size_of::<f32>() * outline.config.hidden_size;
    assert_eq!((small.rows, small.states), (4 * 2048 * row, 8 * 2048 * row));
    for larger in [plan(6, 4, 2), plan(3, 6, 2), plan(3, 4, 900)] {
        assert!(larger.working > small.working && larger.total() >= small.total(), "{larger:?} {small:?}");
    }
}
