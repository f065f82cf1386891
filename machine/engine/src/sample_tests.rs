//! The sampler against distributions worked out by hand.

use super::*;

/// Logits whose softmax is exactly these probabilities.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn distribution(settings: Sampling, probabilities: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
    let sampler = Sampler::new(settings).expect("the settings are valid");
    let candidates = sampler.distribution(&logits_of(probabilities), history);
    candidates.iter().map(|candidate| (candidate.token, candidate.probability)).collect()
}

fn assert_close(found: &[(u32, f32)], wanted: &[(u32, f32)]) {
    assert_eq!(found.len(), wanted.len(), "{found:?} is not {wanted:?}");
    for (a, b) in found.iter().zip(wanted) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-5, "{found:?} is not {wanted:?}");
    }
}

const FOUR: [f32; 4] = [0.1, 0.5, 0.25, 0.15];

#[test]
fn plain_draw_keeps_the_distribution() {
    let found = distribution(Sampling::with_temperature(1.0, 0), &FOUR, &[]);
    assert_close(&found, &[(1, 0.5), (2, 0.25), (3, 0.15), (0, 0.1)]);
}

#[test]
fn top_k_keeps_exactly_k_and_the_lower_id_among_equals() {
    let settings = Sampling { top_k: 2, ..Sampling::with_temperature(1.0, 0) };
    assert_close(&distribution(settings.clone(), &FOUR, &[]), &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
    assert_close(&distribution(settings, &[0.25; 4], &[]), &[(0, 0.5), (1, 0.5)]);
}

#[test]
fn top_p_includes_the_token_that_crosses_the_mass() {
    let with = |top_p| Sampling { top_p, ..Sampling::with_temperature(1.0, 0) };
    assert_close(&distribution(with(0.6), &FOUR, &[]), &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
    assert_close(&distribution(with(0.45), &FOUR, &[]), &[(1, 1.0)]);
    assert_close(&distribution(with(0.001), &FOUR, &[]), &[(1, 1.0)]);
}

#[test]
fn min_p_is_relative_to_the_most_probable() {
    let settings = Sampling { min_p: 0.29, ..Sampling::with_temperature(1.0, 0) };
    assert_close(&distribution(settings, &FOUR, &[]), &[(1, 0.5 / 0.9), (2, 0.25 / 0.9), (3, 0.15 / 0.9)]);
}

#[test]
fn the_place_of_the_temperature_changes_what_survives() {
    // Squared and normalized by temperature 1/2: 0.25, 0.0625, 0.0225, 0.01 of 0.345.
    let first = Sampling { top_p: 0.7, ..Sampling::with_temperature(0.5, 0) };
    assert_close(&distribution(first.clone(), &FOUR, &[]), &[(1, 1.0)]);
    // Untempered, 0.5 < 0.7 ≤ 0.75: two survive, and then they are squared.
    let last = Sampling { order: Order::TemperatureLast, ..first };
    assert_close(&distribution(last, &FOUR, &[]), &[(1, 0.8), (2, 0.2)]);
}

#[test]
fn repetition_penalty_counts_a_token_once_and_pushes_both_signs_down() {
    let settings = Sampling { repetition_penalty: 2.0, ..Sampling::with_temperature(1.0, 0) };
    let sampler = Sampler::new(settings.clone()).expect("valid");
    let found = sampler.distribution(&[2.0, -1.0, 0.5], &[0, 0, 1]);
    let scores = [1.0f32, -2.0, 0.5];
    let total: f32 = scores.iter().map(|s| s.exp()).sum();
    let wanted: Vec<(u32, f32)> = [0, 2, 1].map(|t: usize| (t as u32, scores[t].exp() / total)).to_vec();
    assert_close(&found.iter().map(|c| (c.token, c.probability)).collect::<Vec<_>>(), &wanted);
    let short = Sampler::new(Sampling { repetition_window: 1, ..settings }).expect("valid");
    assert_eq!(short.distribution(&[2.0, -1.0, 0.5], &[0, 0, 1])[0].token, 0);
}

#[test]
fn greedy_takes_the_first_of_the_highest_and_ignores_what_is_not_a_number() {
    let mut sampler = Sampler::new(Sampling::greedy()).expect("valid");
    assert_eq!(sampler.choose(&[f32::NAN, 1.0, 3.0, 3.0, f32::INFINITY], &[]), Ok(2));
    assert_eq!(sampler.choose(&[f32::NAN; 3], &[7]), Err(EngineError::NotFinite { position: 1 }));
    let penalty = Sampling { repetition_penalty: 4.0, ..Sampling::greedy() };
    assert_eq!(Sampler::new(penalty).expect("valid").choose(&[1.0, 3.0], &[1]), Ok(0));
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let draws = |seed| {
        let mut sampler = Sampler::new(Sampling::with_temperature(1.0, seed)).expect("valid");
        (0..20_000).map(|_| sampler.choose(&logits_of(&FOUR), &[]).expect("finite")).collect::<Vec<u32>>()
    };
    let found = draws(11);
    assert_eq!(found, draws(11));
    assert_ne!(found, draws(12));
    for (token, wanted) in (0u32..).zip(FOUR) {
        let share = found.iter().filter(|&&t| t == token).count() as f32 / found.len() as f32;
        // Four standard deviations of a share of 20 000 draws are at most 0.0142.
        assert!((share - wanted).abs() < 0.0142, "token {token}: {share} of the draws, wanted {wanted}");
    }
}

#[test]
fn meaningless_settings_are_refused_by_name() {
    for (settings, name) in [
        (Sampling::with_temperature(-1.0, 0), "temperature"),
        (Sampling::with_temperature(f32::NAN, 0), "temperature"),
        (Sampling { top_p: 0.0, ..Sampling::greedy() }, "top_p"),
        (Sampling { min_p: 1.5, ..Sampling::greedy() }, "min_p"),
        (Sampling { repetition_penalty: 0.0, ..Sampling::greedy() }, "repetition_penalty"),
    ] {
        match Sampler::new(settings).map(|_| ()) {
            Err(EngineError::Setting { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name} was accepted: {other:?}"),
        }
    }
}
