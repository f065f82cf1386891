//! Packed scales into registers: of each sub-group of columns, the sixteen rows' scales and minima.
//!
//! A format is a kind of scales and a kind of codes (`codes`).
//!
//! SAFETY: as in `codes`, for the panel's scales.

use super::Class;
use numeric::PackedView;
use std::arch::x86_64::*;

/// One kind.
pub(super) trait Scales: Copy {
    /// Columns to one scale of the activations.
    const GROUP: usize;
    /// Columns to one scale of the weight.
    const SUB: usize;
    /// Whether minima are stored.
    const MINIMA: bool = false;
    /// Bytes that a group of a panel takes.
    const GROUP_BYTES: usize;
    /// The scales of a group.
    type Head;

    fn new(weight: &PackedView) -> Self;

    /// Whether the format's class is what this kind reads.
    fn serves(class: Class) -> bool {
        (class.group, class.sub, class.offset == 0) == (Self::GROUP, Self::SUB, Self::MINIMA)
    }

    /// # Safety
    /// `from` points to the scales of a group.
    unsafe fn head(self, from: *const u8) -> Self::Head;

    /// Scales of the rows in sub-group `sub` of the group.
    ///
    /// # Safety
    /// The group has that sub-group.
    unsafe fn scale(head: &Self::Head, sub: usize) -> __m512;

    /// The rows' minima in sub-groups `2 · pair` and `2 · pair + 1`, as pairs of 16 bits.
    ///
    /// # Safety
    /// The group has those sub-groups.
    unsafe fn minima(_head: &Self::Head, _pair: usize) -> __m512i {
        unreachable!("the format stores no minima")
    }

    /// What the group's minima are multiples of.
    ///
    /// # Safety
    /// AVX-512 is enabled.
    unsafe fn minimum_scale(_head: &Self::Head) -> __m512 {
        unreachable!("the format stores no minima")
    }
}

/// Sixteen f16 numbers.
#[inline(always)]
unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

/// Sixteen unsigned bytes as integers.
#[inline(always)]
unsafe fn bytes(from: *const u8) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
}

/// Sixteen signed bytes as numbers.
#[inline(always)]
unsafe fn signed(from: *const u8) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
}

/// An f16 number to 32 columns: Q8_0, Q4_0 and IQ4_NL, in groups of `GROUP` columns.
#[derive(Clone, Copy)]
pub(super) struct Halves<const GROUP: usize>;

impl<const GROUP: usize> Scales for Halves<GROUP> {
    const GROUP: usize = GROUP;
    const SUB: usize = 32;
    const GROUP_BYTES: usize = GROUP;
    /// Where they stand.
    type Head = *const u8;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn head(self, from: *const u8) -> *const u8 {
        from
    }

    #[inline(always)]
    unsafe fn scale(head: &*const u8, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { halves(head.add(32 * sub)) }
    }
}

/// A power of two to 32 columns: MXFP4, whose values are doubled.
#[derive(Clone, Copy)]
pub(super) struct Powers<const GROUP: usize>;

impl<const GROUP: usize> Scales for Powers<GROUP> {
    const GROUP: usize = GROUP;
    const SUB: usize = 32;
    const GROUP_BYTES: usize = GROUP / 2;
    /// Where they stand.
    type Head = *const u8;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn head(self, from: *const u8) -> *const u8 {
        from
    }

    #[inline(always)]
    unsafe fn scale(head: &*const u8, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe {
            // An exponent of 0 is 2⁻¹²⁷, below the normal numbers; 255, not a number by the format, is infinite here.
            let bits = _mm512_slli_epi32::<23>(bytes(head.add(16 * sub)));
            let power = _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x0040_0000)));
            _mm512_mul_ps(power, _mm512_set1_ps(0.5))
        }
    }
}

/// Sixteen E4M3 numbers, multiplied.
#[inline(always)]
unsafe fn e4m3(from: *const u8, factor: __m512) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe {
        let code = bytes(from);
        let magnitude = _mm512_slli_epi32::<20>(_mm512_and_si512(code, _mm512_set1_epi32(0x7F)));
        let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(code, _mm512_set1_epi32(0x80)));
        // 2¹²⁰ moves the exponent's bias from 7 to 127, small numbers included.
        let value = _mm512_castsi512_ps(_mm512_or_si512(magnitude, sign));
        _mm512_mul_ps(_mm512_mul_ps(value, _mm512_set1_ps(f32::from_bits((127 + 120) << 23))), factor)
    }
}

/// An E4M3 number to 16 columns, times the tensor's scale: NVFP4, whose values are doubled.
#[derive(Clone, Copy)]
pub(super) struct E4m3<const GROUP: usize> {
    /// Half the tensor's scale.
    factor: __m512,
}

impl<const GROUP: usize> Scales for E4m3<GROUP> {
    const GROUP: usize = GROUP;
    const SUB: usize = 16;
    const GROUP_BYTES: usize = GROUP;
    /// Where they stand, and half the tensor's scale.
    type Head = (*const u8, __m512);

    #[inline(always)]
    fn new(weight: &PackedView) -> Self {
        // SAFETY: inlined where AVX-512 is enabled.
        Self { factor: unsafe { _mm512_set1_ps(0.5 * weight.tensor_scale) } }
    }

    #[inline(always)]
    unsafe fn head(self, from: *const u8) -> Self::Head {
        (from, self.factor)
    }

    #[inline(always)]
    unsafe fn scale(head: &Self::Head, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { e4m3(head.0.add(16 * sub), head.1) }
    }
}

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

/// Sixteen of the bytes of a head, as integers.
#[inline(always)]
unsafe fn k_integers(bytes_of: &[__m512i; 2], sub: usize) -> __m512i {
    // SAFETY: `sub` is below 8, and the array holds 8 · 16 bytes.
    unsafe { bytes(bytes_of.as_ptr().cast::<u8>().add(16 * sub)) }
}

/// 6-bit scales and minima to 32 columns: Q4_K and Q5_K.
#[derive(Clone, Copy)]
pub(super) struct KScales;

impl Scales for KScales {
    const GROUP: usize = 256;
    const SUB: usize = 32;
    const MINIMA: bool = true;
    const GROUP_BYTES: usize = 256;
    type Head = KHead;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn head(self, from: *const u8) -> KHead {
        // SAFETY: as promised by the caller.
        unsafe { k_head(from) }
    }

    #[inline(always)]
    unsafe fn scale(head: &KHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_mul_ps(head.scale, _mm512_cvtepi32_ps(k_integers(&head.sub_scales, sub))) }
    }

    #[inline(always)]
    unsafe fn minima(head: &KHead, pair: usize) -> __m512i {
        // SAFETY: as promised by the caller.
        unsafe {
            let second = _mm512_slli_epi32::<16>(k_integers(&head.sub_minima, 2 * pair + 1));
            _mm512_or_si512(k_integers(&head.sub_minima, 2 * pair), second)
        }
    }

    #[inline(always)]
    unsafe fn minimum_scale(head: &KHead) -> __m512 {
        head.minimum
    }
}

/// The head of a group with signed sub-scales: an f16 number a row, and where the sub-scales stand.
pub(super) struct SignedHead {
    scale: __m512,
    sub_scales: *const u8,
}

/// A signed byte to `COLUMNS` columns: Q6_K (16) and IQ4_XS (32).
#[derive(Clone, Copy)]
pub(super) struct SignedBytes<const COLUMNS: usize>;

impl<const COLUMNS: usize> Scales for SignedBytes<COLUMNS> {
    const GROUP: usize = 256;
    const SUB: usize = COLUMNS;
    const GROUP_BYTES: usize = 32 + 16 * (256 / COLUMNS);
    type Head = SignedHead;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn head(self, from: *const u8) -> SignedHead {
        // SAFETY: as promised by the caller.
        unsafe { SignedHead { scale: halves(from), sub_scales: from.add(32) } }
    }

    #[inline(always)]
    unsafe fn scale(head: &SignedHead, sub: usize) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_mul_ps(head.scale, signed(head.sub_scales.add(16 * sub))) }
    }
}
