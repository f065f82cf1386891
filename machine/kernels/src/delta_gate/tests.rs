//! The parallel form against the definition in f64, the definition's gradient against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, poisoned, random, weighted_sum, wide};

#[test]
fn parallel_is_the_definition() {
    for (tokens, heads) in [(1, 1), (3, 7), (2003, 5)] {
        let len = tokens * heads;
        // Wide enough for both ends of the softplus.
        let a: Vec<f32> = random(1, len).iter().map(|x| 40.0 * x).collect();
        let b: Vec<f32> = random(2, len).iter().map(|x| 20.0 * x).collect();
        let (a_log, dt_bias, dg, dbeta) = (random(3, heads), random(4, heads), random(5, len), random(6, len));
        let rates = Rates { a_log: &a_log, dt_bias: &dt_bias };
        let wide_rates = [wide(&a_log), wide(&dt_bias)];
        let wide_rates = wide_rates.each_ref().map(Vec::as_slice);
        let (mut g, mut beta) = (poisoned(len), poisoned(len));
        let (mut g_want, mut beta_want) = (vec![0.0; len], vec![0.0; len]);
        forward(&mut g, &mut beta, &a, &b, &rates);
        scalar::forward([&mut g_want, &mut beta_want], [&wide(&a), &wide(&b)], wide_rates);
        assert_close(&g, &g_want, 1e-6, "g");
        assert_close(&beta, &beta_want, 1e-6, "beta");
        assert!(g.iter().all(|&g| g <= 0.0));

        let mut got = [random(7, len), random(8, len), random(9, heads), random(10, heads)];
        let mut want = got.each_ref().map(|x| wide(x));
        let [da, db, da_log, ddt_bias] = got.each_mut();
        backward(Gradients { da, db, da_log, ddt_bias }, &dg, &dbeta, &a, &b, &rates);
        let into = want.each_mut().map(Vec::as_mut_slice);
        scalar::backward(into, [&wide(&dg), &wide(&dbeta)], [&wide(&a), &wide(&b)], wide_rates);
        for (index, name) in ["da", "db", "da_log", "ddt_bias"].into_iter().enumerate() {
            assert_close(&got[index], &want[index], 3e-5, name);
        }
    }
}

#[test]
fn definition_is_differentiated_rightly() {
    let inputs = [(1, 6), (2, 6), (3, 3), (4, 3)].map(|(seed, len)| wide(&random(seed, len)));
    let (dg, dbeta) = (wide(&random(5, 6)), wide(&random(6, 6)));
    let mut gradients = inputs.clone().map(|x| vec![0.0; x.len()]);
    let [a, b, a_log, dt_bias] = inputs.each_ref().map(Vec::as_slice);
    scalar::backward(gradients.each_mut().map(Vec::as_mut_slice), [&dg, &dbeta], [a, b], [a_log, dt_bias]);
    for (index, name) in ["da", "db", "da_log", "ddt_bias"].into_iter().enumerate() {
        assert_gradient(&gradients[index], &inputs[index], name, |moved| {
            let mut parts = inputs.each_ref().map(Vec::as_slice);
            parts[index] = moved;
            let (mut g, mut beta) = (vec![0.0; 6], vec![0.0; 6]);
            scalar::forward([&mut g, &mut beta], [parts[0], parts[1]], [parts[2], parts[3]]);
            weighted_sum(&g, &dg) + weighted_sum(&beta, &dbeta)
        });
    }
}
