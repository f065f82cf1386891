//! How a plan is to be made.

use super::PlanError;
use crate::SearchRecipe;
use serde::{Deserialize, Serialize};

/// How the experts that stay are shared out over the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Budget {
    /// As many in every layer.
    Uniform,
    /// The next expert goes where that costs least, by losses that were measured.
    Greedy,
    /// Which experts stay is searched for, in all layers together: as many in each layer as `keep` says, or in all
    /// layers as `total` says.
    Search,
}

/// What makes an expert worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Saliency {
    /// The mean of `g(x)·‖f(x)‖₂` over its tokens (Lasby et al. 2025, arXiv 2510.13999).
    Reap,
    /// The mean over all tokens of `s(t)²`, with s what a mask on the expert changes in the loss to first order.
    Fisher,
    /// How many tokens choose it.
    Frequency,
    /// Chance, for comparison.
    Random,
}

/// How experts that do not stay find one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// The nearest pairs first.
    Nearest,
    /// From the most salient on, each that stays takes the nearest that are left, until its group is full (REAM,
    /// arXiv 2604.04356).
    Walk,
}

/// Shares of what makes two experts different; each part is 0 for equal ones and about 1 for unrelated ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistanceShares {
    /// 1 − cosine of their outputs.
    pub outputs: f64,
    /// Squared distance of their neurons once these are aligned, by the sum of their squared norms.
    pub weights: f64,
    /// 1 − cosine of their rows of the router.
    pub router: f64,
}

impl Default for DistanceShares {
    fn default() -> Self {
        Self { outputs: 0.5, weights: 0.3, router: 0.2 }
    }
}

/// How a plan is to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRecipe {
    /// Experts that stay in each layer. Either this or `total` is said.
    pub keep: Option<usize>,
    /// Experts that stay in all layers together.
    pub total: Option<usize>,
    pub budget: Budget,
    /// Experts that stay in each layer at least; unsaid, twice what a token takes, and where every layer keeps as many,
    /// what a token takes.
    pub minimum: Option<usize>,
    pub saliency: Saliency,
    /// Of `saliency = "random"` and `budget = "search"`.
    pub seed: u64,
    /// How `budget = "search"` searches.
    pub search: SearchRecipe,
    /// Whether super-experts always stay.
    pub keep_super_experts: bool,
    /// Whether experts that do not stay become part of others.
    pub merge: bool,
    pub grouping: Grouping,
    /// Experts in a group at most, with the one that stays.
    pub group_max: usize,
    /// From this distance on experts are not merged.
    pub distance_max: f64,
    pub distance: DistanceShares,
    /// Pairs that are chosen together more often than this share of the layer's pairs, by lift, are not merged: a token
    /// that takes both wants the sum of their outputs, not one of them.
    pub lift_quantile: f64,
    /// Partners of each expert, by outputs and router, whose neurons are aligned with its own to find the nearest.
    pub partners_aligned: usize,
}

impl Default for PlanRecipe {
    fn default() -> Self {
        Self {
            keep: None,
            total: None,
            budget: Budget::Uniform,
            minimum: None,
            saliency: Saliency::Reap,
            seed: 0,
            search: SearchRecipe::default(),
            keep_super_experts: true,
            merge: false,
            grouping: Grouping::Nearest,
            group_max: 16,
            distance_max: 0.95,
            distance: DistanceShares::default(),
            lift_quantile: 0.95,
            partners_aligned: 8,
        }
    }
}

impl PlanRecipe {
    /// Keeps so many experts of each layer and drops the rest.
    pub fn keeping(keep: usize) -> Self {
        Self { keep: Some(keep), ..Self::default() }
    }

    /// Groups as M-SMoE makes them (Li et al. 2023, arXiv 2310.01334): the most used stay, every other joins the one
    /// with the most similar row in the router.
    pub fn by_frequency(keep: usize) -> Self {
        Self {
            saliency: Saliency::Frequency,
            keep_super_experts: false,
            merge: true,
            group_max: usize::MAX >> 1,
            distance_max: 4.0,
            distance: DistanceShares { outputs: 0.0, weights: 0.0, router: 1.0 },
            lift_quantile: 1.0,
            ..Self::keeping(keep)
        }
    }

    pub fn check(&self) -> Result<(), PlanError> {
        let shares = [self.distance.outputs, self.distance.weights, self.distance.router];
        let problem = if self.keep.is_some() == self.total.is_some() {
            "say either keep (experts of each layer) or total (experts of all layers)"
        } else if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || shares.iter().sum::<f64>() == 0.0 {
            "the shares of distance are from 0 to 1, and not all 0"
        } else if !(0.0..=1.0).contains(&self.lift_quantile) {
            "lift_quantile is a share of all pairs, from 0 to 1"
        } else if self.group_max < 2 {
            "group_max counts the expert that stays: say 2 or more, or merge = false"
        } else if self.distance_max.is_nan() {
            "distance_max is no number"
        } else if self.partners_aligned == 0 && self.distance.weights > 0.0 {
            "partners_aligned is 0, but the distance asks for aligned weights"
        } else {
            return self.search.check();
        };
        Err(PlanError::Recipe(problem.to_owned()))
    }
}
