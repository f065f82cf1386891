//! Low-rank adapters (LoRA; Hu et al. 2021): attached to any linear map and to all experts of a layer at once, merged,
//! and exchanged with PEFT.
//!
//! `config.rs` says what is trained, `places.rs` where an adapter can be, `whole.rs` what is trained whole beside them,
//! `peft.rs`, `import.rs`, `experts.rs` and `export.rs` speak with PEFT's directories, `merge.rs` adds adapters to
//! weights, in memory or from folder to folder, and `prove.rs` shows that it did.

mod config;
mod experts;
mod export;
mod import;
mod inspect;
mod merge;
mod pattern;
mod peft;
pub(crate) mod places;
mod probe;
mod prove;
mod whole;

pub use config::{LoraConfig, LoraPattern, attach, outline};
pub use experts::ExpertLayout;
pub use export::{Export, ExportLayout, save_peft};
pub use import::{Import, load_peft};
pub use inspect::{AdapterSummary, Description, KindSummary, TensorKind, describe, inspect, summary};
pub use merge::{Merge, MergeStep, merge, merge_directory};
pub use probe::Probe;
pub use prove::{KindProof, Proof};
