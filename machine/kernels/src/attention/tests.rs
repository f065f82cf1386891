//! Every way forwards and the one backwards against the definition in f64; that against differences; packed sequences
//! against separate ones.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

/// Queries, keys, query heads, key heads, head width.
const SHAPES: [[usize; 5]; 8] = [
    [1, 1, 1, 1, 3],
    [3, 11, 2, 1, 5],
    [67, 67, 6, 2, 17],
    [131, 131, 4, 2, 64],
    [29, 203, 3, 3, 31],
    [2, 191, 8, 2, 33],
    [1, 301, 5, 1, 47],
    [5, 5, 1, 1, 1],
];

fn case([queries, keys, query_heads, kv_heads, head_dim]: [usize; 5]) -> (Shape, Vec<f32>, Vec<f32>, Vec<f32>) {
    // A scale well above the usual one, for scores that differ.
    let shape = Shape { query_heads, kv_heads, head_dim, scale: 2.0 };
    let keys = keys * kv_heads * head_dim;
    (shape, random(1, queries * query_heads * head_dim), random(2, keys), random(3, keys))
}

fn whole(sizes: [usize; 5]) -> Span {
    Span::causal(sizes[0], sizes[1])
}

/// The keys and values in pages.
fn pages(k: &[f32], v: &[f32], shape: &Shape, format: KvFormat) -> Vec<Arc<Page>> {
    let row = shape.kv_heads * shape.head_dim;
    let page_of = |(k, v): (&[f32], &[f32])| {
        let mut page = Page::empty(format, PageShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim });
        let rows = k.chunks_exact(row).zip(v.chunks_exact(row));
        rows.enumerate().for_each(|(token, (k, v))| page.write(token, k, v));
        Arc::new(page)
    };
    k.chunks(PAGE_TOKENS * row).zip(v.chunks(PAGE_TOKENS * row)).map(page_of).collect()
}

/// What the definition gives over keys and values as they are kept.
fn over_kept([q, k, v]: [&[f32]; 3], shape: &Shape, format: KvFormat) -> [Vec<f64>; 2] {
    let kept = |x: &[f32]| -> Vec<f64> {
        let rows = x.chunks_exact(shape.head_dim);
        rows.flat_map(|row| crate::kv_page::scalar::kept(row, format)).map(f64::from).collect()
    };
    let (mut out, mut sum) = (vec![0.0; q.len()], vec![0.0; q.len() / shape.head_dim]);
    scalar::forward(&mut out, &mut sum, [&wide(q), &kept(k), &kept(v)], shape);
    [out, sum]
}

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8];

#[test]
fn every_way_is_the_definition() {
    for_every_level(|level| {
        for sizes in SHAPES {
            let (shape, q, k, v) = case(sizes);
            let [out_want, sum_want] = over_kept([&q, &k, &v], &shape, KvFormat::F32);
            let (mut out, mut sum) = (poisoned(q.len()), poisoned(q.len() / shape.head_dim));
            let flat = Given { q: &q, source: Source::Flat { k: &k, v: &v } };
            forward_wide(Wide::Exact(level), &mut out, Sums::Written(&mut sum), flat, &[whole(sizes)], &shape);
            assert_close(&out, &out_want, 3e-6, "out");
            assert_close(&sum, &sum_want, 3e-6, "log_sum_exp");
            for format in FORMATS {
                let pages = pages(&k, &v, &shape, format);
                let [out_want, _] = over_kept([&q, &k, &v], &shape, format);
                let mut out = poisoned(q.len());
                let paged = Given { q: &q, source: Source::Paged(&pages) };
                forward_wide(Wide::Exact(level), &mut out, Sums::Forgotten, paged, &[whole(sizes)], &shape);
                assert_close(&out, &out_want, 3e-6, "paged out");
                if sizes[0] * sizes[2] / sizes[3] <= narrow::MOST_QUERIES {
                    let mut out = poisoned(q.len());
                    forward_narrow(level, &mut out, &q, &pages, whole(sizes), &shape);
                    assert_close(&out, &out_want, 3e-6, "narrow out");
                }
            }
        }
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn products_of_bf16_are_near_the_definition() {
    if !Cpu::get().avx512_bf16 {
        // Nothing to hold to the definition: this machine never takes that way.
        return;
    }
    for sizes in SHAPES.into_iter().chain([[137, 643, 8, 1, 96], [64, 300, 16, 2, 256]]) {
        let (mut shape, q, k, v) = case(sizes);
        shape.scale = (shape.head_dim as f32).sqrt().recip();
        for format in [KvFormat::F16, KvFormat::Int8] {
            let pages = pages(&k, &v, &shape, format);
            let [want, _] = over_kept([&q, &k, &v], &shape, format);
            let mut out = poisoned(q.len());
            let paged = Given { q: &q, source: Source::Paged(&pages) };
            forward_wide(Wide::Bf16, &mut out, Sums::Forgotten, paged, &[whole(sizes)], &shape);
            assert_close(&out, &want, 1e-2, "out");
            let rms = |x: &mut dyn Iterator<Item = f64>| (x.map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
            let error = rms(&mut out.iter().zip(&want).map(|(&out, want)| f64::from(out) - want));
            assert!(error <= 2e-3, "{sizes:?}: an rms error of {error}, of values up to one");
        }
    }
}

#[test]
fn narrow_splits_many_keys_between_tasks() {
    let sizes = [2, 9001, 4, 2, 37];
    let (shape, q, k, v) = case(sizes);
    assert!(sizes[1] > narrow::TASK_KEYS, "one task only");
    for format in FORMATS {
        let [want, _] = over_kept([&q, &k, &v], &shape, format);
        let mut out = poisoned(q.len());
        let pages = pages(&k, &v, &shape, format);
        cached(&mut out, &q, Cached { pages: &pages, tokens: sizes[1], is_past: false }, &shape);
        assert_close(&out, &want, 3e-6, "out");
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    for_every_level(|level| {
        let sizes = [70, 70, 1, 1, 16];
        let (mut shape, q, k, v) = case(sizes);
        shape.scale = 300.0;
        let [want, _] = over_kept([&q, &k, &v], &shape, KvFormat::F32);
        let (mut out, mut sum) = (poisoned(q.len()), poisoned(70));
        let flat = Given { q: &q, source: Source::Flat { k: &k, v: &v } };
        forward_wide(Wide::Exact(level), &mut out, Sums::Written(&mut sum), flat, &[whole(sizes)], &shape);
        // Scores of hundreds carry an error of 1e-4 into the exponent.
        assert_close(&out, &want, 1e-3, "out");
    });
}

#[test]
fn backward_is_the_definition() {
    for_every_level(|level| {
        for sizes in SHAPES {
            let (shape, q, k, v) = case(sizes);
            let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
            let dout = random(4, q.len());
            let (mut out, mut sum) = (vec![0.0; q.len()], vec![0.0; q.len() / shape.head_dim]);
            scalar::forward(&mut out, &mut sum, [&wide_q, &wide_k, &wide_v], &shape);
            let (mut dq, mut dk, mut dv) = (random(5, q.len()), random(6, k.len()), random(7, v.len()));
            let (mut dq_want, mut dk_want, mut dv_want) = (wide(&dq), wide(&dk), wide(&dv));
            let into = [&mut dq_want[..], &mut dk_want[..], &mut dv_want[..]];
            scalar::backward(into, [&wide(&dout), &out, &sum], [&wide_q, &wide_k, &wide_v], &shape);
            let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<_>>();
            let (out, sum) = (narrow(out), narrow(sum));
            let saved = Saved { out: &out, log_sum_exp: &sum };
            let gradients = Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
            let inputs = Inputs { q: &q, k: &k, v: &v };
            backward_flat(level, gradients, &dout, saved, inputs, &[whole(sizes)], &shape);
            assert_close(&dq, &dq_want, 2e-5, "dq");
            assert_close(&dk, &dk_want, 2e-5, "dk");
            assert_close(&dv, &dv_want, 2e-5, "dv");
        }
    });
}

#[test]
fn definition_is_differentiated_rightly() {
    let sizes = [3, 5, 4, 2, 3];
    let (shape, q, k, v) = case(sizes);
    let (q, k, v) = (wide(&q), wide(&k), wide(&v));
    let dout = wide(&random(4, q.len()));
    let run = |q: &[f64], k: &[f64], v: &[f64]| {
        let (mut out, mut sum) = (vec![0.0; q.len()], vec![0.0; q.len() / 3]);
        scalar::forward(&mut out, &mut sum, [q, k, v], &shape);
        (out, sum)
    };
    let (out, sum) = run(&q, &k, &v);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    scalar::backward([&mut dq, &mut dk, &mut dv], [&dout, &out, &sum], [&q, &k, &v], &shape);
    assert_gradient(&dq, &q, "dq", |q| weighted_sum(&run(q, &k, &v).0, &dout));
    assert_gradient(&dk, &k, "dk", |k| weighted_sum(&run(&q, k, &v).0, &dout));
    assert_gradient(&dv, &v, "dv", |v| weighted_sum(&run(&q, &k, v).0, &dout));
}

#[test]
fn packed_is_separate() {
    let spans = [71, 1, 130, 9];
    let tokens = spans.iter().sum();
    let (shape, q, k, v) = case([tokens, tokens, 4, 2, 19]);
    let inputs = Inputs { q: &q, k: &k, v: &v };
    let dout = random(4, q.len());
    let (mut out, mut sum) = (poisoned(q.len()), poisoned(q.len() / 19));
    forward_packed(&mut out, &mut sum, inputs, &spans, &shape);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let saved = Saved { out: &out, log_sum_exp: &sum };
    backward_packed(Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv }, &dout, saved, inputs, &spans, &shape);
    let mut start = 0;
    for span in spans {
        let rows = |width: usize| start * width..(start + span) * width;
        let (query, key) = (rows(4 * 19), rows(2 * 19));
        let part = Inputs { q: &q[query.clone()], k: &k[key.clone()], v: &v[key.clone()] };
        let (mut alone, mut alone_sum) = (poisoned(query.len()), poisoned(span * 4));
        forward_packed(&mut alone, &mut alone_sum, part, &[span], &shape);
        assert_close(&alone, &wide(&out[query.clone()]), 1e-6, "out");
        let (mut dq_1, mut dk_1, mut dv_1) = (vec![0.0; query.len()], vec![0.0; key.len()], vec![0.0; key.len()]);
        let saved = Saved { out: &out[query.clone()], log_sum_exp: &sum[rows(4)] };
        let gradients = Gradients { dq: &mut dq_1, dk: &mut dk_1, dv: &mut dv_1 };
        backward(gradients, &dout[query.clone()], saved, part, &shape);
        assert_eq!(dq_1, dq[query]);
        assert_eq!(dk_1, dk[key.clone()]);
        assert_eq!(dv_1, dv[key]);
        start += span;
    }
}

/// Queries in parts over a cache that grows, walked back from the last part to the first, against all at once: sizes
/// with several blocks of queries and parts of keys.
#[test]
fn parts_over_a_cache_are_the_whole() {
    for (tokens, split, kv_heads) in [(1301, 517, 1), (1301, 1300, 2), (300, 77, 2)] {
        let (mut shape, q, k, v) = case([tokens, tokens, 4, kv_heads, 19]);
        shape.scale = 0.5;
        let dout = random(4, q.len());
        let (mut out, mut sum) = (poisoned(q.len()), poisoned(q.len() / 19));
        let inputs = Inputs { q: &q, k: &k, v: &v };
        forward_packed(&mut out, &mut sum, inputs, &[tokens], &shape);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let saved = Saved { out: &out, log_sum_exp: &sum };
        backward(Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv }, &dout, saved, inputs, &shape);

        let (mut dq_1, mut sums) = (vec![0.0; q.len()], KeyGradients::zeros(tokens, &shape));
        for part in [split..tokens, 0..split] {
            let kept = part.end * kv_heads * 19;
            let pages = pages(&k[..kept], &v[..kept], &shape, KvFormat::F32);
            let cache = Cached { pages: &pages, tokens: part.end, is_past: false };
            let rows = part.start * 4 * 19..part.end * 4 * 19;
            let (mut out_1, mut sum_1) = (poisoned(rows.len()), poisoned(rows.len() / 19));
            cached_saved(&mut out_1, &mut sum_1, &q[rows.clone()], cache, &shape);
            assert_close(&out_1, &wide(&out[rows.clone()]), 1e-6, "out");
            let saved = Saved { out: &out_1, log_sum_exp: &sum_1 };
            let into = (&mut dq_1[rows.clone()], &mut sums);
            cached_backward(into, &dout[rows.clone()], saved, &q[rows], cache, &shape);
        }
        let (mut dk_1, mut dv_1) = (vec![0.0; k.len()], vec![0.0; v.len()]);
        let own = split * kv_heads * 19;
        sums.add_to([&mut dk_1[own..], &mut dv_1[own..]], split, &shape);
        sums.add_to([&mut dk_1[..own], &mut dv_1[..own]], 0, &shape);
        for (name, part, whole) in [("dq", &dq_1, &dq), ("dk", &dk_1, &dk), ("dv", &dv_1, &dv)] {
            assert_close(part, &wide(whole), 2e-5, name);
        }
    }
}

/// The keys of earlier tokens come in pieces, in any order, after those that end with the queries' own.
#[test]
fn keys_in_pieces_are_the_whole() {
    for sizes in SHAPES.into_iter().filter(|sizes| sizes[1] > 9) {
        let (shape, q, k, v) = case(sizes);
        let (own, row) = (sizes[1] - sizes[0].max(sizes[1] / 3), sizes[3] * sizes[4]);
        let cuts = [own..sizes[1], own / 4..own, 0..own / 4];
        let kept: Vec<_> = cuts
            .iter()
            .map(|keys| {
                let rows = keys.start * row..keys.end * row;
                (keys.len(), pages(&k[rows.clone()], &v[rows], &shape, KvFormat::F32))
            })
            .collect();
        let caches = || {
            let kept = kept.iter().enumerate();
            kept.map(|(index, (tokens, pages))| Cached { pages, tokens: *tokens, is_past: index > 0 })
        };
        let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
        let (mut out_want, mut sum_want) = (vec![0.0; q.len()], vec![0.0; q.len() / shape.head_dim]);
        scalar::forward(&mut out_want, &mut sum_want, [&wide_q, &wide_k, &wide_v], &shape);
        let (mut out, mut sum) = (poisoned(q.len()), poisoned(q.len() / shape.head_dim));
        caches().for_each(|cache| cached_saved(&mut out, &mut sum, &q, cache, &shape));
        assert_close(&out, &out_want, 5e-6, "out");
        assert_close(&sum, &sum_want, 5e-6, "log_sum_exp");

        let (dout, saved) = (random(4, q.len()), Saved { out: &out, log_sum_exp: &sum });
        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
        for (cache, keys) in caches().zip(&cuts) {
            let mut sums = KeyGradients::zeros(keys.len(), &shape);
            cached_backward((&mut dq, &mut sums), &dout, saved, &q, cache, &shape);
            let rows = keys.start * row..keys.end * row;
            sums.add_to([&mut dk[rows.clone()], &mut dv[rows]], 0, &shape);
        }
        let [mut dq_want, mut dk_want, mut dv_want] = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
        let into = [&mut dq_want[..], &mut dk_want[..], &mut dv_want[..]];
        scalar::backward(into, [&wide(&dout), &out_want, &sum_want], [&wide_q, &wide_k, &wide_v], &shape);
        for (name, found, want) in [("dq", &dq, &dq_want), ("dk", &dk, &dk_want), ("dv", &dv, &dv_want)] {
            assert_close(found, want, 2e-5, name);
        }
    }
}

#[test]
fn rounded_pages_are_walked_back_as_they_are_kept() {
    let sizes = [67, 203, 4, 2, 33];
    let (mut shape, q, k, v) = case(sizes);
    shape.scale = 0.5;
    let dout = random(4, q.len());
    for format in FORMATS {
        let kept = |x: &[f32]| -> Vec<f32> {
            x.chunks_exact(33).flat_map(|row| crate::kv_page::scalar::kept(row, format)).collect()
        };
        let (kept_k, kept_v) = (kept(&k), kept(&v));
        let pages = pages(&k, &v, &shape, format);
        let cache = Cached { pages: &pages, tokens: sizes[1], is_past: false };
        let (mut out, mut sum) = (poisoned(q.len()), poisoned(q.len() / 33));
        cached_saved(&mut out, &mut sum, &q, cache, &shape);
        let saved = Saved { out: &out, log_sum_exp: &sum };
        let (mut dq, mut sums) = (vec![0.0; q.len()], KeyGradients::zeros(sizes[1], &shape));
        cached_backward((&mut dq, &mut sums), &dout, saved, &q, cache, &shape);
        let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; v.len()]);
        sums.add_to([&mut dk, &mut dv], 0, &shape);
        let (mut dq_want, mut dk_want, mut dv_want) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let into = [&mut dq_want[..], &mut dk_want[..], &mut dv_want[..]];
        let inputs = [&wide(&q)[..], &wide(&kept_k)[..], &wide(&kept_v)[..]];
        scalar::backward(into, [&wide(&dout), &wide(&out), &wide(&sum)], inputs, &shape);
        for (name, found, want) in [("dq", &dq, &dq_want), ("dk", &dk, &dk_want), ("dv", &dv, &dv_want)] {
            assert_close(found, want, 2e-5, name);
        }
    }
}

#[test]
#[should_panic(expected = "3 queries with 2 keys")]
fn fewer_keys_than_queries_are_refused() {
    let (shape, q, k, v) = case([3, 2, 1, 1, 3]);
    let pages = pages(&k, &v, &shape, KvFormat::F32);
    cached(&mut [0.0; 9], &q, Cached { pages: &pages, tokens: 2, is_past: false }, &shape);
}
