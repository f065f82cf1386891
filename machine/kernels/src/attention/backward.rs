//! Attention backwards: some keys of one key head against some queries of all its query heads per task; probabilities
//! are recomputed from log_sum_exp.
//!
//! Transposed as in `forward.rs`: with P and dP = v·dout over [keys, queries], dS = P·(dP − ⟨dout, out⟩). The sums for
//! a task's keys and values are its own; what its keys give to the queries is added to that of other keys afterwards.

use super::source::{Side, Source};
use super::tile::{Columns, KEYS, KeyTile, QUERIES, Span, key_tiles, scores};
use super::{Saved, Shape};
use crate::simd::{Disjoint, Product, Simd, Strided, dot, exp, scale_in_place, variants};
use std::ops::Range;

/// What all tasks read besides keys and values.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) q: &'a [f32],
    pub(super) dout: &'a [f32],
    pub(super) saved: Saved<'a>,
}

/// One task.
pub(super) struct Part<'a> {
    pub(super) given: Given<'a>,
    pub(super) source: Source<'a>,
    pub(super) span: Span,
    pub(super) kv_head: usize,
    /// Of the span, counted from its first query.
    pub(super) queries: Range<usize>,
    /// Of the span; they begin at a page.
    pub(super) keys: Range<usize>,
    /// Rows of all query heads, of which the first is token `dq_first` of all.
    pub(super) dq: &'a Disjoint<'a>,
    pub(super) dq_first: usize,
    /// [keys, D], to be multiplied by the scale.
    pub(super) dk: &'a mut [f32],
    /// [keys, D]
    pub(super) dv: &'a mut [f32],
}

/// Room for a tile.
struct Scratch {
    /// [D, queries]: scale·q, dout.
    queries: Vec<f32>,
    douts: Vec<f32>,
    /// [keys, queries]: P, dP and then dS.
    probabilities: Vec<f32>,
    dscores: Vec<f32>,
    /// [queries, D]
    dq: Vec<f32>,
    log_sum_exp: [f32; QUERIES],
    /// ⟨dout, out⟩
    along: [f32; QUERIES],
    /// Keys and values that had to be widened.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Scratch {
    fn new(width: usize) -> Self {
        let [queries, douts, dq] = std::array::from_fn(|_| vec![0.0; QUERIES * width]);
        let [probabilities, dscores] = std::array::from_fn(|_| vec![0.0; KEYS * QUERIES]);
        let [log_sum_exp, along] = [[0.0; QUERIES]; 2];
        let [keys, values] = [Vec::new(), Vec::new()];
        Self { queries, douts, probabilities, dscores, dq, log_sum_exp, along, keys, values }
    }
}

#[inline(always)]
fn backward<S: Simd>(s: S, part: Part, shape: &Shape) {
    let Part { given, source, span, kv_head, queries, keys, dq, dq_first, dk, dv } = part;
    let (width, heads) = (shape.head_dim, shape.query_heads / shape.kv_heads);
    let mut scratch = Scratch::new(width);
    for first_head in kv_head * heads..(kv_head + 1) * heads {
        for first_token in queries.clone().step_by(QUERIES) {
            let tokens = QUERIES.min(queries.end - first_token);
            let columns = Columns { first_token, tokens, first_head, heads: 1, kv_head };
            let seen = columns.keys_end(span).min(keys.end).saturating_sub(keys.start);
            if seen == 0 {
                continue;
            }
            begin(s, &mut scratch, given, (span, columns), shape);
            for tile in key_tiles(seen, KEYS) {
                let rows = tile.first * width..(tile.first + tile.count) * width;
                let into = [&mut dk[rows.clone()], &mut dv[rows]];
                let tile = KeyTile { first: keys.start + tile.first, ..tile };
                tile_backward(s, into, &mut scratch, (given, source), (span, columns, tile), shape);
            }
            for (c, from) in scratch.dq.chunks_exact(width).enumerate().take(tokens) {
                let row = columns.row(span, c, shape) - dq_first * shape.query_heads;
                // SAFETY: no other task has these queries of this head and writes here.
                let dq_d = unsafe { dq.part(row * width, width) };
                for (dq, from) in dq_d.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                    s.add_to(dq, s.mul(s.splat(shape.scale), s.load(from)));
                }
            }
        }
    }
}
variants! { fn backward_part(part: Part, shape: &Shape) = backward }

/// Reads a tile of queries.
#[inline(always)]
fn begin<S: Simd>(s: S, scratch: &mut Scratch, given: Given, (span, columns): (Span, Columns), shape: &Shape) {
    let width = shape.head_dim;
    let Given { q, dout, saved } = given;
    columns.transpose(s, (&mut scratch.queries, QUERIES), q, span, shape);
    scale_in_place(s, &mut scratch.queries, shape.scale);
    columns.transpose(s, (&mut scratch.douts, QUERIES), dout, span, shape);
    for c in 0..columns.tokens {
        let row = columns.row(span, c, shape);
        let values = row * width..(row + 1) * width;
        scratch.log_sum_exp[c] = saved.log_sum_exp[row];
        scratch.along[c] = dot(s, &dout[values.clone()], &saved.out[values]);
    }
    scratch.dq[..columns.tokens * width].fill(0.0);
}

/// One tile of keys against one of queries.
#[inline(always)]
fn tile_backward<S: Simd>(
    s: S,
    [dk, dv]: [&mut [f32]; 2],
    scratch: &mut Scratch,
    (given, source): (Given, Source),
    (span, columns, tile): (Span, Columns, KeyTile),
    shape: &Shape,
) {
    let width = shape.head_dim;
    let query_row = shape.query_heads * width;
    let n = columns.count();
    let Scratch { queries, douts, probabilities, dscores, dq, log_sum_exp, along, keys, values } = scratch;
    let place = (span, tile, columns.kv_head);
    let (keys, key_row) = source.tile(s, Side::Keys, place, shape, keys);
    scores(s, probabilities, queries, (keys, key_row), (span, columns, tile), shape);
    let product = Product { m: tile.count, n, k: width, c_row: QUERIES, b_row: QUERIES, add: false };
    let (values, value_row) = source.tile(s, Side::Values, place, shape, values);
    s.product(&product, dscores, Strided::rows(values, value_row), douts);
    for i in 0..tile.count {
        let row = i * QUERIES..(i + 1) * QUERIES;
        let (probabilities, dscores) = (&mut probabilities[row.clone()], &mut dscores[row]);
        for c in (0..n).step_by(S::LANES) {
            let probability = exp(s, s.sub(s.load(&probabilities[c..]), s.load(&log_sum_exp[c..])));
            let dscore = s.mul(probability, s.sub(s.load(&dscores[c..]), s.load(&along[c..])));
            s.store(&mut probabilities[c..], probability);
            s.store(&mut dscores[c..], dscore);
        }
    }
    let first = columns.row(span, 0, shape) * width;
    let onto_keys = Product { m: tile.count, n: width, k: n, c_row: width, b_row: query_row, add: true };
    s.product(&onto_keys, dv, Strided::rows(probabilities, QUERIES), &given.dout[first..]);
    s.product(&onto_keys, dk, Strided::rows(dscores, QUERIES), &given.q[first..]);
    let onto_queries = Product { m: n, n: width, k: tile.count, c_row: width, b_row: key_row, add: true };
    s.product(&onto_queries, dq, Strided::transposed(dscores, QUERIES), keys);
}
