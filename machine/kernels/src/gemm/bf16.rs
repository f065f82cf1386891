//! Packing for the variants that multiply bf16: panels of 32, two tiles wide.
//!
//! A tile is 1 KiB. On the left it is 16 rows by 32 of depth; on the right, 16 pairs of depth by 16 columns by the two
//! of a pair, which is how AMX and AVX512-BF16 both want it. A panel is `[depth / 32][2 tiles]`, so that the innermost
//! loop reads both factors as streams.

use super::avx512::{mask_of, transpose};
use super::product::Window;
use std::arch::x86_64::*;

/// Rows of a left panel, columns of a right one.
pub(super) const PANEL: usize = 32;
/// Depth of a tile.
pub(super) const TILE_DEPTH: usize = 32;
pub(super) const TILE_BYTES: usize = 1024;
/// Rows of a left tile, columns of a right one, pairs of depth in either.
const SIDE: usize = 16;

pub(super) fn panel_bytes(depth: usize) -> usize {
    2 * PANEL * depth
}

/// Where tile `index` of a row of tiles is, at depth `depth_tile` of panels that are `depth` deep.
#[inline(always)]
fn tile_at(to: *mut u8, index: usize, depth_tile: usize, depth: usize) -> *mut u8 {
    // Wrapping: the address is used only where the tile lies in the buffer.
    to.wrapping_add((index / 2) * panel_bytes(depth) + (2 * depth_tile + index % 2) * TILE_BYTES)
}

/// Thirty-two bf16: those of `low` below those of `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn to_bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Up to 32 values of a row as bf16; zeros beyond `width`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load_row(from: *const f32, width: usize) -> __m512i {
    // SAFETY: masked to `width` values, which the caller has.
    unsafe {
        if width >= TILE_DEPTH {
            return to_bf16(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
        }
        let low = _mm512_maskz_loadu_ps(mask_of(width), from);
        let high = _mm512_maskz_loadu_ps(mask_of(width.saturating_sub(16)), from.wrapping_add(16));
        to_bf16(low, high)
    }
}

/// Sixteen pairs of bf16, one of each row: (upper[j], lower[j]). A null row is zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_pairs(upper: *const f32, lower: *const f32, mask: __mmask16) -> __m512i {
    const INTERLEAVE: [u16; 32] = {
        let mut order = [0; 32];
        let mut j = 0;
        while j < 32 {
            order[j] = (j / 2 + 16 * (j % 2)) as u16;
            j += 1;
        }
        order
    };
    // SAFETY: masked to what the caller has.
    unsafe {
        let upper = if upper.is_null() { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(mask, upper) };
        let lower = if lower.is_null() { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(mask, lower) };
        _mm512_permutexvar_epi16(_mm512_loadu_si512(INTERLEAVE.as_ptr().cast()), to_bf16(upper, lower))
    }
}

/// Rows `2 · pair` and `2 · pair + 1` from `column` on; null beyond the window.
#[inline(always)]
fn pair_of(from: &Window, pair: usize, column: usize) -> (*const f32, *const f32) {
    let row = |index: usize| match index < from.rows {
        true => from.pointer.wrapping_add(index * from.stride + column),
        false => std::ptr::null(),
    };
    (row(2 * pair), row(2 * pair + 1))
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_tile(rows: &[__m512i; SIDE], to: *mut u8) {
    for (row, vector) in rows.iter().enumerate() {
        // SAFETY: the caller gives a whole tile, on a line boundary.
        unsafe { _mm512_store_si512(to.add(64 * row).cast(), *vector) };
    }
}

/// M × D into left panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_left(from: Window, to: *mut u8) {
    let depth = from.columns.next_multiple_of(TILE_DEPTH);
    for row in 0..from.rows.next_multiple_of(PANEL) {
        for (depth_tile, column) in (0..from.columns).step_by(TILE_DEPTH).enumerate() {
            let to = tile_at(to, row / SIDE, depth_tile, depth).wrapping_add(64 * (row % SIDE));
            // SAFETY: within the window and the panels.
            unsafe {
                let vector = match row < from.rows {
                    true => load_row(from.pointer.add(row * from.stride + column), from.columns - column),
                    false => _mm512_setzero_si512(),
                };
                _mm512_store_si512(to.cast(), vector);
            }
        }
    }
}

/// D × M into left panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_left_transposed(from: Window, to: *mut u8) {
    let depth = from.rows.next_multiple_of(TILE_DEPTH);
    for depth_tile in 0..depth / TILE_DEPTH {
        for tile in 0..from.columns.next_multiple_of(PANEL) / SIDE {
            let column = tile * SIDE;
            let mask = mask_of(from.columns.saturating_sub(column));
            let mut pairs = [_mm512_setzero_si512(); SIDE];
            // SAFETY: masked to the window; the tile lies in the panels.
            unsafe {
                for (j, vector) in pairs.iter_mut().enumerate() {
                    let (upper, lower) = pair_of(&from, SIDE * depth_tile + j, column);
                    *vector = load_pairs(upper, lower, mask);
                }
                store_tile(&transpose(pairs), tile_at(to, tile, depth_tile, depth));
            }
        }
    }
}

/// Rows `at..` of D × N into right panels of `depth`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_right(from: Window, at: usize, depth: usize, to: *mut u8) {
    for pair in 0..from.rows.next_multiple_of(TILE_DEPTH) / 2 {
        let depth_tile = (at + 2 * pair) / TILE_DEPTH;
        for tile in 0..from.columns.next_multiple_of(PANEL) / SIDE {
            let column = tile * SIDE;
            let mask = mask_of(from.columns.saturating_sub(column));
            let (upper, lower) = pair_of(&from, pair, column);
            let to = tile_at(to, tile, depth_tile, depth).wrapping_add(64 * (pair % SIDE));
            // SAFETY: masked to the window; the row lies in the panels.
            unsafe { _mm512_store_si512(to.cast(), load_pairs(upper, lower, mask)) };
        }
    }
}

/// N × D into one right panel.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_right_transposed(from: Window, to: *mut u8) {
    let depth = from.columns.next_multiple_of(TILE_DEPTH);
    for tile in 0..PANEL / SIDE {
        let rows = from.rows.saturating_sub(SIDE * tile).min(SIDE);
        for (depth_tile, column) in (0..from.columns).step_by(TILE_DEPTH).enumerate() {
            let mut pairs = [_mm512_setzero_si512(); SIDE];
            // SAFETY: within the window and the panel.
            unsafe {
                for (row, vector) in pairs.iter_mut().enumerate().take(rows) {
                    let from_row = from.pointer.add((SIDE * tile + row) * from.stride + column);
                    *vector = load_row(from_row, from.columns - column);
                }
                store_tile(&transpose(pairs), tile_at(to, tile, depth_tile, depth));
            }
        }
    }
}
