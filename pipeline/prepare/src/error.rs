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

    /// One record of a file is not what it should be. `place` is its line or row.
    #[error("{}, {place}: {what}", path.display())]
    Record { path: PathBuf, place: String, what: String },

    /// A document that the template or the tokenizer cannot take.
    #[error("{origin} cannot become tokens: {source}")]
    Document { origin: String, source: TextError },

    #[error(
        "{origin} gives messages weights of their own, but the chat template does not keep each of the assistant's \
         messages in one {{% generation %}} block, so that they cannot be told apart"
    )]
    Unmatched { origin: String },

    /// A repository that cannot be read.
    #[error("{} cannot be mined: {what}", path.display())]
    Git { path: PathBuf, what: String },

    /// What was asked of mining is impossible, or nothing may be mined.
    #[error("cannot mine: {what}")]
    Mining { what: String },

    /// All sources together gave nothing.
    #[error("no sample is left to train on ({detail}); check the sources, or raise sequence_length")]
    Nothing { detail: String },

    #[error(transparent)]
    Text(#[from] TextError),

    #[error(transparent)]
    Formats(#[from] formats::FormatsError),
}
