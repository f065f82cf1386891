//! The same call gives the same bits with one thread and with three, in all kernels that sum over tasks or interleave
//! them.

use kernels::kv_page::{KvFormat, PAGE_TOKENS, Page, PageShape};
use kernels::pool::Pool;
use kernels::{attention, conv1d, cross_entropy, delta_gate, gated_delta, l2_norm, rms_norm};
use numeric::Rng;
use std::sync::Arc;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| (rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

#[track_caller]
fn assert_same_bits(run: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let with = |threads: usize| {
        let values = Pool::new(threads).install(&run);
        assert!(values.iter().flatten().all(|value| value.is_finite()));
        values.into_iter().map(|x| x.into_iter().map(f32::to_bits).collect()).collect::<Vec<Vec<u32>>>()
    };
    let alone = with(1);
    assert_eq!(alone, with(3));
    assert_eq!(alone, with(3));
}

#[test]
fn attention_in_any_number_of_threads() {
    let (spans, tokens) = ([1300, 7, 141, 65], 1513);
    let shape = attention::Shape { query_heads: 4, kv_heads: 2, head_dim: 37, scale: 0.2 };
    let [q, k, v] = [(1, 4), (2, 2), (3, 2)].map(|(seed, heads)| random(seed, tokens * heads * 37));
    let inputs = attention::Inputs { q: &q, k: &k, v: &v };
    assert_same_bits(|| {
        let (mut out, mut log_sum_exp) = (vec![0.0; q.len()], vec![0.0; tokens * 4]);
        attention::forward_packed(&mut out, &mut log_sum_exp, inputs, &spans, &shape);
        let mut gradients = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
        let [dq, dk, dv] = gradients.each_mut();
        let saved = attention::Saved { out: &out, log_sum_exp: &log_sum_exp };
        attention::backward_packed(attention::Gradients { dq, dk, dv }, &q, saved, inputs, &spans, &shape);
        [vec![out, log_sum_exp], gradients.to_vec()].concat()
    });
}

#[test]
fn decoding_attention_in_any_number_of_threads() {
    let shape = attention::Shape { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125 };
    let (q, row) = (random(1, 256), random(2, 128));
    let page = || {
        let mut page = Page::empty(KvFormat::F16, PageShape { kv_heads: 2, head_dim: 64 });
        (0..PAGE_TOKENS).for_each(|token| page.write(token, &row, &row));
        Arc::new(page)
    };
    let pages: Vec<Arc<Page>> = (0..20).map(|_| page()).collect();
    assert_same_bits(|| {
        let mut out = vec![0.0; 256];
        attention::cached(&mut out, &q, attention::Cached { pages: &pages, tokens: 5003, is_past: false }, &shape);
        vec![out]
    });
}

#[test]
fn gated_delta_in_any_number_of_threads() {
    let (spans, tokens) = ([200, 3, 97, 33], 333);
    let shape = gated_delta::Shape { key_heads: 2, value_heads: 4, key_dim: 31, value_dim: 37 };
    let (x, v) = (random(1, tokens * 2 * 31), random(2, tokens * 4 * 37));
    let mut k = x.clone();
    l2_norm::forward(&mut k, &x, 31, 1.0);
    let beta: Vec<f32> = random(3, tokens * 4).iter().map(|x| x.abs()).collect();
    let g: Vec<f32> = beta.iter().map(|x| -2.0 * x).collect();
    let inputs = gated_delta::Inputs { q: &k, k: &k, v: &v, g: &g, beta: &beta };
    assert_same_bits(|| {
        let (mut out, mut chunk_states) = (vec![0.0; v.len()], Vec::new());
        let mut states = vec![0.0; spans.len() * shape.state_len()];
        gated_delta::chunked_packed(&mut out, inputs, &mut states, &mut chunk_states, &spans, &shape);
        let mut gradients = [&k, &k, &v, &g, &beta].map(|x| vec![0.0; x.len()]);
        let [dq, dk, dv, dg, dbeta] = gradients.each_mut();
        let into = gated_delta::Gradients { dq, dk, dv, dg, dbeta };
        let mut dstates = states.clone();
        gated_delta::backward_packed(into, &v, inputs, &chunk_states, &mut dstates, &spans, &shape);
        [vec![out, states, dstates], gradients.to_vec()].concat()
    });
}

#[test]
fn sums_over_rows_in_any_number_of_threads() {
    let (rows, width) = (2003, 193);
    let (x, gate, weight) = (random(1, rows * width), random(2, rows * width), random(3, width));
    let norm = rms_norm::Norm { weight: &weight, offset: 1.0, epsilon: 1e-6 };
    assert_same_bits(|| {
        let (mut dx, mut dgate, mut dweight) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; width]);
        rms_norm::backward(&mut dx, &mut dweight, &gate, &x, &norm);
        let into = rms_norm::GatedGradients { dx: &mut dx, dgate: &mut dgate, dweight: &mut dweight };
        rms_norm::gated_backward(into, &x, &x, &gate, &norm);
        vec![dx, dgate, dweight]
    });
    let (channels, tokens) = (193, rows);
    let (kernels, tail) = (random(4, channels * 4), vec![0.0; 3 * channels]);
    assert_same_bits(|| {
        let (mut dx, mut dweight, mut dtail) = (vec![0.0; x.len()], vec![0.0; kernels.len()], tail.clone());
        let saved = conv1d::Saved { pre: &gate, x: &x, initial_tail: &tail };
        conv1d::backward_packed([&mut dx, &mut dweight, &mut dtail], &gate, saved, &kernels, &[tokens], 4);
        vec![dx, dweight, dtail]
    });
    let heads = 193;
    let (a_log, dt_bias) = (random(5, heads), random(6, heads));
    let rates = delta_gate::Rates { a_log: &a_log, dt_bias: &dt_bias };
    assert_same_bits(|| {
        let mut into = [x.len(), x.len(), heads, heads].map(|len| vec![0.0; len]);
        let [da, db, da_log, ddt_bias] = into.each_mut();
        let gradients = delta_gate::Gradients { da, db, da_log, ddt_bias };
        delta_gate::backward(gradients, &x, &gate, &gate, &x, &rates);
        into.to_vec()
    });
}

#[test]
fn losses_in_any_number_of_threads() {
    let (rows, vocabulary) = (211, 1009);
    let (student, teacher) = (random(1, rows * vocabulary), random(2, rows * vocabulary));
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 4).collect();
    let weights = vec![0.5; rows];
    assert_same_bits(|| {
        let (mut losses, mut divergences) = (vec![0.0; rows], vec![0.0; rows]);
        let (mut first, mut second) = (student.clone(), student.clone());
        cross_entropy::forward_backward(&mut losses, &mut first, &targets, &weights, vocabulary);
        let how = |divergence| (vocabulary, divergence);
        let forward = how(cross_entropy::Divergence::Forward);
        cross_entropy::divergence_forward_backward(&mut divergences, &mut second, &teacher, &weights, forward);
        let (mut mixed, mut third) = (vec![0.0; rows], student.clone());
        let half = how(cross_entropy::Divergence::Mixed(0.5));
        cross_entropy::divergence_forward_backward(&mut mixed, &mut third, &teacher, &weights, half);
        vec![losses, divergences, first, second, mixed, third]
    });
}
