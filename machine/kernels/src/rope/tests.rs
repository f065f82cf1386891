//! Every variant against the definition in f64, far positions, and that the inverse undoes and is the adjoint.

use super::*;
use crate::simd::testing::{assert_close, for_every_level, random, weighted_sum, wide};

#[test]
fn every_variant_is_the_definition() {
    for_every_level(|level| {
        for (tokens, heads, head_dim, rotary_dim) in
            [(1, 1, 2, 2), (3, 2, 7, 4), (5, 3, 61, 22), (2, 4, 64, 64), (2, 5, 67, 34), (2, 1, 3, 0)]
        {
            let rope = Rope { rotary_dim, theta: 1e7 };
            let frequencies: Vec<f32> = (0..rotary_dim / 2).map(|j| inverse_frequency(&rope, j)).collect();
            let positions: Vec<u32> = (0..tokens as u32).map(|t| t * t * 65_521 + t).collect();
            for direction in [1.0, -1.0] {
                let mut x = random(1, tokens * heads * head_dim);
                let mut want = wide(&x);
                let parts = (&rope, &frequencies[..]);
                vector::apply_tokens(level, &mut x, &positions, [heads, head_dim], parts, direction);
                scalar::apply(&mut want, &positions, [heads, head_dim], &rope, f64::from(direction));
                assert_close(&x, &want, 3e-7, "x");
            }
        }
    });
}

#[test]
fn sines_are_right_in_every_quadrant_and_far_out() {
    for i in 0..200_000u32 {
        let angle = if i % 2 == 0 { i as f32 * 1e-4 - 10.0 } else { (i * 83) as f32 + 0.37 };
        let (sine, cosine) = vector::sine_cosine(angle);
        let want = f64::from(angle).sin_cos();
        assert!((f64::from(sine) - want.0).abs() < 1.2e-7, "sin {angle} = {sine}, want {}", want.0);
        assert!((f64::from(cosine) - want.1).abs() < 1.2e-7, "cos {angle} = {cosine}, want {}", want.1);
    }
}

#[test]
fn inverse_undoes_and_is_the_adjoint() {
    let (tokens, heads, head_dim) = (2003, 3, 17);
    let rope = Rope { rotary_dim: 10, theta: 1e4 };
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let x = random(1, tokens * heads * head_dim);
    let mut turned = x.clone();
    apply(&mut turned, &positions, heads, head_dim, &rope);
    let mut back = turned.clone();
    apply_inverse(&mut back, &positions, heads, head_dim, &rope);
    assert_close(&back, &wide(&x), 1e-6, "x");
    assert_ne!(turned[heads * head_dim..], x[heads * head_dim..]);
    let dy = random(2, x.len());
    let mut dx = dy.clone();
    apply_inverse(&mut dx, &positions, heads, head_dim, &rope);
    let (forwards, backwards) = (weighted_sum(&wide(&turned), &wide(&dy)), weighted_sum(&wide(&x), &wide(&dx)));
    assert!((forwards - backwards).abs() < 1e-3, "{forwards} {backwards}");
}

#[test]
#[should_panic(expected = "of heads of 7")]
fn a_rotation_wider_than_the_head_is_refused() {
    apply(&mut [0.0; 7], &[0], 1, 7, &Rope { rotary_dim: 8, theta: 1e4 });
}
