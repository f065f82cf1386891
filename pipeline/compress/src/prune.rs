//! Dropping experts: their networks and their rows of the router go, everything else stays as it is.

use crate::{LayerPlan, Plan, PlanError};
use models::{FeedForward, Model};
use numeric::Matrix;
use ops::{Expert, Linear, Moe, Parameter};

/// Carries out a plan that only drops. The kept experts are renumbered in their old order, so that the result is an
/// ordinary model with fewer experts, in the formats that it was stored in.
pub fn prune(model: &mut Model, plan: &Plan) -> Result<(), PlanError> {
    plan.check(model)?;
    plan.layers.iter().try_for_each(only_drops)?;
    for layer_plan in &plan.layers {
        let FeedForward::Moe(moe) = &mut model.weights.layers[layer_plan.layer].feed_forward else {
            unreachable!("the plan was checked against the model");
        };
        keep_experts(&mut moe.routed, &layer_plan.keep);
    }
    model.config.set_expert_counts(&plan.expert_counts(model.weights.layers.len()));
    model.renumber();
    Ok(())
}

/// One layer of such a plan, carried out on that layer's mixture.
pub fn prune_mixture(moe: &mut Moe, plan: &LayerPlan) -> Result<(), PlanError> {
    plan.check(moe.experts.len(), moe.top_k)?;
    only_drops(plan)?;
    keep_experts(moe, &plan.keep);
    Ok(())
}

fn only_drops(plan: &LayerPlan) -> Result<(), PlanError> {
    if plan.merge.is_empty() {
        return Ok(());
    }
    let problem = "it merges experts, which has to be measured on tokens: this only drops".to_owned();
    Err(PlanError::Layer { layer: plan.layer, problem })
}

/// Leaves these experts, ascending, and nothing of the others.
pub(crate) fn keep_experts(moe: &mut Moe, keep: &[usize]) {
    moe.router = router_of(&moe.router, keep);
    let experts = std::mem::take(&mut moe.experts).into_iter().enumerate();
    moe.experts = renumbered(experts.filter(|(expert, _)| keep.contains(expert)));
}

/// Experts with their old numbers, as they are numbered now: in this order.
pub(crate) fn renumbered(experts: impl Iterator<Item = (usize, Expert)>) -> Vec<Expert> {
    let rename = |(new, (old, mut expert)): (usize, (usize, Expert))| {
        for map in [&mut expert.gate, &mut expert.up, &mut expert.down] {
            map.weight.name = map.weight.name.replace(&format!(".experts.{old}."), &format!(".experts.{new}."));
        }
        expert
    };
    experts.enumerate().map(rename).collect()
}

/// The router of the experts that stay, in f32.
pub(crate) fn router_of(router: &Linear, keep: &[usize]) -> Linear {
    let chosen = |parameter: &Parameter, matrix: Matrix| {
        let mut shape = parameter.shape.clone();
        shape[0] = keep.len();
        Parameter { id: parameter.id, name: parameter.name.clone(), shape, trained: parameter.trained, matrix }
    };
    let bias = router.bias.as_ref().map(|bias| {
        let values = keep.iter().map(|&expert| bias.values()[expert]).collect();
        chosen(bias, Matrix::from_f32(1, keep.len(), values))
    });
    Linear { weight: chosen(&router.weight, rows(&router.weight.matrix, keep)), bias, adapter: None }
}

/// The chosen rows, as f32.
fn rows(matrix: &Matrix, chosen: &[usize]) -> Matrix {
    let mut values = vec![0.0; chosen.len() * matrix.columns];
    for (to, &from) in values.chunks_exact_mut(matrix.columns).zip(chosen) {
        matrix.view().dequantize_row(from, to);
    }
    Matrix::from_f32(chosen.len(), matrix.columns, values)
}
