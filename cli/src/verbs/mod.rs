//! One file per verb: its arguments, and what it does.

pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod prepare;
pub(crate) mod sandbox_worker;
