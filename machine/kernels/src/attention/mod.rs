//! Causal softmax attention with grouped heads, forwards and backwards, tiled: no T × L matrix exists.
//!
//! T queries, L ≥ T keys, Hq query heads, Hkv key heads (Hq a multiple), D head width. q, out, dout, dq [T, Hq, D];
//! k, v, dk, dv [L, Hkv, D]; log_sum_exp [T, Hq]. Query t sees the keys 0..=L − T + t. out and log_sum_exp are written,
//! gradients are added to. In the packed forms the tokens of several sequences follow each other, L = T for each, and
//! no sequence sees another. Shapes that do not fit, and more than 64 query heads per key head, are a panic.
//! Against f64: 3e-6 of 1 + |x| forwards, 2e-5 backwards.

mod backward;
mod forward;
mod narrow;
pub mod scalar;
#[cfg(test)]
mod tests;
mod tile;

use crate::simd::{Disjoint, Level, for_each, for_each_worth, rows_per_task};
use tile::{Columns, KeyTile, QUERIES, Span};

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

/// One sequence: out = softmax(scale·q kᵀ) v.
pub fn forward(out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, shape: &Shape) {
    let [queries, keys] = check(&inputs, shape);
    assert!(keys >= queries, "{queries} queries with {keys} keys");
    let span = Span { first_query: 0, queries, first_key: 0, keys };
    assert!(out.len() == inputs.q.len() && log_sum_exp.len() == queries * shape.query_heads, "outputs do not fit q");
    if queries * shape.query_heads / shape.kv_heads <= narrow::MOST_QUERIES {
        forward_narrow(Level::best(), out, log_sum_exp, inputs, span, shape);
    } else {
        forward_wide(Level::best(), out, log_sum_exp, inputs, &[span], shape);
    }
}

/// One sequence, backwards.
pub fn backward(gradients: Gradients, dout: &[f32], saved: Saved, inputs: Inputs, shape: &Shape) {
    let [queries, keys] = check(&inputs, shape);
    assert!(keys >= queries, "{queries} queries with {keys} keys");
    let span = Span { first_query: 0, queries, first_key: 0, keys };
    backward_spans(Level::best(), gradients, dout, saved, inputs, &[span], shape);
}

/// Several sequences of `spans` tokens each.
pub fn forward_packed(out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, spans: &[usize], shape: &Shape) {
    let lengths = check(&inputs, shape);
    assert_eq!([spans.iter().sum::<usize>(); 2], lengths, "the spans cover all tokens");
    assert!(out.len() == inputs.q.len() && log_sum_exp.len() * shape.head_dim == out.len(), "outputs do not fit q");
    forward_wide(Level::best(), out, log_sum_exp, inputs, &tile::packed(spans), shape);
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
    backward_spans(Level::best(), gradients, dout, saved, inputs, &tile::packed(spans), shape);
}

/// Tiles of queries, each over all the keys that it sees.
fn forward_wide(level: Level, out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, spans: &[Span], shape: &Shape) {
    let heads = shape.query_heads / shape.kv_heads;
    assert!(heads <= QUERIES, "{heads} query heads per key head, at most {QUERIES} are supported");
    let outputs = forward::Outputs { out: Disjoint::new(out), log_sum_exp: Disjoint::new(log_sum_exp) };
    let tile_tokens = QUERIES / heads;
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
    for_each_worth(values / 32, tasks, |(span, columns)| {
        forward::forward_columns(level, &outputs, &inputs, span, columns, shape)
    });
}

/// A few queries over many keys, which are split between tasks.
fn forward_narrow(level: Level, out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, span: Span, shape: &Shape) {
    let (heads, width) = (shape.query_heads / shape.kv_heads, shape.head_dim);
    let columns =
        |kv_head| Columns { first_token: 0, tokens: span.queries, first_head: kv_head * heads, heads, kv_head };
    let keys_per_task = rows_per_task(shape.query_heads * span.queries * width / 8);
    let parts = span.keys.div_ceil(keys_per_task);
    let mut partials = vec![narrow::Partial::new(span.queries * heads, width); parts * shape.kv_heads];
    let per_part = partials.chunks_mut(shape.kv_heads).enumerate();
    for_each(per_part, |(part, partials)| {
        let first = part * keys_per_task;
        let keys = KeyTile { first, count: keys_per_task.min(span.keys - first) };
        for (kv_head, partial) in partials.iter_mut().enumerate() {
            narrow::forward_keys(level, partial, &inputs, (span, columns(kv_head), keys), shape);
        }
    });
    let (joined, others) = partials.split_at_mut(shape.kv_heads);
    for (kv_head, joined) in joined.iter_mut().enumerate() {
        others.iter().skip(kv_head).step_by(shape.kv_heads).for_each(|other| joined.join(other));
        for c in 0..span.queries * heads {
            let row = columns(kv_head).row(span, c, shape);
            log_sum_exp[row] = joined.most[c] + joined.sum[c].ln();
            let share = 1.0 / joined.sum[c];
            for (out, sum) in out[row * width..(row + 1) * width].iter_mut().zip(&joined.sums[c * width..]) {
                *out = sum * share;
            }
        }
    }
}

/// One task per span and query head; then the query heads of a group are joined.
fn backward_spans(
    level: Level,
    gradients: Gradients,
    dout: &[f32],
    saved: Saved,
    inputs: Inputs,
    spans: &[Span],
    shape: &Shape,
) {
    let Gradients { dq, dk, dv } = gradients;
    let (heads, width) = (shape.query_heads, shape.head_dim);
    assert!(dq.len() == inputs.q.len() && dk.len() == inputs.k.len() && dv.len() == inputs.v.len(), "gradients");
    assert!(dout.len() == inputs.q.len() && saved.out.len() == dout.len(), "dout and out are shaped as q");
    assert_eq!(saved.log_sum_exp.len() * width, dout.len(), "one logarithm per query");
    let per_head = inputs.k.len() / shape.kv_heads;
    let (mut dk_heads, mut dv_heads) = (vec![0.0; heads * per_head], vec![0.0; heads * per_head]);
    let dq = Disjoint::new(dq);
    let mut tasks = Vec::with_capacity(heads * spans.len());
    let (mut dk_rest, mut dv_rest) = (dk_heads.as_mut_slice(), dv_heads.as_mut_slice());
    for head in 0..heads {
        for &span in spans {
            let (dk, rest) = std::mem::take(&mut dk_rest).split_at_mut(span.keys * width);
            dk_rest = rest;
            let (dv, rest) = std::mem::take(&mut dv_rest).split_at_mut(span.keys * width);
            dv_rest = rest;
            tasks.push(backward::Head { span, head, dq: &dq, dk, dv, dout, saved });
        }
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(task.span.keys));
    let values = spans.iter().map(|span| span.queries * span.keys).sum::<usize>() * heads * width;
    for_each_worth(values / 16, tasks, |task| backward::backward_head(level, task, &inputs, shape));
    join_heads(dk, &dk_heads, shape.scale, shape);
    join_heads(dv, &dv_heads, 1.0, shape);
}

/// to[l, h] += factor·Σ over the group of h of from[query head, l].
fn join_heads(to: &mut [f32], from: &[f32], factor: f32, shape: &Shape) {
    let (width, heads) = (shape.head_dim, shape.query_heads / shape.kv_heads);
    let (row, per_head) = (shape.kv_heads * width, from.len() / shape.query_heads);
    let rows = rows_per_task(row * heads);
    for_each(to.chunks_mut(rows * row).enumerate(), |(task, to)| {
        for (index, to_d) in to.chunks_exact_mut(width).enumerate() {
            let (l, kv_head) = (task * rows + index / shape.kv_heads, index % shape.kv_heads);
            for head in kv_head * heads..(kv_head + 1) * heads {
                let from_d = &from[head * per_head + l * width..][..width];
                for (to, from) in to_d.iter_mut().zip(from_d) {
                    *to += factor * from;
                }
            }
        }
    });
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
