//! Which experts stay: decided from statistics, kept as a file.

use models::{FeedForward, Model};
use ops::Statistics;
use serde::{Deserialize, Serialize};

/// What a plan may get wrong about a model.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PlanError {
    #[error("layer {layer} would keep {keep} experts of {has}: keep at least {top_k} (its top-k) and at most all")]
    Count { layer: usize, keep: usize, has: usize, top_k: usize },
    #[error("layer {layer}: the plan keeps expert {expert} of {has}, or names it twice")]
    Expert { layer: usize, expert: usize, has: usize },
    #[error("the plan has {planned} mixture layers, the model has {has}")]
    Layers { planned: usize, has: usize },
    #[error("no calibration token reached layer {0}: observe the model on some tokens first")]
    Unobserved(usize),
}

/// One mixture layer: the experts that stay, in ascending order, and every expert's saliency, for whoever reads the
/// file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPlan {
    pub layer: usize,
    pub keep: Vec<usize>,
    pub saliency: Vec<f64>,
    pub tokens: Vec<u64>,
}

/// What happens to every mixture layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub layers: Vec<LayerPlan>,
}

impl Plan {
    /// Keeps the `keep` most salient experts of each layer. Saliency is REAP's (Lasby et al. 2025): the mean of
    /// `g(x)·‖f(x)‖₂` over the tokens routed to the expert, with gates as the model uses them (renormalised where it
    /// renormalises). An expert that no token chose has saliency 0; ties keep the lower index.
    pub fn drop_least_salient(model: &Model, statistics: &Statistics, keep: usize) -> Result<Self, PlanError> {
        let layers = mixtures(model).map(|(layer, has, top_k)| {
            if keep < top_k || keep > has {
                return Err(PlanError::Count { layer, keep, has, top_k });
            }
            let seen = statistics.layers.get(layer).filter(|experts| experts.len() == has);
            let experts = seen.ok_or(PlanError::Unobserved(layer))?;
            let mean = |sum: f64, tokens: u64| if tokens == 0 { 0.0 } else { sum / tokens as f64 };
            let saliency: Vec<f64> = experts.iter().map(|e| mean(e.weighted_norm, e.tokens)).collect();
            let mut order: Vec<usize> = (0..has).collect();
            order.sort_by(|&a, &b| saliency[b].total_cmp(&saliency[a]).then(a.cmp(&b)));
            order.truncate(keep);
            order.sort_unstable();
            Ok(LayerPlan { layer, keep: order, saliency, tokens: experts.iter().map(|e| e.tokens).collect() })
        });
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }

    /// Refuses a plan that does not fit the model: plans are files, and files get edited.
    pub fn check(&self, model: &Model) -> Result<(), PlanError> {
        let has = mixtures(model).count();
        if has != self.layers.len() {
            return Err(PlanError::Layers { planned: self.layers.len(), has });
        }
        for ((layer, has, top_k), plan) in mixtures(model).zip(&self.layers) {
            if plan.layer != layer || plan.keep.len() < top_k || plan.keep.len() > has {
                return Err(PlanError::Count { layer, keep: plan.keep.len(), has, top_k });
            }
            let ascending = plan.keep.windows(2).find(|pair| pair[0] >= pair[1]).map(|pair| pair[1]);
            if let Some(expert) = ascending.or(plan.keep.iter().copied().find(|&expert| expert >= has)) {
                return Err(PlanError::Expert { layer, expert, has });
            }
        }
        Ok(())
    }
}

/// Layer, experts and top-k of every mixture.
fn mixtures(model: &Model) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    model.weights.layers.iter().enumerate().filter_map(|(layer, weights)| match &weights.feed_forward {
        FeedForward::Moe(moe) => Some((layer, moe.routed.experts.len(), moe.routed.top_k)),
        FeedForward::Dense(_) => None,
    })
}
