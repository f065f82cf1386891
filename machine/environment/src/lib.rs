//! Where a model acts and is judged: the kata world, its tools, and the sandbox its code runs in.

mod blocks;
mod debugging;
mod decontaminate;
mod draft;
mod families;
mod hole;
mod kata;
mod mutate;
mod names;
mod reasoning;
mod record;
mod replay;
mod repository;
mod review;
mod sandbox;
mod scenario;
mod source;
mod split;
mod task;
mod trace;
pub mod worker;

pub use decontaminate::{Overlap, overlaps};
pub use kata::Test;
pub use record::Episode;
pub use repository::{Repository, tools};
pub use sandbox::{Answer, Evaluation, Limits, Probe, Sandbox};
pub use split::Split;
pub use task::{EpisodeKind, Prompt, Task, Verdict, task};

#[cfg(test)]
mod repository_tests;
#[cfg(test)]
mod tests;
