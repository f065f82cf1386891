//! The ways a training run can fail.

use formats::FormatsError;
use models::ModelError;
use std::path::PathBuf;

/// Everything that ends a run other than its own end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe contradicts itself.
    #[error("the training recipe cannot work: {what}")]
    Recipe { what: String },

    /// There is nothing to learn from.
    #[error("there is no sample with a trained token in the training data; check the sources of the recipe")]
    NoData,

    /// A token that the model has no row for.
    #[error(
        "the data holds token {token}, the model knows {vocabulary}; the data was made with another model's tokenizer"
    )]
    Vocabulary { token: u32, vocabulary: usize },

    /// The checkpoint belongs to another run.
    #[error(
        "{}: this checkpoint belongs to a different run: {what}. Restore the recipe to continue it, or remove the \
         folder to begin anew",
        path.display()
    )]
    Changed { path: PathBuf, what: String },

    /// A checkpoint that cannot be right.
    #[error(
        "{}: this checkpoint is damaged: {what}. Remove the folder to go on from the one before it",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },

    /// No room for what the run will write, found before it begins.
    #[error(
        "the disk will not hold this run: {checkpoints} checkpoints of {} MB beside what is there, and the result. \
         Free some space, lower keep_last, or work in another folder",
        checkpoint_bytes.div_ceil(1_000_000)
    )]
    NoRoom { checkpoints: usize, checkpoint_bytes: u64, source: Box<FormatsError> },

    /// A checkpoint could not be written; earlier ones are as they were.
    #[error("step {step} could not be saved; {last}. Run again when that is mended, to go on from there")]
    NotSaved { step: usize, last: String, source: Box<ModelError> },

    /// Losses or gradients that are no numbers any more.
    #[error(
        "at step {step} the {what} was no number, {times} times in a row; lower learning_rate, lengthen warmup_steps, \
         or set clip. The last checkpoint is untouched"
    )]
    Diverged { step: usize, what: &'static str, times: usize },

    /// A teacher that cannot teach this student.
    #[error("this teacher cannot teach this model: {what}")]
    Teacher { what: String },

    /// A cache of something else.
    #[error(
        "{}: this cache of the teacher is of something else: {what}. Remove the file to have it written anew",
        path.display()
    )]
    StaleCache { path: PathBuf, what: String },

    /// The student could not write.
    #[error("the model could not continue a text: {0}")]
    Writing(#[from] engine::EngineError),

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Formats(#[from] FormatsError),

    #[error(transparent)]
    Model(#[from] ModelError),
}
