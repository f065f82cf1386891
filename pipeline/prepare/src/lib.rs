//! Preparation: episodes become rendered tokens with a weight each, packed into batches that do not leak.
//!
//! Read (`kata`, `code`, `jsonl`), render (crate `text`), `weigh`, cap (`share`), `pack`, `batch`: `dataset` runs
//! all of it from a recipe's table.

pub mod batch;
pub mod code;
pub mod dataset;
mod error;
pub mod jsonl;
pub mod kata;
pub mod kind;
mod overlap;
pub mod pack;
mod share;
pub mod source;
mod vocabulary;
pub mod weigh;

pub use batch::{Batch, Cursor, Loader, LoaderSettings, Sample, fingerprint};
pub use code::CodeRecipe;
pub use dataset::{DataRecipe, Dataset, Fit, SourceRecipe, Statistics, Unwatched, Watch, load};
pub use error::PrepareError;
pub use jsonl::JsonlRecipe;
pub use kata::{KataMix, KataRecipe, KataReport, measured_tasks};
pub use kind::{Kind, KindWeights};
pub use pack::{Packing, pack};
pub use source::{NoRoots, Raw, Roots};
pub use vocabulary::{Vocabulary, train_tokenizer};
pub use weigh::{FillTraining, Weighing};
