//! Every variant against the definition in f64 over several steps, and the definition against numbers worked by hand.

use super::*;
use crate::simd::testing::{assert_close, for_every_level, random, wide};

const ADAMW: AdamW = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };

#[test]
fn every_variant_is_the_definition_over_steps() {
    for_every_level(|level| {
        for len in [1, 7, 16, 61, 193] {
            let (mut parameter, mut first, mut second) = (random(1, len), vec![0.0; len], vec![0.0; len]);
            let mut want = [wide(&parameter), wide(&first), wide(&second)];
            for step in 1..=5 {
                let gradient = random(10 + step, len);
                let constants = vector::Step::new(&ADAMW, 0.5, step);
                vector::step_values(level, &mut parameter, &mut first, &mut second, &gradient, constants);
                scalar::step(want.each_mut().map(Vec::as_mut_slice), &wide(&gradient), 0.5, step, &ADAMW);
                assert_close(&parameter, &want[0], 2e-6, "parameter");
                assert_close(&first, &want[1], 1e-6, "first");
                assert_close(&second, &want[2], 1e-6, "second");
            }
        }
    });
}

#[test]
fn first_step_moves_by_the_rate_after_decay() {
    // At step 1 the corrected moments are g and g², so that the move is rate·sign(g), whatever g is.
    let (mut parameter, mut first, mut second) = (vec![2.0; 3], vec![0.0; 3], vec![0.0; 3]);
    step(&mut parameter, &mut first, &mut second, &[4.0, -0.5, 0.0], 1.0, 1, &ADAMW);
    let kept = 2.0 * (1.0 - 0.01 * 0.1);
    assert_close(&parameter, &[kept - 0.01, kept + 0.01, kept], 1e-6, "parameter");
    assert_close(&first, &[0.4, -0.05, 0.0], 1e-6, "first");
    assert_close(&second, &[0.8, 0.0125, 0.0], 1e-6, "second");
}

#[test]
fn long_slices_split_into_tasks() {
    let len = 200_003;
    let (mut parameter, mut first, mut second) = (random(1, len), vec![0.0; len], vec![0.0; len]);
    let mut want = [wide(&parameter), wide(&first), wide(&second)];
    let gradient = random(2, len);
    step(&mut parameter, &mut first, &mut second, &gradient, 2.0, 1, &ADAMW);
    scalar::step(want.each_mut().map(Vec::as_mut_slice), &wide(&gradient), 2.0, 1, &ADAMW);
    assert_close(&parameter, &want[0], 2e-6, "parameter");
    let norm: f64 = wide(&gradient).iter().map(|x| x * x).sum();
    assert!((squared_norm(&gradient) - norm).abs() <= 1e-6 * norm);
    assert_eq!(squared_norm(&[]), 0.0);
}

#[test]
#[should_panic(expected = "count from 1")]
fn step_zero_is_refused() {
    step(&mut [0.0], &mut [0.0], &mut [0.0], &[0.0], 1.0, 0, &ADAMW);
}
