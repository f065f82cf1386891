//! One file per verb: its arguments, and what it does.

pub(crate) mod adapter;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod compare;
pub(crate) mod complete;
pub(crate) mod compress;
mod compress_merging;
pub(crate) mod compress_pad;
pub(crate) mod compress_report;
pub(crate) mod doctor;
pub(crate) mod evaluate;
pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod plan_compress;
pub(crate) mod plan_train;
pub(crate) mod prepare;
pub(crate) mod run;
pub(crate) mod sandbox_worker;
pub(crate) mod train;
