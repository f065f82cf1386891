//! Where a model acts and is judged: the kata world, its tools, and the sandbox its code runs in.

mod blocks;
mod decontaminate;
mod draft;
mod families;
mod kata;
mod names;
mod record;
mod repository;
mod sandbox;
mod source;
mod split;
mod task;
pub mod worker;

pub use decontaminate::{Overlap, overlaps};
pub use kata::Test;
pub use record::Episode;
pub use repository::Repository;
pub use sandbox::{Answer, Evaluation, Limits, Probe, Sandbox};
pub use split::Split;
pub use task::{EpisodeKind, Prompt, Task, Verdict, task};
