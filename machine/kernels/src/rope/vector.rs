//! Rotary position embedding over vectors. The sines of a token are made once for all its heads.

use super::Rope;
use crate::simd::{Simd, variants};

/// Sine and cosine to about one unit in the last place of f32, for |angle| < 2^30.
///
/// Written without branches, so that a loop of it becomes vectors. The angle is brought to ±π/4 in f64, where
/// subtracting multiples of π/2 from even a large angle loses nothing that shows; the polynomials are those of Cephes'
/// sinf and cosf.
#[inline(always)]
pub(super) fn sine_cosine(angle: f32) -> (f32, f32) {
    // Adding 1.5·2^52 rounds to a whole number, whose low bits are then the quadrant.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = f64::from(angle) * std::f64::consts::FRAC_2_PI + SHIFT;
    let quadrant = shifted.to_bits() as u32;
    let r = (f64::from(angle) - (shifted - SHIFT) * std::f64::consts::FRAC_PI_2) as f32;
    let square = r * r;
    let sine = r + r * square * (-1.666_665_5e-1 + square * (8.332_161e-3 + square * -1.951_529_6e-4));
    let tail = 4.166_664_6e-2 + square * (-1.388_731_6e-3 + square * 2.443_315_7e-5);
    let cosine = 1.0 - 0.5 * square + square * square * tail;
    // Each quadrant turns (cosine, sine) by a right angle.
    let swapped = quadrant & 1 == 1;
    let (first, second) = if swapped { (cosine, sine) } else { (sine, cosine) };
    let sine_sign = (quadrant & 2) << 30;
    let cosine_sign = (quadrant.wrapping_add(1) & 2) << 30;
    (f32::from_bits(first.to_bits() ^ sine_sign), f32::from_bits(second.to_bits() ^ cosine_sign))
}

#[inline(always)]
fn apply<S: Simd>(
    s: S,
    x: &mut [f32],
    positions: &[u32],
    [heads, head_dim]: [usize; 2],
    (rope, frequencies): (&Rope, &[f32]),
    direction: f32,
) {
    let half = rope.rotary_dim / 2;
    let (mut sines, mut cosines) = (vec![0.0; half], vec![0.0; half]);
    for (x_hd, &position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
        let position = position as f32;
        for ((sine, cosine), &frequency) in sines.iter_mut().zip(cosines.iter_mut()).zip(frequencies) {
            let pair = sine_cosine(position * frequency);
            (*sine, *cosine) = (direction * pair.0, pair.1);
        }
        for x_d in x_hd.chunks_exact_mut(head_dim) {
            let (first_r, rest) = x_d.split_at_mut(half);
            let second_r = &mut rest[..half];
            for j in (0..half).step_by(S::LANES) {
                let (sine, cosine) = (s.load(&sines[j..]), s.load(&cosines[j..]));
                let (first, second) = (s.load(&first_r[j..]), s.load(&second_r[j..]));
                s.store(&mut first_r[j..], s.neg_mul_add(second, sine, s.mul(first, cosine)));
                s.store(&mut second_r[j..], s.mul_add(first, sine, s.mul(second, cosine)));
            }
        }
    }
}
variants! {
    fn apply_tokens(
        x: &mut [f32],
        positions: &[u32],
        heads: [usize; 2],
        rope: (&Rope, &[f32]),
        direction: f32,
    ) = apply
}
