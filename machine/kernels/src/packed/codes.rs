//! Packed codes into registers: thirty-two columns of a panel as eight vectors of unsigned bytes.
//!
//! A format is a kind of codes and a kind of scales (`scales`); the two know nothing of one another. No closures: one
//! that the compiler does not inline runs without the instruction set, ten times slower.
//!
//! SAFETY: everything here is inlined into functions that enable AVX-512, which run only where `Cpu` has found it;
//! pointers lie within the panel's codes, whose length the layout asserts.

use numeric::Format;
use std::arch::x86_64::*;

/// One kind. What a code is worth is its `Class`'s affair.
pub(super) trait Codes: Copy {
    /// Bytes that thirty-two columns of a panel take.
    const STEP_BYTES: usize;

    fn new(format: Format) -> Self;

    /// # Safety
    /// `from` points to thirty-two columns of a panel.
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8];
}

/// Low and high nibbles of four vectors: thirty-two columns.
#[inline(always)]
unsafe fn nibbles(codes: *const u8) -> [__m512i; 8] {
    // SAFETY: as promised by the caller.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let mut out = [low; 8];
        for j in 0..4 {
            let pairs = _mm512_load_si512(codes.add(64 * j).cast());
            out[2 * j] = _mm512_and_si512(pairs, low);
            out[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), low);
        }
        out
    }
}

/// A table of what the sixteen codes multiply as, in every 128-bit lane.
#[inline(always)]
unsafe fn table(format: numeric::Format) -> __m512i {
    let values = super::scalar::table(format).expect("the format has a table");
    // SAFETY: sixteen bytes are read.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
}

/// A byte each: Q8_0.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

impl Codes for Bytes {
    const STEP_BYTES: usize = 512;

    fn new(_: Format) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 8];
            for (j, out) in out.iter_mut().enumerate() {
                *out = _mm512_load_si512(from.add(64 * j).cast());
            }
            out
        }
    }
}

/// Four bits: Q4_0 and Q4_K.
#[derive(Clone, Copy)]
pub(super) struct Nibbles;

impl Codes for Nibbles {
    const STEP_BYTES: usize = 256;

    fn new(_: Format) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe { nibbles(from) }
    }
}

/// Four bits that stand for a table's values: MXFP4, NVFP4, IQ4_NL and IQ4_XS.
#[derive(Clone, Copy)]
pub(super) struct Table(__m512i);

impl Codes for Table {
    const STEP_BYTES: usize = 256;

    #[inline(always)]
    fn new(format: Format) -> Self {
        // SAFETY: inlined where AVX-512 is enabled.
        Self(unsafe { table(format) })
    }

    #[inline(always)]
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut out = nibbles(from);
            for codes in &mut out {
                *codes = _mm512_shuffle_epi8(self.0, *codes);
            }
            out
        }
    }
}

/// Four bits and, behind them, a fifth: Q5_K.
#[derive(Clone, Copy)]
pub(super) struct FiveBits;

impl Codes for FiveBits {
    const STEP_BYTES: usize = 320;

    fn new(_: Format) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let low = nibbles(from);
            let bits = _mm512_load_si512(from.add(256).cast());
            let fifth = _mm512_set1_epi8(16);
            // Bit k of each byte, moved to bit 4. Shifts of 16 bits carry nothing into a bit that is kept.
            macro_rules! bit {
                ($shifted:expr) => {
                    _mm512_and_si512($shifted, fifth)
                };
            }
            [
                _mm512_or_si512(low[0], bit!(_mm512_slli_epi16::<4>(bits))),
                _mm512_or_si512(low[1], bit!(_mm512_slli_epi16::<3>(bits))),
                _mm512_or_si512(low[2], bit!(_mm512_slli_epi16::<2>(bits))),
                _mm512_or_si512(low[3], bit!(_mm512_slli_epi16::<1>(bits))),
                _mm512_or_si512(low[4], bit!(bits)),
                _mm512_or_si512(low[5], bit!(_mm512_srli_epi16::<1>(bits))),
                _mm512_or_si512(low[6], bit!(_mm512_srli_epi16::<2>(bits))),
                _mm512_or_si512(low[7], bit!(_mm512_srli_epi16::<3>(bits))),
            ]
        }
    }
}

/// Four bits and, behind them, two: Q6_K.
#[derive(Clone, Copy)]
pub(super) struct SixBits;

impl Codes for SixBits {
    const STEP_BYTES: usize = 384;

    fn new(_: Format) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn unpack(self, from: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let [a, b] = [six(from), six(from.add(192))];
            [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
        }
    }
}

/// Sixteen columns of 6-bit codes: two vectors of nibbles and one of bit pairs.
#[inline(always)]
unsafe fn six(codes: *const u8) -> [__m512i; 4] {
    // SAFETY: as promised by the caller.
    unsafe {
        let (low, pair) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let a = _mm512_load_si512(codes.cast());
        let b = _mm512_load_si512(codes.add(64).cast());
        let c = _mm512_load_si512(codes.add(128).cast());
        let (d, e) = (_mm512_srli_epi16::<4>(a), _mm512_srli_epi16::<4>(b));
        // Pair k of each byte, moved to bits 4 and 5.
        [
            _mm512_or_si512(_mm512_and_si512(a, low), _mm512_and_si512(_mm512_slli_epi16::<4>(c), pair)),
            _mm512_or_si512(_mm512_and_si512(d, low), _mm512_and_si512(_mm512_slli_epi16::<2>(c), pair)),
            _mm512_or_si512(_mm512_and_si512(b, low), _mm512_and_si512(c, pair)),
            _mm512_or_si512(_mm512_and_si512(e, low), _mm512_and_si512(_mm512_srli_epi16::<2>(c), pair)),
        ]
    }
}
