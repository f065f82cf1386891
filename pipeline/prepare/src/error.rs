//! The ways preparation can fail.

use std::path::PathBuf;
use text::TextError;

/// Everything that keeps data from becoming batches.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The recipe asks for something impossible.
    #[error("the data recipe cannot work: {what}")]
    Recipe { what: String },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// One line of a file is not what it should be.
    #[error("{}, line {line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: String },

    /// All sources together gave nothing.
    #[error("no sample is left to train on ({detail}); check the sources, or raise sequence_length")]
    Nothing { detail: String },

    #[error(transparent)]
    Text(#[from] TextError),

    #[error(transparent)]
    Formats(#[from] formats::FormatsError),
}
