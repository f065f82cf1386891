//! Memory for numbers that begins on a cache line: tile and vector stores that straddle lines cost half as much again.

use crate::system_memory::{map, unmap};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Sixteen numbers: one cache line, one AVX-512 register.
#[repr(align(64))]
struct Line;

/// Bytes of it.
const LINE: usize = align_of::<Line>();
/// From this many bytes on a block is a mapping of its own.
const MAPPED_MIN: usize = 128 << 10;

/// A growable row of f32 whose first element lies on a 64-byte boundary.
#[derive(Debug)]
pub struct AlignedVec {
    start: NonNull<f32>,
    /// Of the block, whole lines; all of them are numbers, zeros at first.
    bytes: usize,
    len: usize,
}

// SAFETY: it owns its block as a `Vec<f32>` would.
unsafe impl Send for AlignedVec {}
// SAFETY: as above.
unsafe impl Sync for AlignedVec {}

impl AlignedVec {
    /// An empty one in which so many fit.
    pub fn with_capacity(numbers: usize) -> Self {
        let bytes = (numbers * size_of::<f32>()).next_multiple_of(LINE);
        let start = match bytes {
            0 => NonNull::<Line>::dangling().cast(),
            MAPPED_MIN.. => map(bytes).cast(),
            _ => {
                // SAFETY: the layout is not empty.
                let start = unsafe { alloc_zeroed(Self::layout(bytes)) };
                NonNull::new(start.cast()).unwrap_or_else(|| handle_alloc_error(Self::layout(bytes)))
            }
        };
        Self { start, bytes, len: 0 }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, LINE).expect("a size of memory")
    }

    /// Numbers that fit without new memory.
    pub fn capacity(&self) -> usize {
        self.bytes / size_of::<f32>()
    }

    /// Makes it `len` long. What it held before stays where it was; new numbers are zero or left-overs of earlier use,
    /// so that a block that shrinks and grows again is not written for nothing.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity() {
            let mut larger = Self::with_capacity(len);
            larger.len = self.len;
            larger.copy_from_slice(self);
            *self = larger;
        }
        self.len = len;
    }
}

impl Default for AlignedVec {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Clone for AlignedVec {
    fn clone(&self) -> Self {
        let mut copy = Self::with_capacity(self.len);
        copy.resize(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for AlignedVec {
    fn drop(&mut self) {
        // SAFETY: each block goes back to where `with_capacity` had it from, with the same size.
        unsafe {
            match self.bytes {
                0 => {}
                MAPPED_MIN.. => unmap(self.start.cast(), self.bytes),
                bytes => dealloc(self.start.as_ptr().cast(), Self::layout(bytes)),
            }
        }
    }
}

impl From<Vec<f32>> for AlignedVec {
    fn from(values: Vec<f32>) -> Self {
        let mut aligned = Self::default();
        aligned.resize(values.len());
        aligned.copy_from_slice(&values);
        aligned
    }
}

impl Deref for AlignedVec {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: all of the block is numbers, and `resize` keeps `len` within it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Bytes whose first lies on a 64-byte boundary.
#[derive(Debug, Clone, Default)]
pub struct AlignedBytes {
    numbers: AlignedVec,
    len: usize,
}

impl AlignedBytes {
    pub fn zeros(len: usize) -> Self {
        let mut numbers = AlignedVec::default();
        numbers.resize(len.div_ceil(4));
        Self { numbers, len }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `numbers` are at least `len` initialised bytes, and any bytes are u8.
        unsafe { std::slice::from_raw_parts(self.numbers.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, the borrow of `self` is exclusive, and any bytes are an f32.
        unsafe { std::slice::from_raw_parts_mut(self.numbers.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_keeps_what_it_holds() {
        for len in [0, 1, 15, 16, 17, 4099, MAPPED_MIN / 4 - 3, MAPPED_MIN] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let mut aligned = AlignedVec::from(values.clone());
            assert_eq!(aligned.as_ptr() as usize % 64, 0);
            assert_eq!(&aligned[..], &values[..]);
            aligned.resize(len + 7);
            assert_eq!((&aligned[..len], aligned.len()), (&values[..], len + 7));
        }
    }
}
