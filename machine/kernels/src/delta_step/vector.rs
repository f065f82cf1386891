//! One key head and its value heads at a time, from convolution to output. K key width, V value width.

use super::{Layer, Tokens};
use crate::gated_delta::Shape;
use crate::gated_delta::step::{Token, token_step};
use crate::simd::{Disjoint, Simd, variants};
use crate::{conv1d, delta_gate, l2_norm};

/// Room for what one key head makes of one token.
struct Scratch {
    // [K]: before the norm, and after.
    raw: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    // Of the value heads: [V] each, and one gate each.
    v: Vec<f32>,
    g: Vec<f32>,
    beta: Vec<f32>,
    /// The convolution's weights of so many channels, the other way round.
    turned: Vec<f32>,
}

impl Scratch {
    fn new(shape: &Shape, taps: usize) -> Self {
        let group = shape.value_heads / shape.key_heads;
        let [raw, q, k] = [(); 3].map(|()| vec![0.0; shape.key_dim]);
        let [g, beta] = [(); 2].map(|()| vec![0.0; group]);
        let (v, widest) = (vec![0.0; group * shape.value_dim], shape.key_dim.max(group * shape.value_dim));
        Self { raw, q, k, v, g, beta, turned: vec![0.0; widest * taps] }
    }
}

/// The key heads from `first_head` on, as many as `matrices` holds states of; all tokens of each.
#[inline(always)]
fn heads<S: Simd>(
    s: S,
    [out, tail]: [&Disjoint; 2],
    tokens: &Tokens,
    matrices: &mut [f32],
    first_head: usize,
    layer: &Layer,
) {
    let &Shape { key_heads, value_heads, key_dim, value_dim } = layer.shape;
    let (group, area) = (value_heads / key_heads, key_dim * value_dim);
    let mut scratch = Scratch::new(layer.shape, layer.taps);
    for (index, matrices) in matrices.chunks_exact_mut(group * area).enumerate() {
        let first_value = (first_head + index) * group;
        for t in 0..tokens.a.len() / value_heads {
            prepare(s, &mut scratch, tokens, tail, [t, first_head + index], layer);
            for (member, matrix) in matrices.chunks_exact_mut(area).enumerate() {
                let (decay, beta) = (scratch.g[member].exp(), scratch.beta[member]);
                let token = Token { q: &scratch.q, k: &scratch.k, decay, beta };
                // SAFETY: no other task has this head.
                let out_v = unsafe { out.part((t * value_heads + first_value + member) * value_dim, value_dim) };
                token_step(s, out_v, token, &scratch.v[member * value_dim..][..value_dim], matrix);
            }
        }
    }
}
variants! {
    fn run_heads(
        outputs: [&Disjoint; 2], tokens: &Tokens, matrices: &mut [f32], first_head: usize, layer: &Layer
    ) = heads
}

/// What the rule reads of token t for one key head; the head's channels of the tail move on.
#[inline(always)]
fn prepare<S: Simd>(
    s: S,
    scratch: &mut Scratch,
    tokens: &Tokens,
    tail: &Disjoint,
    [t, head]: [usize; 2],
    layer: &Layer,
) {
    let shape = layer.shape;
    let (keys, group) = (shape.key_heads * shape.key_dim, shape.value_heads / shape.key_heads);
    let qkv = &tokens.qkv[t * shape.channels()..(t + 1) * shape.channels()];
    let Scratch { raw, q, k, v, turned, .. } = &mut *scratch;
    let mut convolve = |y: &mut [f32], first: usize| {
        // SAFETY: no other task has these channels: they are this key head's, or its value heads'.
        unsafe { conv1d::step(s, y, qkv, layer.conv, tail, [first, layer.taps], turned) };
    };
    convolve(raw, head * shape.key_dim);
    l2_norm::vector::forward(s, q, raw, shape.key_dim, shape.query_scale());
    convolve(raw, keys + head * shape.key_dim);
    l2_norm::vector::forward(s, k, raw, shape.key_dim, 1.0);
    convolve(v, 2 * keys + head * group * shape.value_dim);
    let members = head * group..(head + 1) * group;
    let gates = t * shape.value_heads + members.start..t * shape.value_heads + members.end;
    let rates = [&layer.rates.a_log[members.clone()], &layer.rates.dt_bias[members]];
    let given = [&tokens.a[gates.clone()], &tokens.b[gates]];
    delta_gate::scalar::forward([&mut scratch.g, &mut scratch.beta], given, rates);
}
