//! Evaluation: perplexity, divergence from a teacher, tasks solved, parity with a reference, speed.
//!
//! Everything here returns a typed report that can be written as JSON; [`Table`] and [`table::page`] turn reports into
//! what people read. Nothing prints.

mod bench;
mod compression;
mod divergence;
mod parity;
mod perplexity;
mod report;
mod speed;
pub mod statistics;
pub mod table;
mod tasks;
mod walk;

pub use bench::{Bench, BenchSettings, Measurement, OperationShare, Spread, bench};
pub use compression::{CompressionStage, Shrinking, compression_page};
pub use divergence::{Divergence, divergence};
pub use parity::{Parity, parity};
pub use perplexity::{Loss, Perplexity, perplexity};
pub use report::{EvaluateRecipe, Report, comparison, comparison_page, evaluate, kata_samples};
pub use speed::{Speed, SpeedSettings, speed};
pub use statistics::{Rate, pass_at_k};
pub use table::Table;
pub use tasks::{Cell, Failure, Sampled, Subject, TaskProgress, TaskReport, TaskSettings, solve_tasks};
pub use walk::{Measured, Watch, windows};

/// What can keep an evaluation from saying anything.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error("there is nothing to measure: {0}")]
    Nothing(String),
    #[error(
        "the two models do not share a vocabulary: {found} and {wanted} tokens; \
         compare a model with one that has the same tokenizer"
    )]
    Vocabulary { wanted: usize, found: usize },
    #[error(
        "token {token} is outside the model's vocabulary of {vocabulary}: the data was made with another tokenizer"
    )]
    UnknownToken { token: u32, vocabulary: usize },
    #[error("the reference for sequence {sequence} has {found} values, wanted {wanted} (tokens × vocabulary)")]
    Reference { sequence: usize, wanted: usize, found: usize },
    #[error("the evaluation was stopped")]
    Cancelled,
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    #[error(transparent)]
    Text(#[from] text::TextError),
}
