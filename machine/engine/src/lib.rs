//! The engine: tokens in, tokens out. It knows no text; stop strings, templates and tools live above it.
//!
//! [`Session`] is one sequence and what the model remembers of it. [`Batch`] advances many sessions by one forward pass
//! at a time, prefilling some while others decode; [`generate`] is a batch of one, [`generate_many`] a queue before a
//! batch. [`sample`] turns logits into a token.

mod batch;
pub mod sample;
mod session;

pub use batch::{Batch, Event, Job, Progress, Settings, generate, generate_many, prefill};
pub use sample::{Order, Sampler, Sampling};
pub use session::{Finish, Generation, Request, Reused, Session, Timings};

/// What can go wrong between tokens and tokens.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum EngineError {
    #[error("there is no token to continue from: a prompt needs at least one")]
    EmptyPrompt,
    #[error(
        "token {token} at position {position} is outside the model's vocabulary of {vocabulary}: \
         the tokenizer does not belong to this model"
    )]
    UnknownToken { token: u32, position: usize, vocabulary: usize },
    #[error(
        "the model gave no finite score for any token at position {position}: \
         its weights are damaged or training diverged"
    )]
    NotFinite { position: usize },
    #[error(
        "the prompt has {found} tokens, the context is one of {wanted}: \
         shorten the prompt or allow a longer context, nothing is cut silently"
    )]
    PromptTooLong { found: usize, wanted: usize },
    #[error("sampling: {name} is {found}, it must be {wanted}")]
    Setting { name: &'static str, found: String, wanted: &'static str },
}
