//! What merging takes of time beside passes through layers, from the model's shape alone.
//!
//! Legend: E experts, K members of a group, k experts that a token takes, m hidden neurons of an expert, H hidden
//! width.

use crate::observe::mixtures;
use crate::{MergeRecipe, PlanRecipe, Refit, RouterRow};
use models::Model;
use serde::Serialize;

/// Counts, from which speeds make time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MergeCost {
    /// Products of two f32 numbers that are added up.
    pub multiply_adds: f64,
    /// Pairs of experts whose neurons are put in one order: for distances, and again in their groups.
    pub pairs: f64,
    /// Multiply-adds in f64, of one thread: eigenvectors, factors of normal equations, and solutions.
    pub algebra: f64,
}

/// The share of tokens that a group is measured on is larger than that which chose its members, because a merged row of
/// the router is liked by others too: three times, as was found on the shipped base.
const TOUCHED: f64 = 3.0;
/// Average and selection, and sometimes the average in its subspace.
const CANDIDATES: f64 = 2.5;
/// Of Householder's reduction and QL steps with vectors, in m³.
pub(crate) const EIGEN: f64 = 9.0;
/// What is held out.
const HELD_OUT: f64 = 0.25;

/// One mixture.
struct Shape<'a> {
    experts: f64,
    keep: f64,
    top_k: f64,
    inner: f64,
    width: f64,
    tokens: f64,
    recipe: &'a MergeRecipe,
}

impl MergeCost {
    /// For so many tokens, and so many experts that stay in each layer.
    pub(crate) fn of(
        outline: &Model,
        tokens: usize,
        keep: &[usize],
        (plan, recipe): (&PlanRecipe, &MergeRecipe),
    ) -> Self {
        let mut total = Self::default();
        let top_k = outline.config.experts.map_or(0, |experts| experts.top_k) as f64;
        let width = outline.config.hidden_size as f64;
        for (index, experts, inner) in mixtures(outline).filter(|&(index, experts, _)| keep[index] < experts) {
            let (gone, stay) = (experts - keep[index], keep[index]);
            let shape = Shape {
                experts: experts as f64,
                keep: stay as f64,
                top_k,
                inner: inner as f64,
                width,
                tokens: tokens as f64,
                recipe,
            };
            let compared = if plan.distance.weights > 0.0 { plan.partners_aligned.min(stay) } else { 0 };
            total.pairs += (gone * (compared + usize::from(recipe.align))) as f64;
            shape.count(&mut total);
        }
        total
    }
}

impl Shape<'_> {
    fn count(&self, total: &mut MergeCost) {
        let &Self { experts, keep, top_k, inner: m, width: h, tokens, recipe } = self;
        let (fitted, held_out) = ((1.0 - HELD_OUT) * tokens, HELD_OUT * tokens);
        let gone = experts - keep;
        // As many of those that stay as are hit if every other one hits any of them.
        let groups = keep * (1.0 - (1.0 - keep.recip()).powf(gone));
        let members = gone / groups + 1.0;
        let choosing = 1.0 - (1.0 - top_k / experts).powf(members);
        let (rows, touched) = (choosing * fitted, (TOUCHED * choosing).min(1.0) * held_out);
        let through = top_k * 3.0 * m * h + keep * h;
        let fit = 4.0 * m * h + m * m;
        let routers = if recipe.router == RouterRow::Measured { 2.0 } else { 1.0 };

        // What members said, their activations, and what they have in common.
        let shared = (recipe.activation_rows as f64).min(rows);
        let said = members * tokens * top_k / experts * 3.0 * m * h + members * (rows + shared) * 2.0 * m * h;
        let seen = if recipe.energy < 1.0 { 2.0 * members * rows * (m * h + m * m) + members * m * m * h } else { 0.0 };
        let measured = CANDIDATES * routers * touched * through + (1.0 + routers) * held_out * keep * h;
        let fits = if recipe.refit == Refit::None { 0.0 } else { CANDIDATES };
        total.multiply_adds += groups * (said + seen + measured + fits * rows * fit);
        let solved = m * m * m / 6.0 + m * m * h;
        let eigen = if recipe.energy < 1.0 { 3.0 * EIGEN * m * m * m } else { 0.0 };
        total.algebra += groups * (eigen + fits * solved);

        // The layer as it was and is, and fits of all that stay.
        total.multiply_adds += (2.0 * fitted + 3.0 * held_out) * through;
        if recipe.refit == Refit::Layer {
            let sweeps = recipe.sweeps as f64;
            total.multiply_adds += sweeps * tokens * top_k * fit;
            total.algebra += sweeps * keep * solved;
        }
        if recipe.router != RouterRow::Centroid {
            // The direction that stands for a bias.
            total.multiply_adds += fitted * h * h;
            total.algebra += h * h * h / 6.0;
        }
    }
}
