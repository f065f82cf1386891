//! Speed of attention over a cache: operations a second of a prefill's 512 tokens, bytes a second of one token.
//!
//! `cargo run --release -p kernels --example attention_speed [-- DEPTH]`, in the shape of Qwen3-Next: 16 heads over 2,
//! 256 wide.

#![allow(clippy::print_stdout, reason = "an example prints what it measures")]

use kernels::attention::{Cached, Shape, cached};
use kernels::kv_page::{KvFormat, PAGE_TOKENS, Page, PageShape};
use kernels::pool;
use numeric::Rng;
use std::sync::Arc;
use std::time::Instant;

const SHAPE: Shape = Shape { query_heads: 16, kv_heads: 2, head_dim: 256, scale: 0.0625 };
const PREFILL: usize = 512;
const REPETITIONS: usize = 5;

fn main() {
    let depth = std::env::args().nth(1).map_or(16_384, |depth| depth.parse().expect("a number of tokens"));
    println!("{} threads, {depth} tokens before", pool::threads());
    println!("format   {PREFILL} tokens     1 token");
    for (name, format) in [("f16", KvFormat::F16), ("int8", KvFormat::Int8), ("f32", KvFormat::F32)] {
        let pages = pages(format, depth + PREFILL);
        let seconds = median(PREFILL, &pages, depth + PREFILL);
        let seen = PREFILL * depth + PREFILL * (PREFILL + 1) / 2;
        let operations = 4 * seen * SHAPE.query_heads * SHAPE.head_dim;
        let one = median(1, &pages, depth + PREFILL);
        let bytes = 2 * (depth + PREFILL) * SHAPE.kv_heads * format.row_bytes(SHAPE.head_dim);
        let (rate, bandwidth) = (operations as f64 / seconds / 1e9, bytes as f64 / one / 1e9);
        println!("{name:6} {rate:6.0} Gop/s  {bandwidth:5.1} GB/s");
    }
}

/// One page of random rows as often as is wanted: each a copy of its own, so that none is in a cache by chance.
fn pages(format: KvFormat, tokens: usize) -> Vec<Arc<Page>> {
    let mut page = Page::empty(format, PageShape { kv_heads: SHAPE.kv_heads, head_dim: SHAPE.head_dim });
    for token in 0..PAGE_TOKENS {
        let (key, value) = (random(2 * token as u64), random(2 * token as u64 + 1));
        page.write(token, &key, &value);
    }
    (0..tokens.div_ceil(PAGE_TOKENS)).map(|_| Arc::new(page.clone())).collect()
}

fn random(seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..SHAPE.kv_heads * SHAPE.head_dim).map(|_| rng.normal() as f32).collect()
}

fn median(queries: usize, pages: &[Arc<Page>], tokens: usize) -> f64 {
    let row = SHAPE.query_heads * SHAPE.head_dim;
    let q: Vec<f32> = (0..queries * row).map(|at| (at % 17) as f32 / 17.0 - 0.5).collect();
    let mut out = vec![0.0; q.len()];
    let mut seconds: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            cached(&mut out, &q, Cached { pages, tokens, is_past: false }, &SHAPE);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[REPETITIONS / 2]
}
