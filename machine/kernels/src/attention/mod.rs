//! Causal softmax attention with grouped heads, forwards and backwards, tiled: no T × L matrix exists.
//!
//! T queries, L ≥ T keys, Hq query heads, Hkv key heads (Hq a multiple), D head width. q, out, dout, dq [T, Hq, D];
//! k, v, dk, dv [L, Hkv, D]; log_sum_exp [T, Hq]. Query t sees the keys 0..=L − T + t. out and log_sum_exp are written,
//! gradients are added to. In the packed forms the tokens of several sequences follow each other, L = T for each, and
//! no sequence sees another; one sequence's keys and values may also lie in the pages of a cache. Shapes that do not
//! fit, and more than 64 query heads per key head, are a panic. Against f64: 3e-6 of 1 + |x| forwards, 2e-5 backwards;
//! 1e-2 where many queries meet rounded pages and the machine multiplies bf16.

mod backward;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod forward;
mod narrow;
pub mod scalar;
mod source;
mod spans_backward;
#[cfg(test)]
mod tests;
mod tile;

use crate::cpu::Cpu;
use crate::kv_page::{KvFormat, PAGE_TOKENS, Page, PageShape};
use crate::simd::{Disjoint, Level, for_each_worth};
use forward::Given;
use source::Source;
use spans_backward::Walked;
use std::sync::Arc;
use tile::{Columns, KeyTile, QUERIES, Span};

pub use spans_backward::{KeyGradients, PARTS_MAX as BACKWARD_PARTS, QUERY_BLOCK as BACKWARD_BLOCK};

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub query_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies every score, head_dim^−½ as a rule.
    pub scale: f32,
}

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

/// What the forward pass wrote, kept for the backward one.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    pub out: &'a [f32],
    pub log_sum_exp: &'a [f32],
}

/// Where gradients are added.
#[derive(Debug)]
pub struct Gradients<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// What one sequence has kept: `tokens` keys and values, those of the queries included as the last ones.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    pub pages: &'a [Arc<Page>],
    pub tokens: usize,
    /// Whether they are of earlier tokens instead, which every query sees, beside others that lie elsewhere.
    pub is_past: bool,
}

/// One sequence, which continues what it has kept: out = softmax(scale·q kᵀ) v.
pub fn cached(out: &mut [f32], q: &[f32], cache: Cached, shape: &Shape) {
    let span = check_cache(q, &cache, shape);
    assert!(!cache.is_past, "nothing is kept for a softmax to go on");
    assert_eq!(out.len(), q.len(), "out is shaped as q");
    if span.queries * shape.query_heads / shape.kv_heads <= narrow::MOST_QUERIES {
        forward_narrow(Level::best(), out, q, cache.pages, span, shape);
    } else {
        let given = Given { q, source: Source::Paged(cache.pages) };
        forward_wide(Wide::over(cache.pages), out, Sums::Forgotten, given, &[span], shape);
    }
}

/// As [`cached`], exactly, and with what backward wants to know. With keys that are past it takes up the softmax that
/// others began: `out` and `log_sum_exp` come with what those gave.
pub fn cached_saved(out: &mut [f32], log_sum_exp: &mut [f32], q: &[f32], cache: Cached, shape: &Shape) {
    let span = check_cache(q, &cache, shape);
    assert!(out.len() == q.len() && log_sum_exp.len() * shape.head_dim == out.len(), "outputs do not fit q");
    let given = Given { q, source: Source::Paged(cache.pages) };
    let sums = if cache.is_past { Sums::Continued(log_sum_exp) } else { Sums::Written(log_sum_exp) };
    forward_wide(Wide::Exact(Level::best()), out, sums, given, &[span], shape);
}

/// The adjoint of [`cached_saved`], where `saved` is of the whole softmax: adds to `dq`, and to the gradients of all
/// that the sequence has kept.
pub fn cached_backward(
    (dq, into): (&mut [f32], &mut KeyGradients),
    dout: &[f32],
    saved: Saved,
    q: &[f32],
    cache: Cached,
    shape: &Shape,
) {
    let span = check_cache(q, &cache, shape);
    let walked = Walked { span, source: Source::Paged(cache.pages), into };
    backward_spans(Level::best(), dq, dout, saved, q, vec![walked], shape);
}

/// One sequence, backwards.
pub fn backward(gradients: Gradients, dout: &[f32], saved: Saved, inputs: Inputs, shape: &Shape) {
    let [queries, keys] = check(&inputs, shape);
    let span = Span::causal(queries, keys);
    backward_flat(Level::best(), gradients, dout, saved, inputs, &[span], shape);
}

/// Several sequences of `spans` tokens each.
pub fn forward_packed(out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, spans: &[usize], shape: &Shape) {
    let lengths = check(&inputs, shape);
    assert_eq!([spans.iter().sum::<usize>(); 2], lengths, "the spans cover all tokens");
    assert!(out.len() == inputs.q.len() && log_sum_exp.len() * shape.head_dim == out.len(), "outputs do not fit q");
    let given = Given { q: inputs.q, source: Source::Flat { k: inputs.k, v: inputs.v } };
    forward_wide(Wide::Exact(Level::best()), out, Sums::Written(log_sum_exp), given, &tile::packed(spans), shape);
}

/// The adjoint of [`forward_packed`].
pub fn backward_packed(
    gradients: Gradients,
    dout: &[f32],
    saved: Saved,
    inputs: Inputs,
    spans: &[usize],
    shape: &Shape,
) {
    let lengths = check(&inputs, shape);
    assert_eq!([spans.iter().sum::<usize>(); 2], lengths, "the spans cover all tokens");
    backward_flat(Level::best(), gradients, dout, saved, inputs, &tile::packed(spans), shape);
}

/// How a tile of queries is computed.
#[derive(Clone, Copy, Debug)]
enum Wide {
    Exact(Level),
    /// Over rounded pages.
    #[cfg(target_arch = "x86_64")]
    Bf16,
}

impl Wide {
    /// The fastest way here over what the pages keep.
    fn over(pages: &[Arc<Page>]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if Cpu::get().avx512_bf16 && pages.iter().all(|page| page.format() != KvFormat::F32) {
            return Self::Bf16;
        }
        Self::Exact(Level::best())
    }

    /// Queries in a tile.
    fn queries(self) -> usize {
        match self {
            Self::Exact(_) => QUERIES,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => bf16::QUERIES,
        }
    }

    fn forward(self, outputs: &forward::Outputs, given: Given, (span, columns): (Span, Columns), shape: &Shape) {
        match self {
            Self::Exact(level) => forward::forward_columns(level, outputs, given, span, columns, shape),
            // SAFETY: `over` has found the set, and rounded pages.
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => unsafe { bf16::forward_columns(outputs, given, span, columns, shape) },
        }
    }
}

/// The logarithm of each query's sum.
enum Sums<'a> {
    Forgotten,
    Written(&'a mut [f32]),
    /// It comes with what other keys gave, as the output does.
    Continued(&'a mut [f32]),
}

/// Tiles of queries, each over all the keys that it sees.
fn forward_wide(way: Wide, out: &mut [f32], sums: Sums, given: Given, spans: &[Span], shape: &Shape) {
    let heads = shape.query_heads / shape.kv_heads;
    assert!(heads <= QUERIES, "{heads} query heads per key head, at most {QUERIES} are supported");
    let (log_sum_exp, continues) = match sums {
        Sums::Forgotten => (None, false),
        Sums::Written(sums) => (Some(Disjoint::new(sums)), false),
        Sums::Continued(sums) => (Some(Disjoint::new(sums)), true),
    };
    let outputs = forward::Outputs { out: Disjoint::new(out), log_sum_exp, continues };
    let tile_tokens = way.queries() / heads;
    let mut tasks = Vec::new();
    for &span in spans {
        // The later a tile, the more it sees: the longest first, so that no thread is left with one at the end.
        for first_token in (0..span.queries).step_by(tile_tokens).rev() {
            let tokens = tile_tokens.min(span.queries - first_token);
            let columns = |kv_head| Columns { first_token, tokens, first_head: kv_head * heads, heads, kv_head };
            tasks.extend((0..shape.kv_heads).map(|kv_head| (span, columns(kv_head))));
        }
    }
    let values = spans.iter().map(|span| span.queries * span.keys).sum::<usize>() * shape.query_heads * shape.head_dim;
    for_each_worth(values / 32, tasks, |part| way.forward(&outputs, given, part, shape));
}

/// A few queries over many keys, which are split between tasks.
fn forward_narrow(level: Level, out: &mut [f32], q: &[f32], pages: &[Arc<Page>], span: Span, shape: &Shape) {
    let (heads, width) = (shape.query_heads / shape.kv_heads, shape.head_dim);
    let columns =
        |kv_head| Columns { first_token: 0, tokens: span.queries, first_head: kv_head * heads, heads, kv_head };
    let n = span.queries * heads;
    let parts = span.keys.div_ceil(narrow::TASK_KEYS);
    let queries: Vec<Vec<f32>> =
        (0..shape.kv_heads).map(|kv_head| narrow::padded_queries(q, (span, columns(kv_head)), shape)).collect();
    let mut partials = vec![narrow::Partial::new(n, width); parts * shape.kv_heads];
    let tasks = partials.iter_mut().enumerate().collect();
    for_each_worth(span.keys * shape.query_heads * span.queries * width / 16, tasks, |(task, partial)| {
        let (part, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
        let first = part * narrow::TASK_KEYS;
        let keys = KeyTile { first, count: narrow::TASK_KEYS.min(span.keys - first) };
        narrow::forward_keys(level, partial, &queries[kv_head], pages, (span, columns(kv_head), keys));
    });
    let (joined, others) = partials.split_at_mut(shape.kv_heads);
    for (kv_head, joined) in joined.iter_mut().enumerate() {
        others.iter().skip(kv_head).step_by(shape.kv_heads).for_each(|other| joined.join(other));
        for c in 0..n {
            let row = columns(kv_head).row(span, c, shape);
            joined.write(c, &mut out[row * width..(row + 1) * width]);
        }
    }
}

/// Sequences whose keys and values lie in rows.
fn backward_flat(
    level: Level,
    gradients: Gradients,
    dout: &[f32],
    saved: Saved,
    inputs: Inputs,
    spans: &[Span],
    shape: &Shape,
) {
    let Gradients { dq, dk, dv } = gradients;
    assert!(dk.len() == inputs.k.len() && dv.len() == inputs.v.len(), "gradients are shaped as keys and values");
    let mut sums: Vec<KeyGradients> = spans.iter().map(|span| KeyGradients::zeros(span.keys, shape)).collect();
    let source = Source::Flat { k: inputs.k, v: inputs.v };
    let walked = spans.iter().zip(&mut sums).map(|(&span, into)| Walked { span, source, into }).collect();
    backward_spans(level, dq, dout, saved, inputs.q, walked, shape);
    let row = shape.kv_heads * shape.head_dim;
    for (span, sums) in spans.iter().zip(&sums) {
        let rows = span.first_key * row..(span.first_key + span.keys) * row;
        sums.add_to([&mut dk[rows.clone()], &mut dv[rows]], 0, shape);
    }
}

fn backward_spans(
    level: Level,
    dq: &mut [f32],
    dout: &[f32],
    saved: Saved,
    q: &[f32],
    walked: Vec<Walked>,
    shape: &Shape,
) {
    assert!(dq.len() == q.len() && dout.len() == q.len() && saved.out.len() == q.len(), "all are shaped as q");
    assert_eq!(saved.log_sum_exp.len() * shape.head_dim, dout.len(), "one logarithm per query");
    let fits = |one: &Walked| one.into.tokens() >= one.span.keys;
    assert!(walked.iter().all(fits), "there are more keys than gradients of keys");
    spans_backward::run(level, dq, backward::Given { q, dout, saved }, walked, shape);
}

/// Asserts that the inputs fit the shape, and gives T and L.
fn check(inputs: &Inputs, shape: &Shape) -> [usize; 2] {
    let &Shape { query_heads, kv_heads, head_dim, .. } = shape;
    assert!(kv_heads > 0 && query_heads > 0 && query_heads % kv_heads == 0, "{query_heads} over {kv_heads} heads");
    assert!(head_dim > 0, "empty heads");
    let (queries, keys) = (inputs.q.len() / (query_heads * head_dim), inputs.k.len() / (kv_heads * head_dim));
    assert_eq!(inputs.q.len(), queries * query_heads * head_dim, "q is no whole tokens");
    assert_eq!(inputs.k.len(), keys * kv_heads * head_dim, "k is no whole tokens");
    assert_eq!(inputs.v.len(), inputs.k.len(), "v is shaped as k");
    [queries, keys]
}

/// Asserts that queries, cache and shape fit, and gives the span.
fn check_cache(q: &[f32], cache: &Cached, shape: &Shape) -> Span {
    let &Shape { query_heads, kv_heads, head_dim, .. } = shape;
    assert!(kv_heads > 0 && query_heads > 0 && query_heads % kv_heads == 0, "{query_heads} over {kv_heads} heads");
    let queries = q.len() / (query_heads * head_dim);
    assert_eq!(q.len(), queries * query_heads * head_dim, "q is no whole tokens");
    assert_eq!(cache.pages.len(), cache.tokens.div_ceil(PAGE_TOKENS), "pages of {} tokens", cache.tokens);
    let wanted = PageShape { kv_heads, head_dim };
    assert!(cache.pages.iter().all(|page| page.shape() == wanted), "pages of other heads");
    if cache.is_past { Span::open(queries, cache.tokens) } else { Span::causal(queries, cache.tokens) }
}
