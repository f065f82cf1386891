//! Attention backwards, above the tiles: which part of which sequence a task takes, and whose sums are whose.
//!
//! Queries are taken a block at a time, so that what several tasks give to the same queries is a few blocks and not a
//! whole sequence's; the keys that a block sees are cut into parts by their number alone.

use super::Shape;
use super::backward::{Given, Part, backward_part};
use super::source::Source;
use super::tile::Span;
use crate::kv_page::PAGE_TOKENS;
use crate::simd::{Disjoint, Level, for_each, for_each_worth, rows_per_task};
use numeric::wire::{Message, Reading};
use std::ops::Range;

/// Queries of a sequence that are walked back together.
pub const QUERY_BLOCK: usize = 512;
/// Keys that a task of its own is made for, at least.
const PART_KEYS_MIN: usize = 512;
/// Parts of the keys, at most: each but the first has a block of queries' gradients of its own.
pub const PARTS_MAX: usize = 8;

/// Gradients of one sequence's keys and values, `[Hkv, tokens, D]`; those of the keys are still to be multiplied by the
/// scale. Queries walked back from the last to the first add to them, each to the keys that it saw.
#[derive(Debug, Clone, Default)]
pub struct KeyGradients {
    tokens: usize,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl KeyGradients {
    pub fn zeros(tokens: usize, shape: &Shape) -> Self {
        let len = shape.kv_heads * tokens * shape.head_dim;
        Self { tokens, dk: vec![0.0; len], dv: vec![0.0; len] }
    }

    /// For another process.
    pub fn put(&self, message: &mut Message) {
        message.put(self.tokens as u64);
        message.put_f32s(&self.dk);
        message.put_f32s(&self.dv);
    }

    /// What another process put.
    pub fn take(reading: &mut Reading) -> Self {
        Self { tokens: reading.take() as usize, dk: reading.take_f32s(), dv: reading.take_f32s() }
    }

    /// Tokens of the sequence.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.dk.len() + self.dv.len())
    }

    /// Adds those of the tokens from `first` on to `dk` and `dv`, `[T, Hkv, D]`, as many tokens as they have.
    pub fn add_to(&self, [dk, dv]: [&mut [f32]; 2], first: usize, shape: &Shape) {
        let (width, row) = (shape.head_dim, shape.kv_heads * shape.head_dim);
        assert_eq!(dk.len(), dv.len(), "keys and values are shaped alike");
        assert!(first + dk.len() / row <= self.tokens, "tokens from {first} on of {}", self.tokens);
        for (to, from, factor) in [(dk, &self.dk, shape.scale), (dv, &self.dv, 1.0)] {
            let rows = rows_per_task(row);
            for_each(to.chunks_mut(rows * row).enumerate(), |(task, to)| {
                for (index, to_d) in to.chunks_exact_mut(width).enumerate() {
                    let (token, kv_head) = (first + task * rows + index / shape.kv_heads, index % shape.kv_heads);
                    let from_d = &from[(kv_head * self.tokens + token) * width..][..width];
                    to_d.iter_mut().zip(from_d).for_each(|(to, from)| *to += factor * from);
                }
            });
        }
    }

    /// The rows of each part of the keys of each head: of `dk` and of `dv`.
    fn parts(&mut self, parts: &[Range<usize>], shape: &Shape) -> Vec<[&mut [f32]; 2]> {
        let (len, width) = ((self.tokens * shape.head_dim).max(1), shape.head_dim);
        let mut all = Vec::with_capacity(shape.kv_heads * parts.len());
        for (mut dk_rest, mut dv_rest) in self.dk.chunks_mut(len).zip(self.dv.chunks_mut(len)) {
            for part in parts {
                let (dk, dv);
                (dk, dk_rest) = std::mem::take(&mut dk_rest).split_at_mut(part.len() * width);
                (dv, dv_rest) = std::mem::take(&mut dv_rest).split_at_mut(part.len() * width);
                all.push([dk, dv]);
            }
        }
        all
    }
}

/// One sequence that is walked back.
pub(super) struct Walked<'a> {
    pub(super) span: Span,
    pub(super) source: Source<'a>,
    pub(super) into: &'a mut KeyGradients,
}

impl Walked<'_> {
    /// The queries of a block and the parts of the keys that they see.
    fn cut(&self, first: usize) -> (Range<usize>, Vec<Range<usize>>) {
        let queries = first.min(self.span.queries)..(first + QUERY_BLOCK).min(self.span.queries);
        if queries.is_empty() {
            return (queries, Vec::new());
        }
        let seen = (self.span.past + queries.end).min(self.span.keys);
        let step = seen.div_ceil(PARTS_MAX).next_multiple_of(PAGE_TOKENS).max(PART_KEYS_MIN);
        (queries, (0..seen).step_by(step).map(|start| start..(start + step).min(seen)).collect())
    }
}

/// Adds to `dq` and to each sequence's own gradients of keys and values.
pub(super) fn run(level: Level, dq: &mut [f32], given: Given, mut walked: Vec<Walked>, shape: &Shape) {
    let most = walked.iter().map(|one| one.span.queries).max().unwrap_or(0);
    for first in (0..most).step_by(QUERY_BLOCK) {
        block(level, dq, given, &mut walked, first, shape);
    }
}

/// One block of queries of every sequence that has so many.
fn block(level: Level, dq: &mut [f32], given: Given, walked: &mut [Walked], first: usize, shape: &Shape) {
    let row = shape.query_heads * shape.head_dim;
    let cuts: Vec<_> = walked.iter().map(|one| one.cut(first)).collect();
    // The first part of each adds to dq itself.
    let others =
        cuts.iter().flat_map(|(queries, parts)| parts.iter().skip(1).map(move |_| vec![0.0; queries.len() * row]));
    let mut others: Vec<Vec<f32>> = others.collect();
    let values: usize = cuts.iter().flat_map(|(queries, parts)| Some(queries.len() * parts.last()?.end)).sum();
    {
        let whole = Disjoint::new(dq);
        let own: Vec<Disjoint> = others.iter_mut().map(|part| Disjoint::new(part)).collect();
        let mut own = own.iter();
        let mut tasks = Vec::new();
        for (one, (queries, parts)) in walked.iter_mut().zip(&cuts) {
            let Walked { span, source, into } = one;
            let first_token = span.first_query + queries.start;
            let places: Vec<(&Disjoint, usize)> = (0..parts.len())
                .map(|part| if part == 0 { (&whole, 0) } else { (own.next().expect("one to each"), first_token) })
                .collect();
            for (index, [dk, dv]) in into.parts(parts, shape).into_iter().enumerate() {
                let (kv_head, part) = (index / parts.len(), index % parts.len());
                let ((dq, dq_first), keys) = (places[part], parts[part].clone());
                let (queries, span, source) = (queries.clone(), *span, *source);
                tasks.push(Part { given, source, span, kv_head, queries, keys, dq, dq_first, dk, dv });
            }
        }
        // The longest first: of two equal parts of the keys the earlier is seen by more queries.
        tasks.sort_by_key(|task| (std::cmp::Reverse(task.keys.len() * task.queries.len()), task.keys.start));
        for_each_worth(values * row / 16, tasks, |task| backward_part(level, task, shape));
    }
    let mut others = others.iter();
    for (one, (queries, parts)) in walked.iter().zip(&cuts) {
        let start = (one.span.first_query + queries.start) * row;
        for other in others.by_ref().take(parts.len().saturating_sub(1)) {
            dq[start..start + other.len()].iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
    }
}
