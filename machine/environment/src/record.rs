//! A task as one line of JSON, to be read by people and by the pipeline.

use serde::{Deserialize, Serialize};
use text::chat::Document;

use crate::kata::Test;
use crate::split::Split;
use crate::task::{EpisodeKind, Task};

/// A demonstration with where it comes from and the tests that judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    pub id: String,
    pub kind: EpisodeKind,
    pub family: String,
    pub split: Split,
    pub document: Document,
    pub tests: Vec<Test>,
}

impl Task {
    pub fn record(&self) -> Episode {
        Episode {
            id: self.id.clone(),
            kind: self.kind,
            family: self.family.to_owned(),
            split: self.split,
            document: self.demonstration(),
            tests: self.tests().to_vec(),
        }
    }
}
