//! Packing with vectors of words, the same for every instruction set: four neighbouring bytes of sixteen rows are what
//! the layout calls a vector, so one transpose of words and a few masks make a panel.
//!
//! A file keeps nibbles in runs: the low ones of `half` bytes are `half` columns, the high ones the next `half`. The
//! layout wants column c in the low nibble and column c + 4 in the high one: neighbouring words, whose low nibbles make
//! one vector and whose high nibbles make another one, `half / 8` vectors further on.
//!
//! SAFETY: `panel` is given sixteen whole rows, and codes and scales of a panel of as many columns; each block reads
//! its own bytes of each row, and writes its own part of both streams. The instruction set is the caller's affair.

use super::Panel;
use numeric::{Format, PANEL};

/// Bytes of a vector of codes.
const VECTOR: usize = 4 * PANEL;
/// Low nibbles of a word, and high ones.
const LOW: u32 = 0x0F0F_0F0F;
const HIGH: u32 = 0xF0F0_F0F0;

/// A 32-bit word of each of sixteen rows.
pub(super) trait Words: Copy {
    /// Four neighbouring words, from sixteen bytes of each row.
    ///
    /// # Safety
    /// The bytes are there, `row_bytes` from row to row.
    unsafe fn quad(from: *const u8, row_bytes: usize) -> [Self; 4];

    /// # Safety
    /// There is room for 64 bytes.
    unsafe fn store(self, to: *mut u8);

    /// # Safety
    /// The instruction set is there, as for all that follows.
    unsafe fn and(self, mask: u32) -> Self;

    /// # Safety
    /// As above.
    unsafe fn flip(self, mask: u32) -> Self;

    /// # Safety
    /// As above.
    unsafe fn or(self, other: Self) -> Self;

    /// # Safety
    /// As above.
    unsafe fn left(self, bits: u32) -> Self;

    /// # Safety
    /// As above.
    unsafe fn right(self, bits: u32) -> Self;

    /// The lower halves of all words, then the upper ones.
    ///
    /// # Safety
    /// As above.
    unsafe fn halves(self) -> Self;

    /// The first bytes of all words, then the second ones, and so on.
    ///
    /// # Safety
    /// As above.
    unsafe fn bytes(self) -> Self;
}

/// One block of sixteen rows.
#[derive(Clone, Copy)]
struct Block {
    rows: *const u8,
    row_bytes: usize,
    codes: *mut u8,
    scales: *mut u8,
}

/// # Safety
/// Sixteen rows; the instruction set of `W` is there.
#[inline(always)]
pub(super) unsafe fn panel<W: Words>(panel: &mut Panel) {
    let Panel { format, columns, .. } = *panel;
    let (row_bytes, blocks) = (format.row_bytes(columns), columns / format.block_columns());
    assert_eq!(panel.rows.len(), PANEL * row_bytes, "a panel has sixteen rows");
    let (codes_step, scales_step) = (panel.codes.len() / blocks, panel.scales.len() / blocks);
    for index in 0..blocks {
        // SAFETY: as the file's head says.
        unsafe {
            let block = Block {
                rows: panel.rows.as_ptr().add(index * format.block_bytes()),
                row_bytes,
                codes: panel.codes.as_mut_ptr().add(index * codes_step),
                scales: panel.scales.as_mut_ptr().add(index * scales_step),
            };
            match format {
                Format::Q8_0 => block.q8_0::<W>(),
                Format::Q4_0 | Format::Iq4Nl => {
                    block.half_scales(0, 0);
                    block.short_run::<W>(2, 0);
                }
                Format::Mxfp4 => {
                    (0..PANEL).for_each(|lane| *block.scales.add(lane) = *block.row(lane));
                    block.short_run::<W>(1, 0);
                }
                Format::Nvfp4 => block.nvfp4::<W>(),
                Format::Iq4Xs => block.iq4_xs::<W>(),
                Format::Q4K => block.q4_k::<W>(),
                Format::Q5K => block.q5_k::<W>(),
                Format::Q6K => block.q6_k::<W>(),
                Format::F32 | Format::Bf16 | Format::F16 => unreachable!("plain numbers are not packed"),
            }
        }
    }
}

/// The low nibbles of two neighbouring words.
#[inline(always)]
unsafe fn low<W: Words>(first: W, second: W) -> W {
    // SAFETY: the caller has the instruction set.
    unsafe { first.and(LOW).or(second.and(LOW).left(4)) }
}

#[inline(always)]
unsafe fn high<W: Words>(first: W, second: W) -> W {
    // SAFETY: the caller has the instruction set.
    unsafe { first.right(4).and(LOW).or(second.and(HIGH)) }
}

/// The bits of `mask`, in each word, moved from place `from` to place `to`.
#[inline(always)]
unsafe fn moved<W: Words>(words: W, mask: u32, from: u32, to: u32) -> W {
    // SAFETY: the caller has the instruction set.
    unsafe { if to >= from { words.left(to - from) } else { words.right(from - to) }.and(mask << to) }
}

impl Block {
    #[inline(always)]
    unsafe fn row(&self, lane: usize) -> *const u8 {
        // SAFETY: as the file's head says.
        unsafe { self.rows.add(lane * self.row_bytes) }
    }

    #[inline(always)]
    unsafe fn quad<W: Words>(&self, at: usize) -> [W; 4] {
        // SAFETY: as the file's head says.
        unsafe { W::quad(self.rows.add(at), self.row_bytes) }
    }

    /// Where a vector of codes goes.
    #[inline(always)]
    unsafe fn vector(&self, vector: usize) -> *mut u8 {
        // SAFETY: as the file's head says.
        unsafe { self.codes.add(VECTOR * vector) }
    }

    /// Two bytes at `from` of each row's block, beside one another.
    #[inline(always)]
    unsafe fn half_scales(&self, from: usize, to: usize) {
        for lane in 0..PANEL {
            // SAFETY: as the file's head says.
            unsafe {
                let half = self.row(lane).add(from).cast::<u16>().read_unaligned();
                self.scales.add(to + 2 * lane).cast::<u16>().write_unaligned(half);
            }
        }
    }

    /// Sixteen bytes of nibbles: their low ones are the vectors `low` and the next, their high ones `high` and the
    /// next.
    #[inline(always)]
    unsafe fn nibbles<W: Words>(&self, at: usize, low_vector: usize, high_vector: usize) {
        // SAFETY: as the file's head says.
        unsafe {
            let [a, b, c, d] = self.quad::<W>(at);
            low(a, b).store(self.vector(low_vector));
            low(c, d).store(self.vector(low_vector + 1));
            high(a, b).store(self.vector(high_vector));
            high(c, d).store(self.vector(high_vector + 1));
        }
    }

    /// A run with halves of sixteen columns.
    #[inline(always)]
    unsafe fn short_run<W: Words>(&self, at: usize, vector: usize) {
        // SAFETY: as the file's head says.
        unsafe { self.nibbles::<W>(at, vector, vector + 2) };
    }

    #[inline(always)]
    unsafe fn q8_0<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.half_scales(0, 0);
            for part in 0..2 {
                let words = self.quad::<W>(2 + 16 * part);
                for (k, word) in words.into_iter().enumerate() {
                    word.flip(0x8080_8080).store(self.vector(4 * part + k));
                }
            }
        }
    }

    /// Runs with halves of eight columns: two in sixteen bytes.
    #[inline(always)]
    unsafe fn nvfp4<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.quad::<W>(0)[0].bytes().store(self.scales);
            for part in 0..2 {
                let [a, b, c, d] = self.quad::<W>(4 + 16 * part);
                low(a, b).store(self.vector(4 * part));
                high(a, b).store(self.vector(4 * part + 1));
                low(c, d).store(self.vector(4 * part + 2));
                high(c, d).store(self.vector(4 * part + 3));
            }
        }
    }

    #[inline(always)]
    unsafe fn iq4_xs<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.half_scales(0, 0);
            self.iq4_xs_scales::<W>();
            for run in 0..8 {
                self.short_run::<W>(8 + 16 * run, 4 * run);
            }
        }
    }

    /// Eight numbers of six bits, of which 32 is taken: four bits of each in the second word, two in the upper half of
    /// the first.
    #[inline(always)]
    unsafe fn iq4_xs_scales<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            let [upper, lower, ..] = self.quad::<W>(0);
            let upper = upper.right(16);
            for odd in 0..2u32 {
                let mut sub_scales = lower.right(4 * odd).and(LOW);
                for k in 0..4 {
                    // Bits 4 and 5 of byte k.
                    sub_scales = sub_scales.or(moved(upper, 3, 4 * k + 2 * odd, 8 * k + 4));
                }
                // x − 32 in two's complement: bit 5 turns round, and is the sign.
                let sub_scales = sub_scales.flip(0x2020_2020);
                let sign = sub_scales.and(0x2020_2020);
                let mut bytes = [0u8; VECTOR];
                sub_scales.or(sign.left(1)).or(sign.left(2)).bytes().store(bytes.as_mut_ptr());
                for (k, bytes) in bytes.chunks_exact(PANEL).enumerate() {
                    let to = self.scales.add(32 + PANEL * (2 * k + odd as usize));
                    to.copy_from_nonoverlapping(bytes.as_ptr(), PANEL);
                }
            }
        }
    }

    /// Q4_K's and Q5_K's: two halves, then twelve bytes.
    #[inline(always)]
    unsafe fn k_scales<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            let [both, a, b, c] = self.quad::<W>(0);
            both.halves().store(self.scales);
            a.bytes().store(self.scales.add(64));
            b.bytes().store(self.scales.add(128));
            c.bytes().store(self.scales.add(192));
        }
    }

    #[inline(always)]
    unsafe fn q4_k<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.k_scales::<W>();
            for run in 0..4 {
                self.nibbles::<W>(16 + 32 * run, 8 * run, 8 * run + 4);
                self.nibbles::<W>(32 + 32 * run, 8 * run + 2, 8 * run + 6);
            }
        }
    }

    #[inline(always)]
    unsafe fn q5_k<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.k_scales::<W>();
            for run in 0..4 {
                self.nibbles::<W>(48 + 32 * run, 10 * run, 10 * run + 5);
                self.nibbles::<W>(64 + 32 * run, 10 * run + 2, 10 * run + 7);
            }
            let ([a, b, c, d], [e, f, g, h]) = (self.quad::<W>(16), self.quad::<W>(32));
            for sub in 0..8 {
                let mut bits = moved(a, 0x0101_0101, sub, 0);
                for (word, to) in [(b, 1), (c, 2), (d, 3), (e, 4), (f, 5), (g, 6), (h, 7)] {
                    bits = bits.or(moved(word, 0x0101_0101, sub, to));
                }
                bits.store(self.vector(5 * sub as usize + 4));
            }
        }
    }

    #[inline(always)]
    unsafe fn q6_k<W: Words>(&self) {
        // SAFETY: as the file's head says.
        unsafe {
            self.half_scales(208, 0);
            for (k, words) in self.quad::<W>(192).into_iter().enumerate() {
                words.bytes().store(self.scales.add(32 + VECTOR * k));
            }
            for half in 0..2 {
                for group in 0..4 {
                    let vector = 24 * half + 3 * group;
                    self.nibbles::<W>(64 * half + 16 * group, vector, vector + 12);
                }
                for odd in 0..2 {
                    let [a, b, c, d] = self.quad::<W>(128 + 32 * half + 16 * odd);
                    for run in 0..4u32 {
                        let mut pairs = moved(a, 0x0303_0303, 2 * run, 0);
                        for (word, to) in [(b, 2), (c, 4), (d, 6)] {
                            pairs = pairs.or(moved(word, 0x0303_0303, 2 * run, to));
                        }
                        pairs.store(self.vector(24 * half + 3 * (2 * run as usize + odd) + 2));
                    }
                }
            }
        }
    }
}
