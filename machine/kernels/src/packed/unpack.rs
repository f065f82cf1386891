//! Packed weights into registers: thirty-two columns of a panel as eight vectors of unsigned codes, and their scales.
//!
//! No closures: one that the compiler does not inline runs without the instruction set, ten times slower.
//!
//! SAFETY: everything here is inlined into functions that enable AVX-512, which run only where `Cpu` has found it;
//! pointers lie within the panel's streams, whose lengths the layout asserts.

use numeric::PackedView;
use std::arch::x86_64::*;

/// One format. Codes are `offset` above what they are worth (see `Class`).
pub(super) trait Unpack: Copy {
    /// Columns to one scale of the activations.
    const GROUP: usize;
    /// Columns to one scale of the weight.
    const SUB: usize;
    /// Whether minima are stored.
    const MINIMA: bool = false;
    /// Bytes of codes that thirty-two columns of a panel take.
    const STEP_BYTES: usize;
    /// Bytes of scales that a group of a panel takes.
    const GROUP_BYTES: usize;
    /// The scales of a group.
    type Head;

    fn new(weight: &PackedView) -> Self;

    /// # Safety
    /// `codes` points to thirty-two columns of a panel.
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8];

    /// # Safety
    /// `scales` points to the scales of a group.
    unsafe fn head(self, scales: *const u8) -> Self::Head;

    /// Scales of the rows in sub-group `sub` of the group.
    ///
    /// # Safety
    /// The group has that sub-group.
    unsafe fn scale(head: &Self::Head, sub: usize) -> __m512;

    /// Minima of the rows there.
    ///
    /// # Safety
    /// The group has that sub-group.
    unsafe fn minimum(_head: &Self::Head, _sub: usize) -> __m512 {
        unreachable!("the format stores no minima")
    }
}

/// Low and high nibbles of four vectors: thirty-two columns.
#[inline(always)]
pub(super) unsafe fn nibbles(codes: *const u8) -> [__m512i; 8] {
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

/// Sixteen f16 numbers.
#[inline(always)]
pub(super) unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

/// Sixteen unsigned bytes as integers.
#[inline(always)]
pub(super) unsafe fn bytes(from: *const u8) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
}

/// Sixteen signed bytes as numbers.
#[inline(always)]
pub(super) unsafe fn signed(from: *const u8) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
}

/// A table of what the sixteen codes multiply as, in every 128-bit lane.
#[inline(always)]
pub(super) unsafe fn table(format: numeric::Format) -> __m512i {
    let values = super::scalar::table(format).expect("the format has a table");
    // SAFETY: sixteen bytes are read.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
}

#[inline(always)]
pub(super) unsafe fn look_up(table: __m512i, codes: [__m512i; 8]) -> [__m512i; 8] {
    let mut out = codes;
    for codes in &mut out {
        // SAFETY: inlined where AVX-512 is enabled.
        *codes = unsafe { _mm512_shuffle_epi8(table, *codes) };
    }
    out
}

/// Q8_0.
#[derive(Clone, Copy)]
pub(super) struct Q8;

impl Unpack for Q8 {
    const GROUP: usize = 32;
    const SUB: usize = 32;
    const STEP_BYTES: usize = 512;
    const GROUP_BYTES: usize = 32;
    type Head = __m512;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 8];
            for (j, out) in out.iter_mut().enumerate() {
                *out = _mm512_load_si512(codes.add(64 * j).cast());
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { halves(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &__m512, _: usize) -> __m512 {
        *head
    }
}

/// Q4_0: nibbles and f16 scales.
#[derive(Clone, Copy)]
pub(super) struct Q4;

impl Unpack for Q4 {
    const GROUP: usize = 32;
    const SUB: usize = 32;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 32;
    type Head = __m512;

    fn new(_: &PackedView) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe { nibbles(codes) }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { halves(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &__m512, _: usize) -> __m512 {
        *head
    }
}

/// IQ4_NL: a table and f16 scales.
#[derive(Clone, Copy)]
pub(super) struct Iq4(__m512i);

impl Unpack for Iq4 {
    const GROUP: usize = 32;
    const SUB: usize = 32;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 32;
    type Head = __m512;

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
    unsafe fn head(self, scales: *const u8) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe { halves(scales) }
    }

    #[inline(always)]
    unsafe fn scale(head: &__m512, _: usize) -> __m512 {
        *head
    }
}

/// MXFP4: a table of doubled E2M1 values and powers of two.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4(__m512i);

impl Unpack for Mxfp4 {
    const GROUP: usize = 32;
    const SUB: usize = 32;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 16;
    type Head = __m512;

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
    unsafe fn head(self, scales: *const u8) -> __m512 {
        // SAFETY: as promised by the caller.
        unsafe {
            // An exponent of 0 is 2⁻¹²⁷, below the normal numbers; 255, not a number by the format, is infinite here.
            let bits = _mm512_slli_epi32::<23>(bytes(scales));
            let power = _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x0040_0000)));
            _mm512_mul_ps(power, _mm512_set1_ps(0.5))
        }
    }

    #[inline(always)]
    unsafe fn scale(head: &__m512, _: usize) -> __m512 {
        *head
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

/// NVFP4: the same table, E4M3 scales of sixteen columns, a scale of the tensor.
#[derive(Clone, Copy)]
pub(super) struct Nvfp4 {
    table: __m512i,
    /// Half the tensor's scale.
    factor: __m512,
}

impl Unpack for Nvfp4 {
    const GROUP: usize = 32;
    const SUB: usize = 16;
    const STEP_BYTES: usize = 256;
    const GROUP_BYTES: usize = 32;
    type Head = [__m512; 2];

    #[inline(always)]
    fn new(weight: &PackedView) -> Self {
        // SAFETY: inlined where AVX-512 is enabled.
        unsafe { Self { table: table(weight.format), factor: _mm512_set1_ps(0.5 * weight.tensor_scale) } }
    }

    #[inline(always)]
    unsafe fn codes(self, codes: *const u8) -> [__m512i; 8] {
        // SAFETY: as promised by the caller.
        unsafe { look_up(self.table, nibbles(codes)) }
    }

    #[inline(always)]
    unsafe fn head(self, scales: *const u8) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe { [e4m3(scales, self.factor), e4m3(scales.add(16), self.factor)] }
    }

    #[inline(always)]
    unsafe fn scale(head: &[__m512; 2], sub: usize) -> __m512 {
        head[sub]
    }
}
