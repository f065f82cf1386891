//! The search for experts that stay finds what was planted, holds to its limits, and is the same for the same seed.

mod support;

use compress::{
    Budget, Calibration, LayerStatistics, ObserveOptions, Plan, PlanRecipe, Saliency, SearchRecipe, Searched, Tokens,
    observe, search,
};
use models::{FeedForward, Layers, Model};
use support::open;

const LENGTHS: [usize; 12] = [60; 12];

fn tokens() -> Vec<u32> {
    (0..720u32).map(|i| (i * 37 + i * i * 5 + i / 60) % 512).collect()
}

/// In every mixture these four differ; the others all say what expert 0 says.
const OWN: [usize; 4] = [1, 3, 4, 6];

/// A model half of whose experts are useless: one of them can stand for all, wherever tokens go.
fn planted() -> Model {
    let mut model = open("qwen3_moe");
    for layer in &mut model.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { panic!("a mixture") };
        let first = moe.routed.experts[0].clone();
        for (index, expert) in moe.routed.experts.iter_mut().enumerate() {
            let wider = if OWN.contains(&index) { 2.0 } else { 1.0 };
            let from = if OWN.contains(&index) { expert.clone() } else { first.clone() };
            for (to, from) in
                [(&mut expert.gate, &from.gate), (&mut expert.up, &from.up), (&mut expert.down, &from.down)]
            {
                to.weight.matrix = from.weight.matrix.clone();
            }
            expert.down.weight.matrix.as_f32_mut().iter_mut().for_each(|value| *value *= 4.0 * wider);
        }
    }
    model
}

struct World {
    model: Model,
    tokens: Vec<u32>,
    statistics: Vec<LayerStatistics>,
}

impl World {
    fn new() -> Self {
        let (model, tokens) = (planted(), tokens());
        let all = [Calibration { tokens: &tokens, lengths: &LENGTHS }];
        let options = ObserveOptions::default();
        let statistics = observe(Layers::Resident(&model), &all, &options, None, &mut |_| true).expect("observed");
        Self { model, tokens, statistics }
    }

    fn search(&self, recipe: &PlanRecipe) -> Result<Searched, compress::PlanError> {
        let (fitted, rest) = self.tokens.split_at(540);
        let calibration = [Calibration { tokens: fitted, lengths: &LENGTHS[..9] }];
        let held_out = [Calibration { tokens: rest, lengths: &LENGTHS[9..] }];
        let tokens = Tokens { calibration: &calibration, held_out: &held_out };
        let (mut model, mut steps) = (self.model.clone(), 0);
        let found = search(&mut model, &self.statistics, &tokens, recipe, &mut |step| {
            steps += 1;
            assert_eq!((step.done, step.total), (steps, recipe.search.steps));
        });
        assert!(found.is_err() || steps == recipe.search.steps);
        assert!(model.parameters().iter().all(|parameter| parameter.trained), "flags come back");
        found
    }
}

/// By chance, so that nothing is known beforehand.
fn recipe(search: SearchRecipe) -> PlanRecipe {
    PlanRecipe {
        budget: Budget::Search,
        saliency: Saliency::Random,
        seed: 5,
        keep_super_experts: false,
        search,
        ..PlanRecipe::default()
    }
}

fn short() -> SearchRecipe {
    SearchRecipe { steps: 60, step_tokens: 180, spread: 1.0, measurements: 12, ..SearchRecipe::default() }
}

#[test]
fn useless_experts_are_found() {
    let world = World::new();
    let five = |search: SearchRecipe| PlanRecipe { keep: Some(5), ..recipe(search) };
    let has_all = |kept: &[usize]| OWN.iter().all(|expert| kept.contains(expert));
    let begun = world.search(&five(SearchRecipe { steps: 0, ..short() })).expect("it begins");
    assert!(!begun.kept.iter().any(|kept| has_all(kept)), "chance has not found them: {begun:?}");
    let found = world.search(&five(short())).expect("it searches");
    assert!(found.kept.iter().all(|kept| kept.len() == 5 && has_all(kept)), "{found:?}");
    assert!(found.divergence < found.divergence_before && found.divergence_before == begun.divergence, "{found:?}");
}

#[test]
fn totals_and_minima_hold_and_a_seed_is_a_result() {
    let world = World::new();
    let brief = SearchRecipe { steps: 8, measurements: 4, ..short() };
    for (total, minimum) in [(9, Some(4)), (8, Some(4)), (11, None), (6, Some(2)), (16, None)] {
        let recipe = PlanRecipe { total: Some(total), minimum, ..recipe(brief.clone()) };
        let found = world.search(&recipe).expect("it searches");
        assert_eq!(found.kept.iter().map(Vec::len).sum::<usize>(), total);
        assert!(found.kept.iter().all(|kept| kept.len() >= minimum.unwrap_or(4) && kept.is_sorted()), "{found:?}");
        assert!(found.divergence <= found.divergence_before);
        assert_eq!(world.search(&recipe).expect("it searches"), found, "the same again");
        let plan = Plan::keeping(&world.model, &world.statistics, &recipe, &found.kept).expect("it is a plan");
        assert!(plan.layers.iter().zip(&found.kept).all(|(layer, kept)| layer.keep == *kept));
        assert!(Plan::decide(&world.model, &world.statistics, &recipe, None).is_err(), "nothing is made up");
    }
}

#[test]
fn super_experts_are_not_asked_about() {
    let mut world = World::new();
    // Chance would as soon drop it: expert 7 of the first layer is like others but for one spike.
    world.statistics[0].experts[7].activation_max = 1e4;
    let brief = SearchRecipe { steps: 4, measurements: 4, ..short() };
    for seed in 0..6 {
        let recipe = PlanRecipe { keep: Some(2), keep_super_experts: true, seed, ..recipe(brief.clone()) };
        let found = world.search(&recipe).expect("it searches");
        assert!(found.kept[0].contains(&7) && found.kept.iter().all(|kept| kept.len() == 2), "{found:?}");
    }
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let world = World::new();
    let refused = |recipe: PlanRecipe, wanted: &str| {
        let refused = world.search(&recipe).expect_err(wanted).to_string();
        assert!(refused.contains(wanted), "{refused}");
    };
    refused(PlanRecipe { keep: Some(9), ..recipe(short()) }, "layer 0 would keep 9 experts of 8");
    refused(PlanRecipe { total: Some(5), ..recipe(short()) }, "5 experts for 2 layers, which need 8 together");
    refused(
        PlanRecipe { keep: Some(4), ..recipe(SearchRecipe { learning_rate: 0.0, ..short() }) },
        "learning_rate of the search is 0",
    );
    refused(PlanRecipe { keep: Some(4), ..recipe(SearchRecipe { masks: 0, ..short() }) }, "masks of the search is 0");
}
