//! The parallel form against the definition; the mask against what is said of it.

use super::*;
use crate::simd::testing::{poisoned, random};

fn keys(rows: usize) -> Vec<u64> {
    (0..rows).map(|row| key(&[7, row as u64])).collect()
}

#[test]
fn parallel_is_the_definition() {
    for (rows, columns) in [(1, 1), (3, 7), (1009, 97)] {
        let (x, keys) = (random(1, rows * columns), keys(rows));
        let (mut y, mut want) = (poisoned(x.len()), poisoned(x.len()));
        forward(&mut y, &x, &keys, 0.3);
        let (mut dx, mut dwant) = (random(2, x.len()), random(2, x.len()));
        backward(&mut dx, &x, &keys, 0.3);
        for (row, &key) in keys.iter().enumerate() {
            let part = row * columns..(row + 1) * columns;
            scalar::forward(&mut want[part.clone()], &x[part.clone()], key, 0.3);
            scalar::backward(&mut dwant[part.clone()], &x[part], key, 0.3);
        }
        assert_eq!((y, dx), (want, dwant), "{rows} × {columns}");
    }
    forward(&mut [], &[], &[], 0.5);
}

#[test]
fn backward_is_the_adjoint() {
    let (x, dy, keys) = (random(1, 13 * 29), random(2, 13 * 29), keys(13));
    let (mut y, mut dx) = (poisoned(x.len()), vec![0.0; x.len()]);
    forward(&mut y, &x, &keys, 0.4);
    backward(&mut dx, &dy, &keys, 0.4);
    let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    assert!((inner(&y, &dy) - inner(&x, &dx)).abs() < 1e-5);
}

#[test]
fn as_many_are_left_out_as_asked_and_no_two_rows_or_columns_alike() {
    let (rows, columns) = (512, 256);
    let (x, keys) = (vec![1.0; rows * columns], keys(rows));
    for rate in [0.0, 0.05, 0.5, 0.9] {
        let mut y = poisoned(x.len());
        forward(&mut y, &x, &keys, rate);
        let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / y.len() as f64;
        // Five standard deviations of a fair draw.
        let allowed = 5.0 * (f64::from(rate) * (1.0 - f64::from(rate)) / y.len() as f64).sqrt();
        assert!((dropped - f64::from(rate)).abs() <= allowed, "{dropped} of {rate} were left out");
        let mean = y.iter().map(|&y| f64::from(y)).sum::<f64>() / y.len() as f64;
        assert!((mean - 1.0).abs() <= allowed / (1.0 - f64::from(rate)) + 1e-6, "the mean became {mean}");
        if rate == 0.5 {
            let agreeing = |a: &dyn Fn(usize) -> f32, b: &dyn Fn(usize) -> f32, n: usize| {
                (0..n).filter(|&i| a(i) == b(i)).count() as f64 / n as f64
            };
            for row in 1..rows {
                let same = agreeing(&|c| y[(row - 1) * columns + c], &|c| y[row * columns + c], columns);
                assert!((same - 0.5).abs() < 0.2, "rows {} and {row} agree in {same}", row - 1);
            }
            for column in 1..columns {
                let same = agreeing(&|r| y[r * columns + column - 1], &|r| y[r * columns + column], rows);
                assert!((same - 0.5).abs() < 0.15, "columns {} and {column} agree in {same}", column - 1);
            }
        }
    }
}
