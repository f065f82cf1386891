//! Dropping experts: their networks and their rows of the router go, everything else stays as it is.

use crate::{Plan, PlanError};
use models::{FeedForward, Model};
use numeric::Matrix;

/// Carries out a plan. The kept experts are renumbered in their old order, so that the result is an ordinary model with
/// fewer experts.
pub fn prune(model: &mut Model, plan: &Plan) -> Result<(), PlanError> {
    plan.check(model)?;
    let mut counts = vec![0; model.weights.layers.len()];
    for layer_plan in &plan.layers {
        let FeedForward::Moe(moe) = &mut model.weights.layers[layer_plan.layer].feed_forward else {
            unreachable!("the plan was checked against the model");
        };
        let router = &mut moe.routed.router.weight;
        router.matrix = rows(&router.matrix, &layer_plan.keep);
        router.shape[0] = layer_plan.keep.len();
        let mut expert = 0;
        moe.routed.experts.retain(|_| {
            expert += 1;
            layer_plan.keep.contains(&(expert - 1))
        });
        for (new, (expert, &old)) in moe.routed.experts.iter_mut().zip(&layer_plan.keep).enumerate() {
            for map in [&mut expert.gate, &mut expert.up, &mut expert.down] {
                map.weight.name = map.weight.name.replace(&format!(".experts.{old}."), &format!(".experts.{new}."));
            }
        }
        counts[layer_plan.layer] = layer_plan.keep.len();
    }
    model.config.set_expert_counts(&counts);
    model.renumber();
    Ok(())
}

/// The chosen rows, as f32.
fn rows(matrix: &Matrix, chosen: &[usize]) -> Matrix {
    let mut values = vec![0.0; chosen.len() * matrix.columns];
    for (to, &from) in values.chunks_exact_mut(matrix.columns).zip(chosen) {
        matrix.view().dequantize_row(from, to);
    }
    Matrix::from_f32(chosen.len(), matrix.columns, values)
}
