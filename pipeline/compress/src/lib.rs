//! Compression: observe, plan, prune, quantize.
//!
//! [`observe`] runs calibration tokens and counts; [`Plan::drop_least_salient`] decides from the counts what stays, as
//! a file one can read and edit; [`prune`] carries it out; [`quantize`] rounds what is left.

mod observe;
mod plan;
mod prune;
mod quantize;
mod statistics;

pub use observe::{Calibration, observe};
pub use plan::{LayerPlan, Plan, PlanError};
pub use prune::prune;
pub use quantize::{QuantizeRecipe, StoredFormat, quantize};
pub use statistics::{ExpertUse, LayerStatistics};
