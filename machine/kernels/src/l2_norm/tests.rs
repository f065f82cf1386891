//! Every variant against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (rows, width) in [(1, 1), (3, 7), (5, 16), (7, 32), (2, 61), (11, 193)] {
            let (x, dy) = (random(1, rows * width), random(2, rows * width));
            let (mut y, mut want) = (poisoned(x.len()), vec![0.0; x.len()]);
            vector::forward_rows(level, &mut y, &x, width, 0.3);
            scalar::forward(&mut want, &wide(&x), width, f64::from(0.3f32));
            assert_close(&y, &want, 1e-6, "y");
            let mut dx = random(3, x.len());
            let mut dx_want = wide(&dx);
            vector::backward_rows(level, &mut dx, &dy, &x, width, 0.3);
            scalar::backward(&mut dx_want, &wide(&dy), &wide(&x), width, f64::from(0.3f32));
            assert_close(&dx, &dx_want, 5e-6, "dx");
        }
    });
}

#[test]
fn a_row_of_zeros_stays_finite() {
    let (mut y, mut dx) = (poisoned(32), vec![0.0; 32]);
    forward(&mut y, &[0.0; 32], 32, 1.0);
    backward(&mut dx, &[1.0; 32], &[0.0; 32], 32, 1.0);
    assert_eq!(y, [0.0; 32]);
    assert!(dx.iter().all(|dx| (dx - 1000.0).abs() < 0.1), "{dx:?}");
}

#[test]
fn definition_is_differentiated_rightly() {
    let (x, dy) = (wide(&random(1, 15)), wide(&random(2, 15)));
    let mut dx = vec![0.0; 15];
    scalar::backward(&mut dx, &dy, &x, 5, 0.7);
    assert_gradient(&dx, &x, "dx", |x| {
        let mut y = vec![0.0; x.len()];
        scalar::forward(&mut y, x, 5, 0.7);
        weighted_sum(&y, &dy)
    });
}

#[test]
fn many_rows_split_into_tasks() {
    let (rows, width) = (4099, 37);
    let (x, dy) = (random(1, rows * width), random(2, rows * width));
    let (mut y, mut want) = (poisoned(x.len()), vec![0.0; x.len()]);
    forward(&mut y, &x, width, 2.0);
    scalar::forward(&mut want, &wide(&x), width, 2.0);
    assert_close(&y, &want, 1e-6, "y");
    let (mut dx, mut dx_want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    backward(&mut dx, &dy, &x, width, 2.0);
    scalar::backward(&mut dx_want, &wide(&dy), &wide(&x), width, 2.0);
    assert_close(&dx, &dx_want, 5e-6, "dx");
}
