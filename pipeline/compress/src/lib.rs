//! Compression: observe, plan, prune or merge, quantize.
//!
//! [`observe`] runs calibration tokens layer by layer and counts; [`Plan::decide`] decides from what was counted what
//! becomes of every expert, as a file one can read and edit, [`search`] finds which of them stay by trying; [`prune`]
//! carries out a plan that only drops on a model in memory, [`rewrite_experts`] on one that is larger, from folder to
//! folder; [`carry_out`] and [`rewrite_merged`] do the same for one that merges; [`quantize`] rounds what is left.
//! [`fit_padding`] and [`write_padded`] give all layers one number of experts again, for programs that want that.

mod cost;
mod error;
mod merge;
mod observe;
mod pad;
mod plan;
mod prune;
mod quantize;
mod rewrite;
mod search;
mod speed;
mod statistics;

pub use cost::CompressCost;
pub use error::CompressError;
pub use merge::{
    Activations, Alignment, Combination, GroupOutcome, GroupSize, Importance, LayerOutcome, MergeCost, MergeError,
    MergePlan, MergeRecipe, MergeRewrite, Neurons, Refit, RouterRow, Rows, Tokens, align, carry_out, drop_losses,
    merge_layer, rewrite_merged,
};
pub use observe::{Calibration, ObserveOptions, ObservePlace, ObservePlan, ObserveStep, observe, saved_statistics};
pub use pad::{
    LayerPadding, LogitsApart, PadPlan, check_padding, fit_padding, logits_apart, padded_config, padded_format,
    write_padded,
};
pub use plan::{
    Budget, DistanceShares, Grouping, LayerPlan, LayerSize, Merge, Plan, PlanError, PlanRecipe, Saliency, decide_layer,
    keep_counts, super_experts,
};
pub use prune::{prune, prune_mixture};
pub use quantize::{QuantizeRecipe, StoredFormat, quantize};
pub use rewrite::{ExpertRewrite, rewrite_experts, rewrite_memory};
pub use search::{SearchRecipe, SearchStep, Searched, search};
pub use speed::CompressSpeed;
pub use statistics::{ExpertUse, LayerStatistics};
