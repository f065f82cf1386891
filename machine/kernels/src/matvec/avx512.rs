//! AVX-512: a few rows of the weight by a few of `x` at a time, one sum in registers for each pair.
//!
//! SAFETY: runs only where `Cpu` has found AVX-512; a part's rows, columns and tokens are those of its job, whose sizes
//! `matvec::run_parts` has checked.

use super::Part;
use crate::dequantize::avx512::{Decode, with_decoder};
use std::arch::x86_64::*;

/// # Safety
/// The machine has AVX-512; the part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    // SAFETY: as promised by the caller.
    with_decoder!(part.weight.data, weight => unsafe {
        if part.round { rows::<_, true>(part, weight) } else { rows::<_, false>(part, weight) }
    });
}

/// All of the part, in groups of tokens; each group reads the part's rows again, from the cache.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn rows<D: Decode, const ROUND: bool>(part: &Part, weight: D) {
    const STEP: usize = 4;
    for start in part.rows.clone().step_by(STEP) {
        let mut token = 0;
        while token < part.tokens() {
            // SAFETY: as promised by the caller.
            token += unsafe {
                match part.tokens() - token {
                    1 => dots::<D, STEP, 1, ROUND>(part, weight, start, token),
                    2 | 3 => dots::<D, STEP, 2, ROUND>(part, weight, start, token),
                    4..8 => dots::<D, STEP, 4, ROUND>(part, weight, start, token),
                    _ => {
                        // Sums for eight tokens leave registers for half of the rows.
                        if start + STEP / 2 < part.rows.end {
                            dots::<D, { STEP / 2 }, 8, ROUND>(part, weight, start + STEP / 2, token);
                        }
                        dots::<D, { STEP / 2 }, 8, ROUND>(part, weight, start, token)
                    }
                }
            };
        }
    }
}

/// Rows `start..start + ROWS` of the weight with TOKENS rows of `x`; returns TOKENS.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn dots<D: Decode, const ROWS: usize, const TOKENS: usize, const ROUND: bool>(
    part: &Part,
    weight: D,
    start: usize,
    token: usize,
) -> usize {
    let columns = part.weight.columns;
    let last = part.rows.end - 1;
    // Beyond the part's end its last row again, which is then not written.
    let weights: [D; ROWS] = std::array::from_fn(|r| unsafe {
        // SAFETY: the row exists.
        weight.row((start + r).min(last), columns)
    });
    let x: [*const f32; TOKENS] = std::array::from_fn(|t| part.x[(token + t) * columns..].as_ptr());
    let mut sums = [[_mm512_setzero_ps(); TOKENS]; ROWS];
    let whole = columns / 32 * 32;
    for column in (0..whole).step_by(32) {
        // SAFETY: within the rows of `x` and the weight.
        unsafe {
            let x: [[__m512; 2]; TOKENS] =
                std::array::from_fn(|t| [_mm512_loadu_ps(x[t].add(column)), _mm512_loadu_ps(x[t].add(column + 16))]);
            for (weight, sums) in weights.iter().zip(&mut sums) {
                add::<TOKENS, ROUND>(sums, weight.load(column), &x);
            }
        }
    }
    if whole < columns {
        let count = columns - whole;
        let masks = [((1u32 << count.min(16)) - 1) as u16, ((1u32 << count.saturating_sub(16)) - 1) as u16];
        // SAFETY: masked to the rows of `x` and the weight.
        unsafe {
            let x: [[__m512; 2]; TOKENS] = std::array::from_fn(|t| {
                let from = x[t].wrapping_add(whole);
                [_mm512_maskz_loadu_ps(masks[0], from), _mm512_maskz_loadu_ps(masks[1], from.wrapping_add(16))]
            });
            for (weight, sums) in weights.iter().zip(&mut sums) {
                add::<TOKENS, ROUND>(sums, weight.load_part(whole, count), &x);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(part.rows.end - start) {
        for (t, sum) in sums.iter().enumerate() {
            // SAFETY: one of the part's rows, one of the job's tokens.
            unsafe { part.write(token + t, start + r, _mm512_reduce_add_ps(*sum)) };
        }
    }
    TOKENS
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add<const TOKENS: usize, const ROUND: bool>(
    sums: &mut [__m512; TOKENS],
    weight: [__m512; 2],
    x: &[[__m512; 2]; TOKENS],
) {
    let weight = if ROUND { weight.map(|w| round(w)) } else { weight };
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = _mm512_fmadd_ps(weight[0], x[0], *sum);
        *sum = _mm512_fmadd_ps(weight[1], x[1], *sum);
    }
}

/// To the nearest bf16, ties to even. Not a number stays so: its quiet bit is above what is cut.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(values: __m512) -> __m512 {
    let bits = _mm512_castps_si512(values);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(values, values);
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
    let rounded = _mm512_mask_blend_epi32(number, quiet, up);
    _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)))
}
