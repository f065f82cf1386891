//! Plans as files, and what may be wrong with them.

use compress::{
    Budget, Calibration, ExpertUse, Grouping, LayerPlan, LayerStatistics, Merge, ObserveOptions, Plan, PlanError,
    PlanRecipe, Saliency, observe,
};
use models::{Layers, Loading, Model};
use std::path::PathBuf;

fn open() -> Model {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/qwen3_moe");
    Model::open(&directory, Loading::F32).expect("the oracle's model opens")
}

fn observed(model: &Model) -> Vec<LayerStatistics> {
    let tokens: Vec<u32> = (0..200).map(|i| (i * 37 + i * i * 5) % 512).collect();
    let calibration = [Calibration { tokens: &tokens, lengths: &[120, 80] }];
    let options = ObserveOptions::default();
    observe(Layers::Resident(model), &calibration, &options, None, &mut |_| true).expect("it is observed")
}

const FILE: &str = "\
[[layer]]
layer = 0
keep = [0, 3, 4]
drop = [1, 6]
super_experts = [0]

[[layer.merge]]
into = 3
from = [2, 5]

[[layer.merge]]
into = 4
from = [7]

[[layer]]
layer = 1
keep = [0, 1, 2, 3, 4, 5]
drop = [6, 7]
saliency = [0.5, 0.25, 1e-7, 3, 2.5, 1, 0, 0]
tokens = [9, 8, 7, 6, 5, 4, 0, 0]
";

#[test]
fn a_file_is_the_plan() {
    let plan = Plan::from_toml(FILE).expect("it is a plan");
    let merge = vec![Merge { into: 3, from: vec![2, 5] }, Merge { into: 4, from: vec![7] }];
    assert_eq!((plan.layers[0].merge.clone(), plan.layers[1].saliency[2]), (merge, 1e-7));
    plan.check(&open()).expect("it fits");
    assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(plan.clone()), "{}", plan.to_toml());
    assert!(plan.to_toml().contains("keep = [0, 3, 4]\ndrop = [1, 6]\n"), "{}", plan.to_toml());

    let scratch = std::env::temp_dir().join(format!("lateen-plan-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("scratch");
    let path = scratch.join("plan.toml");
    plan.save(&path).expect("it is written");
    assert_eq!(Plan::load(&path), Ok(plan));
    let missing = Plan::load(&scratch.join("none.toml")).expect_err("there is none").to_string();
    assert!(missing.contains("none.toml"), "{missing}");
    std::fs::remove_dir_all(scratch).expect("scratch is ours");
}

/// Each mistake, and what is said about it.
#[test]
fn every_mistake_is_named() {
    let model = open();
    let cases = [
        ("keep = [0, 3, 4]", "keep = [0]", "layer 0 of the plan: it keeps 1 experts of 8: keep at least 2"),
        ("keep = [0, 3, 4]", "keep = [0, 4, 3]", "layer 0 of the plan: keep must ascend, but 4 comes before 3"),
        ("keep = [0, 3, 4]", "keep = [0, 3, 3, 4]", "expert 3 stands in keep and in keep: each has one place"),
        ("keep = [0, 3, 4]", "keep = [0, 1, 3, 4]", "expert 1 stands in keep and in drop: each has one place"),
        ("keep = [0, 3, 4]", "keep = [0, 3, 4, 8]", "keep names expert 8, the layer has 0 to 7"),
        ("drop = [1, 6]", "drop = [1]", "layer 0 of the plan: expert 6 stands nowhere"),
        ("drop = [1, 6]", "drop = [1, 6, 7]", "expert 7 stands in drop and in a merge"),
        ("from = [7]", "from = [7, 5]", "expert 5 stands in a merge and in a merge"),
        ("into = 4", "into = 1", "experts are merged into 1, which does not stay: add it to keep"),
        ("into = 4", "into = 3", "two merges go into 3: make them one"),
        ("drop = [6, 7]\n", "drop = [6, 7]\nmerge = [{into = 3, from = []}]\n", "nothing is merged into 3"),
        ("super_experts = [0]", "super_experts = [6]", "expert 6 is a super-expert: it must stay"),
        (
            "super_experts = [0]",
            "super_experts = [3]",
            "expert 3 is a super-expert: it must stay, and nothing be merged",
        ),
        (
            "tokens = [9, 8, 7, 6, 5, 4, 0, 0]",
            "tokens = [9]",
            "layer 1 of the plan: tokens has 1 entries for 8 experts",
        ),
        ("layer = 1\n", "layer = 2\n", "layer 2 of the plan: layer 1 of the model is to stand here"),
        ("layer = 1\n", "layer = 1\nkeeps = [1]\n", "unknown field `keeps`"),
        ("from = [7]", "from = [7]\nweight = 2", "unknown field `weight`"),
        ("[[layer]]\nlayer = 0", "shape = 1\n[[layer]]\nlayer = 0", "unknown field `shape`"),
        ("drop = [1, 6]", "drop = [1, -6]", "-6"),
        ("into = 4\n", "", "missing field `into`"),
    ];
    for (old, new, wanted) in cases {
        assert!(FILE.contains(old), "{old}");
        let text = FILE.replacen(old, new, 1);
        let found = match Plan::from_toml(&text) {
            Err(message) => message,
            Ok(plan) => plan.check(&model).expect_err(new).to_string(),
        };
        assert!(found.contains(wanted), "{new}: {found}");
    }
    let mut short = Plan::from_toml(FILE).expect("it is a plan");
    short.layers.pop();
    assert_eq!(short.check(&model), Err(PlanError::Layers { planned: 1, has: 2 }));
}

#[test]
fn decided_plans_are_whole_and_repeat() {
    let model = open();
    let statistics = observed(&model);
    for saliency in [Saliency::Reap, Saliency::Frequency, Saliency::Random] {
        for grouping in [Grouping::Nearest, Grouping::Walk] {
            let recipe = PlanRecipe { merge: true, distance_max: 4.0, saliency, grouping, ..PlanRecipe::keeping(4) };
            let plan = Plan::decide(&model, &statistics, &recipe, None).expect("four of eight");
            plan.check(&model).expect("what is decided fits");
            assert_eq!(Plan::decide(&model, &statistics, &recipe, None), Ok(plan.clone()));
            assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(plan.clone()));
            assert!(plan.layers.iter().all(|layer| layer.keep.len() == 4 && !layer.merge.is_empty()));
        }
    }
    let seed = |seed| PlanRecipe { saliency: Saliency::Random, seed, ..PlanRecipe::keeping(4) };
    let of = |recipe: &PlanRecipe| Plan::decide(&model, &statistics, recipe, None).expect("four of eight");
    assert_ne!(of(&seed(1)).layers[0].keep, of(&seed(2)).layers[0].keep, "chance depends on the seed");
    let refused = PlanRecipe { saliency: Saliency::Fisher, ..PlanRecipe::keeping(4) };
    let refused = Plan::decide(&model, &statistics, &refused, None).expect_err("none were asked for").to_string();
    assert!(refused.contains("no gradients were observed in layer 0"), "{refused}");
    let unmerged = PlanRecipe::keeping(4);
    let merged = PlanRecipe { merge: true, distance_max: 4.0, ..unmerged.clone() };
    for (pruned, merged) in of(&unmerged).layers.iter().zip(&of(&merged).layers) {
        assert_eq!(*pruned, merged.without_merges(), "merging changes what is dropped, not what stays");
    }
}

#[test]
fn budgets_under_a_total_follow_the_losses() {
    let model = open();
    let statistics = observed(&model);
    let recipe = PlanRecipe { total: Some(12), budget: Budget::Greedy, ..PlanRecipe::default() };
    let losses = [vec![0.0; 8], (0..8).map(f64::from).collect()];
    let plan = Plan::decide(&model, &statistics, &recipe, Some(&losses)).expect("twelve of sixteen");
    assert_eq!([plan.layers[0].keep.len(), plan.layers[1].keep.len()], [4, 8]);
    assert!(Plan::decide(&model, &statistics, &recipe, None).is_err());
}

#[test]
fn super_experts_stay_and_are_not_merged_into() {
    let model = open();
    let mut statistics = observed(&model);
    // The least salient expert of the first layer has one huge activation.
    let least = (0..8).min_by(|&a, &b| statistics[0].saliency(a).total_cmp(&statistics[0].saliency(b))).expect("eight");
    statistics[0].experts[least].activation_max = 1e4;
    let recipe = PlanRecipe { merge: true, distance_max: 4.0, ..PlanRecipe::keeping(3) };
    let plan = Plan::decide(&model, &statistics, &recipe, None).expect("three of eight");
    let layer = &plan.layers[0];
    assert_eq!(layer.super_experts, [least]);
    assert!(layer.keep.contains(&least) && layer.merge.iter().all(|merge| merge.into != least), "{layer:?}");
    let careless = PlanRecipe { keep_super_experts: false, ..recipe };
    let plan = Plan::decide(&model, &statistics, &careless, None).expect("three of eight");
    assert!(!plan.layers[0].keep.contains(&least), "without the rule it goes");
    let mut edited: LayerPlan = layer.clone();
    edited.keep.retain(|&expert| expert != least);
    edited.drop.push(least);
    let refused = edited.check(8, 2).expect_err("a super-expert cannot be dropped").to_string();
    assert!(refused.contains("is a super-expert: it must stay"), "{refused}");
}

/// Pairs that are chosen together more than others are in no group.
#[test]
fn experts_that_work_together_are_not_merged() {
    let model = open();
    let mut statistics = observed(&model);
    let layer = &mut statistics[0];
    layer.tokens = 1000;
    layer.experts =
        (0..8).map(|e| ExpertUse { tokens: 250, weighted_norm: 100.0 - f64::from(e), ..Default::default() }).collect();
    layer.together = vec![60; 64];
    // Expert 7's outputs are those of 0, but the two are always chosen together; 1 is second.
    layer.output_similarity = vec![0.0; 64];
    for (a, b, similarity) in [(7, 0, 0.99), (7, 1, 0.9)] {
        (layer.output_similarity[a * 8 + b], layer.output_similarity[b * 8 + a]) = (similarity, similarity);
    }
    (layer.together[7 * 8], layer.together[7]) = (240, 240);
    let recipe = PlanRecipe { merge: true, ..PlanRecipe::keeping(4) };
    let group_of_7 = |recipe: &PlanRecipe| {
        let plan = Plan::decide(&model, &statistics, recipe, None).expect("four of eight");
        plan.layers[0].merge.iter().find(|merge| merge.from.contains(&7)).map(|merge| merge.into)
    };
    assert_eq!(group_of_7(&recipe), Some(1));
    assert_eq!(group_of_7(&PlanRecipe { lift_quantile: 1.0, ..recipe }), Some(0));
}
