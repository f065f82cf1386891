//! What can be wrong with a model, a plan, or the place that a long job works in.

use crate::{MergeError, PlanError};
use formats::FormatsError;
use models::ModelError;
use std::path::PathBuf;

/// Every variant says what was wanted and what was found.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    #[error(transparent)]
    Model(ModelError),
    #[error(transparent)]
    Formats(#[from] FormatsError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// It would not fit, and nothing was begun.
    #[error("it would take {needed} bytes of memory, and {allowed} are allowed")]
    Memory { needed: usize, allowed: usize },
    #[error("calibration: {0}")]
    Calibration(String),
    /// Layers cannot be given one number of experts.
    #[error("padding: {0}")]
    Padding(String),
    /// A folder holds what belongs to another job.
    #[error("{path} holds statistics of another {what}: remove it, or give another folder", path = .path.display())]
    OtherJob { path: PathBuf, what: &'static str },
    #[error("stopped before the end; the same job goes on from here")]
    Cancelled,
}

impl From<ModelError> for CompressError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Cancelled => Self::Cancelled,
            error => Self::Model(error),
        }
    }
}
