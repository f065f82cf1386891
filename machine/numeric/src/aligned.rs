//! Memory for numbers that begins on a cache line: tile and vector stores that straddle lines cost half as much again.

use std::ops::{Deref, DerefMut};

/// Sixteen numbers: one cache line, one AVX-512 register.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

const LINE: usize = 16;

/// A growable row of f32 whose first element lies on a 64-byte boundary.
#[derive(Debug, Clone, Default)]
pub struct AlignedVec {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedVec {
    /// Numbers that fit without new memory.
    pub fn capacity(&self) -> usize {
        self.lines.capacity() * LINE
    }

    /// Makes it `len` long. What it held before stays where it was; new numbers are zero or left-overs of earlier use,
    /// so that a block that shrinks and grows again is not written for nothing.
    pub fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0.0; LINE]));
        }
        self.len = len;
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
        // SAFETY: `Line` is repr(C) over sixteen f32, without padding, so `lines` is that many f32 in a row, all of
        // them initialised; `resize` keeps `len` within them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
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
        for len in [0, 1, 15, 16, 17, 4099] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let mut aligned = AlignedVec::from(values.clone());
            assert_eq!(aligned.as_ptr() as usize % 64, 0);
            assert_eq!(&aligned[..], &values[..]);
            aligned.resize(len + 7);
            assert_eq!((&aligned[..len], aligned.len()), (&values[..], len + 7));
        }
    }
}
