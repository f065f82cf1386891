//! Causal depthwise convolution over time, then SiLU; and its adjoint.
//!
//! T tokens, C channels, K taps, S spans. x, y, pre [T, C]; weight [C, K], the last tap is the current token;
//! tail [K − 1, C] holds the inputs before the span and is left holding the span's last ones. y and pre are written,
//! gradients are added to; the gradient into a tail is dropped. Shapes that do not fit are a panic.

pub mod scalar;

/// What the forward pass leaves for the backward one.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// Before the SiLU, [T, C].
    pub pre: &'a [f32],
    /// The input, [T, C].
    pub x: &'a [f32],
    /// The tail as it was before the forward pass, [K − 1, C], or one per span [S, K − 1, C].
    pub initial_tail: &'a [f32],
}

/// One span.
pub fn forward(y: &mut [f32], pre: &mut [f32], x: &[f32], weight: &[f32], tail: &mut [f32], kernel: usize) {
    scalar::forward(y, pre, x, weight, tail, kernel);
}

/// One span, backwards.
pub fn backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], saved: Saved, weight: &[f32], kernel: usize) {
    scalar::backward([dx, dweight], dy, [saved.pre, saved.x, weight, saved.initial_tail], kernel);
}

/// Several spans one after the other, each with a tail of its own in `tails` [S, K − 1, C].
pub fn forward_packed(
    y: &mut [f32],
    pre: &mut [f32],
    x: &[f32],
    weight: &[f32],
    tails: &mut [f32],
    spans: &[usize],
    kernel: usize,
) {
    let channels = weight.len() / kernel;
    let tail_len = (kernel - 1) * channels;
    let mut start = 0;
    for (index, span) in spans.iter().enumerate() {
        let rows = start * channels..(start + span) * channels;
        let tail = &mut tails[index * tail_len..(index + 1) * tail_len];
        forward(&mut y[rows.clone()], &mut pre[rows.clone()], &x[rows], weight, tail, kernel);
        start += span;
    }
}

/// The adjoint of [`forward_packed`].
pub fn backward_packed(
    dx: &mut [f32],
    dweight: &mut [f32],
    dy: &[f32],
    saved: Saved,
    weight: &[f32],
    spans: &[usize],
    kernel: usize,
) {
    let channels = weight.len() / kernel;
    let tail_len = (kernel - 1) * channels;
    let mut start = 0;
    for (index, span) in spans.iter().enumerate() {
        let rows = start * channels..(start + span) * channels;
        let part = Saved {
            pre: &saved.pre[rows.clone()],
            x: &saved.x[rows.clone()],
            initial_tail: &saved.initial_tail[index * tail_len..(index + 1) * tail_len],
        };
        backward(&mut dx[rows.clone()], dweight, &dy[rows], part, weight, kernel);
        start += span;
    }
}
