//! The gated delta rule: a linear attention whose state forgets and corrects itself; forwards and backwards.
//!
//! T tokens, Hk key heads, Hv value heads (a multiple), K key width, V value width. q, k [T, Hk, K], already normalised
//! and scaled; v, out [T, Hv, V]; g ≤ 0 (logarithm of the decay), beta [T, Hv]; state [Hv, K, V], in and out. Value
//! head j uses key head j / (Hv / Hk). out is written, gradients are added to. Shapes that do not fit are a panic.
//! Per token and value head:
//!
//! S′ = e^g S;  d = beta·(v − S′ᵀk);  S = S′ + k dᵀ;  out = Sᵀq.
//!
//! Against f64: stepwise 2e-6 of 1 + |x|, in chunks 1e-5, gradients 3e-5, also under strong decay.

mod backward;
mod chunk;
mod chunked;
mod passage;
pub mod scalar;
pub(crate) mod step;
#[cfg(test)]
mod tests;

use crate::simd::{Disjoint, Level, for_each, for_each_worth, rows_per_task};

pub use passage::{Passage, pass, pass_backward, passage, reach_backward};

/// Tokens per chunk of the matrix form.
pub const CHUNK: usize = 32;

/// Below this many tokens the recurrence is the faster form.
pub(crate) const SHORT: usize = 8;

/// The heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
}

impl Shape {
    /// Columns of a token's queries, keys and values together.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// The length that queries are brought to.
    pub fn query_scale(&self) -> f32 {
        (self.key_dim as f32).sqrt().recip()
    }

    /// Asserts that there are heads, and as many value heads to each key head.
    pub(crate) fn check(&self) {
        let &Self { key_heads, value_heads, key_dim, value_dim } = self;
        let is_whole = key_heads > 0 && value_heads > 0 && value_heads % key_heads == 0;
        assert!(is_whole, "{value_heads} over {key_heads} heads");
        assert!(key_dim > 0 && value_dim > 0, "empty heads");
    }

    /// Values in one sequence's state.
    pub fn state_len(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }
}

/// What the rule reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub g: &'a [f32],
    pub beta: &'a [f32],
}

/// Where gradients are added, shaped as the inputs.
#[derive(Debug)]
pub struct Gradients<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
    pub dg: &'a mut [f32],
    pub dbeta: &'a mut [f32],
}

impl<'a> Inputs<'a> {
    fn list(&self) -> [&'a [f32]; 5] {
        [self.q, self.k, self.v, self.g, self.beta]
    }
}

/// The recurrence, token by token: the definition and the way to decode. Any number of tokens.
pub fn step(out: &mut [f32], inputs: Inputs, state: &mut [f32], shape: &Shape) {
    let tokens = check(&inputs, shape);
    assert_eq!(out.len(), inputs.v.len(), "out is shaped as v");
    assert_eq!(state.len(), shape.state_len(), "one state");
    let area = shape.key_dim * shape.value_dim;
    // A pass over the state reads it twice and writes it once, a quarter of a nanosecond per value.
    let heads = rows_per_task(tokens * area / 4);
    let out = Disjoint::new(out);
    for_each(state.chunks_mut(heads * area).enumerate(), |(index, states)| {
        step::step_heads(Level::best(), &out, &inputs, states, index * heads, shape);
    });
}

/// Many tokens of one sequence, the fastest way, keeping nothing.
pub fn prefill(out: &mut [f32], inputs: Inputs, state: &mut [f32], shape: &Shape) {
    let tokens = check(&inputs, shape);
    if tokens < SHORT {
        step(out, inputs, state, shape);
    } else {
        run_chunked(out, inputs, state, &mut [], &[tokens], shape);
    }
}

/// Many tokens of one sequence; `chunk_states` is left with the state before each chunk, [chunks, Hv, K, V].
pub fn chunked(out: &mut [f32], inputs: Inputs, state: &mut [f32], chunk_states: &mut Vec<f32>, shape: &Shape) {
    let tokens = check(&inputs, shape);
    chunked_packed(out, inputs, state, chunk_states, &[tokens], shape);
}

/// The adjoint of [`chunked`]; `dstate` comes with the gradient into the final state and is left with that into the
/// initial one.
pub fn backward(
    gradients: Gradients,
    dout: &[f32],
    inputs: Inputs,
    chunk_states: &[f32],
    dstate: &mut [f32],
    shape: &Shape,
) {
    let tokens = check(&inputs, shape);
    backward_packed(gradients, dout, inputs, chunk_states, dstate, &[tokens], shape);
}

/// Several sequences of `spans` tokens each; `states` [S, Hv, K, V] in and out, `chunk_states` span by span.
pub fn chunked_packed(
    out: &mut [f32],
    inputs: Inputs,
    states: &mut [f32],
    chunk_states: &mut Vec<f32>,
    spans: &[usize],
    shape: &Shape,
) {
    let chunks: usize = spans.iter().map(|span| span.div_ceil(CHUNK)).sum();
    chunk_states.clear();
    chunk_states.resize(chunks * shape.state_len(), 0.0);
    run_chunked(out, inputs, states, chunk_states, spans, shape);
}

fn run_chunked(
    out: &mut [f32],
    inputs: Inputs,
    states: &mut [f32],
    chunk_states: &mut [f32],
    spans: &[usize],
    shape: &Shape,
) {
    let tokens = check(&inputs, shape);
    assert_eq!(spans.iter().sum::<usize>(), tokens, "the spans cover all tokens");
    assert_eq!(out.len(), inputs.v.len(), "out is shaped as v");
    assert_eq!(states.len(), spans.len() * shape.state_len(), "one state per span");
    let (out, states) = (Disjoint::new(out), Disjoint::new(states));
    let outputs = chunked::Outputs { out, states, chunk_states: Disjoint::new(chunk_states) };
    let run = |task| chunked::forward_task(Level::best(), &outputs, &inputs, task, shape);
    for_each_worth(tokens * shape.state_len() / 4, chunk::tasks(spans, shape), run);
}

/// The adjoint of [`chunked_packed`]; `dstates` [S, Hv, K, V] comes with the gradients into the final states and is
/// left with those into the initial ones.
pub fn backward_packed(
    gradients: Gradients,
    dout: &[f32],
    inputs: Inputs,
    chunk_states: &[f32],
    dstates: &mut [f32],
    spans: &[usize],
    shape: &Shape,
) {
    let tokens = check(&inputs, shape);
    assert_eq!(spans.iter().sum::<usize>(), tokens, "the spans cover all tokens");
    assert_eq!(dout.len(), inputs.v.len(), "dout is shaped as v");
    let chunks: usize = spans.iter().map(|span| span.div_ceil(CHUNK)).sum();
    assert_eq!(chunk_states.len(), chunks * shape.state_len(), "a state before each of {chunks} chunks");
    assert_eq!(dstates.len(), spans.len() * shape.state_len(), "one state's gradient per span");
    let Gradients { dq, dk, dv, dg, dbeta } = gradients;
    let lengths = [dq.len(), dk.len(), dv.len(), dg.len(), dbeta.len()];
    assert_eq!(lengths, inputs.list().map(<[f32]>::len), "gradients are shaped as the inputs");
    let [dq, dk, dv, dg, dbeta] = [dq, dk, dv, dg, dbeta].map(Disjoint::new);
    let outputs = backward::Outputs { dq, dk, dv, dg, dbeta, dstates: Disjoint::new(dstates) };
    let given = backward::Given { dout, chunk_states };
    let run = |task| backward::backward_task(Level::best(), &outputs, &inputs, given, task, shape);
    for_each_worth(tokens * shape.state_len() / 4, chunk::tasks(spans, shape), run);
}

/// Asserts that the inputs fit the shape and each other, and gives T.
fn check(inputs: &Inputs, shape: &Shape) -> usize {
    shape.check();
    let &Shape { key_heads, value_heads, key_dim, value_dim } = shape;
    let tokens = inputs.g.len() / value_heads;
    let lengths = inputs.list().map(<[f32]>::len);
    let (keys, values) = (tokens * key_heads * key_dim, tokens * value_heads * value_dim);
    let want = [keys, keys, values, tokens * value_heads, tokens * value_heads];
    assert_eq!(lengths, want, "q, k, v, g, beta of {tokens} tokens and {shape:?}");
    tokens
}
