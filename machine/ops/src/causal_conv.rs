//! Depthwise causal convolution with SiLU, span by span.

use crate::{Buffer, Conv, DeltaState, Gradients, Spans};
use kernels::conv1d as kernel;

/// Continues each span's tail.
pub(crate) fn infer(x: &Buffer, conv: &Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> Buffer {
    if spans.lengths.iter().any(|&tokens| tokens != 1) {
        return forward(x, conv, spans, states).0;
    }
    let mut y = Buffer::unwritten(x.rows, x.width);
    let (weight, kernel_size) = (conv.weight.values(), conv.weight.matrix.columns);
    let rows = y.chunks_exact_mut(x.width).zip(x.chunks_exact(x.width));
    for ((y, x), state) in rows.zip(states) {
        kernel::step(y, x, weight, &mut state.tail, kernel_size);
    }
    y
}

/// Returns the output and the values before SiLU, which backward needs.
pub(crate) fn forward(x: &Buffer, conv: &Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> (Buffer, Buffer) {
    let mut y = Buffer::unwritten(x.rows, x.width);
    let mut before_silu = Buffer::unwritten(x.rows, x.width);
    let mut tails = Vec::with_capacity(states.iter().map(|state| state.tail.len()).sum());
    states.iter().for_each(|state| tails.extend_from_slice(&state.tail));
    let kernel_size = conv.weight.matrix.columns;
    let weight = conv.weight.values();
    kernel::forward_packed(&mut y, &mut before_silu, x, weight, &mut tails, &spans.lengths, kernel_size);
    for (state, tail) in states.iter_mut().zip(tails.chunks_exact((kernel_size - 1) * x.width)) {
        state.tail.copy_from_slice(tail);
    }
    (y, before_silu)
}

/// Adds to dx and to the gradient of the weight. The spans started with empty tails.
pub(crate) fn backward(
    dx: &mut Buffer,
    dy: &Buffer,
    (x, before_silu): (&Buffer, &Buffer),
    conv: &Conv,
    spans: &Spans,
    gradients: &mut Gradients,
) {
    let (weight, kernel_size) = (conv.weight.values(), conv.weight.matrix.columns);
    let tails = vec![0.0; spans.lengths.len() * (kernel_size - 1) * x.width];
    let saved = kernel::Saved { pre: before_silu, x, initial_tail: &tails };
    let mut forgotten = Vec::new();
    let dweight = match conv.weight.trained {
        true => gradients.entry(&conv.weight),
        false => {
            forgotten.resize(weight.len(), 0.0);
            &mut forgotten
        }
    };
    kernel::backward_packed(dx, dweight, dy, saved, weight, &spans.lengths, kernel_size);
}
