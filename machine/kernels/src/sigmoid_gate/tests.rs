//! Every variant against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (gates, group) in [(1, 1), (61, 1), (3, 7), (5, 16), (2, 193)] {
            let len = gates * group;
            let (x, dy) = (random(1, len), random(2, len));
            let gate: Vec<f32> = random(3, gates).iter().map(|x| 20.0 * x).collect();
            let (mut y, mut want) = (poisoned(len), vec![0.0; len]);
            let (mut dx, mut dgate) = (random(4, len), random(5, gates));
            let (mut dx_want, mut dgate_want) = (wide(&dx), wide(&dgate));
            if group == 1 {
                vector::forward_values(level, &mut y, &x, &gate);
                vector::backward_values(level, &mut dx, &mut dgate, &dy, &x, &gate);
            } else {
                vector::forward_groups(level, &mut y, &x, &gate, group);
                vector::backward_groups(level, [&mut dx, &mut dgate], &dy, &x, &gate, group);
            }
            scalar::forward(&mut want, &wide(&x), &wide(&gate), group);
            scalar::backward(&mut dx_want, &mut dgate_want, &wide(&dy), &wide(&x), &wide(&gate), group);
            assert_close(&y, &want, 1e-6, "y");
            assert_close(&dx, &dx_want, 1e-6, "dx");
            assert_close(&dgate, &dgate_want, 3e-6, "dgate");
        }
    });
}

#[test]
fn definition_is_differentiated_rightly() {
    let (x, gate, dy) = (wide(&random(1, 15)), wide(&random(2, 3)), wide(&random(3, 15)));
    let loss = |x: &[f64], gate: &[f64]| {
        let mut y = vec![0.0; x.len()];
        scalar::forward(&mut y, x, gate, 5);
        weighted_sum(&y, &dy)
    };
    let (mut dx, mut dgate) = (vec![0.0; 15], vec![0.0; 3]);
    scalar::backward(&mut dx, &mut dgate, &dy, &x, &gate, 5);
    assert_gradient(&dx, &x, "dx", |x| loss(x, &gate));
    assert_gradient(&dgate, &gate, "dgate", |gate| loss(&x, gate));
}

#[test]
fn many_gates_split_into_tasks() {
    for group in [1, 37] {
        let gates = 150_001 / group;
        let (x, gate) = (random(1, gates * group), random(2, gates));
        let (mut y, mut want) = (poisoned(x.len()), vec![0.0; x.len()]);
        forward(&mut y, &x, &gate, group);
        scalar::forward(&mut want, &wide(&x), &wide(&gate), group);
        assert_close(&y, &want, 1e-6, "y");
        let (mut dx, mut dgate) = (vec![0.0; x.len()], vec![0.0; gates]);
        backward(&mut dx, &mut dgate, &y, &x, &gate, group);
        let (mut dx_want, mut dgate_want) = (vec![0.0; x.len()], vec![0.0; gates]);
        scalar::backward(&mut dx_want, &mut dgate_want, &wide(&y), &wide(&x), &wide(&gate), group);
        assert_close(&dx, &dx_want, 1e-6, "dx");
        assert_close(&dgate, &dgate_want, 3e-6, "dgate");
    }
}

#[test]
#[should_panic(expected = "with 2 gates of 3")]
fn a_gate_without_values_is_refused() {
    forward(&mut [0.0; 5], &[0.0; 5], &[0.0; 2], 3);
}
