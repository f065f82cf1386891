//! What became of everything that was looked at: kept, or dropped, and why.

use super::episode::MinedKind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The yield of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Yield {
    pub candidates: usize,
    pub kept: usize,
    /// Bytes of text in what was kept.
    pub bytes: usize,
    /// Tokens of what was kept, where a model counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// What was kept, by what it was made from.
    pub forms: BTreeMap<&'static str, usize>,
    pub dropped: BTreeMap<&'static str, usize>,
}

impl Yield {
    pub(super) fn leave_out(&mut self, why: &'static str) {
        *self.dropped.entry(why).or_default() += 1;
    }
}

/// What became of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepositoryReport {
    pub path: PathBuf,
    pub name: String,
    /// The commit that was mined.
    pub commit: String,
    /// An SPDX expression; empty where none was found.
    pub licence: String,
    pub commits: usize,
    /// Files of the present tree that were taken apart.
    pub files: usize,
    /// Why it was passed over, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// What mining gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MineReport {
    pub repositories: Vec<RepositoryReport>,
    pub kinds: BTreeMap<MinedKind, Yield>,
    /// Secrets and addresses that were replaced, by sort.
    pub scrubbed: BTreeMap<&'static str, usize>,
    /// The files that were written.
    pub written: Vec<PathBuf>,
}

impl MineReport {
    pub(super) fn tally(&mut self, kind: MinedKind) -> &mut Yield {
        self.kinds.entry(kind).or_default()
    }

    pub fn kept(&self) -> usize {
        self.kinds.values().map(|tally| tally.kept).sum()
    }
}
