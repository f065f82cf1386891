//! What can be wrong with a model that a user names.

use formats::FormatsError;
use formats::gguf::name_of;
use numeric::Format;
use std::path::PathBuf;

/// Every variant says what was wanted and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path}: {problem}")]
    Config { path: PathBuf, problem: String },
    #[error("config.json: {0}")]
    Value(String),
    #[error("tensor {name}: want shape {wanted:?}, the file has {found:?}")]
    Shape { name: String, wanted: Vec<usize>, found: Vec<usize> },
    #[error("tensor {name} is missing ({detail})")]
    Missing { name: String, detail: String },
    #[error("tensor {name}: {problem}")]
    Tensor { name: String, problem: String },
    #[error("no weight became {}: what is quantized already stays as it is, and this model is", name_of(*wanted))]
    AlreadyQuantized { wanted: Format },
    #[error("{}: {problem}; it belongs to another model: remove it, or restore the one of this model", path.display())]
    Lineage { path: PathBuf, problem: String },
    #[error("adapter: {0}")]
    Adapter(String),
    #[error("stopped before the end; nothing was left behind")]
    Cancelled,
    #[error(transparent)]
    Formats(#[from] FormatsError),
}
