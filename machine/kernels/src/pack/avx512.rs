//! AVX-512: a vector of words is one register.
//!
//! SAFETY: runs only where `Cpu` has found AVX-512; memory is as `words.rs` says.

use super::Panel;
use super::words::{self, Words};
use std::arch::x86_64::*;

/// # Safety
/// The machine has AVX-512; the panel has sixteen rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")]
pub(super) unsafe fn panel(panel: &mut Panel) {
    // SAFETY: as promised by the caller.
    unsafe { words::panel::<__m512i>(panel) };
}

/// Sixteen bytes of every fourth row, in the four lanes.
#[inline(always)]
unsafe fn every_fourth(from: *const u8, row_bytes: usize) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe {
        let first = _mm512_castsi128_si512(_mm_loadu_si128(from.cast()));
        let x = _mm512_inserti32x4::<1>(first, _mm_loadu_si128(from.add(4 * row_bytes).cast()));
        let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(from.add(8 * row_bytes).cast()));
        _mm512_inserti32x4::<3>(x, _mm_loadu_si128(from.add(12 * row_bytes).cast()))
    }
}

impl Words for __m512i {
    #[inline(always)]
    unsafe fn quad(from: *const u8, row_bytes: usize) -> [Self; 4] {
        // SAFETY: as promised by the caller. Lane g of register k has row 4g + k; transposing within lanes puts the
        // rows in order.
        unsafe {
            let a = every_fourth(from, row_bytes);
            let b = every_fourth(from.add(row_bytes), row_bytes);
            let c = every_fourth(from.add(2 * row_bytes), row_bytes);
            let d = every_fourth(from.add(3 * row_bytes), row_bytes);
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_storeu_si512(to.cast(), self) }
    }

    #[inline(always)]
    unsafe fn and(self, mask: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_and_si512(self, _mm512_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    unsafe fn flip(self, mask: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_xor_si512(self, _mm512_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_or_si512(self, other) }
    }

    #[inline(always)]
    unsafe fn left(self, bits: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_sll_epi32(self, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn right(self, bits: u32) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { _mm512_srl_epi32(self, _mm_cvtsi32_si128(bits as i32)) }
    }

    #[inline(always)]
    unsafe fn halves(self) -> Self {
        // SAFETY: as promised by the caller. First within lanes, then the lanes' lower halves before the upper ones.
        unsafe {
            let within = _mm512_broadcast_i32x4(_mm_set_epi32(0x0F0E_0B0A, 0x0706_0302, 0x0D0C_0908, 0x0504_0100));
            let across = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
            _mm512_permutexvar_epi64(across, _mm512_shuffle_epi8(self, within))
        }
    }

    #[inline(always)]
    unsafe fn bytes(self) -> Self {
        // SAFETY: as promised by the caller. First within lanes, then word 4l + b of lane l and byte b to 4b + l.
        unsafe {
            let within = _mm512_broadcast_i32x4(_mm_set_epi32(0x0F0B_0703, 0x0E0A_0602, 0x0D09_0501, 0x0C08_0400));
            let across = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
            _mm512_permutexvar_epi32(across, _mm512_shuffle_epi8(self, within))
        }
    }
}
