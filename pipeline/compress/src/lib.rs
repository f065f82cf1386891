//! Compression: observe, plan, prune or merge, quantize.
//!
//! [`observe`] runs calibration tokens and counts; [`Plan::decide`] decides from what was counted what becomes of every
//! expert, as a file one can read and edit; [`prune`] carries out a plan that only drops, [`carry_out`] and
//! [`merge_layer`] one that merges; [`quantize`] rounds what is left.

mod merge;
mod observe;
mod plan;
mod prune;
mod quantize;
mod statistics;

pub use merge::{
    Activations, Alignment, Combination, GroupOutcome, Importance, LayerOutcome, MergeError, MergeRecipe, Neurons,
    Refit, RouterRow, Rows, Tokens, align, carry_out, drop_losses, merge_layer, survey,
};
pub use observe::{Calibration, observe};
pub use plan::{
    Budget, DistanceShares, Grouping, LayerPlan, LayerSize, Merge, Plan, PlanError, PlanRecipe, Saliency, decide_layer,
    keep_counts, super_experts,
};
pub use prune::prune;
pub use quantize::{QuantizeRecipe, StoredFormat, quantize};
pub use statistics::{ExpertUse, LayerStatistics};
