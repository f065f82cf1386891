//! Causal grouped-query attention of a batch of spans, each over its own cache.

use crate::{AttentionShape, Buffer, KvCache, Spans};
use kernels::attention::{self as kernel, Gradients, Inputs, Saved};

/// What backward needs besides q, k, v and the output: `[T, query_heads]`.
pub(crate) type LogSumExp = Buffer;

/// Every span extends its cache and looks at all of it.
pub(crate) fn forward(qkv: [&Buffer; 3], shape: &AttentionShape, spans: &Spans, caches: &mut [&mut KvCache]) -> Buffer {
    let [q, k, v] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    let mut log_sum_exp = Buffer::unwritten(q.rows, shape.query_heads);
    for ((rows, &start), cache) in spans.rows().zip(&spans.starts).zip(caches) {
        assert_eq!(cache.keys.len(), start * k.width, "the cache holds another number of tokens than the state says");
        cache.keys.extend_from_slice(&k[rows.start * k.width..rows.end * k.width]);
        cache.values.extend_from_slice(&v[rows.start * v.width..rows.end * v.width]);
        let queries = rows.start * q.width..rows.end * q.width;
        let inputs = Inputs { q: &q[queries.clone()], k: &cache.keys, v: &cache.values };
        let kept = &mut log_sum_exp[rows.start * shape.query_heads..rows.end * shape.query_heads];
        kernel::forward(&mut output[queries], kept, inputs, shape);
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
