//! Every variant against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, wide};

const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 7), (2, 16), (5, 61), (3, 1009)];

fn logits(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).iter().map(|x| 15.0 * x).collect()
}

fn targets(rows: usize, vocabulary: usize) -> Vec<u32> {
    (0..rows).map(|row| if row == 2 { IGNORED } else { (row * 7919 % vocabulary) as u32 }).collect()
}

/// Row 1 does not count.
fn weights(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| if row == 1 { 0.0 } else { 0.25 + row as f32 }).collect()
}

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (rows, vocabulary) in SHAPES {
            let x = logits(1, rows * vocabulary);
            let (targets, weights) = (targets(rows, vocabulary), weights(rows));
            let (mut losses, mut want) = (poisoned(rows), vec![0.0; rows]);
            vector::forward_rows(level, &mut losses, &x, &targets, vocabulary);
            scalar::forward(&mut want, &wide(&x), &targets, vocabulary);
            assert_close(&losses, &want, 2e-6, "loss");
            let (mut losses, mut dx, mut dx_want) = (poisoned(rows), x.clone(), wide(&x));
            vector::forward_backward_rows(level, &mut losses, &mut dx, &targets, &weights, vocabulary);
            scalar::forward_backward(&mut want, &mut dx_want, &targets, &wide(&weights), vocabulary);
            assert_close(&losses, &want, 2e-6, "loss of both");
            assert_close(&dx, &dx_want, 4e-6, "gradient");
        }
    });
}

#[test]
fn divergence_is_the_definition() {
    for_every_level(|level| {
        for (rows, vocabulary) in SHAPES {
            let (student, teacher) = (logits(1, rows * vocabulary), logits(2, rows * vocabulary));
            let weights = weights(rows);
            let (mut losses, mut want) = (poisoned(rows), vec![0.0; rows]);
            let (mut dx, mut dx_want) = (student.clone(), wide(&student));
            vector::divergence_rows(level, &mut losses, &mut dx, &teacher, &weights, vocabulary);
            scalar::divergence(&mut want, &mut dx_want, &wide(&teacher), &wide(&weights), vocabulary);
            assert_close(&losses, &want, 2e-6, "divergence");
            assert_close(&dx, &dx_want, 4e-6, "gradient");
        }
    });
}

#[test]
fn definitions_are_differentiated_rightly() {
    let (rows, vocabulary) = (2, 7);
    let (x, teacher) = (wide(&random(1, 14)), wide(&random(2, 14)));
    let (targets, weights) = ([3, 6], [0.5, 2.0]);
    let weighted = |losses: &[f64]| losses[0] * weights[0] + losses[1] * weights[1];
    let (mut losses, mut dx) = (vec![0.0; rows], x.clone());
    scalar::forward_backward(&mut losses, &mut dx, &targets, &weights, vocabulary);
    assert_gradient(&dx, &x, "cross entropy", |x| {
        let mut losses = vec![0.0; rows];
        scalar::forward(&mut losses, x, &targets, vocabulary);
        weighted(&losses)
    });
    let mut dx = x.clone();
    scalar::divergence(&mut losses, &mut dx, &teacher, &weights, vocabulary);
    assert_gradient(&dx, &x, "divergence", |x| {
        let mut losses = vec![0.0; rows];
        scalar::divergence(&mut losses, &mut x.to_vec(), &teacher, &weights, vocabulary);
        weighted(&losses)
    });
}

#[test]
fn many_rows_split_into_tasks() {
    let (rows, vocabulary) = (307, 1009);
    let (x, teacher) = (logits(1, rows * vocabulary), logits(2, rows * vocabulary));
    let (targets, weights) = (targets(rows, vocabulary), weights(rows));
    let (mut losses, mut want) = (poisoned(rows), vec![0.0; rows]);
    forward(&mut losses, &x, &targets, vocabulary);
    scalar::forward(&mut want, &wide(&x), &targets, vocabulary);
    assert_close(&losses, &want, 2e-6, "loss");
    let (mut dx, mut dx_want) = (x.clone(), wide(&x));
    forward_backward(&mut losses, &mut dx, &targets, &weights, vocabulary);
    scalar::forward_backward(&mut want, &mut dx_want, &targets, &wide(&weights), vocabulary);
    assert_close(&losses, &want, 2e-6, "loss of both");
    assert_close(&dx, &dx_want, 1e-4, "gradient of weights up to 300");
    let (mut dx, mut dx_want) = (x.clone(), wide(&x));
    divergence_forward_backward(&mut losses, &mut dx, &teacher, &weights, vocabulary);
    scalar::divergence(&mut want, &mut dx_want, &wide(&teacher), &wide(&weights), vocabulary);
    assert_close(&losses, &want, 2e-6, "divergence");
    assert_close(&dx, &dx_want, 1e-4, "gradient of weights up to 300");
}

#[test]
fn first_choices_agree_where_they_are_the_same() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, f32::NAN]), 1);
    assert_eq!(argmax_agreement(&[0.0, 1.0, 5.0, 2.0], &[1.0, 2.0, 3.0, 4.0], 2), 1);
}

#[test]
#[should_panic(expected = "target 7 of a vocabulary of 7")]
fn a_target_beyond_the_vocabulary_is_refused() {
    forward(&mut [0.0], &[0.0; 7], &[7], 7);
}
