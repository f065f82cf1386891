//! Every variant against the definition in f64, that against differences, packed against separate, tails across calls.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

/// Tokens, channels, taps.
const SHAPES: [[usize; 3]; 6] = [[1, 1, 1], [1, 7, 4], [2, 17, 4], [5, 61, 3], [11, 32, 4], [3, 5, 7]];

/// The transpose of a matrix [rows, columns].
fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
}

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for [tokens, channels, kernel] in SHAPES {
            let len = tokens * channels;
            let (x, weight, tail) = (random(1, len), random(2, channels * kernel), random(3, (kernel - 1) * channels));
            let weight_kc = turned(&weight, channels, kernel);
            let span = vector::Span { x: &x, tail: &tail, weight_kc: &weight_kc, kernel };
            let (mut y, mut pre) = (poisoned(len), poisoned(len));
            let split = tokens / 2 * channels;
            let ((y_1, y_2), (pre_1, pre_2)) = (y.split_at_mut(split), pre.split_at_mut(split));
            vector::forward_tokens(level, y_1, pre_1, span, 0);
            vector::forward_tokens(level, y_2, pre_2, span, tokens / 2);
            let (mut y_want, mut pre_want) = (vec![0.0; len], vec![0.0; len]);
            scalar::forward(&mut y_want, &mut pre_want, &wide(&x), &wide(&weight), &mut wide(&tail), kernel);
            assert_close(&y, &y_want, 1e-6, "y");
            assert_close(&pre, &pre_want, 1e-6, "pre");

            let dy = random(4, len);
            let (mut dx, mut dweight_kc) = (random(5, len), vec![0.0; weight.len()]);
            let (mut dx_want, mut dweight_want) = (wide(&dx), vec![0.0; weight.len()]);
            let (dx_1, dx_2) = dx.split_at_mut(split);
            vector::backward_tokens(level, [dx_1, &mut dweight_kc], [&dy, &pre], span, 0);
            vector::backward_tokens(level, [dx_2, &mut dweight_kc], [&dy, &pre], span, tokens / 2);
            let given = [&pre_want[..], &wide(&x), &wide(&weight), &wide(&tail)];
            let mut dtail_want = vec![0.0; tail.len()];
            scalar::backward([&mut dx_want, &mut dweight_want, &mut dtail_want], &wide(&dy), given, kernel);
            assert_close(&dx, &dx_want, 3e-6, "dx");
            let dweight = turned(&dweight_kc, kernel, channels);
            assert_close(&dweight, &dweight_want, 3e-6, "dweight");
        }
    });
}

#[test]
fn heads_leave_at_one_length() {
    let (spans, kernel, channels) = ([3, 50, 1], 4, 2 * 21 + 29);
    let tokens: usize = spans.iter().sum();
    let (x, weight) = (random(1, tokens * channels), random(2, channels * kernel));
    let tails = random(3, spans.len() * (kernel - 1) * channels);
    let [mut want, mut got, mut pre] = [(); 3].map(|()| poisoned(tokens * channels));
    let (mut tails_want, mut tails_got) = (tails.clone(), tails);
    forward_packed(&mut want, &mut pre, &x, &weight, &mut tails_want, &spans, kernel);
    let heads = [(0, 0.3), (21, 1.0)].map(|(from, scale)| Heads { columns: from..from + 21, width: 7, scale });
    forward_normalised([&mut got, &mut pre], (&x, &weight), &mut tails_got, &spans, kernel, &heads);
    for (got, want) in got.chunks_exact(channels).zip(want.chunks_exact(channels)) {
        for Heads { columns, width, scale } in &heads {
            let mut normalised = poisoned(columns.len());
            l2_norm::forward(&mut normalised, &want[columns.clone()], *width, *scale);
            assert_eq!(got[columns.clone()], normalised);
        }
        assert_eq!(got[42..], want[42..]);
    }
    assert_eq!(tails_got, tails_want);
}

#[test]
fn definition_is_differentiated_rightly() {
    let [tokens, channels, kernel] = [5, 3, 4];
    let (x, weight) = (wide(&random(1, 15)), wide(&random(2, 12)));
    let (tail, dy) = (wide(&random(3, 9)), wide(&random(4, 15)));
    for tokens in [tokens, 2] {
        let (x, dy) = (&x[..tokens * channels], &dy[..tokens * channels]);
        let dleft = wide(&random(5, 9));
        let run = |x: &[f64], weight: &[f64], tail: &[f64]| {
            let (mut y, mut pre, mut tail) = (vec![0.0; x.len()], vec![0.0; x.len()], tail.to_vec());
            scalar::forward(&mut y, &mut pre, x, weight, &mut tail, kernel);
            (weighted_sum(&y, dy) + weighted_sum(&tail, &dleft), pre)
        };
        let (_, pre) = run(x, &weight, &tail);
        let (mut dx, mut dweight, mut dtail) = (vec![0.0; x.len()], vec![0.0; 12], dleft.clone());
        scalar::backward([&mut dx, &mut dweight, &mut dtail], dy, [&pre, x, &weight, &tail], kernel);
        assert_gradient(&dx, x, "dx", |x| run(x, &weight, &tail).0);
        assert_gradient(&dweight, &weight, "dweight", |weight| run(x, weight, &tail).0);
        assert_gradient(&dtail, &tail, "dtail", |tail| run(x, &weight, tail).0);
    }
}

#[test]
fn one_call_is_two_calls_that_pass_the_tail_on() {
    let [tokens, channels, kernel] = [11, 7, 4];
    let (x, weight) = (random(1, tokens * channels), random(2, channels * kernel));
    let whole = {
        let (mut y, mut pre, mut tail) = (poisoned(x.len()), poisoned(x.len()), random(3, 3 * channels));
        forward(&mut y, &mut pre, &x, &weight, &mut tail, kernel);
        assert_eq!(tail, x[(tokens - 3) * channels..]);
        y
    };
    for split in [1, 2, 5, 10] {
        let (mut y, mut pre, mut tail) = (poisoned(x.len()), poisoned(x.len()), random(3, 3 * channels));
        let at = split * channels;
        forward(&mut y[..at], &mut pre[..at], &x[..at], &weight, &mut tail, kernel);
        forward(&mut y[at..], &mut pre[at..], &x[at..], &weight, &mut tail, kernel);
        assert_eq!(y, whole);
        assert_eq!(tail, x[(tokens - 3) * channels..]);
    }
}

#[test]
fn packed_is_separate_also_when_split_into_tasks() {
    let (spans, channels, kernel) = ([401, 1, 3, 997], 67, 4);
    let tokens: usize = spans.iter().sum();
    let (x, weight, dy) = (random(1, tokens * channels), random(2, channels * kernel), random(4, tokens * channels));
    let tails = random(3, spans.len() * 3 * channels);
    let (mut y, mut pre, mut tails_after) = (poisoned(x.len()), poisoned(x.len()), tails.clone());
    forward_packed(&mut y, &mut pre, &x, &weight, &mut tails_after, &spans, kernel);
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    let saved = Saved { pre: &pre, x: &x, initial_tail: &tails };
    let dleft = random(6, tails.len());
    let mut dtails = dleft.clone();
    backward_packed([&mut dx, &mut dweight, &mut dtails], &dy, saved, &weight, &spans, kernel);
    let mut dweight_want = vec![0.0; weight.len()];
    let mut start = 0;
    for (index, span) in spans.into_iter().enumerate() {
        let rows = start * channels..(start + span) * channels;
        let tail = &tails[index * 3 * channels..(index + 1) * 3 * channels];
        let (mut y_want, mut pre_want, mut tail_want) = (vec![0.0; rows.len()], vec![0.0; rows.len()], wide(tail));
        scalar::forward(&mut y_want, &mut pre_want, &wide(&x[rows.clone()]), &wide(&weight), &mut tail_want, kernel);
        assert_close(&y[rows.clone()], &y_want, 1e-6, "y");
        assert_close(&tails_after[index * 3 * channels..(index + 1) * 3 * channels], &tail_want, 0.0, "tail");
        let mut dx_want = vec![0.0; rows.len()];
        let given = [&pre_want[..], &wide(&x[rows.clone()]), &wide(&weight), &wide(tail)];
        let place = index * 3 * channels..(index + 1) * 3 * channels;
        let mut dtail_want = wide(&dleft[place.clone()]);
        let into = [&mut dx_want[..], &mut dweight_want[..], &mut dtail_want[..]];
        scalar::backward(into, &wide(&dy[rows.clone()]), given, kernel);
        assert_close(&dx[rows], &dx_want, 3e-6, "dx");
        assert_close(&dtails[place], &dtail_want, 3e-6, "dtail");
        start += span;
    }
    assert_close(&dweight, &dweight_want, 1e-5, "dweight");
}

#[test]
#[should_panic(expected = "one tail per span")]
fn a_missing_tail_is_refused() {
    let (mut y, mut pre) = ([0.0; 2], [0.0; 2]);
    forward_packed(&mut y, &mut pre, &[0.0; 2], &[0.0; 4], &mut [0.0; 3], &[1, 1], 4);
}
