//! Who teaches: a model in memory, in any format, or what was kept of one on disk.

use models::{Model, Questions, Routed, teach};
use ops::{Buffer, Linear, Parts, Says};
use prepare::Batch;

/// A teacher.
pub trait Teacher {
    /// What it says of a micro-batch.
    fn teach(&mut self, batch: &Batch, questions: &Questions) -> Lesson;

    /// What makes logits of its hidden states; one that gives parts of distributions has none.
    fn head(&self) -> Option<&Linear>;
}

/// What a teacher says of a micro-batch.
#[derive(Debug)]
pub struct Lesson {
    pub output: Output,
    pub routers: Vec<Routed>,
    /// By layer.
    pub streams: Vec<(usize, Buffer)>,
}

/// What is to come after each token.
#[derive(Debug)]
pub enum Output {
    /// Hidden states for the teacher's head, `[T, H]`.
    Hidden(Buffer),
    Parts(KeptParts),
}

/// As [`Parts`], owned.
#[derive(Debug, Default)]
pub struct KeptParts {
    pub tokens: Vec<u32>,
    pub shares: Vec<f32>,
    pub logs: Vec<f32>,
    pub rest: Vec<f32>,
}

impl Output {
    pub(super) fn says<'a>(&'a self, head: Option<&'a Linear>, divergence: ops::Divergence) -> Says<'a> {
        match self {
            Self::Hidden(hidden) => {
                let head = head.expect("a teacher that gives hidden states has a head");
                Says::Hidden { hidden, head, divergence }
            }
            Self::Parts(KeptParts { tokens, shares, logs, rest }) => Says::Parts(Parts { tokens, shares, logs, rest }),
        }
    }
}

/// A whole model in memory.
#[derive(Debug)]
pub struct Resident<'m> {
    pub model: &'m Model,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
}

impl Teacher for Resident<'_> {
    fn teach(&mut self, batch: &Batch, questions: &Questions) -> Lesson {
        let taught = teach(self.model, &batch.tokens, &batch.lengths, self.chunk_tokens, questions);
        Lesson { output: Output::Hidden(taught.hidden), routers: taught.routers, streams: taught.streams }
    }

    fn head(&self) -> Option<&Linear> {
        Some(self.model.weights.head())
    }
}
