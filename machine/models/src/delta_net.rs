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
    let (qkv, z, ba) = match &w.input {
        DeltaInput::Grouped { qkvz, qkv_columns, z_columns } => {
            let [qkvz, ba] = e.linears(x, [qkvz, &w.ba]);
            (e.columns(&qkvz, qkv_columns), e.columns(&qkvz, z_columns), ba)
        }
        DeltaInput::Split { qkv, z } => e.linears(x, [qkv, z, &w.ba]).into(),
    };
    let [b, a] = [&w.b_columns, &w.a_columns].map(|columns| e.columns(&ba, columns));
    let y = e.delta_net([&qkv, &b, &a], (&w.conv, &w.gates), spans, states);
    let y = e.gated_rms_norm(&y, &z, &w.norm);
    e.linear(&y, &w.output)
}
