//! What becomes of every expert: which stay, which go, which become part of another. Decided from statistics, kept as a
//! file that people read and edit.

mod budget;
mod decide;
mod file;
mod groups;
mod recipe;

use models::Model;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub(crate) use budget::limits_of;
pub use budget::{LayerSize, keep_counts};
pub use decide::{decide_layer, super_experts};
pub(crate) use decide::{order, saliencies, super_experts_of};
pub use recipe::{Budget, DistanceShares, Grouping, PlanRecipe, Saliency};

/// What can be wrong with a plan, or with what a plan is to be made of.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PlanError {
    #[error("layer {layer} of the plan: {problem}")]
    Layer { layer: usize, problem: String },
    #[error("the plan has {planned} mixture layers, the model has {has}")]
    Layers { planned: usize, has: usize },
    #[error("no calibration token reached layer {0}: observe the model on some tokens first")]
    Unobserved(usize),
    #[error("this plan cannot be made: {0}")]
    Recipe(String),
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
}

/// Experts that become part of one that stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    pub into: usize,
    pub from: Vec<usize>,
}

/// One mixture layer. Every expert is in one place: `keep`, `drop`, or `from` of a merge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPlan {
    pub layer: usize,
    /// Ascending.
    pub keep: Vec<usize>,
    #[serde(default)]
    pub drop: Vec<usize>,
    /// Must stay as they are.
    #[serde(default)]
    pub super_experts: Vec<usize>,
    /// Of every expert, for whoever reads the file.
    #[serde(default)]
    pub saliency: Vec<f64>,
    /// Tokens that chose each expert, for whoever reads the file.
    #[serde(default)]
    pub tokens: Vec<u64>,
    #[serde(default)]
    pub merge: Vec<Merge>,
}

/// What happens to every mixture layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    #[serde(rename = "layer")]
    pub layers: Vec<LayerPlan>,
}

impl LayerPlan {
    /// Refuses a plan that does not fit a layer of `has` experts of which every token takes `top_k`.
    pub fn check(&self, has: usize, top_k: usize) -> Result<(), PlanError> {
        let problem = self.misplaced(has, top_k).or_else(|| self.badly_merged()).or_else(|| self.badly_told(has));
        problem.map_or(Ok(()), |problem| Err(PlanError::Layer { layer: self.layer, problem }))
    }

    /// Experts that are in no place or in two.
    fn misplaced(&self, has: usize, top_k: usize) -> Option<String> {
        let keep = self.keep.len();
        if keep < top_k || keep > has {
            return Some(format!(
                "it keeps {keep} experts of {has}: keep at least {top_k} (its top-k) and at most all"
            ));
        }
        let merged = self.merge.iter().flat_map(|merge| &merge.from).map(|&expert| (expert, "a merge"));
        let named = self.keep.iter().map(|&expert| (expert, "keep"));
        let named = named.chain(self.drop.iter().map(|&expert| (expert, "drop"))).chain(merged);
        let mut places: Vec<Option<&str>> = vec![None; has];
        for (expert, place) in named {
            let Some(slot) = places.get_mut(expert) else {
                return Some(format!("{place} names expert {expert}, the layer has 0 to {}", has - 1));
            };
            if let Some(before) = slot.replace(place) {
                return Some(format!("expert {expert} stands in {before} and in {place}: each has one place"));
            }
        }
        let nowhere = places.iter().position(Option::is_none)?;
        Some(format!("expert {nowhere} stands nowhere: put it into keep, drop or a merge"))
    }

    fn badly_merged(&self) -> Option<String> {
        if let Some(pair) = self.keep.windows(2).find(|pair| pair[0] > pair[1]) {
            return Some(format!("keep must ascend, but {} comes before {}", pair[0], pair[1]));
        }
        for (index, Merge { into, from }) in self.merge.iter().enumerate() {
            if !self.keep.contains(into) {
                return Some(format!("experts are merged into {into}, which does not stay: add it to keep"));
            }
            if from.is_empty() {
                return Some(format!("nothing is merged into {into}: name experts in from, or take the merge out"));
            }
            if self.merge[..index].iter().any(|earlier| earlier.into == *into) {
                return Some(format!("two merges go into {into}: make them one"));
            }
        }
        None
    }

    /// Super-experts that are touched, and lists that are not of this layer.
    fn badly_told(&self, has: usize) -> Option<String> {
        for expert in &self.super_experts {
            if !self.keep.contains(expert) || self.merge.iter().any(|merge| merge.into == *expert) {
                return Some(format!("expert {expert} is a super-expert: it must stay, and nothing be merged into it"));
            }
        }
        let lengths = [("saliency", self.saliency.len()), ("tokens", self.tokens.len())];
        let (list, length) = lengths.into_iter().find(|&(_, length)| length != 0 && length != has)?;
        Some(format!("{list} has {length} entries for {has} experts; it may be left out"))
    }

    /// The same without merges: what would have become part of another goes.
    pub fn without_merges(&self) -> Self {
        let mut plan = self.clone();
        plan.drop.extend(plan.merge.drain(..).flat_map(|merge| merge.from));
        plan.drop.sort_unstable();
        plan
    }
}

impl Plan {
    /// Whether any expert becomes part of another.
    pub fn merges(&self) -> bool {
        self.layers.iter().any(|layer| !layer.merge.is_empty())
    }

    /// Experts that stay in each of the model's `layers`; 0 where the plan says nothing of one.
    pub fn expert_counts(&self, layers: usize) -> Vec<usize> {
        let mut counts = vec![0; layers];
        self.layers.iter().for_each(|layer| counts[layer.layer] = layer.keep.len());
        counts
    }

    /// Refuses a plan that does not fit the model: plans are files, and files get edited.
    pub fn check(&self, model: &Model) -> Result<(), PlanError> {
        let sizes = LayerSize::of(model);
        if sizes.len() != self.layers.len() {
            return Err(PlanError::Layers { planned: self.layers.len(), has: sizes.len() });
        }
        for (size, plan) in sizes.iter().zip(&self.layers) {
            if plan.layer != size.layer {
                let problem = format!("layer {} of the model is to stand here: layers ascend", size.layer);
                return Err(PlanError::Layer { layer: plan.layer, problem });
            }
            plan.check(size.experts, size.top_k)?;
        }
        Ok(())
    }
}

impl LayerSize {
    /// Of every mixture of a model, in order.
    pub fn of(model: &Model) -> Vec<Self> {
        let each = model.weights.layers.iter().enumerate();
        let of_mixture = |(layer, weights): (usize, &models::LayerWeights)| {
            let moe = weights.mixture()?;
            Some(Self { layer, experts: moe.experts.len(), top_k: moe.top_k })
        };
        each.filter_map(of_mixture).collect()
    }
}
