//! AVX2 with FMA: panels of 6 × 16, twelve sums, two right vectors and two broadcasts in the sixteen registers.
//!
//! SAFETY: runs only where `Cpu` has found AVX2 and FMA; windows and panels have the sizes that `blocking` gives, and
//! the output's corner has the rows and columns that a `PanelProduct` names.

use super::portable::{self, DEPTH_BLOCK, left_panel_bytes, left_steps};
use super::product::{PanelProduct, Variant, Window, nothing};
use std::arch::x86_64::*;

const ROWS: usize = 6;
const COLUMNS: usize = 16;

pub(super) static AVX2: Variant = Variant {
    name: "avx2",
    runs_on: |cpu| cpu.avx2,
    bf16: false,
    panel_rows: ROWS,
    panel_columns: COLUMNS,
    depth_unit: 1,
    depth_block: DEPTH_BLOCK,
    row_block: 16 * ROWS,
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

#[target_feature(enable = "avx2")]
unsafe fn pack_left(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_left::<ROWS>(from, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn pack_left_transposed(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_left_transposed::<ROWS>(from, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn pack_right(from: Window, at: usize, depth: usize, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_right::<COLUMNS>(from, at, depth, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn pack_right_transposed(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { portable::pack_right_transposed::<COLUMNS>(from, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn round(values: &mut [f32]) {
    portable::round(values);
}

#[target_feature(enable = "avx2,fma")]
unsafe fn multiply(p: &PanelProduct) {
    // Two instances, so that the steps are constants in the innermost loop.
    // SAFETY: as promised by the caller.
    unsafe { if p.left_transposed { multiply_steps::<true>(p) } else { multiply_steps::<false>(p) } }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_steps<const TRANSPOSED: bool>(p: &PanelProduct) {
    let (row_step, depth_step) = const { left_steps::<ROWS>(TRANSPOSED) };
    let (mut left, mut right) = (p.left.cast::<f32>(), p.right.cast::<f32>());
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for _ in 0..p.depth {
        // SAFETY: within the packed panels.
        unsafe {
            let (r0, r1) = (_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8)));
            for (row, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*left.add(row * row_step));
                sum[0] = _mm256_fmadd_ps(value, r0, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, r1, sum[1]);
            }
            left = left.add(depth_step);
            right = right.add(COLUMNS);
        }
    }
    // SAFETY: only the rows and columns of the output that are this panel's.
    unsafe { store(p, &sums) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn store(p: &PanelProduct, sums: &[[__m256; 2]; ROWS]) {
    for (row, sum) in sums.iter().enumerate().take(p.rows) {
        // SAFETY: as promised by the caller; a partial row goes through memory of our own.
        unsafe {
            let to = p.out.pointer.add(row * p.out.stride);
            if p.columns < COLUMNS {
                let mut whole = [0f32; COLUMNS];
                _mm256_storeu_ps(whole.as_mut_ptr(), sum[0]);
                _mm256_storeu_ps(whole.as_mut_ptr().add(8), sum[1]);
                for (column, &sum) in whole.iter().enumerate().take(p.columns) {
                    let to = to.add(column);
                    *to = if p.accumulate { *to + sum } else { sum };
                }
                continue;
            }
            for half in 0..2 {
                let to = to.add(8 * half);
                let sum = if p.accumulate { _mm256_add_ps(_mm256_loadu_ps(to), sum[half]) } else { sum[half] };
                _mm256_storeu_ps(to, sum);
            }
        }
    }
}
