//! What merging did, for reports.

use super::RouterRow;
use serde::{Deserialize, Serialize};

/// How the neurons of a merged expert came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Combination {
    Average,
    /// The strongest of all members.
    Selection,
}

/// One group. Errors are of the layer's output, in squares by those of the output before, over the held-out rows that
/// the group touches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupOutcome {
    pub into: usize,
    pub from: Vec<usize>,
    /// Whether it was merged; if not, its members but the first were dropped.
    pub merged: bool,
    /// Held-out rows that the group touches.
    pub rows: usize,
    /// If the members are just dropped.
    pub error_dropped: f64,
    /// If they are merged in the way that measures best.
    pub error_merged: f64,
    /// The same weights with the routing as it was before, gates of members added: what the router cannot improve on.
    pub error_tied: f64,
    pub router: RouterRow,
    pub combination: Combination,
    /// Dimensions of gate, up and down that the subspace of the average keeps.
    pub ranks: [usize; 3],
    /// Mean distance of the members from the first, 0 for equal and about 1 for unrelated experts, before neurons were
    /// put in one order and after.
    pub distance_before: f64,
    pub distance_after: f64,
    /// The penalty of the fit; 0 if nothing was fitted.
    pub lambda: f64,
}

/// One mixture. Errors are of its output, in squares by those of the output before, over all held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerOutcome {
    pub layer: usize,
    /// If everything that does not stay is dropped.
    pub error_dropped: f64,
    pub error: f64,
    /// Experts whose down projection was fitted to what the layer missed.
    pub refitted: usize,
    pub groups: Vec<GroupOutcome>,
}
