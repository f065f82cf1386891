//! Packing: which samples, or pieces of samples, share one sequence of a fixed length.
//!
//! `BestFit` is best-fit decreasing as TRL does it: samples sorted by length, longest first (stable), each put into the
//! bin with the smallest space that still holds it; among equal spaces the bin that got that space first; a new bin
//! only where none fits; bins in the order of their creation.

use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// How samples are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Best-fit decreasing; what is longer than a sequence loses its tail.
    #[default]
    BestFit,
    /// Best-fit decreasing; what is longer than a sequence is cut into several pieces.
    BestFitSplit,
    /// One after the other, a new sequence where the next sample does not fit; what is longer than a sequence loses
    /// its tail. Best fit gathers samples of one length in one sequence, and length goes with kind; this keeps them
    /// mixed, and costs nothing, because no place is padded.
    NextFit,
    /// One after the other, cut wherever a sequence is full. The pieces still do not see each other.
    Wrapped,
}

impl Packing {
    /// Whether what is longer than a sequence loses its tail.
    pub fn truncates(self) -> bool {
        matches!(self, Packing::BestFit | Packing::NextFit)
    }
}

/// `length` tokens of sample `sample`, from token `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub sample: usize,
    pub start: usize,
    pub length: usize,
}

/// The pieces of one sequence; their lengths sum up to at most the sequence length.
pub type Bin = Vec<Piece>;

/// Packs samples of the given lengths. Empty samples take no part.
pub fn pack(lengths: &[usize], sequence_length: usize, packing: Packing) -> Vec<Bin> {
    assert!(sequence_length > 0, "a sequence holds at least one token");
    match packing {
        Packing::BestFit => best_fit(truncated(lengths, sequence_length), sequence_length),
        Packing::BestFitSplit => best_fit(split(lengths, sequence_length), sequence_length),
        Packing::NextFit => next_fit(truncated(lengths, sequence_length), sequence_length),
        Packing::Wrapped => wrapped(lengths, sequence_length),
    }
}

fn truncated(lengths: &[usize], sequence_length: usize) -> Vec<Piece> {
    let pieces = lengths.iter().enumerate();
    pieces
        .filter(|&(_, &length)| length > 0)
        .map(|(sample, &length)| Piece { sample, start: 0, length: length.min(sequence_length) })
        .collect()
}

fn split(lengths: &[usize], sequence_length: usize) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(lengths.len());
    for (sample, &length) in lengths.iter().enumerate() {
        for start in (0..length).step_by(sequence_length) {
            pieces.push(Piece { sample, start, length: sequence_length.min(length - start) });
        }
    }
    pieces
}

fn best_fit(mut pieces: Vec<Piece>, sequence_length: usize) -> Vec<Bin> {
    pieces.sort_by_key(|piece| Reverse(piece.length));
    let mut bins: Vec<Bin> = Vec::new();
    let mut bins_by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let smallest = bins_by_space.range(piece.length..).next().map(|(&space, _)| space);
        let (bin, space) = match smallest {
            Some(space) => (take_first(&mut bins_by_space, space), space),
            None => {
                bins.push(Bin::new());
                (bins.len() - 1, sequence_length)
            }
        };
        bins[bin].push(piece);
        if space > piece.length {
            bins_by_space.entry(space - piece.length).or_default().push_back(bin);
        }
    }
    bins
}

fn take_first(bins_by_space: &mut BTreeMap<usize, VecDeque<usize>>, space: usize) -> usize {
    let queue = bins_by_space.get_mut(&space).expect("the space was found just now");
    let bin = queue.pop_front().expect("empty queues are removed");
    if queue.is_empty() {
        bins_by_space.remove(&space);
    }
    bin
}

fn next_fit(pieces: Vec<Piece>, sequence_length: usize) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let mut space = 0;
    for piece in pieces {
        if piece.length > space {
            bins.push(Bin::new());
            space = sequence_length;
        }
        bins.last_mut().expect("pushed above").push(piece);
        space -= piece.length;
    }
    bins
}

fn wrapped(lengths: &[usize], sequence_length: usize) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let mut space = 0;
    for (sample, &length) in lengths.iter().enumerate() {
        let mut start = 0;
        while start < length {
            if space == 0 {
                bins.push(Bin::new());
                space = sequence_length;
            }
            let taken = space.min(length - start);
            bins.last_mut().expect("pushed above").push(Piece { sample, start, length: taken });
            start += taken;
            space -= taken;
        }
    }
    bins
}
