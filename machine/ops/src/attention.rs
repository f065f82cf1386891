//! Causal grouped-query attention of a batch of spans, each over its own cache.

use crate::{AttentionShape, Buffer, KvCache, Spans};
use kernels::attention::{self as kernel, Gradients, Inputs, KeyGradients};
use kernels::kv_page::PageShape;
use std::ops::Range;

/// Every span extends its cache and looks at all of it.
pub(crate) fn forward(qkv: [&Buffer; 3], shape: &AttentionShape, spans: &Spans, caches: &mut [&mut KvCache]) -> Buffer {
    let [q, _, _] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    for ((rows, &start), cache) in spans.rows().zip(&spans.starts).zip(caches) {
        extend(cache, qkv, rows.clone(), start, shape);
        let queries = of(q, &rows);
        kernel::cached(&mut output[queries.clone()], &q[queries], cache.read(), shape);
    }
    output
}

/// What backward needs besides q, k, v and the output.
pub(crate) struct Saved {
    /// `[T, query_heads]`.
    log_sum_exp: Buffer,
    /// The caches of the spans that have a past or a future, by the span's number.
    kept: Vec<(usize, KvCache)>,
    /// The spans between them, which need no cache.
    whole: Range<usize>,
}

/// As [`forward`], exactly and with what backward needs. Only the first span may continue a cache, and only the last
/// one's sequence may go on: nothing follows the others, so their keys and values are not kept.
pub(crate) fn forward_saved(
    qkv: [&Buffer; 3],
    shape: &AttentionShape,
    (spans, goes_on): (&Spans, bool),
    caches: &mut [&mut KvCache],
) -> (Buffer, Saved) {
    let [q, k, v] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    let mut log_sum_exp = Buffer::unwritten(q.rows, shape.query_heads);
    let rows: Vec<Range<usize>> = spans.rows().collect();
    let (numbers, whole) = cut(spans, goes_on);
    if !whole.is_empty() {
        let all = rows[whole.start].start..rows[whole.end - 1].end;
        let inputs = Inputs { q: &q[of(q, &all)], k: &k[of(k, &all)], v: &v[of(v, &all)] };
        let (out, sums) = (of(&output, &all), of(&log_sum_exp, &all));
        kernel::forward_packed(&mut output[out], &mut log_sum_exp[sums], inputs, &spans.lengths[whole.clone()], shape);
    }
    let mut kept = Vec::with_capacity(numbers.len());
    for number in numbers {
        let (cache, rows) = (&mut caches[number], &rows[number]);
        extend(cache, qkv, rows.clone(), spans.starts[number], shape);
        let (queries, sums) = (of(q, rows), of(&log_sum_exp, rows));
        kernel::cached_saved(&mut output[queries.clone()], &mut log_sum_exp[sums], &q[queries], cache.read(), shape);
        kept.push((number, cache.clone()));
    }
    (output, Saved { log_sum_exp, kept, whole })
}

/// Adds to the gradients of q, k and v. `carried` comes with what later tokens ask of the last span's keys and values,
/// and is left with what these tokens ask of those that the first span found.
pub(crate) fn backward(
    dqkv: [&mut Buffer; 3],
    doutput: &Buffer,
    (output, saved): (&Buffer, &Saved),
    qkv: [&Buffer; 3],
    (spans, shape): (&Spans, &AttentionShape),
    carried: &mut KeyGradients,
) {
    let ([dq, dk, dv], [q, k, v]) = (dqkv, qkv);
    let Saved { log_sum_exp, kept, whole } = saved;
    let all: Vec<Range<usize>> = spans.rows().collect();
    let saved_of = |rows: &Range<usize>| kernel::Saved {
        out: &output[of(output, rows)],
        log_sum_exp: &log_sum_exp[of(log_sum_exp, rows)],
    };
    let mut later = std::mem::take(carried);
    for (number, cache) in kept.iter().rev() {
        let (rows, start) = (&all[*number], spans.starts[*number]);
        let mut sums = std::mem::take(&mut later);
        if sums.is_empty() {
            sums = KeyGradients::zeros(cache.tokens(), shape);
        }
        let queries = of(q, rows);
        let into = (&mut dq[queries.clone()], &mut sums);
        kernel::cached_backward(into, &doutput[queries.clone()], saved_of(rows), &q[queries], cache.read(), shape);
        let (keys, values) = (of(k, rows), of(v, rows));
        sums.add_to([&mut dk[keys], &mut dv[values]], start, shape);
        if *number == 0 && start > 0 {
            *carried = sums;
        }
    }
    if !whole.is_empty() {
        let rows = all[whole.start].start..all[whole.end - 1].end;
        let (queries, keys) = (of(q, &rows), of(k, &rows));
        let inputs = Inputs { q: &q[queries.clone()], k: &k[keys.clone()], v: &v[keys.clone()] };
        let doutput = &doutput[queries.clone()];
        let gradients = Gradients { dq: &mut dq[queries], dk: &mut dk[keys.clone()], dv: &mut dv[keys] };
        let lengths = &spans.lengths[whole.clone()];
        kernel::backward_packed(gradients, doutput, saved_of(&rows), inputs, lengths, shape);
    }
}

/// The spans that have a past or a future, and those between them.
fn cut(spans: &Spans, goes_on: bool) -> (Vec<usize>, Range<usize>) {
    let count = spans.lengths.len();
    assert!(spans.starts.iter().skip(1).all(|&start| start == 0), "only the first sequence may have begun before");
    let first = usize::from(count > 0 && (spans.starts[0] > 0 || (goes_on && count == 1)));
    let last = count - usize::from(goes_on && count > 1);
    ((0..first).chain(last..count).collect(), first..last)
}

fn extend(cache: &mut KvCache, [_, k, v]: [&Buffer; 3], rows: Range<usize>, start: usize, shape: &AttentionShape) {
    assert_eq!(cache.tokens(), start, "the cache holds another number of tokens than the state says");
    cache.extend(&k[of(k, &rows)], &v[of(v, &rows)], page_shape(shape));
}

pub(crate) fn page_shape(shape: &AttentionShape) -> PageShape {
    PageShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim }
}

/// Where these rows of x lie.
pub(crate) fn of(x: &Buffer, rows: &Range<usize>) -> Range<usize> {
    rows.start * x.width..rows.end * x.width
}
