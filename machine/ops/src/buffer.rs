//! The memory of activations: buffers that come from a small pool and go back to it.
//!
//! A forward pass asks for the same sizes again and again; fresh memory from the system would be paid for in page
//! faults at every operation. Debug builds hand out NaN, so that an operation that forgets to write a part of its
//! output fails.

use kernels::pool;
use numeric::AlignedVec;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

/// Buffers below this many numbers are cheap to allocate and are not pooled.
const POOLED_MIN: usize = 4096;
/// From this many numbers on, row-by-row work is worth waking other threads.
const PARALLEL_MIN: usize = 1 << 16;
/// Numbers (256 MiB) that one thread's pool and what is in use may take together, whatever was in use before.
const POOLED_ALWAYS: usize = 1 << 26;
/// The share of what was in use at most that blocks of sizes nobody asks for just then may take beside it: one in this.
const BESIDE: usize = 16;
/// Sizes of blocks to each doubling. Batches of a run differ by a few tokens and are to find each other's blocks.
const SIZES: usize = 8;

/// Numbers of the block that is made for so many.
pub(crate) fn block_size(len: usize) -> usize {
    let step = (len.next_power_of_two() / (2 * SIZES)).max(1);
    len.next_multiple_of(step)
}

/// What a pool hands out: memory, or in a rehearsal its size alone.
pub(crate) trait Block {
    /// Numbers that fit.
    fn capacity(&self) -> usize;
}

impl Block for AlignedVec {
    fn capacity(&self) -> usize {
        self.capacity()
    }
}

/// Free blocks, the oldest first. What backward gives back is what the next step's forward asks for, so as much is kept
/// as was in use at once before: free and used blocks together never take more than that and a little, or
/// [`POOLED_ALWAYS`].
pub(crate) struct Pool<B> {
    free: VecDeque<B>,
    /// Numbers in free blocks, in blocks that were taken, and the most of the latter that there ever was.
    held: usize,
    used: usize,
    used_most: usize,
}

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self { free: VecDeque::new(), held: 0, used: 0, used_most: 0 }
    }
}

thread_local! {
    static POOL: RefCell<Pool<AlignedVec>> = RefCell::default();
}

impl<B: Block> Pool<B> {
    /// The smallest free block that fits without wasting more than a fifth of itself; without one the caller makes one.
    pub(crate) fn take(&mut self, len: usize) -> Option<B> {
        // As `give` asks: what is counted here is counted there.
        if block_size(len) < POOLED_MIN {
            return None;
        }
        let fits = |block: &B| (len..=len + len / 4).contains(&block.capacity());
        let best = (0..self.free.len()).filter(|&i| fits(&self.free[i])).min_by_key(|&i| self.free[i].capacity());
        let block = best.and_then(|best| self.free.remove(best));
        let taken = block.as_ref().map_or(block_size(len), B::capacity);
        self.held -= block.as_ref().map_or(0, B::capacity);
        self.used += taken;
        self.used_most = self.used_most.max(self.used);
        self.shrink();
        block
    }

    pub(crate) fn give(&mut self, block: B) {
        let capacity = block.capacity();
        if capacity >= POOLED_MIN {
            // Blocks that another thread took, or that came from elsewhere, are not among those in use here.
            self.used = self.used.saturating_sub(capacity);
            self.held += capacity;
            self.free.push_back(block);
            self.shrink();
        }
    }

    /// Lets the oldest blocks go that are too many.
    fn shrink(&mut self) {
        while self.held + self.used > POOLED_ALWAYS.max(self.used_most + self.used_most / BESIDE) && self.held > 0 {
            let oldest = self.free.pop_front().expect("what is held is in free blocks");
            self.held -= oldest.capacity();
        }
    }

    /// Numbers in free blocks.
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

/// Gives this thread's free blocks back to the system: after work whose like does not follow.
pub fn release() {
    POOL.take();
}

/// Numbers in the free blocks of this thread's pool.
pub fn pooled() -> usize {
    POOL.with_borrow(Pool::held)
}

/// A `[rows, width]` block of activations.
#[derive(Debug)]
pub struct Buffer {
    pub rows: usize,
    pub width: usize,
    values: AlignedVec,
}

impl Buffer {
    /// A buffer whose contents mean nothing yet; whoever asks for it writes all of it.
    pub fn unwritten(rows: usize, width: usize) -> Self {
        let len = rows * width;
        let mut values = recycled(len).unwrap_or_else(|| AlignedVec::with_capacity(block_size(len)));
        values.resize(len);
        if cfg!(debug_assertions) {
            values.fill(f32::NAN);
        }
        Self { rows, width, values }
    }

    /// What stands for a value that is no longer there: its shape.
    pub(crate) fn gone(rows: usize, width: usize) -> Self {
        Self { rows, width, values: AlignedVec::default() }
    }

    pub fn zeros(rows: usize, width: usize) -> Self {
        let mut buffer = Self::unwritten(rows, width);
        buffer.for_each_row(|_, values| values.fill(0.0));
        buffer
    }

    pub fn from_values(width: usize, values: Vec<f32>) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are no rows of {width}", values.len());
        Self { rows: values.len() / width, width, values: values.into() }
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    /// The chosen rows, in that order.
    pub fn gathered(&self, rows: &[usize]) -> Self {
        let mut chosen = Self::unwritten(rows.len(), self.width);
        chosen.for_each_row(|row, to| to.copy_from_slice(self.row(rows[row])));
        chosen
    }

    /// Calls `work` with every row and its number, on several threads where that pays.
    pub fn for_each_row(&mut self, work: impl Fn(usize, &mut [f32]) + Sync) {
        let width = self.width;
        if self.values.len() < PARALLEL_MIN {
            return self.values.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        }
        let rows = PARALLEL_MIN.div_ceil(4 * width);
        pool::for_each_chunk(&mut self.values, rows * width, |chunk, values| {
            values.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(chunk * rows + row, values));
        });
    }

    /// The sum of two buffers of one shape.
    pub fn sum(first: &Buffer, second: &Buffer) -> Self {
        assert_eq!((first.rows, first.width), (second.rows, second.width), "sums need equal shapes");
        let mut sum = Self::unwritten(first.rows, first.width);
        sum.for_each_row(|row, values| {
            let pairs = first.row(row).iter().zip(second.row(row));
            values.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum = a + b);
        });
        sum
    }

    pub fn add(&mut self, other: &Buffer) {
        assert_eq!(self.values.len(), other.len(), "sums need equal shapes");
        self.for_each_row(|row, sum| add(sum, other.row(row)));
    }
}

pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

fn recycled(len: usize) -> Option<AlignedVec> {
    POOL.with(|pool| pool.borrow_mut().take(len))
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::unwritten(self.rows, self.width);
        copy.for_each_row(|row, values| values.copy_from_slice(self.row(row)));
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        // While a thread ends its pool may be gone already; then the block simply goes back to the system.
        let _ = POOL.try_with(|pool| pool.borrow_mut().give(values));
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Size(usize);

    impl Block for Size {
        fn capacity(&self) -> usize {
            self.0
        }
    }

    fn take(pool: &mut Pool<Size>, len: usize) -> Size {
        pool.take(len).unwrap_or(Size(len))
    }

    #[test]
    fn a_pool_keeps_what_a_step_had_and_no_more() {
        const BLOCK: usize = POOLED_ALWAYS / 2;
        let mut pool = Pool::default();
        let step: Vec<Size> = (0..7).map(|_| take(&mut pool, BLOCK)).collect();
        step.into_iter().for_each(|block| pool.give(block));
        assert_eq!(pool.held(), 7 * BLOCK, "all of a step is there for the next");
        let again: Vec<Size> = (0..5).map(|_| pool.take(BLOCK).expect("it is there")).collect();
        let other = take(&mut pool, 3 * BLOCK);
        assert_eq!(pool.used_most, 8 * BLOCK);
        assert_eq!(pool.held(), 0, "beside a new peak nothing is kept");
        again.into_iter().for_each(|block| pool.give(block));
        assert_eq!(pool.held() + pool.used, 8 * BLOCK, "the oldest went, so that no more than the peak is taken");
        pool.give(other);
        assert_eq!(pool.used, 0);
    }

    #[test]
    fn batches_of_nearly_one_size_find_each_others_blocks() {
        let mut pool = Pool::default();
        let widths = [192, 320, 512, 2048, 40];
        let step = |pool: &mut Pool<Size>, tokens: usize| {
            let blocks: Vec<Size> = widths
                .iter()
                .map(|width| pool.take(tokens * width).unwrap_or(Size(block_size(tokens * width))))
                .collect();
            blocks.into_iter().for_each(|block| pool.give(block));
        };
        step(&mut pool, 4096);
        let (most, held) = (pool.used_most, pool.held());
        for tokens in [3700, 4011, 4096, 3585] {
            step(&mut pool, tokens);
            assert_eq!((pool.used_most, pool.held()), (most, held), "{tokens} tokens");
        }
        for len in [4096, 4097, 70_000, 1 << 20] {
            assert!((len..=len + len / 8).contains(&block_size(len)), "{len}: {}", block_size(len));
        }
    }

    #[test]
    fn blocks_come_back_and_are_poisoned() {
        let mut first = Buffer::zeros(64, 128);
        first.fill(1.0);
        let address = first.as_ptr();
        drop(first);
        let second = Buffer::unwritten(64, 127);
        assert_eq!(second.as_ptr(), address, "the pool hands the same block out again");
        assert!(!cfg!(debug_assertions) || second.iter().all(|value| value.is_nan()));
        assert!(Buffer::zeros(64, 127).iter().all(|&value| value == 0.0));
    }
}
