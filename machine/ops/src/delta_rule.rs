//! The gated delta rule (Gated DeltaNet, Yang et al. 2024) with what surrounds it: the split of the convolved
//! projection into q, k, v, the L2 norms of q and k, and the gates.
//!
//! Legend: T tokens, Hk key heads, Hv value heads, K key width, V value width.

use crate::{Buffer, Columns, Conv, DeltaGates, DeltaShape, DeltaState, Gradients, Spans, causal_conv, columns};
use kernels::conv1d::Heads;
use kernels::gated_delta::{self as kernel, Inputs};
use kernels::{delta_gate, delta_step, l2_norm};
use std::ops::Range;

/// What the rule reads, and what backward needs.
pub(crate) struct Saved {
    q: Buffer,
    k: Buffer,
    pub(crate) v: Buffer,
    /// Log-decay and write strength, `[T, Hv]` each.
    g: Buffer,
    beta: Buffer,
    /// The state at the start of each chunk.
    pub(crate) chunk_states: Vec<f32>,
}

impl Saved {
    fn read(&self) -> Inputs<'_> {
        self.rows(&(0..self.v.rows))
    }

    /// What the rule reads of some tokens.
    pub(crate) fn rows(&self, rows: &Range<usize>) -> Inputs<'_> {
        let of = |x: &'_ Buffer| rows.start * x.width..rows.end * x.width;
        let Self { q, k, v, g, beta, .. } = self;
        Inputs { q: &q[of(q)], k: &k[of(k)], v: &v[of(v)], g: &g[of(g)], beta: &beta[of(beta)] }
    }
}

fn rates(gates: &DeltaGates) -> delta_gate::Rates<'_> {
    delta_gate::Rates { a_log: gates.a_log.values(), dt_bias: gates.dt_bias.values() }
}

struct Widths {
    keys: usize,
    values: usize,
}

impl Widths {
    fn of(shape: &DeltaShape) -> Self {
        Self { keys: shape.key_heads * shape.key_dim, values: shape.value_heads * shape.value_dim }
    }
}

/// `width` columns of the convolved projection.
fn part(qkv: &Buffer, from: usize, width: usize) -> Columns {
    Columns::new(qkv.width, std::iter::once(from..from + width))
}

/// Queries and keys among the columns of qkv, and the length that they are brought to.
fn heads(shape: &DeltaShape) -> [Heads; 2] {
    let keys = Widths::of(shape).keys;
    [(0, shape.query_scale()), (keys, 1.0)].map(|(from, scale)| Heads {
        columns: from..from + keys,
        width: shape.key_dim,
        scale,
    })
}

/// Normalised q and k, v, and the gates.
pub(crate) fn inputs(qkv: &Buffer, b: &Buffer, a: &Buffer, gates: &DeltaGates) -> Saved {
    split(qkv, b, a, gates, |raw, scale| {
        let mut y = Buffer::unwritten(raw.rows, raw.width);
        l2_norm::forward(&mut y, &raw, gates.shape.key_dim, scale);
        y
    })
}

/// q and k as `normalise` makes them of their columns and their length, v, and the gates.
fn split(qkv: &Buffer, b: &Buffer, a: &Buffer, gates: &DeltaGates, normalise: impl Fn(Buffer, f32) -> Buffer) -> Saved {
    let widths = Widths::of(&gates.shape);
    let [q, k] = heads(&gates.shape)
        .map(|heads| normalise(columns::forward(qkv, &part(qkv, heads.columns.start, widths.keys)), heads.scale));
    let mut g = Buffer::unwritten(a.rows, a.width);
    let mut beta = Buffer::unwritten(b.rows, b.width);
    delta_gate::forward(&mut g, &mut beta, a, b, &rates(gates));
    Saved {
        q,
        k,
        v: columns::forward(qkv, &part(qkv, 2 * widths.keys, widths.values)),
        g,
        beta,
        chunk_states: Vec::new(),
    }
}

/// Continues each span's state.
pub(crate) fn forward(
    qkv: &Buffer,
    (b, a): (&Buffer, &Buffer),
    gates: &DeltaGates,
    spans: &Spans,
    states: &mut [&mut DeltaState],
) -> Buffer {
    continued(&inputs(qkv, b, a, gates), &gates.shape, spans, states)
}

/// The convolution and [`forward`], with the norms in the convolution's own pass; the same to the bit. `qkv` comes
/// before the convolution.
pub(crate) fn prefill(
    [qkv, b, a]: [&Buffer; 3],
    (conv, gates): (&Conv, &DeltaGates),
    spans: &Spans,
    states: &mut [&mut DeltaState],
) -> Buffer {
    let (qkv, _) = causal_conv::forward_normalised(qkv, conv, spans, states, &heads(&gates.shape));
    continued(&split(&qkv, b, a, gates, |normalised, _| normalised), &gates.shape, spans, states)
}

fn continued(inputs: &Saved, shape: &DeltaShape, spans: &Spans, states: &mut [&mut DeltaState]) -> Buffer {
    let mut output = Buffer::unwritten(inputs.v.rows, inputs.v.width);
    for (rows, state) in spans.rows().zip(states) {
        let out = rows.start * output.width..rows.end * output.width;
        kernel::prefill(&mut output[out], inputs.rows(&rows), &mut state.matrix, shape);
    }
    output
}

/// Whether all spans are so short that [`step`] is the faster way.
pub(crate) fn is_stepped(spans: &Spans) -> bool {
    spans.lengths.iter().all(|&tokens| tokens < delta_step::MANY)
}

/// The convolution and [`forward`] in one call, for a few tokens of each span; the same to the bit. `qkv` comes before
/// the convolution.
pub(crate) fn step(
    [qkv, b, a]: [&Buffer; 3],
    (conv, gates): (&Conv, &DeltaGates),
    spans: &Spans,
    states: &mut [&mut DeltaState],
) -> Buffer {
    let shape = &gates.shape;
    let taps = conv.weight.matrix.columns;
    let layer = delta_step::Layer { conv: conv.weight.values(), taps, rates: rates(gates), shape };
    let mut output = Buffer::unwritten(qkv.rows, Widths::of(shape).values);
    for (rows, state) in spans.rows().zip(states) {
        let of = |x: &Buffer| rows.start * x.width..rows.end * x.width;
        let out = of(&output);
        let tokens = delta_step::Tokens { qkv: &qkv[of(qkv)], b: &b[of(b)], a: &a[of(a)] };
        let state = delta_step::State { tail: &mut state.tail, matrix: &mut state.matrix };
        delta_step::forward(&mut output[out], tokens, state, &layer);
    }
    output
}

/// As [`forward`], in chunks whatever the lengths, and with what backward needs.
pub(crate) fn forward_saved(
    qkv: &Buffer,
    (b, a): (&Buffer, &Buffer),
    gates: &DeltaGates,
    spans: &Spans,
    states: &mut [&mut DeltaState],
) -> (Buffer, Saved) {
    let mut saved = inputs(qkv, b, a, gates);
    let shape = &gates.shape;
    let mut output = Buffer::unwritten(saved.v.rows, saved.v.width);
    let mut matrices = Vec::with_capacity(states.len() * shape.state_len());
    states.iter().for_each(|state| matrices.extend_from_slice(&state.matrix));
    saved.chunk_states = run(&mut output, saved.read(), &mut matrices, &spans.lengths, shape);
    for (state, matrix) in states.iter_mut().zip(matrices.chunks_exact(shape.state_len())) {
        state.matrix.copy_from_slice(matrix);
    }
    (output, saved)
}

/// Sequences of these lengths from their states, which become those after them; gives the states before each chunk.
pub(crate) fn run(
    output: &mut [f32],
    inputs: Inputs,
    states: &mut [f32],
    lengths: &[usize],
    shape: &DeltaShape,
) -> Vec<f32> {
    let mut chunk_states = Vec::new();
    kernel::chunked_packed(output, inputs, states, &mut chunk_states, lengths, shape);
    chunk_states
}

/// Adds to the gradients of qkv, b, a and of the gates' parameters. `carried` comes with what later tokens ask of the
/// last span's state, and is left with what these tokens ask of the one that the first span found; empty for nothing.
pub(crate) fn backward(
    adjoints: [&mut Buffer; 3],
    doutput: &Buffer,
    values: (&Buffer, &Buffer, &Buffer),
    saved: &Saved,
    (gates, spans): (&DeltaGates, &Spans),
    carried: &mut Vec<f32>,
    gradients: &mut Gradients,
) {
    let mut dstates = vec![0.0; spans.lengths.len() * gates.shape.state_len()];
    let last = dstates.len() - carried.len();
    dstates[last..].copy_from_slice(carried);
    backward_from(adjoints, doutput, values, saved, (gates, spans), &mut dstates, gradients);
    carried.clear();
    if spans.starts.first().is_some_and(|&start| start > 0) {
        carried.extend_from_slice(&dstates[..gates.shape.state_len()]);
    }
}

/// The same, where `dstates` `[S, Hv, K, V]` comes with what is asked of what each span leaves and is left with what it
/// asks of what it found.
pub(crate) fn backward_from(
    [dqkv, db, da]: [&mut Buffer; 3],
    doutput: &Buffer,
    (qkv, b, a): (&Buffer, &Buffer, &Buffer),
    saved: &Saved,
    (gates, spans): (&DeltaGates, &Spans),
    dstates: &mut [f32],
    gradients: &mut Gradients,
) {
    let shape = &gates.shape;
    let widths = Widths::of(shape);
    let Saved { q, k, v, g, beta, chunk_states } = saved;
    let [mut dq, mut dk, mut dv, mut dg, mut dbeta] = [q, k, v, g, beta].map(|x| Buffer::zeros(x.rows, x.width));
    let adjoints = kernel::Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, dg: &mut dg, dbeta: &mut dbeta };
    kernel::backward_packed(adjoints, doutput, saved.read(), chunk_states, dstates, &spans.lengths, shape);
    let backward_norm = |dy: &Buffer, from: usize, scale: f32| {
        let raw = columns::forward(qkv, &part(qkv, from, widths.keys));
        let mut dx = Buffer::zeros(raw.rows, raw.width);
        l2_norm::backward(&mut dx, dy, &raw, shape.key_dim, scale);
        dx
    };
    let parts = [
        (0, backward_norm(&dq, 0, shape.query_scale())),
        (widths.keys, backward_norm(&dk, widths.keys, 1.0)),
        (2 * widths.keys, dv),
    ];
    for (from, adjoint) in parts {
        columns::backward(dqkv, &adjoint, &part(qkv, from, adjoint.width));
    }

    let (mut da_log, mut ddt_bias) = (vec![0.0; g.width], vec![0.0; g.width]);
    let adjoints = delta_gate::Gradients { da, db, da_log: &mut da_log, ddt_bias: &mut ddt_bias };
    delta_gate::backward(adjoints, &dg, &dbeta, a, b, &rates(gates));
    for (parameter, gradient) in [(&gates.a_log, da_log), (&gates.dt_bias, ddt_bias)] {
        if parameter.trained {
            gradients.entry(parameter).iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
        }
    }
}
