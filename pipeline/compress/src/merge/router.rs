//! The router's row for a merged expert.
//!
//! Legend: T rows, H hidden width of the model.

use super::algebra::{NotPositive, ridge};
use super::rows::Routed;
use super::{MergeRecipe, RouterRow};
use numeric::Matrix;
use ops::{Buffer, Linear, Moe};

/// One row of a router, with its bias where there are any.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) values: Vec<f32>,
    pub(crate) bias: Option<f32>,
}

impl Row {
    /// Of an f32 router.
    pub(crate) fn of(router: &Linear, place: usize) -> Self {
        let mut values = vec![0.0; router.input_width()];
        router.weight.matrix.view().dequantize_row(place, &mut values);
        Self { values, bias: router.bias.as_ref().map(|bias| bias.values()[place]) }
    }

    /// Puts it into an f32 router, and gives what was there.
    pub(crate) fn exchange(self, router: &mut Linear, place: usize) -> Self {
        let old = Self::of(router, place);
        let Matrix { columns, .. } = router.weight.matrix;
        let values = &mut router.weight.matrix.as_f32_mut()[place * columns..(place + 1) * columns];
        values.copy_from_slice(&self.values);
        if let (Some(map), Some(bias)) = (&mut router.bias, self.bias) {
            map.matrix.as_f32_mut()[place] = bias;
        }
        old
    }
}

/// The vector v `[H]` with `v·x` as near to 1 as it gets on all rows: a bias for a router that has none.
pub(crate) struct BiasDirection(Option<Vec<f32>>);

impl BiasDirection {
    pub(crate) fn of(x: &Buffer, moe: &Moe, recipe: &MergeRecipe) -> Result<Self, NotPositive> {
        if moe.router.bias.is_some() || recipe.router == RouterRow::Centroid {
            return Ok(Self(None));
        }
        let ones = Buffer::from_values(1, vec![1.0; x.rows]);
        Ok(Self(Some(ridge(x, &ones, recipe.ridge)?.change)))
    }
}

/// The members' rows by their share of the gates, and a shift: over the rows that chose a member, and by how probable
/// the members were, the logit becomes on average `log Σ exp(members' logits)`. A single row cannot say more, since
/// that sum is not linear.
pub(super) fn weighted(
    moe: &Moe,
    members: &[usize],
    shares: &[f64],
    (routed, rows): (&Routed, &[usize]),
    direction: &BiasDirection,
) -> Row {
    let mut row = Row { values: vec![0.0; moe.router.input_width()], bias: None };
    for (&member, &share) in members.iter().zip(shares) {
        let of_member = Row::of(&moe.router, member);
        let pairs = row.values.iter_mut().zip(&of_member.values);
        pairs.for_each(|(sum, value)| *sum += share as f32 * value);
        if let Some(bias) = of_member.bias {
            row.bias = Some(row.bias.unwrap_or(0.0) + share as f32 * bias);
        }
    }
    let (mut sum, mut mass) = (0.0, 0.0);
    for &row in rows {
        let logits = members.iter().map(|&member| f64::from(routed.logits.row(row)[member]));
        let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
        let together = largest + logits.clone().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
        let linear: f64 = logits.zip(shares).map(|(logit, share)| logit * share).sum();
        let probability: f64 = members.iter().map(|&member| f64::from(routed.probabilities.row(row)[member])).sum();
        sum += probability * (together - linear);
        mass += probability;
    }
    let shift = if mass > 0.0 { (sum / mass) as f32 } else { 0.0 };
    match (&mut row.bias, &direction.0) {
        (Some(bias), _) => *bias += shift,
        (None, Some(direction)) => {
            row.values.iter_mut().zip(direction).for_each(|(value, along)| *value += shift * along);
        }
        (None, None) => {}
    }
    row
}
