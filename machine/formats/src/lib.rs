//! Files: safetensors, GGUF, manifests and atomic writes; bytes become named tensors, every length checked.
//!
//! A file is a stranger's word: nothing in a header is used before it is checked against the bytes that are there.
//! [`TensorFile`] reads one file, [`Tensors`] a model directory with its shards, both memory-mapped, one tensor at a
//! time; [`Gguf`] a model in GGUF. [`TensorPlan`] and [`TensorWriter`] write them without holding the model in memory
//! and without leaving half a file. [`Manifest`] says what a stage was made from, so that a run can tell what is
//! already done.

pub mod atomic;
pub mod dtype;
mod error;
pub mod gguf;
mod header;
pub mod manifest;
mod map;
mod output;
pub mod safetensors;
pub mod tensor;
pub mod writer;

pub use atomic::{AtomicFile, read_json, write_atomically, write_json};
pub use dtype::DType;
pub use error::FormatsError;
pub use gguf::{Gguf, GgufTensor};
pub use manifest::{Manifest, changes, hash_bytes, hash_directory, hash_file};
pub use output::check_room;
pub use safetensors::{TensorFile, Tensors};
pub use tensor::Tensor;
pub use writer::{SHARD_BYTES_MAX, TensorPlan, TensorWriter, write_tensors};
