//! Attention of a few queries (decoding) over a cache: vectors run along the head, and the keys are split between
//! tasks.
//!
//! A task sums over its keys of one head; the sums of the tasks are joined in the order of the keys. Keys and values
//! are widened in registers, once for all the queries of a group, so that a token costs what reading them costs. W is
//! the width of a row of a page.

use super::Shape;
use super::source::{Element, Side, rows_of};
use super::tile::{Columns, KEYS, KeyTile, Span};
use crate::kv_page::{Page, RowsView, row_width};
use crate::simd::{Simd, exp, scale_in_place, variants};
use std::sync::Arc;

/// Queries (tokens × heads of a group) up to which this way is the faster one.
pub(super) const MOST_QUERIES: usize = 8;
/// Keys that a task takes, at most.
pub(super) const TASK_KEYS: usize = 512;

/// What one task knows of its keys: per column the sums `[W]`, the maximum and the sum of the exponentials.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub(super) sums: Vec<f32>,
    pub(super) width: usize,
    most: [f32; MOST_QUERIES],
    sum: [f32; MOST_QUERIES],
}

impl Partial {
    pub(super) fn new(columns: usize, head_dim: usize) -> Self {
        let (most, sum) = ([f32::NEG_INFINITY; MOST_QUERIES], [0.0; MOST_QUERIES]);
        let width = row_width(head_dim);
        Self { sums: vec![0.0; columns * width], width, most, sum }
    }

    /// Adds the keys that `other` saw.
    pub(super) fn join(&mut self, other: &Partial) {
        let width = self.width;
        for (c, (sums, others)) in self.sums.chunks_mut(width).zip(other.sums.chunks(width)).enumerate() {
            let most = self.most[c].max(other.most[c]);
            if most == f32::NEG_INFINITY {
                continue;
            }
            let (own, theirs) = ((self.most[c] - most).exp(), (other.most[c] - most).exp());
            self.sum[c] = own * self.sum[c] + theirs * other.sum[c];
            self.most[c] = most;
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = own * *sum + theirs * other;
            }
        }
    }

    /// The output of column c.
    pub(super) fn write(&self, c: usize, out: &mut [f32]) {
        let share = 1.0 / self.sum[c];
        out.iter_mut().zip(&self.sums[c * self.width..]).for_each(|(out, sum)| *out = sum * share);
    }
}

/// Scaled queries of the columns, `[n, W]`.
pub(super) fn padded_queries(q: &[f32], (span, columns): (Span, Columns), shape: &Shape) -> Vec<f32> {
    let (head_dim, width) = (shape.head_dim, row_width(shape.head_dim));
    let mut padded = vec![0.0; columns.count() * width];
    for (c, padded) in padded.chunks_exact_mut(width).enumerate() {
        let row = &q[columns.row(span, c, shape) * head_dim..][..head_dim];
        padded.iter_mut().zip(row).for_each(|(to, from)| *to = from * shape.scale);
    }
    padded
}

#[inline(always)]
fn forward<S: Simd>(
    s: S,
    partial: &mut Partial,
    queries: &[f32],
    pages: &[Arc<Page>],
    (span, columns, keys): (Span, Columns, KeyTile),
) {
    for first in (keys.first..keys.first + keys.count).step_by(KEYS) {
        let tile = KeyTile { first, count: KEYS.min(keys.first + keys.count - first) };
        let part = (span, columns, tile);
        let side = |side| rows_of(pages, side, tile, columns.kv_head);
        match (side(Side::Keys), side(Side::Values)) {
            (RowsView::F32(k), RowsView::F32(v)) => add_tile(s, partial, queries, (k, None), (v, None), part),
            (RowsView::F16(k), RowsView::F16(v)) => add_tile(s, partial, queries, (k, None), (v, None), part),
            (RowsView::Int8(k, k_scales), RowsView::Int8(v, v_scales)) => {
                add_tile(s, partial, queries, (k, Some(k_scales)), (v, Some(v_scales)), part);
            }
            _ => unreachable!("a page keeps keys and values in the same way"),
        }
    }
}
variants! {
    fn forward_keys(
        partial: &mut Partial,
        queries: &[f32],
        pages: &[Arc<Page>],
        part: (Span, Columns, KeyTile),
    ) = forward
}

/// Rows of a tile, and the scale of each where they have one.
type Kept<'a, E> = (&'a [E], Option<&'a [f32]>);

#[inline(always)]
fn add_tile<S: Simd, E: Element>(
    s: S,
    partial: &mut Partial,
    queries: &[f32],
    keys: Kept<E>,
    values: Kept<E>,
    (span, columns, tile): (Span, Columns, KeyTile),
) {
    let (n, width) = (columns.count(), partial.width);
    assert!(n <= MOST_QUERIES && queries.len() == n * width && partial.sums.len() == n * width);
    assert!(keys.0.len() == tile.count * width && values.0.len() == tile.count * width && tile.count <= KEYS);
    let mut scores = [0.0; MOST_QUERIES * KEYS];
    // SAFETY: the sizes were just checked.
    unsafe { scores_of(s, &mut scores, queries, (keys.0, values.0), (n, width)) };
    for (c, scores) in scores.chunks_exact_mut(KEYS).enumerate().take(n) {
        let scores = &mut scores[..tile.count];
        if let Some(scales) = keys.1 {
            scores.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
        }
        let last_visible = span.past + columns.first_token + c % columns.tokens;
        let visible = (last_visible + 1).saturating_sub(tile.first).min(tile.count);
        let (seen, hidden) = scores.split_at_mut(visible);
        hidden.fill(0.0);
        if visible > 0 {
            let correction = soften(s, seen, &mut partial.most[c], &mut partial.sum[c]);
            scale_in_place(s, &mut partial.sums[c * width..(c + 1) * width], correction);
        }
        if let Some(scales) = values.1 {
            scores.iter_mut().zip(scales).for_each(|(probability, scale)| *probability *= scale);
        }
    }
    // SAFETY: as above.
    unsafe { add_values(s, &mut partial.sums, &scores, values.0, (n, width)) };
}

/// scores[c, key] = ⟨q_c, k_key⟩, the keys two at a time. Asks for the rows of the values as well.
///
/// # Safety
/// `queries` `[n, W]`, rows `[count, W]` with W whole vectors, n ≤ 8 and count ≤ KEYS.
#[inline(always)]
unsafe fn scores_of<S: Simd, E: Element>(
    s: S,
    scores: &mut [f32; MOST_QUERIES * KEYS],
    queries: &[f32],
    (keys, values): (&[E], &[E]),
    (n, width): (usize, usize),
) {
    let count = keys.len() / width;
    for key in (0..count).step_by(2) {
        let row = keys.as_ptr().wrapping_add(key * width);
        let ahead = values.as_ptr().wrapping_add(key * width).cast::<u8>();
        (0..2 * width * size_of::<E>()).step_by(64).for_each(|line| s.prefetch(ahead.wrapping_add(line)));
        let mut c = 0;
        while c < n {
            let q = queries.as_ptr().wrapping_add(c * width);
            let to = &mut scores[c * KEYS + key..];
            // SAFETY: as promised by the caller.
            unsafe {
                c += match (n - c, count - key) {
                    (4.., 2..) => dots::<S, E, 2, 4>(s, to, q, row, width),
                    (2.., 2..) => dots::<S, E, 2, 2>(s, to, q, row, width),
                    (_, 2..) => dots::<S, E, 2, 1>(s, to, q, row, width),
                    (4.., _) => dots::<S, E, 1, 4>(s, to, q, row, width),
                    (2.., _) => dots::<S, E, 1, 2>(s, to, q, row, width),
                    _ => dots::<S, E, 1, 1>(s, to, q, row, width),
                };
            }
        }
    }
}

/// K keys by C queries; returns C.
///
/// # Safety
/// As in [`scores_of`], from the pointers on.
#[inline(always)]
unsafe fn dots<S: Simd, E: Element, const K: usize, const C: usize>(
    s: S,
    scores: &mut [f32],
    q: *const f32,
    keys: *const E,
    width: usize,
) -> usize {
    let mut sums = [[s.zero(); C]; K];
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: as promised by the caller.
        unsafe {
            let k: [S::V; K] = std::array::from_fn(|key| E::load(s, keys.add(key * width + at)));
            for c in 0..C {
                let q = s.load_at(q.add(c * width + at));
                for (sums, k) in sums.iter_mut().zip(k) {
                    sums[c] = s.mul_add(q, k, sums[c]);
                }
            }
        }
    }
    for (key, sums) in sums.iter().enumerate() {
        if C == 4 {
            let quads = s.transpose_quads([sums[0], sums[1 % C], sums[2 % C], sums[3 % C]]);
            let total = s.sum_quads(s.add(s.add(quads[0], quads[1]), s.add(quads[2], quads[3])));
            (0..C).for_each(|c| scores[c * KEYS + key] = total[c]);
        } else {
            (0..C).for_each(|c| scores[c * KEYS + key] = s.sum(sums[c]));
        }
    }
    C
}

/// sums[c] += Σ_key probabilities[c, key]·v_key.
///
/// # Safety
/// `sums` `[n, W]`, rows `[count, W]` with W whole vectors, n ≤ 8 and count ≤ KEYS.
#[inline(always)]
unsafe fn add_values<S: Simd, E: Element>(
    s: S,
    sums: &mut [f32],
    probabilities: &[f32; MOST_QUERIES * KEYS],
    values: &[E],
    (n, width): (usize, usize),
) {
    let mut at = 0;
    while at < width {
        let vectors = if width - at >= 2 * S::LANES { 2 } else { 1 };
        let mut c = 0;
        while c < n {
            let to = sums.as_mut_ptr().wrapping_add(c * width + at);
            let (p, v) = (&probabilities[c * KEYS..], (values.as_ptr().wrapping_add(at), values.len() / width));
            // SAFETY: as promised by the caller.
            unsafe {
                c += match (n - c, vectors) {
                    (8.., 2) => add_columns::<S, E, 8, 2>(s, to, p, v, width),
                    (4.., 2) => add_columns::<S, E, 4, 2>(s, to, p, v, width),
                    (2.., 2) => add_columns::<S, E, 2, 2>(s, to, p, v, width),
                    (_, 2) => add_columns::<S, E, 1, 2>(s, to, p, v, width),
                    (4.., _) => add_columns::<S, E, 4, 1>(s, to, p, v, width),
                    (2.., _) => add_columns::<S, E, 2, 1>(s, to, p, v, width),
                    _ => add_columns::<S, E, 1, 1>(s, to, p, v, width),
                };
            }
        }
        at += vectors * S::LANES;
    }
}

/// C columns of N vectors over all keys; returns C.
///
/// # Safety
/// As in [`add_values`], from the pointers on.
#[inline(always)]
unsafe fn add_columns<S: Simd, E: Element, const C: usize, const N: usize>(
    s: S,
    to: *mut f32,
    probabilities: &[f32],
    (values, count): (*const E, usize),
    width: usize,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut sums: [[S::V; N]; C] =
            std::array::from_fn(|c| std::array::from_fn(|n| s.load_at(to.add(c * width + n * S::LANES))));
        for key in 0..count {
            let v: [S::V; N] = std::array::from_fn(|n| E::load(s, values.add(key * width + n * S::LANES)));
            for (c, sums) in sums.iter_mut().enumerate() {
                let probability = s.splat(*probabilities.get_unchecked(c * KEYS + key));
                for n in 0..N {
                    sums[n] = s.mul_add(probability, v[n], sums[n]);
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            (0..N).for_each(|n| s.store_at(to.add(c * width + n * S::LANES), sums[n]));
        }
    }
    C
}

/// scores ← e^{scores − maximum}; gives what the new maximum scales the old sums by.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [f32], most: &mut f32, sum: &mut f32) -> f32 {
    let before = *most;
    *most = scores.iter().fold(before, |most, &score| most.max(score));
    let largest = s.splat(*most);
    let mut sums = s.zero();
    for scores in scores.chunks_mut(S::LANES) {
        let probability = exp(s, s.sub(s.load(scores), largest));
        s.store(scores, probability);
        // Read back, so that the lanes beyond the end count as zero.
        sums = s.add(sums, s.load(scores));
    }
    let correction = (before - *most).exp();
    *sum = *sum * correction + s.sum(sums);
    correction
}
