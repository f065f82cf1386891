//! Attention over a rounded cache, many queries at a time, with products of bf16 pairs (AVX512-BF16): twice the f32
//! rate.
//!
//! As `forward.rs`, with queries, keys, probabilities and values rounded to bf16 where they are multiplied; scores, the
//! softmax and all sums are f32. Used where the cache has rounded keys and values already. A pair is two neighbours of
//! the summed dimension in one 32-bit lane.
//!
//! SAFETY: runs only where `Cpu` has found AVX512-BF16; tiles have the sizes that `Tiles` allocates.

use super::Shape;
use super::forward::{Given, Outputs, Running, finish, soften};
use super::source::{Element, Side, Source, rows_of};
use super::tile::{Columns, KeyTile, Span, hide, key_tiles};
use crate::gemm::bf16::{pairs, to_bf16};
use crate::kv_page::{RowsView, row_width};
use crate::simd::{Avx512, Simd, scale_in_place};
use std::arch::x86_64::*;

/// Rows of a product that are summed at a time, by two vectors of columns.
const ROWS: usize = 8;
/// Columns of two vectors.
const HALF: usize = 32;
/// Queries of a tile: more than elsewhere, since every tile of queries reads all keys and values from memory.
pub(super) const QUERIES: usize = 256;
/// Keys of a tile: more than elsewhere, since every tile reads and writes all sums.
const KEYS: usize = 128;

/// Room for the factors; D′ is the head width, up to whole vectors of pairs.
struct Tiles {
    /// D′
    depth: usize,
    /// `[D′/2, 256]` pairs along D.
    queries: Vec<__m512i>,
    /// `[128, D′/2]` pairs along D.
    keys: Vec<__m512i>,
    /// `[128, 256]`
    scores: Vec<f32>,
    /// `[64, 256]` pairs along the keys.
    probabilities: Vec<__m512i>,
    /// `[64, D′]` pairs along the keys.
    values: Vec<__m512i>,
    /// `[D′, 256]`
    sums: Vec<f32>,
}

impl Tiles {
    #[target_feature(enable = "avx512f")]
    fn new(head_dim: usize) -> Self {
        let depth = head_dim.next_multiple_of(32);
        let vectors = |count: usize| vec![_mm512_setzero_si512(); count];
        Self {
            depth,
            queries: vectors(depth / 2 * QUERIES / 16),
            keys: vectors(KEYS * depth / 32),
            scores: vec![0.0; KEYS * QUERIES],
            probabilities: vectors(KEYS / 2 * QUERIES / 16),
            values: vectors(KEYS / 2 * depth / 16),
            sums: vec![0.0; depth * QUERIES],
        }
    }
}

/// # Safety
/// The machine has AVX512-BF16; `given` is paged, in f16 or bytes.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn forward_columns(outputs: &Outputs, given: Given, span: Span, columns: Columns, shape: &Shape) {
    // SAFETY: AVX512-BF16 implies the rest.
    let s = unsafe { Avx512::assume() };
    let Source::Paged(pages) = given.source else { unreachable!("flat keys are exact") };
    let mut tiles = Tiles::new(shape.head_dim);
    pack_queries(s, &mut tiles, given.q, (span, columns), shape);
    let n = columns.count();
    let mut running = Running::<QUERIES>::start();
    for tile in key_tiles(columns.keys_end(span), KEYS) {
        // SAFETY: the tiles are as large as `Tiles` says; rows of pages are W wide.
        unsafe {
            match rows_of(pages, Side::Keys, tile, columns.kv_head) {
                RowsView::F16(rows) => pack_keys(s, &mut tiles, (rows, None), shape),
                RowsView::Int8(rows, scales) => pack_keys(s, &mut tiles, (rows, Some(scales)), shape),
                RowsView::F32(_) => unreachable!("exact keys are not rounded"),
            }
            multiply(&mut tiles.scores, (&tiles.keys, tiles.depth / 2), &tiles.queries, [tile.count, n]);
            hide::<QUERIES>(&mut tiles.scores, span, columns, tile);
            soften(s, &mut tiles.scores, &mut running, n, tile);
            pack_probabilities(&mut tiles, tile, n);
            match rows_of(pages, Side::Values, tile, columns.kv_head) {
                RowsView::F16(rows) => pack_values(s, &mut tiles, (rows, None), shape),
                RowsView::Int8(rows, scales) => pack_values(s, &mut tiles, (rows, Some(scales)), shape),
                RowsView::F32(_) => unreachable!("exact values are not rounded"),
            }
            add_values(&mut tiles, &running.correction, tile, n);
        }
    }
    let width = shape.head_dim;
    let mut sums_cd = vec![0.0; n * width];
    s.transpose((&mut sums_cd, width), (&tiles.sums, QUERIES), [width, n]);
    finish(s, outputs, &sums_cd, &running, (span, columns), shape);
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
fn pack_queries(s: Avx512, tiles: &mut Tiles, q: &[f32], (span, columns): (Span, Columns), shape: &Shape) {
    let mut transposed = vec![0.0; tiles.depth * QUERIES];
    columns.transpose(s, (&mut transposed, QUERIES), q, span, shape);
    scale_in_place(s, &mut transposed, shape.scale);
    for (two, to) in transposed.chunks_exact(2 * QUERIES).zip(tiles.queries.chunks_exact_mut(QUERIES / 16)) {
        for (vector, to) in to.iter_mut().enumerate() {
            *to = pairs(s.load(&two[16 * vector..]), s.load(&two[QUERIES + 16 * vector..]));
        }
    }
}

/// Rows of a tile, and the scale of each where they have one.
type Kept<'a, E> = (&'a [E], Option<&'a [f32]>);

/// Sixteen values of a row of a page, times its scale; zeros beyond the row.
///
/// # Safety
/// `row` is W wide.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
unsafe fn load<E: Element>(s: Avx512, row: &[E], at: usize, scale: Option<f32>) -> __m512 {
    if at >= row.len() {
        return _mm512_setzero_ps();
    }
    // SAFETY: W is whole vectors.
    let values = unsafe { E::load(s, row.as_ptr().add(at)) };
    scale.map_or(values, |scale| _mm512_mul_ps(values, _mm512_set1_ps(scale)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn pack_keys<E: Element>(s: Avx512, tiles: &mut Tiles, (rows, scales): Kept<E>, shape: &Shape) {
    let width = row_width(shape.head_dim);
    let packed = tiles.keys.chunks_exact_mut(tiles.depth / 32);
    for (index, (row, to)) in rows.chunks_exact(width).zip(packed).enumerate() {
        let scale = scales.map(|scales| scales[index]);
        for (vector, to) in to.iter_mut().enumerate() {
            // SAFETY: a row of the page.
            unsafe { *to = to_bf16(load(s, row, 32 * vector, scale), load(s, row, 32 * vector + 16, scale)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn pack_values<E: Element>(s: Avx512, tiles: &mut Tiles, (rows, scales): Kept<E>, shape: &Shape) {
    let width = row_width(shape.head_dim);
    let packed = tiles.values.chunks_exact_mut(tiles.depth / 16);
    for (pair, (two, to)) in rows.chunks(2 * width).zip(packed).enumerate() {
        let (first, second) = two.split_at(width);
        let scale = |row: usize| scales.map(|scales| scales.get(row).copied().unwrap_or(0.0));
        let (first_scale, second_scale) = (scale(2 * pair), scale(2 * pair + 1));
        for (vector, to) in to.iter_mut().enumerate() {
            let at = 16 * vector;
            // SAFETY: rows of the page; the second may be missing, and is then zeros.
            unsafe { *to = pairs(load(s, first, at, first_scale), load(s, second, at, second_scale)) };
        }
    }
}

/// Probabilities of two keys side by side; a key that is not there has none.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn pack_probabilities(tiles: &mut Tiles, tile: KeyTile, n: usize) {
    if tile.count < KEYS {
        tiles.scores[tile.count * QUERIES..(tile.count + 1) * QUERIES].fill(0.0);
    }
    let packed = tiles.probabilities.chunks_exact_mut(QUERIES / 16);
    for (two, to) in tiles.scores.chunks_exact(2 * QUERIES).zip(packed).take(tile.count.div_ceil(2)) {
        for (vector, to) in to.iter_mut().enumerate().take(n.div_ceil(16)) {
            // SAFETY: within the two rows.
            unsafe {
                let from = two.as_ptr().add(16 * vector);
                *to = pairs(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(QUERIES)));
            }
        }
    }
}

/// sums[d, c] = correction[c]·sums[d, c] + Σ_key v[key, d]·p[key, c].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add_values(tiles: &mut Tiles, correction: &[f32; QUERIES], tile: KeyTile, n: usize) {
    let (row, pairs) = (tiles.depth, tile.count.div_ceil(2));
    let left = tiles.values.as_ptr().cast::<i32>();
    for at in (0..tiles.depth).step_by(ROWS) {
        for half in (0..n).step_by(HALF) {
            // SAFETY: within the tiles.
            unsafe {
                let to = tiles.sums.as_mut_ptr().add(at * QUERIES + half);
                let right = tiles.probabilities.as_ptr().add(half / 16);
                let by =
                    [_mm512_loadu_ps(correction[half..].as_ptr()), _mm512_loadu_ps(correction[half + 16..].as_ptr())];
                let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                for (i, sum) in sums.iter_mut().enumerate() {
                    sum[0] = _mm512_mul_ps(by[0], _mm512_loadu_ps(to.add(i * QUERIES)));
                    sum[1] = _mm512_mul_ps(by[1], _mm512_loadu_ps(to.add(i * QUERIES + 16)));
                }
                add_pairs(&mut sums, (left.add(at), 1, row), right, pairs);
                store(&sums, to);
            }
        }
    }
}

/// scores[key, c] = Σ_d k[key, d]·q[d, c], the keys eight at a time; those beyond the tile's mean nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply(
    scores: &mut [f32],
    (keys, pairs): (&[__m512i], usize),
    queries: &[__m512i],
    [count, n]: [usize; 2],
) {
    let left = keys.as_ptr().cast::<i32>();
    // The queries of a half stay in the first cache while all keys pass.
    for half in (0..n).step_by(HALF) {
        for key in (0..count).step_by(ROWS) {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            // SAFETY: within the tiles.
            unsafe {
                add_pairs(&mut sums, (left.add(key * pairs), pairs, 1), queries.as_ptr().add(half / 16), pairs);
                store(&sums, scores.as_mut_ptr().add(key * QUERIES + half));
            }
        }
    }
}

/// sums[i, c] += Σ_pair left[i·row + pair·step]·right[pair, c], for two vectors of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add_pairs(
    sums: &mut [[__m512; 2]; ROWS],
    (left, row, step): (*const i32, usize, usize),
    right: *const __m512i,
    pairs: usize,
) {
    for pair in 0..pairs {
        // SAFETY: as promised by the caller.
        unsafe {
            let right = right.add(pair * QUERIES / 16);
            let (a, b) = (as_bf16(right.read()), as_bf16(right.add(1).read()));
            let left = left.add(pair * step);
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = as_bf16(_mm512_set1_epi32(left.add(i * row).read()));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, a);
                sum[1] = _mm512_dpbf16_ps(sum[1], value, b);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: &[[__m512; 2]; ROWS], to: *mut f32) {
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: as promised by the caller: ROWS rows of QUERIES.
        unsafe {
            _mm512_storeu_ps(to.add(i * QUERIES), sum[0]);
            _mm512_storeu_ps(to.add(i * QUERIES + 16), sum[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
