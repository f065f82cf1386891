//! An executor that computes nothing: it takes and returns memory as [`crate::Infer`] does, and notes how much was held
//! at most. It needs shapes and formats of weights, no numbers, and so tells what a forward pass will take before
//! anything is loaded.
//!
//! Legend: T tokens, H hidden width, I inner width of an expert, E experts. All sizes are in numbers of four bytes.

use crate::buffer::{Block, Pool, block_size};
use crate::cross_entropy::CHUNK_ROWS;
use crate::{
    Adapter, AttentionShape, Columns, Conv, DeltaGates, DeltaState, Execute, KvCache, Linear, Moe, Norm, Rope, Spans,
    Teacher, delta_rule, moe,
};
use std::cell::RefCell;
use std::rc::Rc;

/// Columns of activations that are rounded together, and numbers that their bytes, scales and sums take at most.
const ROUNDED_RUN: (usize, usize) = (256, 88);
/// Numbers on a cache line: blocks are whole lines.
const LINE: usize = 16;
/// Keys that one task of decoding takes; each keeps sums of its own.
const TASK_KEYS: usize = 512;
/// Columns (queries × heads of a group) up to which keys are split between tasks.
const NARROW_COLUMNS: usize = 8;

/// A block of which there is only the size.
struct Size(usize);

impl Block for Size {
    fn capacity(&self) -> usize {
        self.0
    }
}

#[derive(Default)]
struct Room {
    pool: Pool<Size>,
    /// In values that are alive, and in memory that is no value.
    live: usize,
    most: usize,
}

impl Room {
    fn take(&mut self, len: usize) -> Size {
        let size = self.pool.take(len).unwrap_or(Size(block_size(len).next_multiple_of(LINE)));
        self.live += size.0;
        self.note(0);
        size
    }

    fn give(&mut self, size: Size) {
        self.live -= size.0;
        self.pool.give(size);
    }

    /// So much is held now, with `scratch` on top for a moment.
    fn note(&mut self, scratch: usize) {
        self.most = self.most.max(self.live + self.pool.held() + scratch);
    }
}

/// A `[T, width]` value that is nowhere.
pub struct Rehearsed {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    size: Size,
    room: Rc<RefCell<Room>>,
}

/// Memory that is held and is no value: it goes back to the system.
pub struct Held {
    numbers: usize,
    room: Rc<RefCell<Room>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.borrow_mut().live -= self.numbers;
    }
}

impl Drop for Rehearsed {
    fn drop(&mut self) {
        self.room.borrow_mut().give(Size(self.size.0));
    }
}

/// See the head of this file.
#[derive(Default)]
pub struct Rehearse {
    room: Rc<RefCell<Room>>,
}

impl Rehearse {
    /// Bytes of activations that were held at most, those that the pool keeps for the next operation included.
    pub fn bytes_at_most(&self) -> usize {
        size_of::<f32>() * self.room.borrow().most
    }

    /// Numbers in free blocks, as [`crate::buffer::pooled`] counts them.
    pub fn pooled(&self) -> usize {
        self.room.borrow().pool.held()
    }

    pub(crate) fn value(&self, rows: usize, width: usize) -> Rehearsed {
        let size = self.room.borrow_mut().take(rows * width);
        Rehearsed { rows, width, size, room: Rc::clone(&self.room) }
    }

    pub(crate) fn like(&self, x: &Rehearsed) -> Rehearsed {
        self.value(x.rows, x.width)
    }

    /// So much is needed for a moment.
    pub(crate) fn note(&self, scratch: usize) {
        self.room.borrow_mut().note(scratch);
    }

    /// Holds so many bytes until they are dropped.
    pub fn hold(&self, bytes: usize) -> Held {
        let numbers = bytes.div_ceil(size_of::<f32>());
        let mut room = self.room.borrow_mut();
        room.live += numbers;
        room.note(0);
        Held { numbers, room: Rc::clone(&self.room) }
    }

    /// Bytes that are held now.
    pub fn bytes_now(&self) -> usize {
        size_of::<f32>() * self.room.borrow().live
    }

    /// The product's output exists; `rows` of x are rounded for it if the weights want that.
    fn product(&self, rows: usize, maps: &[&Linear]) {
        let rounded = |map: &&Linear| {
            let (columns, numbers) = ROUNDED_RUN;
            if map.weight.matrix.is_packed() { rows * map.input_width().div_ceil(columns) * numbers } else { 0 }
        };
        // Maps of one x share its rounded form where their formats allow; taken apart they are at most so many.
        self.note(maps.iter().map(rounded).sum());
    }

    fn mapped(&self, rows: usize, map: &Linear) -> Rehearsed {
        let y = self.value(rows, map.output_width());
        self.product(rows, &[map]);
        drop(self.narrowed(rows, &map.adapter));
        y
    }

    /// What an adapter, if there is one, has between its factors.
    fn narrowed(&self, rows: usize, adapter: &Option<Adapter>) -> Option<Rehearsed> {
        adapter.as_ref().map(|adapter| self.value(rows, adapter.rank()))
    }

    /// Logits of so many rows of `hidden`, as the model's head gives them.
    pub fn logits(&mut self, hidden: &Rehearsed, rows: usize, head: &Linear) -> Rehearsed {
        let chosen = self.value(rows, hidden.width);
        self.mapped(chosen.rows, head)
    }

    /// A batch's losses, a chunk of logits at a time.
    fn losses(&self, hidden: &Rehearsed, head: &Linear) {
        let rows = hidden.rows.min(CHUNK_ROWS);
        let chunk = self.value(rows, hidden.width);
        drop(self.mapped(chunk.rows, head));
    }
}

impl<'w> Execute<'w> for Rehearse {
    type Value = Rehearsed;

    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> Rehearsed {
        self.value(tokens.len(), table.input_width())
    }

    fn linear(&mut self, x: &Rehearsed, map: &'w Linear) -> Rehearsed {
        self.mapped(x.rows, map)
    }

    fn linears<const N: usize>(&mut self, x: &Rehearsed, maps: [&'w Linear; N]) -> [Rehearsed; N] {
        let outputs = maps.map(|map| self.value(x.rows, map.output_width()));
        self.product(x.rows, &maps);
        maps.iter().for_each(|map| drop(self.narrowed(x.rows, &map.adapter)));
        outputs
    }

    fn columns(&mut self, x: &Rehearsed, columns: &'w Columns) -> Rehearsed {
        self.value(x.rows, columns.width())
    }

    fn rms_norm(&mut self, x: &Rehearsed, _: &'w Norm) -> Rehearsed {
        self.like(x)
    }

    fn gated_rms_norm(&mut self, x: &Rehearsed, _: &Rehearsed, _: &'w Norm) -> Rehearsed {
        self.like(x)
    }

    fn rope(&mut self, x: &Rehearsed, _: usize, _: &'w Rope, _: &Spans) -> Rehearsed {
        self.like(x)
    }

    /// Caches are the state's affair. Few queries have sums for every task of keys: the one thing that grows with the
    /// context, by eight bytes a token for a head of the usual width.
    fn attention(
        &mut self,
        [q, _, _]: [&Rehearsed; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        _: &mut [&mut KvCache],
    ) -> Rehearsed {
        let y = self.like(q);
        for (&start, &queries) in spans.starts.iter().zip(&spans.lengths) {
            let columns = queries * (shape.query_heads / shape.kv_heads);
            if columns <= NARROW_COLUMNS {
                let tasks = (start + queries).div_ceil(TASK_KEYS) * shape.kv_heads;
                self.note(tasks * columns * shape.head_dim.next_multiple_of(LINE));
            }
        }
        y
    }

    fn causal_conv(&mut self, x: &Rehearsed, conv: &'w Conv, spans: &Spans, _: &mut [&mut DeltaState]) -> Rehearsed {
        let y = self.like(x);
        let before_silu = self.like(x);
        // All tails, and the weight the other way round.
        self.note((spans.lengths.len() + 1) * conv.weight.matrix.columns * x.width);
        drop(before_silu);
        y
    }

    fn delta_rule(
        &mut self,
        qkv: &Rehearsed,
        b: &Rehearsed,
        a: &Rehearsed,
        gates: &'w DeltaGates,
        _: &Spans,
        _: &mut [&mut DeltaState],
    ) -> Rehearsed {
        let shape = &gates.shape;
        let (keys, values) = (shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim);
        let _rates = [self.like(a), self.like(b)];
        let _normalised = [(); 2].map(|()| {
            let raw = self.value(qkv.rows, keys);
            self.like(&raw)
        });
        let _v = self.value(qkv.rows, values);
        self.value(qkv.rows, values)
    }

    /// Of a few tokens nothing is kept between the steps but what lies in a task's cache.
    fn delta_net(
        &mut self,
        [qkv, b, a]: [&Rehearsed; 3],
        (conv, gates): (&'w Conv, &'w DeltaGates),
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Rehearsed {
        let shape = &gates.shape;
        let (keys, values) = (shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim);
        if delta_rule::is_stepped(spans) {
            return self.value(qkv.rows, values);
        }
        let qkv = self.causal_conv(qkv, conv, spans, states);
        let _q_and_k = [(); 2].map(|()| self.value(qkv.rows, keys));
        let _rates = [self.like(a), self.like(b)];
        let _v = self.value(qkv.rows, values);
        self.value(qkv.rows, values)
    }

    fn swiglu(&mut self, gate: &Rehearsed, _: &Rehearsed) -> Rehearsed {
        self.like(gate)
    }

    fn sigmoid_gate(&mut self, x: &Rehearsed, _: &Rehearsed) -> Rehearsed {
        self.like(x)
    }

    fn moe(&mut self, x: &Rehearsed, moe: &'w Moe) -> Rehearsed {
        let (rows, expert) = (x.rows * moe.top_k, &moe.experts[0]);
        let probabilities = {
            let logits = self.mapped(x.rows, &moe.router);
            self.like(&logits)
        };
        let sorted = moe::is_sorted(x.rows, moe).then(|| self.value(rows, x.width));
        let pair =
            (!moe::is_gated(moe)).then(|| [&expert.gate, &expert.up].map(|map| self.value(rows, map.output_width())));
        self.product(x.rows, &[&expert.gate, &expert.up]);
        let narrow = [0, 1].map(|bank| self.narrowed(rows, &moe.adapters[bank]));
        drop((sorted, narrow));
        let weighted = self.value(rows, expert.gate.output_width());
        let narrow = self.narrowed(rows, &moe.adapters[2]);
        if !moe.experts.iter().all(moe::adds) {
            let outputs = self.value(rows, expert.down.output_width());
            self.product(rows, &[&expert.down]);
            let sum = self.like(x);
            drop((outputs, narrow, weighted, pair, probabilities));
            return sum;
        }
        drop(pair);
        let sum = self.like(x);
        let has_outputs = x.rows < moe::SUMMED_MIN || narrow.is_some();
        let outputs = has_outputs.then(|| self.value(rows, x.width));
        self.product(rows, &[&expert.down]);
        drop((outputs, narrow, weighted, probabilities));
        sum
    }

    fn add(&mut self, x: &Rehearsed, _: &Rehearsed) -> Rehearsed {
        self.like(x)
    }

    fn cross_entropy(&mut self, hidden: &Rehearsed, head: &'w Linear, _: &[u32], _: &[f32]) -> Vec<f32> {
        self.losses(hidden, head);
        Vec::new()
    }

    fn divergence(&mut self, hidden: &Rehearsed, head: &'w Linear, _: Teacher<'_>, _: &[f32]) -> Vec<f32> {
        self.losses(hidden, head);
        Vec::new()
    }
}
