//! What one sequence remembers in one layer, and how a batch is cut into sequences.

use crate::DeltaShape;
use kernels::attention::Cached;
use kernels::kv_page::{KvFormat, PAGE_TOKENS, Page, PageShape};
use numeric::wire::{Message, Reading};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of every token so far. A copy shares the pages that both have; who writes to a shared one gets a
/// page of its own.
#[derive(Debug, Clone)]
pub struct KvCache {
    format: KvFormat,
    tokens: usize,
    pages: Vec<Arc<Page>>,
}

impl KvCache {
    pub fn empty(format: KvFormat) -> Self {
        Self { format, tokens: 0, pages: Vec::new() }
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of its pages, shared ones included.
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes()).sum()
    }

    /// Appends rows `[tokens, kv_heads · head_dim]`.
    pub fn extend(&mut self, keys: &[f32], values: &[f32], shape: PageShape) {
        let row = shape.kv_heads * shape.head_dim;
        for (key, value) in keys.chunks_exact(row).zip(values.chunks_exact(row)) {
            let place = self.tokens % PAGE_TOKENS;
            if place == 0 {
                self.pages.push(Arc::new(Page::empty(self.format, shape)));
            }
            let page = self.pages.last_mut().expect("a token that begins no page follows another");
            Arc::make_mut(page).write(place, key, value);
            self.tokens += 1;
        }
    }

    /// For another process.
    pub fn put(&self, message: &mut Message) {
        let kind = match self.format {
            KvFormat::F32 => 0,
            KvFormat::F16 => 1,
            KvFormat::Int8 => 2,
        };
        message.put_u64s(&[kind, self.tokens as u64]);
        self.pages.iter().for_each(|page| page.put(message));
    }

    /// What another process put.
    pub fn take(reading: &mut Reading, shape: PageShape) -> Self {
        let head = reading.take_u64s();
        let format = match head[0] {
            0 => KvFormat::F32,
            1 => KvFormat::F16,
            2 => KvFormat::Int8,
            kind => panic!("no format of keys and values is number {kind}"),
        };
        let tokens = head[1] as usize;
        let page = |_| Arc::new(Page::take(reading, format, shape));
        Self { format, tokens, pages: (0..tokens.div_ceil(PAGE_TOKENS)).map(page).collect() }
    }

    pub(crate) fn read(&self) -> Cached<'_> {
        self.first(self.tokens)
    }

    /// The first so many tokens.
    pub(crate) fn first(&self, tokens: usize) -> Cached<'_> {
        assert!(tokens <= self.tokens, "the first {tokens} of {} tokens", self.tokens);
        Cached { pages: &self.pages[..tokens.div_ceil(PAGE_TOKENS)], tokens, is_past: false }
    }

    /// An empty one that keeps keys and values in the same way.
    pub(crate) fn emptied(&self) -> Self {
        Self::empty(self.format)
    }
}

/// The last `kernel − 1` inputs of the convolution, `[kernel − 1, channels]`, and the delta matrix
/// `[value_heads, key_dim, value_dim]`.
#[derive(Debug, Clone)]
pub struct DeltaState {
    pub tail: Vec<f32>,
    pub matrix: Vec<f32>,
}

impl DeltaState {
    pub fn empty(shape: &DeltaShape, channels: usize, kernel: usize) -> Self {
        Self {
            tail: vec![0.0; (kernel - 1) * channels],
            matrix: vec![0.0; shape.value_heads * shape.key_dim * shape.value_dim],
        }
    }
}

/// A batch of tokens is a row of spans; span i holds `lengths[i]` new tokens of sequence i, the first of them at
/// position `starts[i]` of its sequence.
#[derive(Debug, Clone)]
pub struct Spans {
    pub lengths: Vec<usize>,
    pub starts: Vec<usize>,
}

impl Spans {
    /// What lies in `rows` of sequences of these lengths, one after the other; and whether the last of them goes on
    /// behind it.
    pub fn within(lengths: &[usize], rows: &Range<usize>) -> (Self, bool) {
        let mut spans = Self { lengths: Vec::new(), starts: Vec::new() };
        let (mut goes_on, mut end) = (false, 0);
        for &length in lengths {
            let start = end;
            end += length;
            let (from, to) = (start.max(rows.start), end.min(rows.end));
            if from < to {
                spans.lengths.push(to - from);
                spans.starts.push(from - start);
                goes_on = end > rows.end;
            }
        }
        (spans, goes_on)
    }

    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Position of every token in its own sequence.
    pub fn positions(&self) -> Vec<u32> {
        let each = self.lengths.iter().zip(&self.starts);
        each.flat_map(|(&len, &start)| (start..start + len).map(|position| position as u32)).collect()
    }

    /// Row ranges of the spans.
    pub fn rows(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |at, &len| {
            *at += len;
            Some(*at - len..*at)
        })
    }
}
