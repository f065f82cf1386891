//! A tape in segments: some tokens in one layer, say. Each is written at the end of the tape and then either forgotten,
//! to be run again when its turn comes to be walked back, or left where it is. Segments are walked back from the last
//! to the first.
//!
//! Where tokens of one sequence lie in several segments, the state passes from each to the next while they are run, in
//! the states that operations are given; what the later ones ask of it passes back in [`Carried`].

use super::{Buffer, Op, RouterTarget, Tape, Var};
use crate::ring::{self, Round};
use kernels::attention::KeyGradients;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which tokens of the batch the rows of a segment are: what adapters leave out depends on the token, not on how a
/// batch is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenNumbers {
    first: usize,
    /// From this row on they begin anew, with `then`.
    turn: usize,
    then: usize,
}

impl TokenNumbers {
    /// The tokens from `first` on.
    pub fn from(first: usize) -> Self {
        Self { first, turn: usize::MAX, then: 0 }
    }

    /// The tokens from `first` on, and from some row on those from another.
    pub fn broken(first: usize, (turn, then): (usize, usize)) -> Self {
        Self { first, turn, then }
    }

    pub fn of(self, row: usize) -> usize {
        if row < self.turn { self.first + row } else { self.then + row - self.turn }
    }
}

/// How a segment stands among others. Of its spans only the first may continue a sequence that began before.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    pub tokens: TokenNumbers,
    /// The last span's sequence goes on after the segment: its keys and values are kept.
    pub goes_on: bool,
    /// The experts that its mixtures chose when they were first run, `[T, top_k]` each, in order. Choices are never
    /// made twice: rounded inputs might make others.
    pub choices: Vec<Vec<u32>>,
    /// What the routers of its mixtures are taught, in order; empty where they are taught nothing.
    pub router_targets: Vec<RouterTarget>,
    /// What the gates of its mixtures are multiplied by, in order, `[E]` each; empty where they stay as they are.
    pub masks: Vec<Vec<f32>>,
    /// The round whose tokens these are this rank's, where several share them. Spans may then continue sequences in two
    /// places, and there is one state to all of them: what the round found, and what it leaves.
    pub round: Option<Arc<Round>>,
}

/// Where a segment begins, on the tape and in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    nodes: usize,
    tokens: TokenNumbers,
}

impl Mark {
    pub(crate) fn at(nodes: usize, tokens: TokenNumbers) -> Self {
        Self { nodes, tokens }
    }

    pub(crate) fn nodes(self) -> usize {
        self.nodes
    }

    pub(crate) fn tokens(self) -> TokenNumbers {
        self.tokens
    }
}

/// What later tokens of a sequence ask of the state that earlier ones left in one layer: its gradient. Empty where they
/// ask nothing.
#[derive(Debug, Default)]
pub struct Carried {
    /// Of the convolution's last inputs, `[kernel − 1, channels]`.
    pub tail: Vec<f32>,
    /// Of the delta matrix, `[value_heads, key_dim, value_dim]`.
    pub matrix: Vec<f32>,
    /// Of all keys and values so far.
    pub keys: KeyGradients,
}

impl Carried {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.matrix.is_empty() && self.keys.is_empty()
    }

    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.tail.len() + self.matrix.len()) + self.keys.bytes()
    }
}

impl Tape<'_, '_> {
    /// Begins a segment where the tape ends.
    pub fn begin(&mut self, segment: Segment) -> Mark {
        self.segment = segment;
        self.mixtures = 0;
        Mark::at(self.nodes.len(), self.segment.tokens)
    }

    /// Takes a value off the tape, which keeps its shape alone: one that came from outside, or a sum that no operation
    /// of the tape has read.
    pub fn take(&mut self, var: Var) -> Buffer {
        let node = &mut self.nodes[var.0];
        assert!(matches!(node.op, Op::Input | Op::Add { .. } | Op::Embedding { .. }), "backward reads this value");
        let gone = Buffer::gone(node.value.rows, node.value.width);
        std::mem::replace(&mut node.value, gone)
    }

    /// What the mixtures from `mark` on chose, in order.
    pub fn choices(&self, mark: Mark) -> Vec<Vec<u32>> {
        let of = |op: &Op| match op {
            Op::Moe { saved, .. } => Some(saved.routing.indices.clone()),
            _ => None,
        };
        self.nodes[mark.nodes..].iter().filter_map(|node| of(&node.op)).collect()
    }

    /// Forgets all from `mark` on.
    pub fn forget(&mut self, mark: Mark) {
        self.nodes.truncate(mark.nodes);
    }

    /// All of a batch of so many tokens was run: what is run from now on was run before. The balance of the routers is
    /// that of the whole batch, not of each segment, nor of each rank.
    pub fn turn(&mut self, tokens: usize) {
        let mut layers: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (layer, counts) in &self.expert_counts {
            let sums = layers.entry(*layer).or_insert_with(|| vec![0; counts.len()]);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let mut numbers: Vec<u64> = std::iter::once(tokens as u64).chain(layers.values().flatten().copied()).collect();
        if let Some(ring) = &mut self.ring {
            ring::sum(*ring, &mut numbers);
        }
        let mut numbers = numbers.into_iter();
        let tokens = numbers.next().expect("the tokens stand first") as usize;
        layers.values_mut().flatten().zip(numbers).for_each(|(count, sum)| *count = sum);
        self.batch = Some((tokens, layers));
    }

    /// Tokens per expert of each layer's mixture over the whole batch, once it was run.
    pub fn batch_counts(&self) -> impl Iterator<Item = &[u64]> {
        self.batch.iter().flat_map(|(_, layers)| layers.values().map(Vec::as_slice))
    }
}
