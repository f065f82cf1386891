//! Depthwise causal convolution with SiLU, span by span.

use crate::{Buffer, Conv, DeltaState, Gradients, Spans};
use kernels::conv1d as kernel;

/// Continues each span's tail. Returns the output and the values before SiLU, which backward needs.
pub(crate) fn forward(x: &Buffer, conv: &Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> (Buffer, Buffer) {
    forward_normalised(x, conv, spans, states, &[])
}

/// As [`forward`], with heads of the output brought to one length.
pub(crate) fn forward_normalised(
    x: &Buffer,
    conv: &Conv,
    spans: &Spans,
    states: &mut [&mut DeltaState],
    heads: &[kernel::Heads],
) -> (Buffer, Buffer) {
    let mut tails = Vec::with_capacity(states.iter().map(|state| state.tail.len()).sum());
    states.iter().for_each(|state| tails.extend_from_slice(&state.tail));
    let outputs = forward_from(x, conv, spans, &mut tails, heads);
    for (state, tail) in states.iter_mut().zip(tails.chunks_exact((conv.weight.matrix.columns - 1) * x.width)) {
        state.tail.copy_from_slice(tail);
    }
    outputs
}

/// The same with all tails in one, `[S, kernel − 1, channels]`, which come with what each span finds and are left with
/// what it leaves.
pub(crate) fn forward_from(
    x: &Buffer,
    conv: &Conv,
    spans: &Spans,
    tails: &mut [f32],
    heads: &[kernel::Heads],
) -> (Buffer, Buffer) {
    let mut y = Buffer::unwritten(x.rows, x.width);
    let mut before_silu = Buffer::unwritten(x.rows, x.width);
    let given = (&x[..], conv.weight.values());
    let taps = conv.weight.matrix.columns;
    kernel::forward_normalised([&mut y, &mut before_silu], given, tails, &spans.lengths, taps, heads);
    (y, before_silu)
}

/// What backward needs besides x.
pub(crate) struct Saved {
    pub(crate) before_silu: Buffer,
    /// What the first span found before it, `[kernel − 1, channels]`; empty where its sequence began with it. The
    /// others began with theirs.
    pub(crate) tail: Vec<f32>,
}

/// Adds to dx and to the gradient of the weight. `carried` comes with what later tokens ask of the last span's tail,
/// and is left with what these tokens ask of the one that the first span found; empty for nothing.
pub(crate) fn backward(
    dx: &mut Buffer,
    dy: &Buffer,
    (x, saved): (&Buffer, &Saved),
    (conv, spans): (&Conv, &Spans),
    carried: &mut Vec<f32>,
    gradients: &mut Gradients,
) {
    let tail_len = (conv.weight.matrix.columns - 1) * x.width;
    let mut tails = vec![0.0; spans.lengths.len() * tail_len];
    let mut dtails = tails.clone();
    tails[..saved.tail.len()].copy_from_slice(&saved.tail);
    let last = dtails.len() - carried.len();
    dtails[last..].copy_from_slice(carried);
    backward_from(dx, dy, (x, &saved.before_silu, &tails), (conv, spans), &mut dtails, gradients);
    carried.clear();
    carried.extend_from_slice(&dtails[..saved.tail.len()]);
}

/// The same with what every span found in `tails`; `dtails` comes with what is asked of what each leaves and is left
/// with what it asks of what it found.
pub(crate) fn backward_from(
    dx: &mut Buffer,
    dy: &Buffer,
    (x, before_silu, tails): (&Buffer, &Buffer, &[f32]),
    (conv, spans): (&Conv, &Spans),
    dtails: &mut [f32],
    gradients: &mut Gradients,
) {
    let (weight, kernel_size) = (conv.weight.values(), conv.weight.matrix.columns);
    let given = kernel::Saved { pre: before_silu, x, initial_tail: tails };
    let mut forgotten = Vec::new();
    let dweight = match conv.weight.trained {
        true => gradients.entry(&conv.weight),
        false => {
            forgotten.resize(weight.len(), 0.0);
            &mut forgotten
        }
    };
    kernel::backward_packed([dx, dweight, dtails], dy, given, weight, &spans.lengths, kernel_size);
}
