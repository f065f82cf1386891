//! The convolution where its first inputs are another rank's last ones.

use super::{Ring, Round};
use crate::causal_conv::{backward_from, forward_from};
use crate::{Buffer, Conv, Gradients};
use std::ops::Range;

/// What backward needs besides x.
pub(crate) struct Saved {
    before_silu: Buffer,
    /// What each span found before it, `[S, kernel − 1, channels]`.
    tails: Vec<f32>,
}

/// `tail` `[kernel − 1, channels]` comes with the last inputs of the round before and is left with those of this one,
/// on every rank.
pub(crate) fn forward(
    x: &Buffer,
    conv: &Conv,
    round: &Round,
    tail: &mut Vec<f32>,
    ring: &mut dyn Ring,
) -> (Buffer, Saved) {
    let taps = conv.weight.matrix.columns - 1;
    let last_rows =
        |rows: Range<usize>| x[rows.end.saturating_sub(taps).max(rows.start) * x.width..rows.end * x.width].to_vec();
    let own = round.going_on().map(|part| part.map_or_else(Vec::new, |part| last_rows(part.rows)));
    let said = round.gather(ring, own);
    let (found, left) = round.hand_on(Some(tail.clone()), |strip, found| {
        let rows = &said[strip];
        let mut tail = found.unwrap_or_else(|| vec![0.0; taps * x.width]);
        tail.drain(..rows.len());
        tail.extend_from_slice(rows);
        tail
    });
    if let Some(left) = left {
        *tail = left;
    }
    let spans = round.spans();
    let mut tails = vec![0.0; spans.lengths.len() * taps * x.width];
    for ((_, _, spans), found) in round.own_strips().into_iter().zip(found) {
        let Some(found) = found else { continue };
        tails[spans.start * found.len()..][..found.len()].copy_from_slice(&found);
    }
    let (y, before_silu) = forward_from(x, conv, &spans, &mut tails.clone(), &[]);
    (y, Saved { before_silu, tails })
}

/// Adds to dx and to the gradient of the weight. `carried` comes with what the next round asks of the tail and is left
/// with what is asked of the round before, on every rank; empty for nothing.
pub(crate) fn backward(
    dx: &mut Buffer,
    dy: &Buffer,
    (x, saved): (&Buffer, &Saved),
    (conv, round): (&Conv, &Round),
    carried: &mut Vec<f32>,
    gradients: &mut Gradients,
    ring: &mut dyn Ring,
) {
    let taps = conv.weight.matrix.columns - 1;
    let (spans, tail_len) = (round.spans(), taps * x.width);
    // What later tokens ask of a tail they ask of these inputs themselves, and the rest of who came before.
    let mut dtails = vec![0.0; saved.tails.len()];
    backward_from(dx, dy, (x, &saved.before_silu, &saved.tails), (conv, &spans), &mut dtails, gradients);
    let own = round.own_strips().map(|(_, _, spans)| spans.start * tail_len..(spans.start + 1) * tail_len);
    let said = round.gather(ring, own.map(|range| dtails[range].to_vec()));
    let (asked, before) = round.hand_back(std::mem::take(carried), |strip, asked| {
        let mut own = said[strip].clone();
        let kept = tail_len.saturating_sub(round.tokens_of(strip) * x.width);
        own[tail_len - kept..].iter_mut().zip(&asked).for_each(|(sum, asked)| *sum += asked);
        own
    });
    *carried = before;
    for (part, asked) in round.going_on().into_iter().zip(asked) {
        let Some(part) = part.filter(|_| !asked.is_empty()) else { continue };
        let rows = part.rows.len().min(taps);
        let into = dx[(part.rows.end - rows) * x.width..part.rows.end * x.width].iter_mut();
        into.zip(&asked[(taps - rows) * x.width..]).for_each(|(sum, asked)| *sum += asked);
    }
}
