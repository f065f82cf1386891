//! Attention forwards, a tile of queries at a time over tiles of keys, with a softmax that is corrected as it goes.
//!
//! Everything is transposed, [keys, queries] and [D, queries]: maxima and sums then run down the lanes, and keys and
//! values are read as they lie.

use super::Shape;
use super::source::{Side, Source};
use super::tile::{Columns, KEYS, KeyTile, QUERIES, Span, key_tiles, scores};
use crate::simd::{Disjoint, Product, Simd, Strided, exp, scale_in_place, variants};

pub(super) struct Outputs<'a> {
    pub(super) out: Disjoint<'a>,
    /// Only who walks back wants it.
    pub(super) log_sum_exp: Option<Disjoint<'a>>,
    /// Whether both come with what other keys gave.
    pub(super) continues: bool,
}

/// Queries, and where their keys and values are.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) q: &'a [f32],
    pub(super) source: Source<'a>,
}

/// The running softmax of up to Q columns.
pub(super) struct Running<const Q: usize> {
    most: [f32; Q],
    sum: [f32; Q],
    /// What the last tile's new maxima scale the old sums by.
    pub(super) correction: [f32; Q],
}

impl<const Q: usize> Running<Q> {
    pub(super) fn start() -> Self {
        Self { most: [f32::NEG_INFINITY; Q], sum: [0.0; Q], correction: [0.0; Q] }
    }
}

#[inline(always)]
fn forward<S: Simd>(s: S, outputs: &Outputs, given: Given, span: Span, columns: Columns, shape: &Shape) {
    let width = shape.head_dim;
    let n = columns.count();
    let mut queries = vec![0.0; width * QUERIES];
    let mut sums = vec![0.0; width * QUERIES];
    let mut probabilities = vec![0.0; KEYS * QUERIES];
    columns.transpose(s, (&mut queries, QUERIES), given.q, span, shape);
    scale_in_place(s, &mut queries, shape.scale);
    let mut running = Running::<QUERIES>::start();
    if outputs.continues {
        resume(s, outputs, (&mut running, &mut sums), (span, columns), shape);
    }
    let mut room = Vec::new();
    for tile in key_tiles(columns.keys_end(span), KEYS) {
        let place = (span, tile, columns.kv_head);
        let keys = given.source.tile(s, Side::Keys, place, shape, &mut room);
        scores(s, &mut probabilities, &queries, keys, (span, columns, tile), shape);
        soften(s, &mut probabilities, &mut running, n, tile);
        for sums in sums.chunks_exact_mut(QUERIES) {
            for c in (0..n).step_by(S::LANES) {
                let corrected = s.mul(s.load(&sums[c..]), s.load(&running.correction[c..]));
                s.store(&mut sums[c..], corrected);
            }
        }
        let product = Product { m: width, n, k: tile.count, c_row: QUERIES, b_row: QUERIES, add: true };
        let (values, row) = given.source.tile(s, Side::Values, place, shape, &mut room);
        s.product(&product, &mut sums, Strided::transposed(values, row), &probabilities);
    }
    // The queries are done with: their room takes the sums, a query a row.
    s.transpose((&mut queries, width), (&sums, QUERIES), [width, n]);
    finish(s, outputs, &queries, &running, (span, columns), shape);
}
variants! {
    fn forward_columns(outputs: &Outputs, given: Given, span: Span, columns: Columns, shape: &Shape) = forward
}

/// Takes up the softmax of other keys: the sums of probabilities that add up to one, and so their logarithm as the
/// maximum. `sums` are `[D, queries]`.
#[inline(always)]
fn resume<S: Simd>(
    s: S,
    outputs: &Outputs,
    (running, sums): (&mut Running<QUERIES>, &mut [f32]),
    (span, columns): (Span, Columns),
    shape: &Shape,
) {
    let width = shape.head_dim;
    let log_sum_exp = outputs.log_sum_exp.as_ref().expect("a softmax that goes on has its logarithm");
    let mut rows = vec![0.0; columns.count() * width];
    for (c, to) in rows.chunks_exact_mut(width).enumerate() {
        let row = columns.row(span, c, shape);
        // SAFETY: no other task has these tokens' heads.
        let (out_d, log) = unsafe { (outputs.out.part(row * width, width), log_sum_exp.part(row, 1)) };
        to.copy_from_slice(out_d);
        (running.most[c], running.sum[c]) = (log[0], 1.0);
    }
    s.transpose((sums, QUERIES), (&rows, width), [columns.count(), width]);
}

/// Writes the columns' outputs: `sums_cd` `[n, D]` over the sums of their probabilities.
#[inline(always)]
pub(super) fn finish<S: Simd, const Q: usize>(
    s: S,
    outputs: &Outputs,
    sums_cd: &[f32],
    running: &Running<Q>,
    (span, columns): (Span, Columns),
    shape: &Shape,
) {
    let width = shape.head_dim;
    for (c, sums_d) in sums_cd.chunks_exact(width).enumerate().take(columns.count()) {
        let row = columns.row(span, c, shape);
        let share = s.splat(1.0 / running.sum[c]);
        // SAFETY: no other task has these tokens' heads.
        let out_d = unsafe { outputs.out.part(row * width, width) };
        if let Some(log_sum_exp) = &outputs.log_sum_exp {
            // SAFETY: as above.
            let log_sum_exp = unsafe { log_sum_exp.part(row, 1) };
            log_sum_exp[0] = running.most[c] + running.sum[c].ln();
        }
        for (out, sum) in out_d.chunks_mut(S::LANES).zip(sums_d.chunks(S::LANES)) {
            s.store(out, s.mul(s.load(sum), share));
        }
    }
}
/// scores ← e^{scores − maximum}, Q to a row, with the maxima and sums brought up to date.
#[inline(always)]
pub(super) fn soften<S: Simd, const Q: usize>(
    s: S,
    scores: &mut [f32],
    running: &mut Running<Q>,
    n: usize,
    tile: KeyTile,
) {
    for c in (0..n).step_by(S::LANES) {
        let before = s.load(&running.most[c..]);
        let mut most = before;
        for scores in scores.chunks_exact(Q).take(tile.count) {
            most = s.max(most, s.load(&scores[c..]));
        }
        let correction = exp(s, s.sub(before, most));
        let mut sum = s.mul(correction, s.load(&running.sum[c..]));
        for scores in scores.chunks_exact_mut(Q).take(tile.count) {
            let probability = exp(s, s.sub(s.load(&scores[c..]), most));
            sum = s.add(sum, probability);
            s.store(&mut scores[c..], probability);
        }
        s.store(&mut running.most[c..], most);
        s.store(&mut running.sum[c..], sum);
        s.store(&mut running.correction[c..], correction);
    }
}
