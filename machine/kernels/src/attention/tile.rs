//! What the tiled passes share: where rows lie, and the tile of scores, transposed so that a query is a lane.

use super::Shape;
use crate::simd::{Product, Simd, Strided};

/// Queries in a tile where all is f32: a row of scores is four vectors of AVX-512.
pub(super) const QUERIES: usize = 64;
/// Keys in a tile.
pub(super) const KEYS: usize = 64;

/// One sequence within packed tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) first_query: usize,
    pub(super) queries: usize,
    pub(super) first_key: usize,
    pub(super) keys: usize,
    /// Keys before the first query, all that there are where the queries are elsewhere in the sequence: query t sees
    /// the keys 0..=past + t that are here.
    pub(super) past: usize,
}

impl Span {
    /// Queries whose own keys are the last ones.
    pub(super) fn causal(queries: usize, keys: usize) -> Self {
        assert!(keys >= queries, "{queries} queries with {keys} keys");
        Self { first_query: 0, queries, first_key: 0, keys, past: keys - queries }
    }

    /// Queries that see all of the keys.
    pub(super) fn open(queries: usize, keys: usize) -> Self {
        Self { first_query: 0, queries, first_key: 0, keys, past: keys }
    }
}

/// The spans of a packed call, each with as many keys as queries.
pub(super) fn packed(spans: &[usize]) -> Vec<Span> {
    let mut first = 0;
    let span = |&tokens| {
        first += tokens;
        Span { first_query: first - tokens, first_key: first - tokens, ..Span::causal(tokens, tokens) }
    };
    spans.iter().map(span).collect()
}

/// A tile's queries as columns: `tokens` tokens of `heads` neighbouring heads each, head by head: column c is
/// token c % tokens of head c / tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Of the span, counted from its first query.
    pub(super) first_token: usize,
    pub(super) tokens: usize,
    pub(super) first_head: usize,
    pub(super) heads: usize,
    pub(super) kv_head: usize,
}

impl Columns {
    pub(super) fn count(&self) -> usize {
        self.tokens * self.heads
    }

    /// The row of column c in a [T, Hq] tensor.
    #[inline(always)]
    pub(super) fn row(&self, span: Span, c: usize, shape: &Shape) -> usize {
        let token = span.first_query + self.first_token + c % self.tokens;
        token * shape.query_heads + self.first_head + c / self.tokens
    }

    /// One past the last key that any of the columns sees.
    pub(super) fn keys_end(&self, span: Span) -> usize {
        (span.past + self.first_token + self.tokens).min(span.keys)
    }

    /// to[d, c] = x[row(c), d], with rows of `to_row` in `to`.
    #[inline(always)]
    pub(super) fn transpose<S: Simd>(
        &self,
        s: S,
        (to, to_row): (&mut [f32], usize),
        x: &[f32],
        span: Span,
        shape: &Shape,
    ) {
        let width = shape.head_dim;
        for first in (0..self.count()).step_by(self.tokens) {
            let from = &x[self.row(span, first, shape) * width..];
            s.transpose((&mut to[first..], to_row), (from, shape.query_heads * width), [self.tokens, width]);
        }
    }
}

/// Keys `first..first + count` of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyTile {
    pub(super) first: usize,
    pub(super) count: usize,
}

/// The tiles of so many keys that the columns see.
pub(super) fn key_tiles(end: usize, keys: usize) -> impl DoubleEndedIterator<Item = KeyTile> {
    (0..end.div_ceil(keys)).map(move |tile| KeyTile { first: tile * keys, count: keys.min(end - tile * keys) })
}

/// The rows of a tile of keys or values, `shape.kv_heads·shape.head_dim` apart.
#[inline(always)]
pub(super) fn key_rows<'a>(x: &'a [f32], span: Span, tile: KeyTile, kv_head: usize, shape: &Shape) -> &'a [f32] {
    &x[((span.first_key + tile.first) * shape.kv_heads + kv_head) * shape.head_dim..]
}

/// scores[key, c] = ⟨k_key, q_c⟩ for q already scaled and transposed; −∞ where the query does not see the key. The rows
/// of `keys` are `key_row` apart.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    s: S,
    scores: &mut [f32],
    queries_transposed: &[f32],
    (keys, key_row): (&[f32], usize),
    (span, columns, tile): (Span, Columns, KeyTile),
    shape: &Shape,
) {
    let (n, k) = (columns.count(), shape.head_dim);
    let product = Product { m: tile.count, n, k, c_row: QUERIES, b_row: QUERIES, add: false };
    s.product(&product, scores, Strided::rows(keys, key_row), queries_transposed);
    hide::<QUERIES>(scores, span, columns, tile);
}

/// −∞ for the scores of keys that a query does not see; Q scores to a row.
#[inline(always)]
pub(super) fn hide<const Q: usize>(scores: &mut [f32], span: Span, columns: Columns, tile: KeyTile) {
    let first_visible = span.past + columns.first_token;
    for i in 0..tile.count {
        let hidden = (tile.first + i).saturating_sub(first_visible).min(columns.tokens);
        for first in (0..columns.count()).step_by(columns.tokens) {
            scores[i * Q + first..][..hidden].fill(f32::NEG_INFINITY);
        }
    }
}
