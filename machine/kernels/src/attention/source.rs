//! Where a forward pass finds its keys and values: in flat rows, or in the pages of a cache.
//!
//! SAFETY: an element's load reads as many values as a vector has lanes, which its caller has.

use super::Shape;
use super::tile::{KeyTile, Span};
use crate::kv_page::{PAGE_TOKENS, Page, RowsView, row_width};
use crate::simd::Simd;
use numeric::f16;
use std::sync::Arc;

/// Keys and values of all tokens.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// `[L, Hkv, D]` each.
    Flat { k: &'a [f32], v: &'a [f32] },
    /// Of one sequence.
    Paged(&'a [Arc<Page>]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Keys,
    Values,
}

/// A number as pages keep it, before its row's scale.
pub(super) trait Element: Copy {
    /// # Safety
    /// `from` is readable for all lanes.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_at(from) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f16) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_f16_at(from) }
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const i8) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_i8_at(from) }
    }
}

impl<'a> Source<'a> {
    /// The tile's rows of one head as f32, and how far apart they lie; `room` takes what has to be widened.
    #[inline(always)]
    pub(super) fn tile<'r, S: Simd>(
        &self,
        s: S,
        side: Side,
        (span, tile, kv_head): (Span, KeyTile, usize),
        shape: &Shape,
        room: &'r mut Vec<f32>,
    ) -> (&'r [f32], usize)
    where
        'a: 'r,
    {
        match *self {
            Self::Flat { k, v } => {
                let x = if side == Side::Keys { k } else { v };
                (super::tile::key_rows(x, span, tile, kv_head, shape), shape.kv_heads * shape.head_dim)
            }
            Self::Paged(pages) => {
                let width = row_width(shape.head_dim);
                match rows_of(pages, side, tile, kv_head) {
                    RowsView::F32(rows) => (rows, width),
                    RowsView::F16(rows) => (widen(s, rows, width, None, room), width),
                    RowsView::Int8(rows, scales) => (widen(s, rows, width, Some(scales), room), width),
                }
            }
        }
    }
}

/// A tile's rows as they are kept. Tiles do not cross pages.
#[inline(always)]
pub(super) fn rows_of(pages: &[Arc<Page>], side: Side, tile: KeyTile, kv_head: usize) -> RowsView<'_> {
    let (page, first) = (&pages[tile.first / PAGE_TOKENS], tile.first % PAGE_TOKENS);
    match side {
        Side::Keys => page.keys(kv_head, first, tile.count),
        Side::Values => page.values(kv_head, first, tile.count),
    }
}

/// Rows as f32, times their scales.
#[inline(always)]
fn widen<'r, S: Simd, E: Element>(
    s: S,
    rows: &[E],
    width: usize,
    scales: Option<&[f32]>,
    room: &'r mut Vec<f32>,
) -> &'r [f32] {
    room.resize(rows.len().max(room.len()), 0.0);
    for (row, (from, to)) in rows.chunks_exact(width).zip(room.chunks_exact_mut(width)).enumerate() {
        let scale = s.splat(scales.map_or(1.0, |scales| scales[row]));
        for at in (0..width).step_by(S::LANES) {
            // SAFETY: rows are whole vectors wide, both of them.
            unsafe {
                let value = s.mul(E::load(s, from.as_ptr().add(at)), scale);
                s.store_at(to.as_mut_ptr().add(at), value);
            }
        }
    }
    &room[..rows.len()]
}
