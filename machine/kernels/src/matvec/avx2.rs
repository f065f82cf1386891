//! AVX2 with FMA: a few rows of the weight by one or two of `x` at a time, one sum in registers for each pair.
//!
//! SAFETY: runs only where `Cpu` has found AVX2, FMA and F16C; a part's rows, columns and tokens are those of its job,
//! whose sizes `matvec::run_parts` has checked.

use super::Part;
use crate::dequantize::avx2::{Decode, with_decoder};
use numeric::minifloat::round_to_bf16;
use std::arch::x86_64::*;

/// # Safety
/// The machine has AVX2, FMA and F16C; the part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    // SAFETY: as promised by the caller.
    with_decoder!(part.weight.data, weight => unsafe {
        if part.round { rows::<_, true>(part, weight) } else { rows::<_, false>(part, weight) }
    });
}

/// All of the part, in groups of tokens; each group reads the part's rows again, from the cache.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<D: Decode, const ROUND: bool>(part: &Part, weight: D) {
    const STEP: usize = 4;
    for start in part.rows.clone().step_by(STEP) {
        let mut token = 0;
        while token < part.tokens() {
            // SAFETY: as promised by the caller.
            token += unsafe {
                match part.tokens() - token {
                    1 => dots::<D, STEP, 1, ROUND>(part, weight, start, token),
                    _ => dots::<D, STEP, 2, ROUND>(part, weight, start, token),
                }
            };
        }
    }
}

/// Rows `start..start + ROWS` of the weight with TOKENS rows of `x`; returns TOKENS.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
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
    let x: [&[f32]; TOKENS] = std::array::from_fn(|t| &part.x[(token + t) * columns..(token + t + 1) * columns]);
    let mut sums = [[_mm256_setzero_ps(); TOKENS]; ROWS];
    let whole = columns / 32 * 32;
    for column in (0..whole).step_by(32) {
        for (weight, sums) in weights.iter().zip(&mut sums) {
            // SAFETY: within the rows of `x` and the weight.
            unsafe {
                let weight = weight.load(column);
                let weight = if ROUND { weight.map(|w| round(w)) } else { weight };
                for (sum, x) in sums.iter_mut().zip(&x) {
                    for (i, weight) in weight.into_iter().enumerate() {
                        *sum = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x.as_ptr().add(column + 8 * i)), *sum);
                    }
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(part.rows.end - start) {
        for (t, sum) in sums.iter().enumerate() {
            let mut sum = total(*sum);
            for (column, x) in x[t].iter().enumerate().skip(whole) {
                // SAFETY: the row has this column.
                let weight = unsafe { weights[r].load_one(column) };
                sum += if ROUND { round_to_bf16(weight) } else { weight } * x;
            }
            // SAFETY: one of the part's rows, one of the job's tokens.
            unsafe { part.write(token + t, start + r, sum) };
        }
    }
    TOKENS
}

#[inline]
#[target_feature(enable = "avx2")]
fn total(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// To the nearest bf16, ties to even. Not a number stays so: its quiet bit is above what is cut.
#[inline]
#[target_feature(enable = "avx2")]
fn round(values: __m256) -> __m256 {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let up = _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))));
    let quiet = _mm256_or_ps(values, _mm256_castsi256_ps(_mm256_set1_epi32(0x0040_0000)));
    let rounded = _mm256_blendv_ps(quiet, up, _mm256_cmp_ps::<_CMP_ORD_Q>(values, values));
    _mm256_and_ps(rounded, _mm256_castsi256_ps(_mm256_set1_epi32(0xFFFF_0000_u32 as i32)))
}
