//! AVX-512: panels of 12 × 32, twenty-four sums, two right vectors and a broadcast in the thirty-two registers.
//!
//! SAFETY: runs only where `Cpu` has found AVX-512; windows and panels have the sizes that `blocking` gives, and the
//! output's corner has the rows and columns that a `PanelProduct` names.

use super::portable::{self, DEPTH_BLOCK, left_panel_bytes, left_steps};
use super::product::{PanelProduct, Variant, Window, nothing};
use std::arch::x86_64::*;

const ROWS: usize = 12;
const COLUMNS: usize = 32;

pub(super) static AVX512: Variant = Variant {
    name: "avx512",
    runs_on: |cpu| cpu.avx512,
    bf16: false,
    panel_rows: ROWS,
    panel_columns: COLUMNS,
    depth_unit: 1,
    depth_block: DEPTH_BLOCK,
    row_block: 8 * ROWS,
    element_bytes: 4,
    left_panel_bytes: left_panel_bytes::<ROWS>,
    pack_left,
    pack_left_transposed,
    pack_right,
    pack_right_transposed,
    multiply,
    round,
    enter: nothing,
    leave: nothing,
    parallel_flops: 1_000_000,
};

#[target_feature(enable = "avx512f")]
unsafe fn pack_left(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_left::<ROWS>(from, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn pack_left_transposed(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_left_transposed::<ROWS>(from, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn pack_right(from: Window, at: usize, depth: usize, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_right::<COLUMNS>(from, at, depth, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn round(values: &mut [f32]) {
    portable::round(values);
}

#[target_feature(enable = "avx512f")]
unsafe fn pack_right_transposed(from: Window, to: *mut u8) {
    let to = to.cast::<f32>();
    for half in 0..2 {
        let rows = from.rows.saturating_sub(16 * half).min(16);
        for depth in (0..from.columns).step_by(16) {
            let width = (from.columns - depth).min(16);
            let mask = mask_of(width);
            let mut square = [_mm512_setzero_si512(); 16];
            // SAFETY: masked loads within the window, stores within the panel.
            unsafe {
                for (row, vector) in square.iter_mut().enumerate().take(rows) {
                    let from = from.pointer.add((16 * half + row) * from.stride + depth);
                    *vector = _mm512_maskz_loadu_epi32(mask, from.cast());
                }
                let square = transpose(square);
                for (row, vector) in square.iter().enumerate().take(width) {
                    _mm512_storeu_si512(to.add((depth + row) * COLUMNS + 16 * half).cast(), *vector);
                }
            }
        }
    }
}

/// A mask of the first `count` of sixteen lanes.
#[inline]
pub(super) fn mask_of(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// The transpose of sixteen rows of sixteen 32-bit numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Within lanes of 128 bits: 4 × 4 transposes. t[4g + c] holds column 4·lane + c of rows 4g..4g + 4.
    let mut t = rows;
    for g in 0..4 {
        let (a, b, c, d) = (rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]);
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        t[4 * g] = _mm512_unpacklo_epi64(ab_low, cd_low);
        t[4 * g + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        t[4 * g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        t[4 * g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Across lanes: for each c, a 4 × 4 transpose of lanes.
    let mut out = t;
    for c in 0..4 {
        let low01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(t[c], t[4 + c]);
        let high01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(t[c], t[4 + c]);
        let low23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(t[8 + c], t[12 + c]);
        let high23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(t[8 + c], t[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low01, low23);
        out[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high01, high23);
        out[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low01, low23);
        out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high01, high23);
    }
    out
}

#[target_feature(enable = "avx512f")]
unsafe fn multiply(p: &PanelProduct) {
    // Two instances, so that the steps are constants in the innermost loop.
    // SAFETY: as promised by the caller.
    unsafe { if p.left_transposed { multiply_steps::<true>(p) } else { multiply_steps::<false>(p) } }
}

#[target_feature(enable = "avx512f")]
unsafe fn multiply_steps<const TRANSPOSED: bool>(p: &PanelProduct) {
    let (row_step, depth_step) = const { left_steps::<ROWS>(TRANSPOSED) };
    let (mut left, mut right) = (p.left.cast::<f32>(), p.right.cast::<f32>());
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for _ in 0..p.depth {
        // SAFETY: within the packed panels.
        unsafe {
            let (r0, r1) = (_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16)));
            for (row, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*left.add(row * row_step));
                sum[0] = _mm512_fmadd_ps(value, r0, sum[0]);
                sum[1] = _mm512_fmadd_ps(value, r1, sum[1]);
            }
            left = left.add(depth_step);
            right = right.add(COLUMNS);
        }
    }
    let masks = [mask_of(p.columns), mask_of(p.columns.saturating_sub(16))];
    for (row, sum) in sums.iter().enumerate().take(p.rows) {
        for half in 0..2 {
            // SAFETY: masked to the columns of the output that are this panel's.
            unsafe {
                let to = p.out.pointer.add(row * p.out.stride).wrapping_add(16 * half);
                let mut sum = sum[half];
                if p.accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[half], to));
                }
                _mm512_mask_storeu_ps(to, masks[half], sum);
            }
        }
    }
}
