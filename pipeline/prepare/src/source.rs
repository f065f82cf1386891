//! Sources: where documents come from. Each gives [`Raw`] documents in an order that its seed decides.

use crate::kind::Kind;
use std::path::PathBuf;
use text::{Document, Span};

/// A document before it is tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    pub document: Document,
    pub kind: Kind,
    /// What it counts beside others of its kind.
    pub weight: f32,
    /// What its parts count.
    pub parts: PartWeights,
    /// Where a person finds it.
    pub origin: String,
}

impl Raw {
    /// A document that counts 1, with all its parts.
    pub fn new(document: Document, kind: Kind, origin: impl Into<String>) -> Self {
        Self { document, kind, weight: 1.0, parts: PartWeights::default(), origin: origin.into() }
    }
}

/// What the parts of a document count, beside the rest of it, which counts 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PartWeights {
    /// Whole messages of the assistant, by their index.
    pub messages: Vec<(usize, f32)>,
    /// Parts of a text. Their own weight stands in the place of the message's.
    pub spans: Vec<Span>,
    /// What each mark of a span counts.
    pub span_weights: Vec<f32>,
}

impl PartWeights {
    pub fn of_message(&self, index: usize) -> f32 {
        self.messages.iter().find(|(message, _)| *message == index).map_or(1.0, |(_, weight)| *weight)
    }

    /// The mark of a weight.
    pub fn mark(&mut self, weight: f32) -> u16 {
        let known = self.span_weights.iter().position(|&known| known == weight);
        let mark = known.unwrap_or_else(|| {
            self.span_weights.push(weight);
            self.span_weights.len() - 1
        });
        u16::try_from(mark).expect("the reader allows fewer different weights than this")
    }
}

/// What a source left out, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    pub too_large: usize,
    pub licence: usize,
    pub not_text: usize,
    /// Records that cannot be read, where the recipe says to go on.
    pub broken: usize,
    /// Episodes of a part of the world that is measured.
    pub measured: usize,
    /// Roots that this machine does not have.
    pub missing_roots: Vec<String>,
}

/// A root of a code source as a recipe names it: a folder, or a name such as `$rust` that the program looks up.
pub trait Roots {
    /// The folder of a name without its `$`; `None` where this machine has none.
    fn find(&self, name: &str) -> Option<PathBuf>;
}

/// Knows no names.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRoots;

impl Roots for NoRoots {
    fn find(&self, _: &str) -> Option<PathBuf> {
        None
    }
}
