//! What dropping experts costs each layer, for budgets that are not the same everywhere.

use super::neurons::square;
use super::rows::squared_error;
use super::walk::{Tokens, Walk};
use super::{Working, mixture};
use crate::plan::{order, saliencies};
use crate::{Calibration, LayerStatistics, PlanError, PlanRecipe, super_experts};
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
) -> Result<Vec<Vec<f64>>, PlanError> {
    let mut walk = Walk::start(model, &Tokens { calibration: tokens, held_out: &[] });
    let observed: Vec<&LayerStatistics> = statistics.iter().collect();
    let supers = super_experts(&observed, model.weights.layers.len());
    let mut losses = Vec::with_capacity(statistics.len());
    for (index, layer) in model.weights.layers.iter().enumerate() {
        let inputs = walk.step(model, index);
        let Some(moe) = layer.mixture() else { continue };
        let place = statistics.iter().position(|statistics| statistics.layer == index);
        let place = place.ok_or(PlanError::Unobserved(index))?;
        let supers = if recipe.keep_super_experts { &supers[place][..] } else { &[] };
        let order = order(&saliencies(&statistics[place], recipe)?, supers);
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
