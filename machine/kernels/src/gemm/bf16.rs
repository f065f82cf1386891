//! Packing for the variants that multiply bf16: panels of 32, two tiles wide.
//!
//! A tile is 1 KiB. On the left it is 16 rows by 32 of depth; on the right, 16 pairs of depth by 16 columns by the two
//! of a pair, which is how AMX and AVX512-BF16 both want it. A panel is `[depth / 32][2 tiles]`, so that the innermost
//! loop reads both factors as streams.
//!
//! SAFETY: runs only where `Cpu` has found AVX512-BF16; windows and panels have the sizes that `blocking` gives.

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
pub(crate) fn to_bf16(low: __m512, high: __m512) -> __m512i {
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

/// The order that puts the halves of [`to_bf16`] side by side: 0, 16, 1, 17, …
const INTERLEAVE: [u16; 32] = {
    let mut order = [0; 32];
    let mut j = 0;
    while j < 32 {
        order[j] = (j / 2 + 16 * (j % 2)) as u16;
        j += 1;
    }
    order
};

/// Sixteen pairs of bf16, one of each row: (upper[j], lower[j]).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pairs(upper: __m512, lower: __m512) -> __m512i {
    // SAFETY: the order is 64 bytes.
    let order = unsafe { _mm512_loadu_si512(INTERLEAVE.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, to_bf16(upper, lower))
}

/// Rows `2 · pair` and `2 · pair + 1` of a window, columns `column..column + 16`; zeros beyond the window.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_pairs(from: &Window, pair: usize, column: usize) -> __m512i {
    let mask = mask_of(from.columns.saturating_sub(column));
    let row = |index: usize| match index < from.rows {
        // SAFETY: masked to what the window has.
        true => unsafe { _mm512_maskz_loadu_ps(mask, from.pointer.wrapping_add(index * from.stride + column)) },
        false => _mm512_setzero_ps(),
    };
    pairs(row(2 * pair), row(2 * pair + 1))
}

/// [`load_pairs`] where the window is known to have both rows and all sixteen columns. Asks for the rows of the tile
/// below as well: rows far apart are nothing that the processor foresees.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_whole_pairs(from: &Window, pair: usize, column: usize) -> __m512i {
    // SAFETY: the caller's window has them; a prefetch may point anywhere.
    unsafe {
        let upper = from.pointer.add(2 * pair * from.stride + column);
        let lower = upper.add(from.stride);
        _mm_prefetch::<_MM_HINT_T0>(upper.wrapping_add(TILE_DEPTH * from.stride).cast());
        _mm_prefetch::<_MM_HINT_T0>(lower.wrapping_add(TILE_DEPTH * from.stride).cast());
        pairs(_mm512_loadu_ps(upper), _mm512_loadu_ps(lower))
    }
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
    let whole_tiles = from.columns / TILE_DEPTH;
    for row in 0..from.rows.next_multiple_of(PANEL) {
        let to =
            |depth_tile| tile_at(to, row / SIDE, depth_tile, depth).wrapping_add(64 * (row % SIDE)).cast::<__m512i>();
        // SAFETY: within the window and the panels.
        unsafe {
            if row >= from.rows {
                (0..depth / TILE_DEPTH)
                    .for_each(|depth_tile| _mm512_store_si512(to(depth_tile), _mm512_setzero_si512()));
                continue;
            }
            let from_row = from.pointer.add(row * from.stride);
            for depth_tile in 0..whole_tiles {
                let from = from_row.add(TILE_DEPTH * depth_tile);
                _mm512_store_si512(to(depth_tile), to_bf16(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))));
            }
            if whole_tiles < depth / TILE_DEPTH {
                let start = TILE_DEPTH * whole_tiles;
                _mm512_store_si512(to(whole_tiles), load_row(from_row.add(start), from.columns - start));
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
            let first = SIDE * depth_tile;
            let whole = from.columns >= column + SIDE && from.rows >= 2 * (first + SIDE);
            let mut rows = [_mm512_setzero_si512(); SIDE];
            // SAFETY: within the window; the tile lies in the panels.
            unsafe {
                if whole {
                    for (j, row) in rows.iter_mut().enumerate() {
                        *row = load_whole_pairs(&from, first + j, column);
                    }
                } else {
                    for (j, row) in rows.iter_mut().enumerate() {
                        *row = load_pairs(&from, first + j, column);
                    }
                }
                store_tile(&transpose(rows), tile_at(to, tile, depth_tile, depth));
            }
        }
    }
}

/// Rows `at..` of D × N into right panels of `depth`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_right(from: Window, at: usize, depth: usize, to: *mut u8) {
    let whole_tiles = from.columns / SIDE;
    for pair in 0..from.rows.next_multiple_of(TILE_DEPTH) / 2 {
        let depth_tile = (at + 2 * pair) / TILE_DEPTH;
        let to = |tile| tile_at(to, tile, depth_tile, depth).wrapping_add(64 * (pair % SIDE)).cast::<__m512i>();
        let whole = if 2 * pair + 1 < from.rows { whole_tiles } else { 0 };
        // SAFETY: within the window; the rows lie in the panels.
        unsafe {
            for tile in 0..whole {
                let (upper, lower) = (from.pointer.add(2 * pair * from.stride + tile * SIDE), from.stride);
                let row = pairs(_mm512_loadu_ps(upper), _mm512_loadu_ps(upper.add(lower)));
                _mm512_store_si512(to(tile), row);
            }
            for tile in whole..from.columns.next_multiple_of(PANEL) / SIDE {
                _mm512_store_si512(to(tile), load_pairs(&from, pair, tile * SIDE));
            }
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
            let width = from.columns - column;
            let first = from.pointer.wrapping_add(SIDE * tile * from.stride + column);
            let mut vectors = [_mm512_setzero_si512(); SIDE];
            // SAFETY: within the window and the panel.
            unsafe {
                if rows == SIDE && width >= TILE_DEPTH {
                    for (row, vector) in vectors.iter_mut().enumerate() {
                        let from = first.add(row * from.stride);
                        *vector = to_bf16(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                    }
                } else {
                    for (row, vector) in vectors.iter_mut().enumerate().take(rows) {
                        *vector = load_row(first.add(row * from.stride), width);
                    }
                }
                store_tile(&transpose(vectors), tile_at(to, tile, depth_tile, depth));
            }
        }
    }
}
