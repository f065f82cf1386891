//! Attention forwards, a tile of queries at a time over tiles of keys, with a softmax that is corrected as it goes.
//!
//! Everything is transposed, [keys, queries] and [D, queries]: maxima and sums then run down the lanes, and keys and
//! values are read as they lie.

use super::tile::{Columns, KEYS, KeyTile, QUERIES, Span, key_rows, key_tiles, scores};
use super::{Inputs, Shape};
use crate::simd::{Disjoint, Product, Simd, Strided, exp, scale_in_place, variants};

pub(super) struct Outputs<'a> {
    pub(super) out: Disjoint<'a>,
    pub(super) log_sum_exp: Disjoint<'a>,
}

/// The running softmax of the columns.
struct Running {
    most: [f32; QUERIES],
    sum: [f32; QUERIES],
    /// What the last tile's new maxima scale the old sums by.
    correction: [f32; QUERIES],
}

#[inline(always)]
fn forward<S: Simd>(s: S, outputs: &Outputs, inputs: &Inputs, span: Span, columns: Columns, shape: &Shape) {
    let width = shape.head_dim;
    let n = columns.count();
    let mut queries = vec![0.0; width * QUERIES];
    let mut sums = vec![0.0; width * QUERIES];
    let mut probabilities = vec![0.0; KEYS * QUERIES];
    columns.transpose(s, &mut queries, inputs.q, span, shape);
    scale_in_place(s, &mut queries, shape.scale);
    let mut running = Running { most: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES], correction: [0.0; QUERIES] };
    for tile in key_tiles(columns.keys_end(span)) {
        scores(s, &mut probabilities, &queries, inputs, (span, columns, tile), shape);
        soften(s, &mut probabilities, &mut running, n, tile);
        for sums in sums.chunks_exact_mut(QUERIES) {
            for c in (0..n).step_by(S::LANES) {
                let corrected = s.mul(s.load(&sums[c..]), s.load(&running.correction[c..]));
                s.store(&mut sums[c..], corrected);
            }
        }
        let product = Product { m: width, n, k: tile.count, c_row: QUERIES, b_row: QUERIES, add: true };
        let values = key_rows(inputs.v, span, tile, columns.kv_head, shape);
        s.product(&product, &mut sums, Strided::transposed(values, shape.kv_heads * width), &probabilities);
    }
    // The queries are done with: their room takes the sums, a query a row.
    s.transpose((&mut queries, width), (&sums, QUERIES), [width, n]);
    for (c, sums_d) in queries.chunks_exact(width).enumerate().take(n) {
        let row = columns.row(span, c, shape);
        let share = s.splat(1.0 / running.sum[c]);
        // SAFETY: no other task has these tokens' heads.
        let (out_d, log_sum_exp) = unsafe { (outputs.out.part(row * width, width), outputs.log_sum_exp.part(row, 1)) };
        log_sum_exp[0] = running.most[c] + running.sum[c].ln();
        for (out, sum) in out_d.chunks_mut(S::LANES).zip(sums_d.chunks(S::LANES)) {
            s.store(out, s.mul(s.load(sum), share));
        }
    }
}
variants! {
    fn forward_columns(outputs: &Outputs, inputs: &Inputs, span: Span, columns: Columns, shape: &Shape) = forward
}

/// scores ← e^{scores − maximum}, with the maxima and sums brought up to date.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [f32], running: &mut Running, n: usize, tile: KeyTile) {
    for c in (0..n).step_by(S::LANES) {
        let before = s.load(&running.most[c..]);
        let mut most = before;
        for scores in scores.chunks_exact(QUERIES).take(tile.count) {
            most = s.max(most, s.load(&scores[c..]));
        }
        let correction = exp(s, s.sub(before, most));
        let mut sum = s.mul(correction, s.load(&running.sum[c..]));
        for scores in scores.chunks_exact_mut(QUERIES).take(tile.count) {
            let probability = exp(s, s.sub(s.load(&scores[c..]), most));
            sum = s.add(sum, probability);
            s.store(&mut scores[c..], probability);
        }
        s.store(&mut running.most[c..], most);
        s.store(&mut running.sum[c..], sum);
        s.store(&mut running.correction[c..], correction);
    }
}
