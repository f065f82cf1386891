//! Every variant against the definition in f64, and against the kernels that it takes the place of, to the bit.

use super::*;
use crate::simd::testing::{assert_close, for_every_level, poisoned, random, wide};
use crate::{conv1d, delta_gate, gated_delta, l2_norm};

struct Case {
    qkv: Vec<f32>,
    b: Vec<f32>,
    a: Vec<f32>,
    conv: Vec<f32>,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
    tail: Vec<f32>,
    matrix: Vec<f32>,
    taps: usize,
    shape: Shape,
}

impl Case {
    fn new(count: usize, taps: usize, [key_heads, value_heads, key_dim, value_dim]: [usize; 4]) -> Self {
        let shape = Shape { key_heads, value_heads, key_dim, value_dim };
        let channels = shape.channels();
        Self {
            qkv: random(1, count * channels),
            b: random(2, count * value_heads),
            a: random(3, count * value_heads),
            conv: random(4, channels * taps),
            a_log: random(5, value_heads),
            dt_bias: random(6, value_heads),
            tail: random(7, (taps - 1) * channels),
            matrix: random(8, shape.state_len()),
            taps,
            shape,
        }
    }

    fn layer(&self) -> Layer<'_> {
        let rates = Rates { a_log: &self.a_log, dt_bias: &self.dt_bias };
        Layer { conv: &self.conv, taps: self.taps, rates, shape: &self.shape }
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { qkv: &self.qkv, b: &self.b, a: &self.a }
    }

    fn outputs(&self) -> usize {
        self.a.len() * self.shape.value_dim
    }
}

/// Tokens, taps, heads and widths: nothing is a multiple of a vector, or all is.
const CASES: [(usize, usize, [usize; 4]); 5] = [
    (1, 4, [3, 6, 37, 19]),
    (2, 3, [1, 5, 7, 53]),
    (7, 4, [2, 2, 16, 32]),
    (1, 1, [5, 5, 3, 2]),
    (3, 5, [2, 6, 61, 67]),
];

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (count, taps, heads) in CASES {
            let case = Case::new(count, taps, heads);
            let (mut out, mut tail, mut matrix) = (poisoned(case.outputs()), case.tail.clone(), case.matrix.clone());
            let parts = [&Disjoint::new(&mut out), &Disjoint::new(&mut tail)];
            vector::run_heads(level, parts, &case.tokens(), &mut matrix, 0, &case.layer());
            let [qkv, b, a] = [&case.qkv, &case.b, &case.a].map(|x| wide(x));
            let [conv, a_log, dt_bias] = [&case.conv, &case.a_log, &case.dt_bias].map(|x| wide(x));
            let (mut tail_want, mut matrix_want) = (wide(&case.tail), wide(&case.matrix));
            let mut want = vec![0.0; out.len()];
            let learned = [&conv[..], &a_log, &dt_bias];
            let state = [&mut tail_want[..], &mut matrix_want];
            scalar::forward(&mut want, [&qkv, &b, &a], state, learned, taps, &case.shape);
            assert_close(&out, &want, 5e-6, "out");
            assert_close(&matrix, &matrix_want, 5e-6, "matrix");
            assert_close(&tail, &tail_want, 0.0, "tail");
        }
    });
}

/// Also with so many heads that they are split into tasks.
#[test]
fn one_call_is_the_four_kernels_to_the_bit() {
    for (count, taps, heads) in CASES.into_iter().chain([(5, 4, [31, 62, 67, 71])]) {
        let case = Case::new(count, taps, heads);
        let (mut out, mut tail, mut matrix) = (poisoned(case.outputs()), case.tail.clone(), case.matrix.clone());
        forward(&mut out, case.tokens(), State { tail: &mut tail, matrix: &mut matrix }, &case.layer());

        let shape = &case.shape;
        let (mut mixed, mut before_silu) = (poisoned(case.qkv.len()), poisoned(case.qkv.len()));
        let mut tail_want = case.tail.clone();
        conv1d::forward(&mut mixed, &mut before_silu, &case.qkv, &case.conv, &mut tail_want, taps);
        let keys = shape.key_heads * shape.key_dim;
        let part = |from: usize, to: usize| -> Vec<f32> {
            mixed.chunks_exact(shape.channels()).flat_map(|row| row[from..to].iter().copied()).collect()
        };
        let normalised = |from: usize, scale: f32| {
            let raw = part(from, from + keys);
            let mut y = poisoned(raw.len());
            l2_norm::forward(&mut y, &raw, shape.key_dim, scale);
            y
        };
        let q = normalised(0, (shape.key_dim as f32).sqrt().recip());
        let (k, v) = (normalised(keys, 1.0), part(2 * keys, shape.channels()));
        let (mut g, mut beta) = (poisoned(case.a.len()), poisoned(case.a.len()));
        delta_gate::forward(&mut g, &mut beta, &case.a, &case.b, &case.layer().rates);
        let (mut want, mut matrix_want) = (poisoned(out.len()), case.matrix.clone());
        let inputs = gated_delta::Inputs { q: &q, k: &k, v: &v, g: &g, beta: &beta };
        gated_delta::step(&mut want, inputs, &mut matrix_want, shape);
        assert_eq!((out, tail, matrix), (want, tail_want, matrix_want), "{count} tokens of {heads:?}");
    }
}

#[test]
#[should_panic(expected = "a state of")]
fn a_missing_tail_is_refused() {
    let mut case = Case::new(1, 4, [1, 1, 3, 5]);
    let (mut out, mut tail, mut matrix) = (poisoned(5), Vec::new(), std::mem::take(&mut case.matrix));
    forward(&mut out, case.tokens(), State { tail: &mut tail, matrix: &mut matrix }, &case.layer());
}
