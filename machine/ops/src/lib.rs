//! The closed vocabulary of operations a model is written in, and the executors that decide what running it means.
//!
//! Legend: T tokens (rows), H hidden width, E experts. Every value is `[T, width]`, f32, row-major.
//!
//! [`Execute`] is the vocabulary. [`Infer`] runs the kernels and forgets; a recorder ([`Record`]) may look at what
//! experts do. [`Tape`] runs the same kernels, remembers, and walks back, where a recorder ([`RecordBackward`]) may
//! look at what is asked of them; [`Rehearse`] runs none and notes how much memory they would take. Each operation's
//! forward and backward stand side by side in a file of their own.

pub mod attention;
pub mod buffer;
pub mod causal_conv;
pub mod columns;
pub mod cross_entropy;
pub mod delta_rule;
mod execute;
mod gate_mask;
mod infer;
pub mod linear;
mod low_rank;
pub mod moe;
mod parameter;
mod rehearse;
mod rehearse_tape;
mod ring;
mod state;
mod tape;
mod timed;

pub use buffer::Buffer;
pub use columns::Columns;
pub use execute::{Execute, Says, Teacher};
pub use infer::{Forget, Infer, Record};
pub use kernels::attention::Shape as AttentionShape;
pub use kernels::cross_entropy::{Divergence, Parts};
pub use kernels::gated_delta::Shape as DeltaShape;
pub use kernels::gemm::Precision;
pub use kernels::kv_page::{KvFormat, PageShape};
pub use kernels::rope::Rope;
pub use moe::{ExpertGradients, RecordBackward, RouterTarget, Routing, every_expert};
pub use parameter::{Adapter, Conv, DeltaGates, Expert, Gradients, Linear, Moe, Norm, Parameter};
pub use rehearse::{Held, Rehearse, Rehearsed};
pub use rehearse_tape::RehearseTape;
pub use ring::{Ring, Round};
pub use state::{DeltaState, KvCache, Spans};
pub use tape::{Carried, Mark, Segment, Tape, TokenNumbers, Var};
pub use timed::{OpTime, Timed};
