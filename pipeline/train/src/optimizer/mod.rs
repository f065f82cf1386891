//! Optimizers: how gradients become changes of the parameters.

mod adamw;

pub use adamw::{Moments, Optimizer};
