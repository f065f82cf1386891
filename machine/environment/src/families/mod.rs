//! The kinds of kata. A family draws its operations, names and wording, and writes the reference in the one style that
//! all share: no annotations, no docstring, single quotes, a comprehension where one suffices and a loop where it does
//! not.

mod arithmetic;
mod classes;
mod dictionaries;
mod lists;
mod loops;
mod strings;

use crate::draft::{Draft, Sketch};

/// A kind of kata.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// Never trained on: measures what transfers.
    pub(crate) held_out: bool,
    pub(crate) build: fn(Draft) -> Sketch,
}

const fn known(name: &'static str, build: fn(Draft) -> Sketch) -> Family {
    Family { name, held_out: false, build }
}

const fn held_out(name: &'static str, build: fn(Draft) -> Sketch) -> Family {
    Family { name, held_out: true, build }
}

const GROUPS: &[&[Family]] = &[
    arithmetic::FAMILIES,
    lists::FAMILIES,
    strings::FAMILIES,
    dictionaries::FAMILIES,
    loops::FAMILIES,
    classes::FAMILIES,
];

/// All families, or those that one side of the held-out line sees.
pub(crate) fn families(unseen: bool) -> Vec<&'static Family> {
    GROUPS.iter().flat_map(|group| group.iter()).filter(|family| family.held_out == unseen).collect()
}
