//! The definition: the definitions of the four steps, one after the other. T tokens; see `mod.rs` for the shapes.

use crate::gated_delta::Shape;
use crate::real::Real;
use crate::{conv1d, delta_gate, gated_delta, l2_norm};

/// `layer` is [conv, a_log, dt_bias], `state` [tail, matrix].
pub fn forward<R: Real>(
    out: &mut [R],
    [qkv, b, a]: [&[R]; 3],
    [tail, matrix]: [&mut [R]; 2],
    [conv, a_log, dt_bias]: [&[R]; 3],
    taps: usize,
    shape: &Shape,
) {
    let zeros = |len: usize| vec![R::zero(); len];
    let (mut mixed, mut before_silu) = (zeros(qkv.len()), zeros(qkv.len()));
    conv1d::scalar::forward(&mut mixed, &mut before_silu, qkv, conv, tail, taps);
    let keys = shape.key_heads * shape.key_dim;
    let part = |from: usize, to: usize| -> Vec<R> {
        mixed.chunks_exact(shape.channels()).flat_map(|row| row[from..to].iter().copied()).collect()
    };
    let normalised = |from: usize, scale: R| {
        let raw = part(from, from + keys);
        let mut y = zeros(raw.len());
        l2_norm::scalar::forward(&mut y, &raw, shape.key_dim, scale);
        y
    };
    let q = normalised(0, R::one() / R::of(shape.key_dim as f64).sqrt());
    let (k, v) = (normalised(keys, R::one()), part(2 * keys, shape.channels()));
    let (mut g, mut beta) = (zeros(a.len()), zeros(a.len()));
    delta_gate::scalar::forward([&mut g, &mut beta], [a, b], [a_log, dt_bias]);
    gated_delta::scalar::step(out, [&q, &k, &v, &g, &beta], matrix, shape);
}
