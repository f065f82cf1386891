//! Causal grouped-query attention of a batch of spans, each over its own cache.

use crate::{AttentionShape, Buffer, KvCache, Spans};
use kernels::attention::{self as kernel, Gradients, Inputs, Saved};
use kernels::kv_page::PageShape;

/// What backward needs besides q, k, v and the output: `[T, query_heads]`.
pub(crate) type LogSumExp = Buffer;

/// Every span extends its cache and looks at all of it.
pub(crate) fn forward(qkv: [&Buffer; 3], shape: &AttentionShape, spans: &Spans, caches: &mut [&mut KvCache]) -> Buffer {
    let [q, k, v] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    let page_shape = PageShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    for ((rows, &start), cache) in spans.rows().zip(&spans.starts).zip(caches) {
        assert_eq!(cache.tokens(), start, "the cache holds another number of tokens than the state says");
        let [new_keys, new_values] = [k, v].map(|x| &x[rows.start * x.width..rows.end * x.width]);
        cache.extend(new_keys, new_values, page_shape);
        let queries = rows.start * q.width..rows.end * q.width;
        kernel::cached(&mut output[queries.clone()], &q[queries], cache.read(), shape);
    }
    output
}

/// All spans from their first token: what a tape runs. Nothing is cached, since nothing will follow.
pub(crate) fn forward_fresh(qkv: [&Buffer; 3], shape: &AttentionShape, spans: &Spans) -> (Buffer, LogSumExp) {
    assert!(spans.all_fresh(), "a tape starts its sequences at their first token");
    let [q, k, v] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    let mut log_sum_exp = Buffer::unwritten(q.rows, shape.query_heads);
    kernel::forward_packed(&mut output, &mut log_sum_exp, Inputs { q, k, v }, &spans.lengths, shape);
    (output, log_sum_exp)
}

/// Adds to the gradients of q, k and v.
pub(crate) fn backward(
    dqkv: [&mut Buffer; 3],
    doutput: &Buffer,
    output: (&Buffer, &LogSumExp),
    qkv: [&Buffer; 3],
    spans: &Spans,
    shape: &AttentionShape,
) {
    let [dq, dk, dv] = dqkv;
    let [q, k, v] = qkv;
    let saved = Saved { out: output.0, log_sum_exp: output.1 };
    kernel::backward_packed(Gradients { dq, dk, dv }, doutput, saved, Inputs { q, k, v }, &spans.lengths, shape);
}
