//! The delta rule where the state before its tokens is another rank's: an exclusive scan over what strips do to any
//! state. A strip's first sequence is run for any state before it is known which it finds, and once more with that.

use super::{Ring, Round};
use crate::attention::of;
use crate::delta_rule::{Saved as Inner, backward_from, inputs, run};
use crate::{Buffer, DeltaGates, DeltaShape, Gradients};
use kernels::gated_delta::{self as kernel, Passage};

/// What backward needs.
pub(crate) struct Saved {
    inner: Inner,
    /// What each strip of the round that lies within one sequence makes of a state, `[Hv, K, K]`.
    transitions: Vec<Option<Vec<f32>>>,
    /// What each of this rank's strips' outputs take of the state that it finds, `[T, Hv, K]`; empty for nothing.
    reach: [Vec<f32>; 2],
}

/// `matrix` comes with the state of the sequence that goes on from the round before and is left with that of the one
/// that goes on, on every rank.
pub(crate) fn forward(
    (qkv, b, a): (&Buffer, &Buffer, &Buffer),
    gates: &DeltaGates,
    round: &Round,
    matrix: &mut Vec<f32>,
    ring: &mut dyn Ring,
) -> (Buffer, Saved) {
    let shape = &gates.shape;
    let mut inner = inputs(qkv, b, a, gates);
    let mut output = Buffer::unwritten(inner.v.rows, inner.v.width);
    let [early, late] = [0, 1].map(|side| for_any_state(&mut output, &inner, (round, side), shape));
    let said = round.gather(ring, [early.said, late.said]);
    let passages: Vec<Option<Passage>> =
        said.iter().enumerate().map(|(strip, said)| round.is_inner(strip).then(|| heard(said, shape))).collect();
    let (found, left) = round.hand_on(Some(matrix.clone()), |strip, found| match (&passages[strip], found) {
        (Some(passage), Some(mut state)) => {
            kernel::pass(&mut state, passage, shape);
            state
        }
        _ => said[strip].clone(),
    });
    if let Some(left) = left {
        *matrix = left;
    }
    for ((part, found), fresh) in round.continued().iter().zip(found).zip([early.chunk_states, late.chunk_states]) {
        if let (Some(part), Some(mut state)) = (part, found) {
            let (out, lengths) = (of(&output, &part.rows), [part.rows.len()]);
            inner.chunk_states.extend(run(&mut output[out], inner.rows(&part.rows), &mut state, &lengths, shape));
        }
        inner.chunk_states.extend(fresh);
    }
    let transitions = passages.into_iter().map(|passage| Some(passage?.transition)).collect();
    (output, Saved { inner, transitions, reach: [early.reach, late.reach] })
}

/// What is known of one of a rank's strips before it is known which state it finds.
struct ForAnyState {
    reach: Vec<f32>,
    /// Of the sequences that begin in it, whose outputs are written.
    chunk_states: Vec<f32>,
    /// What it says to other strips: within a sequence what it does to a state, else what it leaves, if anything.
    said: Vec<f32>,
}

fn for_any_state(
    output: &mut Buffer,
    inner: &Inner,
    (round, side): (&Round, usize),
    shape: &DeltaShape,
) -> ForAnyState {
    let (rows, lengths) = &round.fresh()[side];
    let mut states = vec![0.0; lengths.len() * shape.state_len()];
    let out = of(output, rows);
    let chunk_states = run(&mut output[out], inner.rows(rows), &mut states, lengths, shape);
    let mut reach = Vec::new();
    let passage = round.continued()[side].as_ref().map(|part| {
        reach.resize(part.rows.len() * shape.value_heads * shape.key_dim, 0.0);
        kernel::passage(&mut reach, inner.rows(&part.rows), shape)
    });
    let said = match (&round.going_on()[side], passage) {
        (Some(part), Some(passage)) if round.is_inner(part.strip) => [passage.transition, passage.end].concat(),
        (Some(_), _) => states.split_off(states.len() - shape.state_len()),
        (None, _) => Vec::new(),
    };
    ForAnyState { reach, chunk_states, said }
}

/// Numbers that [`forward`] takes beside what one rank alone would.
pub(crate) struct Memory {
    /// For the way back.
    pub(crate) kept: usize,
    /// While strips are run for any state, or while it is said what they do.
    pub(crate) passing: usize,
}

pub(crate) fn memory(round: &Round, shape: &DeltaShape) -> Memory {
    let transition = shape.value_heads * shape.key_dim * shape.key_dim;
    let rows = round.continued().map(|part| part.map_or(0, |part| part.rows.len()));
    let wide = 2 * rows[0].max(rows[1]) * shape.value_heads * (shape.key_dim + shape.value_dim);
    let strips = 2 * round.size();
    // As bytes of every rank, as numbers, and taken apart.
    let said = 3 * strips * (transition + shape.state_len());
    let inner = (0..strips).filter(|&strip| round.is_inner(strip)).count();
    let reach = (rows[0] + rows[1]) * shape.value_heads * shape.key_dim;
    Memory { kept: inner * transition + reach, passing: wide.max(said) }
}

/// What a strip within one sequence does to a state, as its rank says it.
fn heard(said: &[f32], shape: &DeltaShape) -> Passage {
    let (transition, end) = said.split_at(said.len() - shape.state_len());
    Passage { transition: transition.to_vec(), end: end.to_vec() }
}

/// Adds to the gradients of qkv, b, a and of the gates' parameters. `carried` comes with what the next round asks of
/// the state and is left with what is asked of the round before, on every rank; empty for nothing.
pub(crate) fn backward(
    adjoints: [&mut Buffer; 3],
    doutput: &Buffer,
    values: (&Buffer, &Buffer, &Buffer),
    saved: &Saved,
    (gates, round, ring): (&DeltaGates, &Round, &mut dyn Ring),
    carried: &mut Vec<f32>,
    gradients: &mut Gradients,
) {
    let (shape, spans) = (&gates.shape, round.spans());
    let mut own = [Vec::new(), Vec::new()];
    for ((own, part), reach) in own.iter_mut().zip(round.continued()).zip(&saved.reach) {
        let Some(part) = part else { continue };
        *own = vec![0.0; shape.state_len()];
        kernel::reach_backward(own, reach, &doutput[of(doutput, &part.rows)], shape);
    }
    let said = round.gather(ring, own);
    let (asked, before) = round.hand_back(std::mem::take(carried), |strip, mut asked| {
        let mut sum = said[strip].clone();
        if let Some(transition) = saved.transitions[strip].as_ref().filter(|_| !asked.is_empty()) {
            kernel::pass_backward(&mut asked, transition, shape);
            sum.iter_mut().zip(&asked).for_each(|(sum, asked)| *sum += asked);
        }
        sum
    });
    *carried = before;
    let mut dstates = vec![0.0; spans.lengths.len() * shape.state_len()];
    for ((_, _, spans), asked) in round.own_strips().into_iter().zip(asked) {
        dstates[spans.end * shape.state_len() - asked.len()..][..asked.len()].copy_from_slice(&asked);
    }
    backward_from(adjoints, doutput, values, &saved.inner, (gates, &spans), &mut dstates, gradients);
}
