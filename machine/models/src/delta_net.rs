//! Gated DeltaNet: a short convolution, the gated delta rule, a gated norm. Its state does not grow.

use crate::weights::{DeltaInput, DeltaWeights};
use ops::{DeltaState, Execute, Spans};

pub(crate) fn run<'w, E: Execute<'w>>(
    e: &mut E,
    w: &'w DeltaWeights,
    states: &mut [&mut DeltaState],
    spans: &Spans,
    x: &E::Value,
) -> E::Value {
    let (qkv, z) = match &w.input {
        DeltaInput::Grouped { qkvz, qkv_columns, z_columns } => {
            let qkvz = e.linear(x, qkvz);
            (e.columns(&qkvz, qkv_columns), e.columns(&qkvz, z_columns))
        }
        DeltaInput::Split { qkv, z } => (e.linear(x, qkv), e.linear(x, z)),
    };
    let ba = e.linear(x, &w.ba);
    let [b, a] = [&w.b_columns, &w.a_columns].map(|columns| e.columns(&ba, columns));
    let qkv = e.causal_conv(&qkv, &w.conv, spans, states);
    let y = e.delta_rule(&qkv, &b, &a, &w.gates, spans, states);
    let y = e.gated_rms_norm(&y, &z, &w.norm);
    e.linear(&y, &w.output)
}
