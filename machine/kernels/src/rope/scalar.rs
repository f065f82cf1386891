//! Rotary position embedding, the definition. T tokens, H heads, D head width, R rotated entries.

use crate::real::Real;

/// Rotates entries (j, j + R/2) of the first R of each head by the angle position·theta^(−2j/R); `direction` −1 undoes
/// it. The angle itself is an f32, as in the models that were trained with it.
pub fn apply<R: Real>(x: &mut [R], positions: &[u32], [heads, head_dim]: [usize; 2], rope: &super::Rope, direction: R) {
    let half = rope.rotary_dim / 2;
    for (x_hd, &position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
        for x_d in x_hd.chunks_exact_mut(head_dim) {
            for j in 0..half {
                let angle = R::of(f64::from(position as f32 * super::inverse_frequency(rope, j)));
                let (cosine, sine) = (angle.cos(), direction * angle.sin());
                let (first, second) = (x_d[j], x_d[j + half]);
                x_d[j] = first * cosine - second * sine;
                x_d[j + half] = second * cosine + first * sine;
            }
        }
    }
}
