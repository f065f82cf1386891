//! Attention backwards, one query head of one span per task; probabilities are recomputed from log_sum_exp.
//!
//! Transposed as in `forward.rs`: with P and dP = v·dout over [keys, queries], dS = P·(dP − ⟨dout, out⟩). The sums for
//! keys and values are kept per query head, and joined over the group afterwards.

use super::tile::{Columns, KEYS, KeyTile, QUERIES, Span, key_rows, key_tiles, scores};
use super::{Inputs, Saved, Shape};
use crate::simd::{Disjoint, Product, Simd, Strided, dot, exp, scale_in_place, variants};

/// What one task reads besides the inputs, and where it adds.
pub(super) struct Head<'a> {
    pub(super) span: Span,
    pub(super) head: usize,
    pub(super) dq: &'a Disjoint<'a>,
    /// [L, D] of this head, to be multiplied by the scale.
    pub(super) dk: &'a mut [f32],
    /// [L, D] of this head.
    pub(super) dv: &'a mut [f32],
    pub(super) dout: &'a [f32],
    pub(super) saved: Saved<'a>,
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
}

#[inline(always)]
fn backward<S: Simd>(s: S, head: Head, inputs: &Inputs, shape: &Shape) {
    let Head { span, dout, saved, dq, dk, dv, head } = head;
    let width = shape.head_dim;
    let [queries, douts, dq_tile] = std::array::from_fn(|_| vec![0.0; QUERIES * width]);
    let [probabilities, dscores] = std::array::from_fn(|_| vec![0.0; KEYS * QUERIES]);
    let [log_sum_exp, along] = [[0.0; QUERIES]; 2];
    let mut scratch = Scratch { queries, douts, probabilities, dscores, dq: dq_tile, log_sum_exp, along };
    let kv_head = head / (shape.query_heads / shape.kv_heads);
    for first_token in (0..span.queries).step_by(QUERIES) {
        let tokens = QUERIES.min(span.queries - first_token);
        let columns = Columns { first_token, tokens, first_head: head, heads: 1, kv_head };
        columns.transpose(s, (&mut scratch.queries, QUERIES), inputs.q, span, shape);
        scale_in_place(s, &mut scratch.queries, shape.scale);
        columns.transpose(s, (&mut scratch.douts, QUERIES), dout, span, shape);
        for c in 0..tokens {
            let row = columns.row(span, c, shape);
            let values = row * width..(row + 1) * width;
            scratch.log_sum_exp[c] = saved.log_sum_exp[row];
            scratch.along[c] = dot(s, &dout[values.clone()], &saved.out[values]);
        }
        scratch.dq[..tokens * width].fill(0.0);
        for tile in key_tiles(columns.keys_end(span), KEYS) {
            let rows = tile.first * width..(tile.first + tile.count) * width;
            let into = [&mut dk[rows.clone()], &mut dv[rows]];
            tile_backward(s, into, &mut scratch, (inputs, dout), (span, columns, tile), shape);
        }
        for (c, from) in scratch.dq.chunks_exact(width).enumerate().take(tokens) {
            // SAFETY: no other task has this head of this span.
            let dq_d = unsafe { dq.part(columns.row(span, c, shape) * width, width) };
            for (dq, from) in dq_d.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                s.add_to(dq, s.mul(s.splat(shape.scale), s.load(from)));
            }
        }
    }
}
variants! { fn backward_head(head: Head, inputs: &Inputs, shape: &Shape) = backward }

/// One tile of keys against one of queries.
#[inline(always)]
fn tile_backward<S: Simd>(
    s: S,
    [dk, dv]: [&mut [f32]; 2],
    scratch: &mut Scratch,
    (inputs, dout): (&Inputs, &[f32]),
    (span, columns, tile): (Span, Columns, KeyTile),
    shape: &Shape,
) {
    let width = shape.head_dim;
    let (key_row, query_row) = (shape.kv_heads * width, shape.query_heads * width);
    let n = columns.count();
    let Scratch { queries, douts, probabilities, dscores, dq, log_sum_exp, along } = scratch;
    let keys = key_rows(inputs.k, span, tile, columns.kv_head, shape);
    scores(s, probabilities, queries, (keys, key_row), (span, columns, tile), shape);
    let product = Product { m: tile.count, n, k: width, c_row: QUERIES, b_row: QUERIES, add: false };
    let values = key_rows(inputs.v, span, tile, columns.kv_head, shape);
    s.product(&product, dscores, Strided::rows(values, key_row), douts);
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
    s.product(&onto_keys, dv, Strided::rows(probabilities, QUERIES), &dout[first..]);
    s.product(&onto_keys, dk, Strided::rows(dscores, QUERIES), &inputs.q[first..]);
    let onto_queries = Product { m: n, n: width, k: tile.count, c_row: width, b_row: key_row, add: true };
    let keys = key_rows(inputs.k, span, tile, columns.kv_head, shape);
    s.product(&onto_queries, dq, Strided::transposed(dscores, QUERIES), keys);
}
