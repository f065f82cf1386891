//! Rotary position embedding, "rotate half" on the first R entries of each head; the rest passes through.
//!
//! x is [T, H, D], changed in place. R ≤ D, R even, one position per token, else a panic. Against f64:
//! 3e-7·|x|, at any position up to 2^24.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

use crate::simd::{Level, for_each, rows_per_task};

/// The rotation of a model: how many entries of a head turn, and the base of the frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub rotary_dim: usize,
    pub theta: f32,
}

/// theta^(−2j/R), computed in f32 as the trained models do.
fn inverse_frequency(rope: &Rope, j: usize) -> f32 {
    1.0 / rope.theta.powf((2 * j) as f32 / rope.rotary_dim as f32)
}

/// Rotates x [T, H, D] forwards.
pub fn apply(x: &mut [f32], positions: &[u32], heads: usize, head_dim: usize, rope: &Rope) {
    run(x, positions, [heads, head_dim], rope, 1.0);
}

/// Rotates x [T, H, D] back: the inverse, and so the adjoint.
pub fn apply_inverse(x: &mut [f32], positions: &[u32], heads: usize, head_dim: usize, rope: &Rope) {
    run(x, positions, [heads, head_dim], rope, -1.0);
}

fn run(x: &mut [f32], positions: &[u32], [heads, head_dim]: [usize; 2], rope: &Rope, direction: f32) {
    let width = heads * head_dim;
    assert!(rope.rotary_dim.is_multiple_of(2) && rope.rotary_dim <= head_dim, "{rope:?} of heads of {head_dim}");
    assert!(width > 0 && x.len() == positions.len() * width, "{} values at {} positions", x.len(), positions.len());
    let frequencies: Vec<f32> = (0..rope.rotary_dim / 2).map(|j| inverse_frequency(rope, j)).collect();
    let rows = rows_per_task(width);
    for_each(x.chunks_mut(rows * width).zip(positions.chunks(rows)), |(x, positions)| {
        vector::apply_tokens(Level::best(), x, positions, [heads, head_dim], (rope, &frequencies), direction);
    });
}
