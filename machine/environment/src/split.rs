//! Which tasks a model may train on: decided by a hash of what a task asks, so that no list has to be kept.

use serde::{Deserialize, Serialize};

use crate::source::without_names;

/// The part of the world that a task belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Validation,
    /// Known families with constants, names and pairs of operations that training never shows.
    Test,
    /// Families that training never shows.
    UnseenFamilies,
}

impl Split {
    pub const ALL: [Split; 4] = [Split::Train, Split::Validation, Split::Test, Split::UnseenFamilies];

    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
            Split::UnseenFamilies => "unseen_families",
        }
    }

    /// Whether tasks of this split use the identifiers that are kept out of training.
    pub(crate) fn uses_reserved_names(self) -> bool {
        matches!(self, Split::Test | Split::UnseenFamilies)
    }
}

/// The split of a kata of a family that training may see. A pair of operations is reserved as a whole, in every
/// family: then whatever its constants, training has not composed these two. Otherwise the program decides, without
/// its names, so that two families that happen to write the same program cannot disagree.
pub(crate) fn split_of(operations: &[&str], program: &str) -> Split {
    if let [first, second, ..] = operations {
        match hash(&["pair", first, second]) % 16 {
            0 => return Split::Test,
            1 => return Split::Validation,
            _ => {}
        }
    }
    match hash(&[&without_names(program)]) % 10 {
        0 => Split::Test,
        1 => Split::Validation,
        _ => Split::Train,
    }
}

/// FNV-1a over the parts, finished with a multiply-shift: stable over versions and machines, unlike the standard
/// hasher.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut state: u64 = 0xCBF2_9CE4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0xFF]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    state ^= state >> 32;
    state = state.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    state ^ (state >> 32)
}
