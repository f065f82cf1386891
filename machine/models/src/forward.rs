//! The model. Every architecture of the family, training and decoding, any weight format: this is all of it.

use crate::state::{caches, deltas};
use crate::weights::{LayerWeights, Mixer};
use crate::{FeedForward, LayerState, Model, State, attention, delta_net, feed_forward};
use ops::{Buffer, Execute, Infer, Record, Spans};

/// Hidden states after the final norm, `[T, H]`. `tokens` are the new tokens of all sequences, one after the other, and
/// `lengths` says how many belong to each; every sequence continues its own state.
pub fn hidden<'w, E: Execute<'w>>(
    e: &mut E,
    model: &'w Model,
    states: &mut [State],
    tokens: &[u32],
    lengths: &[usize],
) -> E::Value {
    let spans = spans(states, tokens, lengths);
    let mut x = embed(e, model, tokens);
    for index in 0..model.weights.layers.len() {
        x = layer(e, model, index, states, &spans, x);
    }
    states.iter_mut().zip(lengths).for_each(|(state, length)| state.position += length);
    finish(e, model, &x)
}

pub fn embed<'w, E: Execute<'w>>(e: &mut E, model: &'w Model, tokens: &[u32]) -> E::Value {
    e.embedding(&model.weights.embedding, tokens)
}

/// A layer of sequences that have a state.
pub fn layer<'w, E: Execute<'w>>(
    e: &mut E,
    model: &'w Model,
    index: usize,
    states: &mut [State],
    spans: &Spans,
    x: E::Value,
) -> E::Value {
    layer_of(e, &model.weights.layers[index], index, states, spans, x)
}

/// As [`layer`], with its weights at hand.
pub(crate) fn layer_of<'w, E: Execute<'w>>(
    e: &mut E,
    w: &'w LayerWeights,
    index: usize,
    states: &mut [State],
    spans: &Spans,
    x: E::Value,
) -> E::Value {
    layer_with(e, w, states.iter_mut().map(|state| &mut state.layers[index]), spans, x)
}

/// One layer: mix over tokens, then work on each token by itself, both beside the residual stream. `memories` is what
/// this layer remembers of each sequence.
pub(crate) fn layer_with<'w, 'm, E: Execute<'w>>(
    e: &mut E,
    w: &'w LayerWeights,
    memories: impl Iterator<Item = &'m mut LayerState>,
    spans: &Spans,
    x: E::Value,
) -> E::Value {
    let h = e.rms_norm(&x, &w.input_norm);
    let h = match &w.mixer {
        Mixer::Attention(attention) => attention::run(e, attention, &mut caches(memories), spans, &h),
        Mixer::Delta(delta) => delta_net::run(e, delta, &mut deltas(memories), spans, &h),
    };
    let x = e.add(&x, &h);
    let h = e.rms_norm(&x, &w.post_norm);
    let h = match &w.feed_forward {
        FeedForward::Dense(expert) => feed_forward::dense(e, expert, &h),
        FeedForward::Moe(moe) => feed_forward::moe(e, moe, &h),
    };
    e.add(&x, &h)
}

pub fn finish<'w, E: Execute<'w>>(e: &mut E, model: &'w Model, x: &E::Value) -> E::Value {
    e.rms_norm(x, &model.weights.final_norm)
}

/// Logits of the chosen rows of `hidden`, `[rows, V]`.
pub fn logits<R: Record>(e: &mut Infer<R>, model: &Model, hidden: &Buffer, rows: &[usize]) -> Buffer {
    e.linear(&hidden.gathered(rows), model.weights.head())
}

fn spans(states: &[State], tokens: &[u32], lengths: &[usize]) -> Spans {
    assert_eq!(states.len(), lengths.len(), "one state per sequence");
    assert_eq!(tokens.len(), lengths.iter().sum::<usize>(), "the lengths must add up to the tokens");
    Spans { lengths: lengths.to_vec(), starts: states.iter().map(State::position).collect() }
}
