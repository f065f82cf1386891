//! Training: the loop, objectives, the optimizer, checkpoints that resume exactly, metrics and the report.
//!
//! Read `run.rs` first: it is the loop. Nothing here prints; whoever watches implements [`Progress`].

mod best;
pub mod checkpoint;
mod error;
pub mod estimate;
pub mod event;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod parallel;
mod plan;
pub mod recipe;
pub mod report;
mod run;
mod schedule;
mod tally;
pub mod tensorboard;
mod warnings;

pub use best::Best;
pub use checkpoint::{Identity, RunState};
pub use error::TrainError;
pub use event::{Ending, Event, Progress, Scores, Silent};
pub use models::adapter::{LoraConfig, LoraPattern};
pub use objective::distill::{DistillRecipe, Distillation};
pub use objective::{Companion, Mean, Measured, Objective, StepWork, Supervised};
pub use plan::plan;
pub use recipe::{FrozenFormat, Method, ResultModel, TrainPrecision, TrainRecipe};
pub use run::{Run, Summary, attach, gradient_options, train};
pub use schedule::{Decay, Schedule};
