//! Preparation: episodes become rendered tokens with a weight each, packed into batches that do not leak.

pub mod batch;
pub mod kind;
pub mod pack;

pub use batch::{Batch, Cursor, Loader, LoaderSettings, Sample};
pub use kind::{Kind, KindWeights};
pub use pack::{Packing, pack};
