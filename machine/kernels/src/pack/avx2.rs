//! AVX2: a vector of words is two registers, of eight rows each.
//!
//! SAFETY: runs only where `Cpu` has found AVX2; memory is as `words.rs` says.

use super::Panel;
use super::words::{self, Words};
use std::arch::x86_64::*;

/// # Safety
/// The machine has AVX2; the panel has sixteen rows.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn panel(panel: &mut Panel) {
    // SAFETY: as promised by the caller.
    unsafe { words::panel::<Pair>(panel) };
}

/// Rows 0..8 and 8..16.
#[derive(Clone, Copy)]
struct Pair(__m256i, __m256i);

/// Four words of eight rows.
#[inline(always)]
unsafe fn quad_of_eight(from: *const u8, row_bytes: usize) -> [__m256i; 4] {
    // SAFETY: as promised by the caller. Row k and row k + 4 share a register; transposing within lanes puts the rows
    // in order.
    unsafe {
        let mut rows = [_mm256_setzero_si256(); 4];
        for (k, row) in rows.iter_mut().enumerate() {
            let (first, second) = (from.add(k * row_bytes), from.add((k + 4) * row_bytes));
            *row = _mm256_loadu2_m128i(second.cast(), first.cast());
        }
        let [a, b, c, d] = rows;
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

impl Words for Pair {
    #[inline(always)]
    unsafe fn quad(from: *const u8, row_bytes: usize) -> [Self; 4] {
        // SAFETY: as promised by the caller.
        unsafe {
            let [a, b, c, d] = quad_of_eight(from, row_bytes);
            let [e, f, g, h] = quad_of_eight(from.add(8 * row_bytes), row_bytes);
            [Self(a, e), Self(b, f), Self(c, g), Self(d, h)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as promised by the caller.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0);
            _mm256_storeu_si256(to.add(32).cast(), self.1);
        }
    }

    #[inline(always)]
    unsafe fn and(self, mask: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe {
            let mask = _mm256_set1_epi32(mask as i32);
            Self(_mm256_and_si256(self.0, mask), _mm256_and_si256(self.1, mask))
        }
    }

    #[inline(always)]
    unsafe fn flip(self, mask: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe {
            let mask = _mm256_set1_epi32(mask as i32);
            Self(_mm256_xor_si256(self.0, mask), _mm256_xor_si256(self.1, mask))
        }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { Self(_mm256_or_si256(self.0, other.0), _mm256_or_si256(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn left(self, bits: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits as i32);
            Self(_mm256_sll_epi32(self.0, bits), _mm256_sll_epi32(self.1, bits))
        }
    }

    #[inline(always)]
    unsafe fn right(self, bits: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits as i32);
            Self(_mm256_srl_epi32(self.0, bits), _mm256_srl_epi32(self.1, bits))
        }
    }

    #[inline(always)]
    unsafe fn halves(self) -> Self {
        // SAFETY: as promised by the caller. Lower halves, then upper ones: first within lanes, then of each register.
        unsafe {
            let within = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0F0E_0B0A, 0x0706_0302, 0x0D0C_0908, 0x0504_0100));
            let a = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(self.0, within));
            let b = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(self.1, within));
            Self(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
        }
    }

    #[inline(always)]
    unsafe fn bytes(self) -> Self {
        // SAFETY: as promised by the caller. Within lanes; of each register, eight bytes of a kind; of both, sixteen.
        unsafe {
            let within = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0F0B_0703, 0x0E0A_0602, 0x0D09_0501, 0x0C08_0400));
            let across = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
            let a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(self.0, within), across);
            let b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(self.1, within), across);
            let (even, odd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            Self(_mm256_permute2x128_si256::<0x20>(even, odd), _mm256_permute2x128_si256::<0x31>(even, odd))
        }
    }
}
