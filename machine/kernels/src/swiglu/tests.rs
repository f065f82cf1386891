//! Every variant against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for len in (0..70).chain([1009]) {
            // Wide enough to reach where the sigmoid saturates.
            let gate: Vec<f32> = random(1, len).iter().map(|x| 30.0 * x).collect();
            let (up, dy) = (random(2, len), random(3, len));
            let (mut y, mut want) = (poisoned(len), vec![0.0; len]);
            vector::forward_values(level, &mut y, &gate, &up);
            scalar::forward(&mut want, &wide(&gate), &wide(&up));
            assert_close(&y, &want, 1e-6, "y");
            let (mut dgate, mut dup) = (random(4, len), random(5, len));
            let (mut dgate_want, mut dup_want) = (wide(&dgate), wide(&dup));
            vector::backward_values(level, &mut dgate, &mut dup, &dy, &gate, &up);
            scalar::backward(&mut dgate_want, &mut dup_want, &wide(&dy), &wide(&gate), &wide(&up));
            assert_close(&dgate, &dgate_want, 5e-6, "dgate");
            assert_close(&dup, &dup_want, 1e-6, "dup");
        }
    });
}

#[test]
fn rows_are_weighted() {
    for_every_level(|level| {
        for (rows, width) in [(1, 3), (7, 16), (5, 37)] {
            let len = rows * width;
            let (gate, up, weights) = (random(1, len), random(2, len), random(3, rows));
            let (mut y, mut want) = (poisoned(len), vec![0.0; len]);
            vector::forward_rows(level, &mut y, &gate, &up, &weights);
            scalar::forward_weighted(&mut want, &wide(&gate), &wide(&up), &wide(&weights));
            assert_close(&y, &want, 1e-6, "y");
            let mut split = poisoned(len);
            forward_weighted(&mut split, &gate, &up, &weights);
            assert_close(&split, &want, 1e-6, "y in tasks");
        }
    });
}

#[test]
fn definition_is_differentiated_rightly() {
    let [gate, up, dy] = [1, 2, 3].map(|seed| wide(&random(seed, 11)));
    let loss = |gate: &[f64], up: &[f64]| {
        let mut y = vec![0.0; gate.len()];
        scalar::forward(&mut y, gate, up);
        weighted_sum(&y, &dy)
    };
    let (mut dgate, mut dup) = (vec![0.0; 11], vec![0.0; 11]);
    scalar::backward(&mut dgate, &mut dup, &dy, &gate, &up);
    assert_gradient(&dgate, &gate, "dgate", |gate| loss(gate, &up));
    assert_gradient(&dup, &up, "dup", |up| loss(&gate, up));
}

#[test]
fn long_slices_split_into_tasks() {
    let len = 200_003;
    let (gate, up) = (random(1, len), random(2, len));
    let (mut y, mut want) = (poisoned(len), vec![0.0; len]);
    forward(&mut y, &gate, &up);
    scalar::forward(&mut want, &wide(&gate), &wide(&up));
    assert_close(&y, &want, 1e-6, "y");
    let (mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len]);
    backward(&mut dgate, &mut dup, &y, &gate, &up);
    let (mut dgate_want, mut dup_want) = (vec![0.0; len], vec![0.0; len]);
    scalar::backward(&mut dgate_want, &mut dup_want, &wide(&y), &wide(&gate), &wide(&up));
    assert_close(&dgate, &dgate_want, 1e-6, "dgate");
    assert_close(&dup, &dup_want, 1e-6, "dup");
}

#[test]
#[should_panic(expected = "lengths differ")]
fn unequal_lengths_are_refused() {
    forward(&mut [0.0; 3], &[0.0; 3], &[0.0; 2]);
}
