//! Preparation: episodes become rendered tokens with a weight each, packed into batches that do not leak.
//!
//! Read (`kata`, `code`, `read`), render (crate `text`), `weigh`, leave out what is there already or measured
//! (`sieve`), mix and cap (`share`), `pack`, `batch`: `dataset` runs all of it from a recipe's table, `statistics` says
//! what became of it. `mine` makes lines for `read` of a person's own repositories.

pub mod batch;
pub mod code;
mod contamination;
pub mod dataset;
mod error;
pub mod kata;
pub mod kind;
pub mod mine;
mod overlap;
pub mod pack;
pub mod read;
mod share;
mod sieve;
mod similar;
pub mod source;
pub mod statistics;
mod vocabulary;
pub mod weigh;
mod words;

pub use batch::{Batch, Cursor, Loader, LoaderSettings, Sample, fingerprint};
pub use code::CodeRecipe;
pub use contamination::Hit;
pub use dataset::{DataRecipe, Dataset, Fit, SourceRecipe, Unwatched, Watch, load};
pub use error::PrepareError;
pub use kata::{KataMix, KataRecipe, KataReport, measured_tasks};
pub use kind::{Kind, KindWeights};
pub use mine::{MineRecipe, MineReport, MinedKind, mine};
pub use pack::{Packing, Piece, pack};
pub use read::{Broken, FileRecipe, Format, WrittenAs};
pub use source::{NoRoots, PartWeights, Raw, Roots};
pub use statistics::{Counts, SourceStatistics, Statistics};
pub use vocabulary::{Vocabulary, train_tokenizer};
pub use weigh::{FillTraining, Weighing};
