//! Prints the time of each kernel for one training batch of the tiny model (4096 tokens packed from uneven sequences)
//! and for one decoded token. `cargo run --release -p kernels --example kernel_speed [-- part-of-a-name]`
#![allow(clippy::print_stdout, reason = "a program for a person to read")]

use std::sync::Arc;
use std::time::Instant;

use kernels::kv_page::{KvFormat, PAGE_TOKENS, Page, PageShape};
use kernels::{adamw, attention, conv1d, cross_entropy, delta_gate, gated_delta, l2_norm, rms_norm, rope, router};
use kernels::{sigmoid_gate, swiglu};
use numeric::Rng;

/// The tokens of the packed sequences; 4096 together.
const SPANS: [usize; 12] = [1000, 800, 600, 500, 350, 250, 200, 150, 100, 75, 51, 20];
const TOKENS: usize = 4096;
const HIDDEN: usize = 192;
const VOCABULARY: usize = 3072;

fn random(len: usize) -> Vec<f32> {
    let mut rng = Rng::new(len as u64);
    (0..len).map(|_| (rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// The best of several runs, in microseconds.
fn time(name: &str, mut run: impl FnMut()) {
    // The kernel's inputs may need it to have run once.
    run();
    if std::env::args().nth(1).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<44} {:>10.1} µs", best * 1e6);
}

fn main() {
    println!("threads {}", std::thread::available_parallelism().map_or(1, usize::from));
    attention_speed();
    delta_speed();
    loss_speed();
    norm_speed();
    elementwise_speed();
    long_attention_speed();
    decode_speed();
}

fn attention_speed() {
    let shape = attention::Shape { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125 };
    let (q, k, v) = (random(TOKENS * 256), random(TOKENS * 128), random(TOKENS * 128));
    let inputs = attention::Inputs { q: &q, k: &k, v: &v };
    let (mut out, mut log_sum_exp) = (vec![0.0; q.len()], vec![0.0; TOKENS * 4]);
    time("attention forward", || attention::forward_packed(&mut out, &mut log_sum_exp, inputs, &SPANS, &shape));
    let (dout, mut dq, mut dk, mut dv) = (random(q.len()), vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let saved = attention::Saved { out: &out, log_sum_exp: &log_sum_exp };
    time("attention backward", || {
        let gradients = attention::Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention::backward_packed(gradients, &dout, saved, inputs, &SPANS, &shape);
    });
    let positions: Vec<u32> = (0..TOKENS as u32).map(|t| t % 1000).collect();
    let rope = rope::Rope { rotary_dim: 16, theta: 1e7 };
    let mut x = q.clone();
    time("rope, 4 heads, 16 of 64", || rope::apply(&mut x, &positions, 4, 64, &rope));
    let rope = rope::Rope { rotary_dim: 64, theta: 1e6 };
    time("rope, 4 heads, all of 64", || rope::apply(&mut x, &positions, 4, 64, &rope));
}

fn delta_speed() {
    for (name, shape) in [
        ("tiny 4×32, 8×32", gated_delta::Shape { key_heads: 4, value_heads: 8, key_dim: 32, value_dim: 32 }),
        ("wide 2×128, 4×128", gated_delta::Shape { key_heads: 2, value_heads: 4, key_dim: 128, value_dim: 128 }),
    ] {
        let mut q = random(TOKENS * shape.key_heads * shape.key_dim);
        let x = q.clone();
        l2_norm::forward(&mut q, &x, shape.key_dim, 1.0);
        let k = q.clone();
        let v = random(TOKENS * shape.value_heads * shape.value_dim);
        let g: Vec<f32> = random(TOKENS * shape.value_heads).iter().map(|g| -g.abs()).collect();
        let beta: Vec<f32> = g.iter().map(|g| -g).collect();
        let inputs = gated_delta::Inputs { q: &q, k: &k, v: &v, g: &g, beta: &beta };
        let mut out = vec![0.0; v.len()];
        let mut states = vec![0.0; SPANS.len() * shape.state_len()];
        let mut chunk_states = Vec::new();
        let one = states[..shape.state_len()].to_vec();
        let mut state = one.clone();
        time(&format!("delta steps, {name}"), || gated_delta::step(&mut out, inputs, &mut state, &shape));
        let mut state = one;
        time(&format!("delta prefill, {name}"), || gated_delta::prefill(&mut out, inputs, &mut state, &shape));
        time(&format!("delta chunked, {name}"), || {
            states.fill(0.0);
            gated_delta::chunked_packed(&mut out, inputs, &mut states, &mut chunk_states, &SPANS, &shape);
        });
        let dout = random(v.len());
        let mut gradients = [&q, &k, &v, &g, &beta].map(|x| vec![0.0; x.len()]);
        time(&format!("delta backward, {name}"), || {
            let [dq, dk, dv, dg, dbeta] = gradients.each_mut();
            let gradients = gated_delta::Gradients { dq, dk, dv, dg, dbeta };
            states.fill(0.0);
            gated_delta::backward_packed(gradients, &dout, inputs, &chunk_states, &mut states, &SPANS, &shape);
        });
    }
}

fn loss_speed() {
    let logits = random(TOKENS * VOCABULARY);
    let targets: Vec<u32> = (0..TOKENS as u32).map(|t| t * 7 % VOCABULARY as u32).collect();
    let (weights, mut losses) = (vec![1.0; TOKENS], vec![0.0; TOKENS]);
    time("cross entropy forward", || cross_entropy::forward(&mut losses, &logits, &targets, VOCABULARY));
    let mut x = logits.clone();
    time("cross entropy forward and backward", || {
        cross_entropy::forward_backward(&mut losses, &mut x, &targets, &weights, VOCABULARY);
    });
    time("divergence forward and backward", || {
        let forward = (VOCABULARY, cross_entropy::Divergence::Forward);
        cross_entropy::divergence_forward_backward(&mut losses, &mut x, &logits, &weights, forward);
    });
    let shape = router::Shape { experts: 32, top_k: 4, normalize: true };
    let logits = random(TOKENS * 32);
    let (mut indices, mut chosen, mut probabilities) = (vec![0; TOKENS * 4], vec![0.0; TOKENS * 4], logits.clone());
    time("router forward", || router::forward(&mut indices, &mut chosen, &mut probabilities, &logits, &shape));
    let mut dlogits = vec![0.0; logits.len()];
    let routing = router::Routing { probabilities: &probabilities, indices: &indices, weights: &chosen };
    time("router backward", || router::backward(&mut dlogits, &chosen, &[0.0; 32], routing, &shape));
    let len = 4 << 20;
    let adamw = adamw::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    let (mut parameter, mut first, mut second, gradient) = (random(len), vec![0.0; len], vec![0.0; len], random(len));
    time("adamw step, 4 Mi parameters", || {
        adamw::step(&mut parameter, &mut first, &mut second, &gradient, 1.0, 1, &adamw);
    });
    time("squared norm, 4 Mi parameters", || assert!(adamw::squared_norm(&gradient) > 0.0));
}

fn norm_speed() {
    for (name, rows, width) in [("rms norm, 192", TOKENS, HIDDEN), ("rms norm, 8 heads of 32", TOKENS * 8, 32)] {
        let (x, gate, weight, mut y) =
            (random(rows * width), random(rows * width), random(width), random(rows * width));
        let norm = rms_norm::Norm { weight: &weight, offset: 1.0, epsilon: 1e-6 };
        time(&format!("{name} forward"), || rms_norm::forward(&mut y, &x, &norm));
        let (mut dx, mut dgate, mut dweight) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; width]);
        time(&format!("{name} backward"), || rms_norm::backward(&mut dx, &mut dweight, &gate, &x, &norm));
        time(&format!("{name} gated forward"), || rms_norm::gated_forward(&mut y, &x, &gate, &norm));
        time(&format!("{name} gated backward"), || {
            let gradients = rms_norm::GatedGradients { dx: &mut dx, dgate: &mut dgate, dweight: &mut dweight };
            rms_norm::gated_backward(gradients, &y, &x, &gate, &norm);
        });
    }
    let (x, mut y) = (random(TOKENS * 128), random(TOKENS * 128));
    let mut dx = x.clone();
    time("l2 norm forward, 4 heads of 32", || l2_norm::forward(&mut y, &x, 32, 1.0));
    time("l2 norm backward, 4 heads of 32", || l2_norm::backward(&mut dx, &y, &x, 32, 1.0));
}

fn elementwise_speed() {
    let len = TOKENS * 4 * 64;
    let (gate, up, mut y) = (random(len), random(len), random(len));
    let (mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len]);
    time("swiglu forward, 4 experts of 64", || swiglu::forward(&mut y, &gate, &up));
    time("swiglu backward, 4 experts of 64", || swiglu::backward(&mut dgate, &mut dup, &y, &gate, &up));
    time("sigmoid gate forward, 4 heads of 64", || sigmoid_gate::forward(&mut y, &up, &gate, 1));
    time("sigmoid gate backward, 4 heads of 64", || {
        sigmoid_gate::backward(&mut dup, &mut dgate, &y, &up, &gate, 1);
    });
    let (x, weight) = (random(TOKENS * 512), random(512 * 4));
    let (mut y, mut pre, mut tails) = (x.clone(), x.clone(), vec![0.0; SPANS.len() * 3 * 512]);
    time("conv1d forward, 512 channels", || {
        conv1d::forward_packed(&mut y, &mut pre, &x, &weight, &mut tails, &SPANS, 4);
    });
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    let (saved, mut dtails) = (conv1d::Saved { pre: &pre, x: &x, initial_tail: &tails }, vec![0.0; tails.len()]);
    time("conv1d backward, 512 channels", || {
        conv1d::backward_packed([&mut dx, &mut dweight, &mut dtails], &y, saved, &weight, &SPANS, 4);
    });
    let (a, b, a_log, dt_bias) = (random(TOKENS * 8), random(TOKENS * 8), random(8), random(8));
    let rates = delta_gate::Rates { a_log: &a_log, dt_bias: &dt_bias };
    let (mut g, mut beta) = (a.clone(), a.clone());
    time("delta gates forward", || delta_gate::forward(&mut g, &mut beta, &a, &b, &rates));
    let mut into = [a.len(), a.len(), 8, 8].map(|len| vec![0.0; len]);
    time("delta gates backward", || {
        let [da, db, da_log, ddt_bias] = into.each_mut();
        delta_gate::backward(delta_gate::Gradients { da, db, da_log, ddt_bias }, &g, &beta, &a, &b, &rates);
    });
}

/// Pages of one row, `keys` times.
fn pages_of(keys: usize, format: KvFormat, shape: &attention::Shape) -> Vec<Arc<Page>> {
    let row = random(shape.kv_heads * shape.head_dim);
    let page = |_| {
        let mut page = Page::empty(format, PageShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim });
        (0..PAGE_TOKENS).for_each(|token| page.write(token, &row, &row));
        Arc::new(page)
    };
    (0..keys.div_ceil(PAGE_TOKENS)).map(page).collect()
}

/// The shape of Qwen3-Next's attention layers.
fn long_attention_speed() {
    let shape = attention::Shape { query_heads: 16, kv_heads: 2, head_dim: 256, scale: 1.0 / 16.0 };
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        let pages = pages_of(8192, format, &shape);
        let cache = attention::Cached { pages: &pages, tokens: 8192, is_past: false };
        for queries in [1, 512] {
            let q = random(queries * 16 * 256);
            let mut out = vec![0.0; q.len()];
            time(&format!("attention: {queries} queries, 8192 keys in {format:?}"), || {
                attention::cached(&mut out, &q, cache, &shape);
            });
        }
    }
}

fn decode_speed() {
    for keys in [100_usize, 1000, 10_000] {
        let shape = attention::Shape { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125 };
        let (q, mut out) = (random(256), vec![0.0; 256]);
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
            let pages = pages_of(keys, format, &shape);
            let cache = attention::Cached { pages: &pages, tokens: keys, is_past: false };
            time(&format!("decode: attention, {keys} keys in {format:?}"), || {
                attention::cached(&mut out, &q, cache, &shape);
            });
        }
    }
    for (name, [key_heads, value_heads, dim]) in [("8×32×32", [4, 8, 32]), ("32×128×128", [16, 32, 128])] {
        let shape = gated_delta::Shape { key_heads, value_heads, key_dim: dim, value_dim: dim };
        let (q, v, g) = (random(key_heads * dim), random(value_heads * dim), vec![-0.1; value_heads]);
        let inputs = gated_delta::Inputs { q: &q, k: &q, v: &v, g: &g, beta: &g };
        let (mut out, mut state) = (v.clone(), vec![0.0; shape.state_len()]);
        time(&format!("decode: delta step, {name}"), || gated_delta::step(&mut out, inputs, &mut state, &shape));
    }
    let (x, weight, mut y) = (random(HIDDEN), random(HIDDEN), random(HIDDEN));
    let norm = rms_norm::Norm { weight: &weight, offset: 1.0, epsilon: 1e-6 };
    time("decode: rms norm", || rms_norm::forward(&mut y, &x, &norm));
    let (gate, up, mut y) = (random(256), random(256), random(256));
    time("decode: swiglu", || swiglu::forward(&mut y, &gate, &up));
    let rope = rope::Rope { rotary_dim: 16, theta: 1e7 };
    time("decode: rope", || rope::apply(&mut y, &[500], 4, 64, &rope));
    let (x, weight, mut tail) = (random(512), random(2048), vec![0.0; 3 * 512]);
    let (mut y, mut pre) = (x.clone(), x.clone());
    time("decode: conv1d", || conv1d::forward(&mut y, &mut pre, &x, &weight, &mut tail, 4));
}
