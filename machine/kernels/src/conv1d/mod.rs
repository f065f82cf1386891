//! Causal depthwise convolution over time, then SiLU; and its adjoint.
//!
//! T tokens, C channels, K taps, S spans. x, y, pre [T, C]; weight [C, K], the last tap is the current token;
//! tail [K − 1, C] holds the inputs before the span and is left holding the span's last ones. y and pre are written,
//! gradients are added to; dtail comes with the gradient into the tail that is left and is left with that into the one
//! that was found. Shapes that do not fit are a panic.
//! Against f64: 1e-6 of 1 + |y|.

pub mod scalar;
#[cfg(test)]
mod tests;
mod vector;

pub(crate) use vector::step;

use std::cell::Cell;
use std::ops::Range;

use crate::l2_norm;
use crate::real::Real;
use crate::simd::{Level, for_each_summed, for_each_worth, rows_per_task};

/// Tasks that a sequence is cut into on the way back, at most: each has a gradient of all weights of its own.
pub const SUMMED_TASKS_MAX: usize = 64;

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
    let tokens = x.len() / channels(weight, kernel);
    forward_packed(y, pre, x, weight, tail, &[tokens], kernel);
}

/// One span, backwards.
pub fn backward([dx, dweight, dtail]: [&mut [f32]; 3], dy: &[f32], saved: Saved, weight: &[f32], kernel: usize) {
    let tokens = dy.len() / channels(weight, kernel);
    backward_packed([dx, dweight, dtail], dy, saved, weight, &[tokens], kernel);
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
    forward_normalised([y, pre], (x, weight), tails, spans, kernel, &[]);
}

/// Columns of y that leave as heads of `width` values, each of L2 norm `scale`: see [`crate::l2_norm`].
#[derive(Clone, Debug)]
pub struct Heads {
    pub columns: Range<usize>,
    pub width: usize,
    pub scale: f32,
}

/// As [`forward_packed`], with heads of y brought to one length while they are in the cache.
pub fn forward_normalised(
    [y, pre]: [&mut [f32]; 2],
    (x, weight): (&[f32], &[f32]),
    tails: &mut [f32],
    spans: &[usize],
    kernel: usize,
    heads: &[Heads],
) {
    let channels = channels(weight, kernel);
    let fits = |heads: &Heads| heads.columns.end <= channels && heads.columns.len().is_multiple_of(heads.width.max(1));
    assert!(heads.iter().all(fits), "{heads:?} are no heads of {channels} channels");
    let tail_len = (kernel - 1) * channels;
    check(&[y.len(), pre.len(), x.len()], tails.len(), spans, [channels, kernel]);
    let weight_kc = Transposed::of(weight, channels, kernel);
    let part = |index: usize, start: usize| vector::Span {
        x: &x[start * channels..(start + spans[index]) * channels],
        tail: &tails[index * tail_len..(index + 1) * tail_len],
        weight_kc: &weight_kc.0,
        kernel,
    };
    let blocks = blocks(spans, rows_per_task(channels * kernel));
    let (mut y_rest, mut pre_rest) = (y, pre);
    let mut tasks = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (y, rest) = std::mem::take(&mut y_rest).split_at_mut(block.tokens * channels);
        y_rest = rest;
        let (pre, rest) = std::mem::take(&mut pre_rest).split_at_mut(block.tokens * channels);
        pre_rest = rest;
        tasks.push((y, pre, part(block.span, block.span_start), block.first));
    }
    for_each_worth(x.len() * kernel, tasks, |(y, pre, span, first)| {
        vector::forward_tokens(Level::best(), y, pre, span, first);
        for y_c in y.chunks_exact_mut(channels) {
            for Heads { columns, width, scale } in heads {
                l2_norm::vector::normalise_rows(Level::best(), &mut y_c[columns.clone()], *width, *scale);
            }
        }
    });
    let mut start = 0;
    for (index, span) in spans.iter().enumerate() {
        let tail = &mut tails[index * tail_len..(index + 1) * tail_len];
        keep_last(tail, &x[start * channels..(start + span) * channels]);
        start += span;
    }
}

/// The adjoint of [`forward_packed`]; `dtails` [S, K − 1, C].
pub fn backward_packed(
    [dx, dweight, dtails]: [&mut [f32]; 3],
    dy: &[f32],
    saved: Saved,
    weight: &[f32],
    spans: &[usize],
    kernel: usize,
) {
    let channels = channels(weight, kernel);
    let tail_len = (kernel - 1) * channels;
    let Saved { pre, x, initial_tail } = saved;
    check(&[dx.len(), dy.len(), pre.len(), x.len()], initial_tail.len(), spans, [channels, kernel]);
    assert_eq!(dweight.len(), weight.len(), "one gradient per weight");
    assert_eq!(dtails.len(), initial_tail.len(), "one tail's gradient per span");
    pass_tails_back([&mut *dx, dtails], [dy, pre, weight], spans, kernel);
    let weight_kc = Transposed::of(weight, channels, kernel);
    let mut dx_rest = dx;
    let mut tasks = Vec::new();
    let rows = rows_per_task(2 * channels * kernel).max(spans.iter().sum::<usize>().div_ceil(SUMMED_TASKS_MAX));
    for block in blocks(spans, rows) {
        let (dx, rest) = std::mem::take(&mut dx_rest).split_at_mut(block.tokens * channels);
        dx_rest = rest;
        let rows = block.span_start * channels..(block.span_start + spans[block.span]) * channels;
        let tail = &initial_tail[block.span * tail_len..(block.span + 1) * tail_len];
        let span = vector::Span { x: &x[rows.clone()], tail, weight_kc: &weight_kc.0, kernel };
        tasks.push((dx, [&dy[rows.clone()], &pre[rows]], span, block.first));
    }
    let mut dweight_kc = vec![0.0; dweight.len()];
    for_each_summed(tasks, &mut dweight_kc, |(dx, given, span, first), dweight_kc| {
        vector::backward_tokens(Level::best(), [dx, dweight_kc], given, span, first);
    });
    for (c, dweight_k) in dweight.chunks_exact_mut(kernel).enumerate() {
        for (tap, dweight) in dweight_k.iter_mut().enumerate() {
            *dweight += dweight_kc[tap * channels + c];
        }
    }
}

/// What flows into the tails that were left goes to the inputs that are in them, and what flows from the first tokens
/// goes to the tails that were found. Each is K − 1 rows: too few for vectors to matter.
fn pass_tails_back([dx, dtails]: [&mut [f32]; 2], [dy, pre, weight]: [&[f32]; 3], spans: &[usize], kernel: usize) {
    let channels = channels(weight, kernel);
    let mut start = 0;
    for (span, dtail) in spans.iter().zip(dtails.chunks_mut(((kernel - 1) * channels).max(1))) {
        let after = dtail.to_vec();
        dtail.fill(0.0);
        for (row, after_c) in after.chunks_exact(channels).enumerate() {
            // The tail is the last K − 1 rows of what was in it and then x.
            let into = match (row + span).checked_sub(kernel - 1) {
                Some(token) => &mut dx[(start + token) * channels..][..channels],
                None => &mut dtail[(row + span) * channels..][..channels],
            };
            into.iter_mut().zip(after_c).for_each(|(sum, after)| *sum += after);
        }
        for t in 0..(kernel - 1).min(*span) {
            let row = (start + t) * channels;
            for c in 0..channels {
                let slope = dy[row + c] * pre[row + c].silu_slope();
                for tap in 0..kernel - 1 - t {
                    dtail[(t + tap) * channels + c] += slope * weight[c * kernel + tap];
                }
            }
        }
        start += span;
    }
}

/// Tokens of one span that one task handles.
struct Block {
    span: usize,
    /// The span's first token among all.
    span_start: usize,
    /// The block's first token within the span.
    first: usize,
    tokens: usize,
}

/// The spans cut into blocks of at most `most` tokens, in order.
fn blocks(spans: &[usize], most: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut span_start = 0;
    for (span, &len) in spans.iter().enumerate() {
        for first in (0..len).step_by(most) {
            blocks.push(Block { span, span_start, first, tokens: most.min(len - first) });
        }
        span_start += len;
    }
    blocks
}

thread_local! {
    /// Room for one layer's weights: fresh memory of this size would cost a decoded token more than the convolution.
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// weight [C, K] as [K, C], so that vectors run along the channels.
struct Transposed(Vec<f32>);

impl Transposed {
    fn of(weight: &[f32], channels: usize, kernel: usize) -> Self {
        let mut weight_kc = ROOM.take();
        weight_kc.resize(weight.len(), 0.0);
        vector::transpose(Level::best(), &mut weight_kc, weight, [channels, kernel]);
        Self(weight_kc)
    }
}

impl Drop for Transposed {
    fn drop(&mut self) {
        ROOM.set(std::mem::take(&mut self.0));
    }
}

/// Leaves the tail holding the last of what was in it and then x.
fn keep_last(tail: &mut [f32], x: &[f32]) {
    if x.len() >= tail.len() {
        tail.copy_from_slice(&x[x.len() - tail.len()..]);
    } else {
        tail.copy_within(x.len().., 0);
        let kept = tail.len() - x.len();
        tail[kept..].copy_from_slice(x);
    }
}

/// C, from the weight's length.
fn channels(weight: &[f32], kernel: usize) -> usize {
    let fits = kernel > 0 && !weight.is_empty() && weight.len().is_multiple_of(kernel);
    assert!(fits, "{} weights are no channels of {kernel} taps", weight.len());
    weight.len() / kernel
}

fn check(lengths: &[usize], tails: usize, spans: &[usize], [channels, kernel]: [usize; 2]) {
    let want = spans.iter().sum::<usize>() * channels;
    assert!(lengths.iter().all(|&len| len == want), "lengths {lengths:?}, spans of {channels} channels ask for {want}");
    assert_eq!(tails, spans.len() * (kernel - 1) * channels, "one tail per span");
}
