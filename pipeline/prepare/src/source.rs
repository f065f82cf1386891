//! Sources: where documents come from. Each gives [`Raw`] documents in an order that its seed decides.

use crate::kind::Kind;
use std::path::PathBuf;
use text::Document;

/// A document before it is tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    pub document: Document,
    pub kind: Kind,
    /// What it counts beside others of its kind.
    pub weight: f32,
    /// Where a person finds it.
    pub origin: String,
}

/// What a source left out, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    pub too_large: usize,
    pub licence: usize,
    pub not_text: usize,
    /// Overlaps with what is measured.
    pub contaminated: usize,
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
