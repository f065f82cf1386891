//! Formats with blocks of 256 columns: Q4_K, Q5_K, Q6_K and IQ4_XS.
//!
//! SAFETY: as in `unpack`.

use super::unpack::{Unpack, bytes, halves, look_up, nibbles, signed, table};
use numeric::PackedView;
use std::arch::x86_64::*;

/// The head of a Q4_K or Q5_K group: two f16 numbers a row, and the eight scales and the eight minima of each.
pub(super) struct KHead {
    scale: __m512,
    minimum: __m512,
    sub_scales: [__m512i; 2],
    sub_minima: [__m512i; 2],
}

#[inline(always)]
unsafe fn k_head(scales: *const u8) -> KHead {
    // SAFETY: as promised by the caller: 256 bytes.
    unsafe {
        let a = _mm512_load_si512(scales.add(64).cast());
        let b = _mm512_load_si512(scales.add(128).cast());
        let c = _mm512_load_si512(scales.add(192).cast());
        let (six, low, top) = (_mm512_set1_epi8(63), _mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let upper_a = _mm512_and_si512(_mm512_srli_epi16::<2>(a), top);
        let upper_b = _mm512_and_si512(_mm512_srli_epi16::<2>(b), top);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(c), low);
        KHead {
            scale: halves(scales),
            minimum: halves(scales.add(32)),
            sub_scales: [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(c, low), upper_a)],
            sub_minima: [_mm512_and_si512(b, six), _mm512_or_si512(high, upper_b)],
        }
    }
}

/// Sixteen of the bytes of a head, as numbers.
#[inline(always)]
unsafe fn k_numbers(bytes_of: &[__m512i; 2], sub: usize) -> __m512 {
    // SAFETY: `sub` is below 8, and the array holds 8 · 16 bytes.
    unsafe { _mm512_cvtepi32_ps(bytes(bytes_of.as_ptr().cast::<u8>().add(16 * sub))) }
}

#[derive(Clone, Copy)]
pub(super) struct Q4K;

impl Unpack for Q4K {
    const GROUP: usize = 256;
    const SUB: usize = 32;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 256;
    type Head = KHead;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe { nibbles(codes) }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> KHead {
        // SAFETY: as promised by the caller.
        unsafe { k_head(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &KHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_mul_ps(head.scale, k_numbers(&head.sub_scales, sub)) }
    }

    #[inline(always)]
    unsafe fn minimum(head: &KHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_mul_ps(head.minimum, k_numbers(&head.sub_minima, sub)) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5K;

impl Unpack for Q5K {
    const GROUP: usize = 256;
    const SUB: usize = 32;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 320;
    const GROUP_BYTES: usize = 256;
    type Head = KHead;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let low = nibbles(codes);
            let bits = _mm512_load_si512(codes.add(256).cast());
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

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> KHead {
        // SAFETY: as promised by the caller.
        unsafe { k_head(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &KHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { Q4K::scale(head, sub) }
    }

    #[inline(always)]
    unsafe fn minimum(head: &KHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { Q4K::minimum(head, sub) }
    }
}

/// The head of a Q6_K or IQ4_XS group: an f16 number a row, and where its signed sub-scales stand.
pub(super) struct SignedHead {
    scale: __m512,
    sub_scales: *const u8,
}

#[inline(always)]
unsafe fn signed_head(scales: *const u8) -> SignedHead {
    // SAFETY: as promised by the caller.
    unsafe { SignedHead { scale: halves(scales), sub_scales: scales.add(32) } }
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

#[derive(Clone, Copy)]
pub(super) struct Q6K;

impl Unpack for Q6K {
    const GROUP: usize = 256;
    const SUB: usize = 16;
    const STEP_BYTES: usize = 384;
    const GROUP_BYTES: usize = 288;
    type Head = SignedHead;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let [a, b] = [six(codes), six(codes.add(192))];
            [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
        }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> SignedHead {
        // SAFETY: as promised by the caller.
        unsafe { signed_head(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &SignedHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_mul_ps(head.scale, signed(head.sub_scales.add(16 * sub))) }
    }
}

/// IQ4_XS.
#[derive(Clone, Copy)]
pub(super) struct Iq4Xs(__m512i);

impl Unpack for Iq4Xs {
    const GROUP: usize = 256;
    const SUB: usize = 32;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 160;
    type Head = SignedHead;

    #[inline(always)]
    fn new(weight: &PackedView) -> Self {
        // SAFETY: inlined where AVX-512 is enabled.
        Self(unsafe { table(weight.format) })
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe { look_up(self.0, nibbles(codes)) }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> SignedHead {
        // SAFETY: as promised by the caller.
        unsafe { signed_head(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &SignedHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { Q6K::scale(head, sub) }
    }
}
