//! Every variant against the definition in f64, ties, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 1), (3, 7, 2), (5, 32, 4), (11, 61, 10), (2, 16, 16)];

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (tokens, experts, top_k) in SHAPES {
            for normalize in [false, true] {
                let shape = Shape { experts, top_k, normalize };
                let logits: Vec<f32> = random(1, tokens * experts).iter().map(|x| 5.0 * x).collect();
                let mut indices = vec![u32::MAX; tokens * top_k];
                let (mut weights, mut probabilities) = (poisoned(tokens * top_k), poisoned(tokens * experts));
                vector::forward_rows(level, &mut indices, &mut weights, &mut probabilities, &logits, &shape);
                let mut indices_want = indices.clone();
                let (mut weights_want, mut probabilities_want) = (vec![0.0; weights.len()], vec![0.0; logits.len()]);
                let into = (&mut indices_want, &mut weights_want, &mut probabilities_want);
                scalar::forward(into.0, into.1, into.2, &wide(&logits), &shape);
                assert_eq!(indices, indices_want);
                assert_close(&weights, &weights_want, 1e-6, "weights");
                assert_close(&probabilities, &probabilities_want, 1e-6, "probabilities");

                let (dweights, extra) = (random(2, weights.len()), random(3, experts));
                let mut dlogits = random(4, logits.len());
                let mut dlogits_want = wide(&dlogits);
                let routing = (&probabilities[..], &indices[..], &weights[..]);
                vector::backward_rows(level, &mut dlogits, &dweights, &extra, routing, &shape);
                let routing = (&probabilities_want[..], &indices[..], &weights_want[..]);
                scalar::backward(&mut dlogits_want, &wide(&dweights), &wide(&extra), routing, &shape);
                assert_close(&dlogits, &dlogits_want, 3e-6, "dlogits");
            }
        }
    });
}

#[test]
fn ties_go_to_the_lower_index() {
    let shape = Shape { experts: 6, top_k: 3, normalize: true };
    let (mut indices, mut weights, mut probabilities) = (vec![9; 3], poisoned(3), poisoned(6));
    forward(&mut indices, &mut weights, &mut probabilities, &[1.0, 2.0, 1.0, 2.0, 2.0, 2.0], &shape);
    assert_eq!(indices, [1, 3, 4]);
    assert_close(&weights, &[1.0 / 3.0; 3], 1e-6, "weights");
}

#[test]
fn definition_is_differentiated_rightly() {
    for normalize in [false, true] {
        let (shape, tokens) = (Shape { experts: 5, top_k: 2, normalize }, 3);
        let logits = wide(&random(1, 15));
        let (dweights, extra) = (wide(&random(2, 6)), wide(&random(3, 5)));
        let run = |logits: &[f64]| {
            let (mut indices, mut weights, mut probabilities) = (vec![0; 6], vec![0.0; 6], vec![0.0; 15]);
            scalar::forward(&mut indices, &mut weights, &mut probabilities, logits, &shape);
            (indices, weights, probabilities)
        };
        let (indices, weights, probabilities) = run(&logits);
        let mut dlogits = vec![0.0; 15];
        scalar::backward(&mut dlogits, &dweights, &extra, (&probabilities, &indices, &weights), &shape);
        assert_gradient(&dlogits, &logits, "dlogits", |logits| {
            let (_, weights, probabilities) = run(logits);
            weighted_sum(&weights, &dweights) + weighted_sum(&probabilities, &extra.repeat(tokens))
        });
    }
}

#[test]
fn many_tokens_split_into_tasks() {
    let shape = Shape { experts: 31, top_k: 4, normalize: true };
    let tokens = 2003;
    let logits = random(1, tokens * 31);
    let (mut indices, mut weights, mut probabilities) =
        (vec![0; tokens * 4], poisoned(tokens * 4), poisoned(tokens * 31));
    forward(&mut indices, &mut weights, &mut probabilities, &logits, &shape);
    let (mut indices_want, mut weights_want, mut all_want) =
        (vec![0; tokens * 4], vec![0.0; tokens * 4], vec![0.0; tokens * 31]);
    scalar::forward(&mut indices_want, &mut weights_want, &mut all_want, &wide(&logits), &shape);
    assert_eq!(indices, indices_want);
    assert_close(&weights, &weights_want, 1e-6, "weights");
    let (mut dlogits, mut dlogits_want) = (vec![0.0; logits.len()], vec![0.0; logits.len()]);
    let routing = Routing { probabilities: &probabilities, indices: &indices, weights: &weights };
    backward(&mut dlogits, &weights, &[0.5; 31], routing, &shape);
    let routing = (&all_want[..], &indices[..], &weights_want[..]);
    scalar::backward(&mut dlogits_want, &wide(&weights), &[0.5; 31], routing, &shape);
    assert_close(&dlogits, &dlogits_want, 1e-6, "dlogits");
}

#[test]
#[should_panic(expected = "5 of 4 experts")]
fn more_chosen_than_there_are_is_refused() {
    let shape = Shape { experts: 4, top_k: 5, normalize: true };
    forward(&mut [0; 5], &mut [0.0; 5], &mut [0.0; 4], &[0.0; 4], &shape);
}
