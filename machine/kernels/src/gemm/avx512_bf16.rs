//! AVX512-BF16: pairs of bf16 multiplied and added to f32, 8 × 32 sums at a time.
//!
//! SAFETY: runs only where `Cpu` has found AVX512-BF16; panels have the sizes that `blocking` gives, and the output's
//! corner has the rows and columns that a `PanelProduct` names.

use super::avx512::mask_of;
use super::bf16::{self, PANEL, TILE_BYTES, TILE_DEPTH, panel_bytes};
use super::portable;
use super::product::{PanelProduct, Variant, nothing};
use std::arch::x86_64::*;

/// Rows of the panel that are summed at a time.
const ROWS: usize = 8;

pub(super) static AVX512_BF16: Variant = Variant {
    name: "avx512_bf16",
    runs_on: |cpu| cpu.avx512_bf16,
    bf16: true,
    panel_rows: PANEL,
    panel_columns: PANEL,
    depth_unit: TILE_DEPTH,
    depth_block: 512,
    row_block: 3 * PANEL,
    element_bytes: 2,
    left_panel_bytes: panel_bytes,
    pack_left: bf16::pack_left,
    pack_left_transposed: bf16::pack_left_transposed,
    pack_right: bf16::pack_right,
    pack_right_transposed: bf16::pack_right_transposed,
    multiply,
    round: portable::round,
    enter: nothing,
    leave: nothing,
    parallel_flops: 2_000_000,
};

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply(p: &PanelProduct) {
    for first in (0..p.rows).step_by(ROWS) {
        // SAFETY: as promised by the caller; these rows lie within the panel.
        unsafe { multiply_rows(p, first) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_rows(p: &PanelProduct, first: usize) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for depth_tile in 0..p.depth / TILE_DEPTH {
        // SAFETY: within the packed panels.
        unsafe {
            let left = p.left.add((2 * depth_tile + first / 16) * TILE_BYTES + 64 * (first % 16));
            let right = p.right.add(2 * depth_tile * TILE_BYTES);
            for pair in 0..TILE_DEPTH / 2 {
                let halves = [load(right.add(64 * pair)), load(right.add(TILE_BYTES + 64 * pair))];
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = left.add(64 * row + 4 * pair).cast::<i32>().read();
                    let value = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(value));
                    sum[0] = _mm512_dpbf16_ps(sum[0], value, halves[0]);
                    sum[1] = _mm512_dpbf16_ps(sum[1], value, halves[1]);
                }
            }
        }
    }
    let masks = [mask_of(p.columns), mask_of(p.columns.saturating_sub(16))];
    for (row, sum) in sums.iter().enumerate().take(p.rows - first) {
        for half in 0..2 {
            // SAFETY: masked to the columns of the output that are this panel's.
            unsafe {
                let to = p.out.pointer.add((first + row) * p.out.stride).wrapping_add(16 * half);
                let mut sum = sum[half];
                if p.accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[half], to));
                }
                _mm512_mask_storeu_ps(to, masks[half], sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8) -> __m512bh {
    // SAFETY: the caller has 64 bytes there, on a line boundary.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(from.cast())) }
}
