//! Dropout whose mask is a function of its place: y = x · m / (1 − rate), with m[r, c] 0 for about `rate` of all
//! places.
//!
//! R rows, C columns; x, y [R, C]; one key to each row. Nothing is drawn from a stream, so whoever knows the keys can
//! make the same mask again: a recomputed layer, a backward pass, a resumed run. `forward` writes y, `backward` adds.
//!
//! A few integer operations to each number, which compilers turn into vectors: there is no other variant than the
//! definition, run in parallel.

pub mod scalar;
#[cfg(test)]
mod tests;

use crate::simd::{for_each_worth, rows_per_task};

pub use scalar::key;

/// y = x · m / (1 − rate).
pub fn forward(y: &mut [f32], x: &[f32], keys: &[u64], rate: f32) {
    run(y, x, keys, |y, x, key| scalar::forward(y, x, key, rate));
}

/// dx += dy · m / (1 − rate): the adjoint of [`forward`] with the same keys.
pub fn backward(dx: &mut [f32], dy: &[f32], keys: &[u64], rate: f32) {
    run(dx, dy, keys, |dx, dy, key| scalar::backward(dx, dy, key, rate));
}

fn run(to: &mut [f32], from: &[f32], keys: &[u64], row: impl Fn(&mut [f32], &[f32], u64) + Sync + Send) {
    assert_eq!(to.len(), from.len(), "input and output differ in size");
    let Some(columns) = to.len().checked_div(keys.len()).filter(|&columns| columns > 0) else { return };
    assert_eq!(to.len(), keys.len() * columns, "one key to each row");
    let (rows, values) = (rows_per_task(columns), to.len());
    let pairs = to.chunks_mut(rows * columns).zip(from.chunks(rows * columns));
    for_each_worth(values, pairs.zip(keys.chunks(rows)).collect(), |((to, from), keys)| {
        let rows = to.chunks_exact_mut(columns).zip(from.chunks_exact(columns));
        rows.zip(keys).for_each(|((to, from), &key)| row(to, from, key));
    });
}
