//! Number formats: bf16, f16, block-quantized structs with asserted sizes, matrices in any format, inner
//! products, and the random generator.

pub mod aligned;
pub mod block;
pub mod bytes;
mod dequantize;
mod dot;
pub mod ggml;
pub mod matrix;
pub mod minifloat;
pub mod packed;
pub mod quantize;
pub mod rng;
mod system_memory;
mod weight_bytes;
pub mod wire;

pub use aligned::{AlignedBytes, AlignedVec};
pub use bytes::BytesError;
pub use dot::dot;
pub use half::{bf16, f16};
pub use matrix::{Data, Format, Matrix, MatrixView, Storage};
pub use packed::{PANEL, Packed, PackedView};
pub use rng::Rng;
pub use weight_bytes::WeightBytes;
