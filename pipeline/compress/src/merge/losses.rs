//! What dropping experts costs each layer, for budgets that are not the same everywhere.

use super::neurons::square;
use super::rows::squared_error;
use super::walk::{Tokens, Walk, observed};
use super::{Working, mixture};
use crate::plan::{order, saliencies, super_experts_of};
use crate::{Calibration, CompressError, LayerStatistics, PlanRecipe};
use models::Model;
use ops::{Buffer, Moe};

/// Rows that each number of experts is tried on.
const ROWS: usize = 1024;

/// `[layer][n]`: the error of each mixture's output, in squares by those of the output as it is, with its n least
/// salient experts dropped, n from 0 up to where only as many are left as a token takes.
pub fn drop_losses(
    model: &Model,
    tokens: &[Calibration],
    statistics: &[LayerStatistics],
    recipe: &PlanRecipe,
) -> Result<Vec<Vec<f64>>, CompressError> {
    let mut walk = Walk::new(&model.config, Tokens { calibration: tokens, held_out: &[] }, None)?;
    walk.embed(&model.weights.embedding)?;
    let all: Vec<&LayerStatistics> = statistics.iter().collect();
    let mut supers = super_experts_of(recipe, &all, model.weights.layers.len()).into_iter();
    let mut losses = Vec::with_capacity(statistics.len());
    for (index, layer) in model.weights.layers.iter().enumerate() {
        let inputs = walk.step(&model.config, index, layer)?;
        walk.forget(index);
        let Some(moe) = layer.mixture() else { continue };
        let known = observed(statistics, index)?;
        let order = order(&saliencies(known, recipe)?, &supers.next().unwrap_or_default());
        losses.push(of_layer(moe, &order, &inputs.calibration));
    }
    Ok(losses)
}

fn of_layer(moe: &Moe, order: &[usize], inputs: &Buffer) -> Vec<f64> {
    let step = inputs.rows.div_ceil(ROWS).max(1);
    let x = inputs.gathered(&(0..inputs.rows).step_by(step).collect::<Vec<_>>());
    let all: Vec<usize> = (0..x.rows).collect();
    let wanted = mixture(&x, moe);
    let energy = square(&wanted).max(f64::MIN_POSITIVE);
    let mut working = Working::of(moe, &(0..moe.experts.len()).collect::<Vec<_>>());
    let mut losses = vec![0.0];
    for &expert in order[moe.top_k..].iter().rev() {
        working.remove(expert);
        losses.push(squared_error(&mixture(&x, &working.moe), &wanted, &all) / energy);
    }
    losses
}
