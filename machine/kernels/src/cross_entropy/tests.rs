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
    divergence_forward_backward(&mut losses, &mut dx, &teacher, &weights, (vocabulary, Divergence::Forward));
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

/// Reverse, and mixtures of either side.
const BETAS: [f32; 4] = [1.0, 0.5, 0.1, 0.9];

#[test]
fn divergences_led_by_the_student_are_the_definition() {
    for_every_level(|level| {
        for (rows, vocabulary) in SHAPES {
            let (student, teacher) = (logits(1, rows * vocabulary), logits(2, rows * vocabulary));
            let weights = weights(rows);
            for beta in BETAS {
                let (mut losses, mut want) = (poisoned(rows), vec![0.0; rows]);
                let (mut dx, mut dx_want) = (student.clone(), wide(&student));
                vector::mixed_rows(level, &mut losses, &mut dx, &teacher, &weights, vocabulary, beta);
                let (teacher, weights) = (wide(&teacher), wide(&weights));
                scalar::mixed(&mut want, &mut dx_want, &teacher, &weights, vocabulary, f64::from(beta));
                assert_close(&losses, &want, 4e-6, "divergence");
                assert_close(&dx, &dx_want, 4e-5, "gradient");
            }
        }
    });
}

/// k tokens of each row that differ, with shares that leave something.
fn known(rows: usize, vocabulary: usize, k: usize) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let k = k.min(vocabulary);
    let tokens = (0..rows * k).map(|i| ((i / k * 31 + i % k * 3) % vocabulary) as u32).collect();
    let shares: Vec<f32> = (0..rows * k).map(|i| 0.6 / k as f32 * (0.5 + (i % 3) as f32 / 2.0)).collect();
    let logs = shares.iter().map(|share| share.ln()).collect();
    (tokens, shares, logs)
}

#[test]
fn parts_are_the_definition() {
    for_every_level(|level| {
        for (rows, vocabulary) in [(3, 7), (2, 16), (5, 61), (3, 1009)] {
            let (student, weights) = (logits(1, rows * vocabulary), weights(rows));
            for (k, whole) in [(1, false), (5, false), (2, true)] {
                let (mut tokens, shares, logs) = known(rows, vocabulary, k);
                let sums: Vec<f32> = shares.chunks(k).map(|shares| shares.iter().sum()).collect();
                let rest: Vec<f32> = sums.iter().map(|sum| if whole { 0.0 } else { 1.0 - sum }).collect();
                if whole {
                    // Drawn twice.
                    tokens[1] = tokens[0];
                }
                let (mut losses, mut want) = (poisoned(rows), vec![0.0; rows]);
                let (mut dx, mut dx_want) = (student.clone(), wide(&student));
                let parts = Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest };
                vector::parts_rows(level, &mut losses, &mut dx, parts, &weights, vocabulary);
                let (shares, logs, rest) = (wide(&shares), wide(&logs), wide(&rest));
                let parts = scalar::Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest };
                scalar::parts(&mut want, &mut dx_want, &parts, &wide(&weights), vocabulary);
                assert_close(&losses, &want, 4e-6, "loss");
                assert_close(&dx, &dx_want, 1e-5, "gradient");
            }
        }
    });
}

#[test]
fn definitions_with_a_teacher_are_differentiated_rightly() {
    let (rows, vocabulary, weights) = (2, 7, [0.5, 2.0]);
    let (x, teacher) = (wide(&random(1, 14)), wide(&random(2, 14)));
    let weighted = |losses: &[f64]| losses[0] * weights[0] + losses[1] * weights[1];
    for beta in BETAS.map(f64::from) {
        let run = |x: &mut [f64]| {
            let mut losses = vec![0.0; rows];
            scalar::mixed(&mut losses, x, &teacher, &weights, vocabulary, beta);
            weighted(&losses)
        };
        let mut dx = x.clone();
        run(&mut dx);
        assert_gradient(&dx, &x, "mixed", |x| run(&mut x.to_vec()));
        let mut same = teacher.clone();
        assert!(run(&mut same).abs() < 1e-12 && same.iter().all(|d| d.abs() < 1e-12), "of itself: nothing");
    }
    let (tokens, shares, logs) = ([3, 6, 0, 2], [0.4, 0.3, 0.1, 0.2], [-1.0, -2.0, -0.5, -0.1]);
    for rest in [[0.3, 0.7], [0.0, 0.0]] {
        let parts = scalar::Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest };
        let run = |x: &mut [f64]| {
            let mut losses = vec![0.0; rows];
            scalar::parts(&mut losses, x, &parts, &weights, vocabulary);
            weighted(&losses)
        };
        let mut dx = x.clone();
        run(&mut dx);
        assert_gradient(&dx, &x, "parts", |x| run(&mut x.to_vec()));
    }
}

#[test]
fn all_tokens_as_parts_are_the_whole_divergence() {
    let (rows, vocabulary) = (40, 61);
    let (x, teacher) = (logits(1, rows * vocabulary), logits(2, rows * vocabulary));
    let weights = vec![1.0; rows];
    let (mut losses, mut dx) = (poisoned(rows), x.clone());
    divergence_forward_backward(&mut losses, &mut dx, &teacher, &weights, (vocabulary, Divergence::Forward));
    let logs: Vec<f32> = teacher
        .chunks(vocabulary)
        .flat_map(|row| {
            let total = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() as f32;
            row.iter().map(move |x| x - total)
        })
        .collect();
    let shares: Vec<f32> = logs.iter().map(|log| log.exp()).collect();
    let tokens: Vec<u32> = (0..rows).flat_map(|_| 0..vocabulary as u32).collect();
    let rest = vec![0.0; rows];
    let (mut found, mut dx_found) = (poisoned(rows), x.clone());
    let parts = Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest };
    parts_forward_backward(&mut found, &mut dx_found, parts, &weights, vocabulary);
    assert_close(&found, &wide(&losses), 5e-5, "loss");
    assert_close(&dx_found, &wide(&dx), 5e-5, "gradient");
}
