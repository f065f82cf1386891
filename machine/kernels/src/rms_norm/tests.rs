//! Every variant against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 7), (5, 16), (7, 32), (2, 61), (11, 193)];
const EPSILON: f32 = 1e-6;

#[test]
fn forward_is_the_definition() {
    for_every_level(|level| {
        for (rows, width) in SHAPES {
            let (x, weight) = (random(1, rows * width), random(2, width));
            let gate = random(3, rows * width);
            for offset in [0.0, 1.0] {
                let norm = Norm { weight: &weight, offset, epsilon: EPSILON };
                let (offset, epsilon) = (f64::from(offset), f64::from(EPSILON));
                let (mut y, mut want) = (poisoned(x.len()), vec![0.0; x.len()]);
                vector::forward_rows(level, &mut y, &x, &norm);
                scalar::forward(&mut want, &wide(&x), &wide(&weight), offset, epsilon);
                assert_close(&y, &want, 1e-6, "y");
                let mut y = poisoned(x.len());
                vector::gated_forward_rows(level, &mut y, &x, &gate, &norm);
                scalar::gated_forward(&mut want, &wide(&x), &wide(&gate), &wide(&weight), offset, epsilon);
                assert_close(&y, &want, 1e-6, "gated y");
            }
        }
    });
}

#[test]
fn backward_is_the_definition() {
    for_every_level(|level| {
        for (rows, width) in SHAPES {
            let len = rows * width;
            let (x, gate, weight, dy) = (random(1, len), random(2, len), random(3, width), random(4, len));
            let norm = Norm { weight: &weight, offset: 1.0, epsilon: EPSILON };
            let epsilon = f64::from(EPSILON);
            let (mut dx, mut dgate, mut dweight) = (random(5, len), random(6, len), random(7, width));
            let (mut dx_want, mut dgate_want, mut dweight_want) = (wide(&dx), wide(&dgate), wide(&dweight));
            vector::backward_rows(level, &mut dx, &mut dweight, &dy, &x, &norm);
            let wide_weight = wide(&weight);
            scalar::backward(&mut dx_want, &mut dweight_want, &wide(&dy), &wide(&x), &wide_weight, 1.0, epsilon);
            assert_close(&dx, &dx_want, 5e-6, "dx");
            assert_close(&dweight, &dweight_want, 5e-6, "dweight");
            vector::gated_backward_rows(level, [&mut dx, &mut dgate, &mut dweight], &dy, &x, &gate, &norm);
            let into = [&mut dx_want[..], &mut dgate_want[..], &mut dweight_want[..]];
            scalar::gated_backward(into, &wide(&dy), [&wide(&x), &wide(&gate), &wide_weight], 1.0, epsilon);
            assert_close(&dx, &dx_want, 1e-5, "gated dx");
            assert_close(&dgate, &dgate_want, 1e-5, "dgate");
            assert_close(&dweight, &dweight_want, 1e-5, "gated dweight");
        }
    });
}

#[test]
fn definition_is_differentiated_rightly() {
    let (rows, width) = (3, 5);
    let [x, gate, dy] = [1, 2, 3].map(|seed| wide(&random(seed, rows * width)));
    let weight = wide(&random(4, width));
    let loss = |x: &[f64], gate: &[f64], weight: &[f64]| {
        let mut y = vec![0.0; x.len()];
        scalar::gated_forward(&mut y, x, gate, weight, 1.0, 1e-6);
        weighted_sum(&y, &dy)
    };
    let (mut dx, mut dgate, mut dweight) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; width]);
    scalar::gated_backward([&mut dx, &mut dgate, &mut dweight], &dy, [&x, &gate, &weight], 1.0, 1e-6);
    assert_gradient(&dx, &x, "dx", |x| loss(x, &gate, &weight));
    assert_gradient(&dgate, &gate, "dgate", |gate| loss(&x, gate, &weight));
    assert_gradient(&dweight, &weight, "dweight", |weight| loss(&x, &gate, weight));
}

#[test]
fn many_rows_split_into_tasks_give_the_same_as_one_by_one() {
    let (rows, width) = (1009, 193);
    let (x, weight, dy) = (random(1, rows * width), random(2, width), random(3, rows * width));
    let norm = Norm { weight: &weight, offset: 1.0, epsilon: EPSILON };
    let (mut y, mut want) = (poisoned(x.len()), vec![0.0; x.len()]);
    forward(&mut y, &x, &norm);
    scalar::forward(&mut want, &wide(&x), &wide(&weight), 1.0, f64::from(EPSILON));
    assert_close(&y, &want, 1e-6, "y");
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; width]);
    backward(&mut dx, &mut dweight, &dy, &x, &norm);
    let (mut dx_want, mut dweight_want) = (vec![0.0; x.len()], vec![0.0; width]);
    let epsilon = f64::from(EPSILON);
    scalar::backward(&mut dx_want, &mut dweight_want, &wide(&dy), &wide(&x), &wide(&weight), 1.0, epsilon);
    assert_close(&dx, &dx_want, 5e-6, "dx");
    assert_close(&dweight, &dweight_want, 2e-5, "dweight");
}

#[test]
#[should_panic(expected = "no whole rows")]
fn a_broken_row_is_refused() {
    forward(&mut [0.0; 5], &[0.0; 5], &Norm { weight: &[1.0; 2], offset: 0.0, epsilon: EPSILON });
}
