//! Full attention: grouped queries, optional per-head norms, rotary positions, optional output gate.

use crate::weights::AttentionWeights;
use ops::{Execute, KvCache, Spans};

pub(crate) fn run<'w, E: Execute<'w>>(
    e: &mut E,
    w: &'w AttentionWeights,
    caches: &mut [&mut KvCache],
    spans: &Spans,
    x: &E::Value,
) -> E::Value {
    let [fused, k, v] = e.linears(x, [&w.query, &w.key, &w.value]);
    let (q, gate) = match &w.gate {
        Some([query_columns, gate_columns]) => {
            (e.columns(&fused, query_columns), Some(e.columns(&fused, gate_columns)))
        }
        None => (fused, None),
    };
    let (q, k) = match &w.head_norms {
        Some([query_norm, key_norm]) => (e.rms_norm(&q, query_norm), e.rms_norm(&k, key_norm)),
        None => (q, k),
    };
    let q = e.rope(&q, w.shape.head_dim, &w.rope, spans);
    let k = e.rope(&k, w.shape.head_dim, &w.rope, spans);
    let y = e.attention([&q, &k, &v], &w.shape, spans, caches);
    let y = match gate {
        Some(gate) => e.sigmoid_gate(&y, &gate),
        None => y,
    };
    e.linear(&y, &w.output)
}
