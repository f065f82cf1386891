//! The model family: one forward pass for qwen3_next, qwen3_moe, qwen3 and qwen2.
//!
//! Legend: T tokens, H hidden width, V vocabulary, E experts.
//! Read `forward.rs` first: it is the model. `weights.rs` says what it is made of, `state.rs` what it remembers;
//! `stream.rs` reads a model that is larger than memory, `rewrite.rs` writes one.

pub mod adapter;
pub mod alignment;
mod attention;
mod chunk;
mod config;
mod cost;
mod delta_net;
mod error;
mod feed_forward;
mod forward;
mod gguf;
mod gradient;
mod guidance;
mod kept;
mod layerwise;
mod lineage;
mod model;
mod plan;
mod plan_layerwise;
mod plan_training;
mod quantization;
mod rewrite;
mod source;
mod state;
mod store;
mod stream;
mod teaching;
mod weights;

pub use config::{
    AttentionConfig, Config, DeltaConfig, ExpertsConfig, FeedForwardKind, LayerConfig, MixerKind, ModelType,
};
pub use cost::TokenBytes;
pub use error::ModelError;
pub use feed_forward::dense;
pub use forward::{embed, finish, hidden, layer, logits};
pub use gradient::{
    CHUNK_TOKENS, Examples, GradientOptions, Record, guided_gradients, loss_and_gradients, losses, shared_gradients,
};
pub use guidance::{Guidance, Guided, OutputGuide, RouterGuide, StreamGuide};
pub use layerwise::{Ending, Layers, layer_from_empty};
pub use lineage::{LINEAGE, Lineage};
pub use model::{Loading, Model};
pub use ops::KvFormat;
pub use plan::{Plan, PlanSettings};
pub use plan_layerwise::{LayerwisePlan, LayerwiseSettings};
pub use plan_training::{TeacherSettings, TrainingPlan, TrainingSettings};
pub use quantization::Quantization;
pub use rewrite::{Rewrite, RewriteStep, rewrite_bytes, rewrite_model};
pub use state::{LayerState, State};
pub use stream::LayerStream;
pub use teaching::{Asked, Questions, Routed, Taught, teach};
pub use weights::{
    AttentionWeights, DeltaInput, DeltaWeights, FeedForward, LayerWeights, Mixer, MoeWeights, SharedExpert, Weights,
};
