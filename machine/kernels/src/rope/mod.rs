//! Rotary position embedding, "rotate half" on the first R entries of each head; the rest passes through.
//!
//! x is [T, H, D], changed in place. R ≤ D, R even, one position per token, else a panic.

pub mod scalar;

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
    scalar::apply(x, positions, [heads, head_dim], rope, 1.0);
}

/// Rotates x [T, H, D] back: the inverse, and so the adjoint.
pub fn apply_inverse(x: &mut [f32], positions: &[u32], heads: usize, head_dim: usize, rope: &Rope) {
    scalar::apply(x, positions, [heads, head_dim], rope, -1.0);
}
