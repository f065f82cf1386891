//! AVX-512: thirty-two columns of a row at a time, decoded in registers. The matrix × vector kernel reads weights
//! through the same decoders.
//!
//! SAFETY: decoders are inlined into functions that enable AVX-512, which run only where `Cpu` has found it; rows and
//! columns lie within the matrix, which `dequantize::run` and `matvec` have checked.

use numeric::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use numeric::minifloat::{E2M1_VALUES, E4M3_VALUES, e8m0_to_f32};
use numeric::{Data, MatrixView, bf16, f16};
use std::arch::x86_64::*;

/// Reads one row of a matrix. The functions are inlined into ones that enable AVX-512.
pub(crate) trait Decode: Copy {
    /// The decoder of row `row` of a matrix whose first row is `self`.
    ///
    /// # Safety
    /// The matrix has that row.
    unsafe fn row(self, row: usize, columns: usize) -> Self;

    /// Columns `column..column + 32`; `column` is a multiple of 32.
    ///
    /// # Safety
    /// The row has those columns.
    unsafe fn load(self, column: usize) -> [__m512; 2];

    /// The first `count` of those columns, and zeros.
    ///
    /// # Safety
    /// The row has `count` columns there.
    #[inline(always)]
    unsafe fn load_part(self, column: usize, count: usize) -> [__m512; 2] {
        debug_assert_eq!(count, 32, "rows are made of whole blocks");
        // SAFETY: as promised by the caller.
        unsafe { self.load(column) }
    }
}

#[inline(always)]
fn masks(count: usize) -> [u16; 2] {
    let all = ((1u64 << count.min(32)) - 1) as u32;
    [all as u16, (all >> 16) as u16]
}

#[derive(Clone, Copy)]
pub(crate) struct F32(pub(crate) *const f32);

impl Decode for F32 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe { [_mm512_loadu_ps(self.0.add(column)), _mm512_loadu_ps(self.0.add(column + 16))] }
    }

    #[inline(always)]
    unsafe fn load_part(self, column: usize, count: usize) -> [__m512; 2] {
        let [low, high] = masks(count);
        let from = self.0.wrapping_add(column);
        // SAFETY: masked to what the caller promises.
        unsafe { [_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(16))] }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Bf16(pub(crate) *const bf16);

#[inline(always)]
unsafe fn widen_bf16(bits: __m256i) -> __m512 {
    // SAFETY: inlined where AVX-512 is enabled.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))) }
}

impl Decode for Bf16 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe {
            let from = self.0.add(column).cast::<__m256i>();
            [widen_bf16(_mm256_loadu_si256(from)), widen_bf16(_mm256_loadu_si256(from.add(1)))]
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, column: usize, count: usize) -> [__m512; 2] {
        let from = self.0.wrapping_add(column).cast::<i16>();
        let [low, high] = masks(count);
        // SAFETY: masked to what the caller promises.
        unsafe {
            let parts = [_mm256_maskz_loadu_epi16(low, from), _mm256_maskz_loadu_epi16(high, from.wrapping_add(16))];
            [widen_bf16(parts[0]), widen_bf16(parts[1])]
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F16(pub(crate) *const f16);

impl Decode for F16 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe {
            let from = self.0.add(column).cast::<__m256i>();
            [_mm512_cvtph_ps(_mm256_loadu_si256(from)), _mm512_cvtph_ps(_mm256_loadu_si256(from.add(1)))]
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, column: usize, count: usize) -> [__m512; 2] {
        let from = self.0.wrapping_add(column).cast::<i16>();
        let [low, high] = masks(count);
        // SAFETY: masked to what the caller promises.
        unsafe {
            let parts = [_mm256_maskz_loadu_epi16(low, from), _mm256_maskz_loadu_epi16(high, from.wrapping_add(16))];
            [_mm512_cvtph_ps(parts[0]), _mm512_cvtph_ps(parts[1])]
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q8(pub(crate) *const BlockQ8);

impl Decode for Q8 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns / 32))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 32);
            // Eight bytes from the block's start: the scale and six quants, which are not looked at.
            let scale = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_loadl_epi64(std::ptr::from_ref(block).cast())));
            let quants = block.quants.as_ptr().cast::<__m128i>();
            let half = |from| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from)));
            [_mm512_mul_ps(scale, half(quants)), _mm512_mul_ps(scale, half(quants.add(1)))]
        }
    }
}

/// The sixteen E2M1 values whose codes are the low four bits of each lane.
#[inline(always)]
unsafe fn e2m1(codes: __m512i) -> __m512 {
    // SAFETY: the table is 64 bytes.
    unsafe { _mm512_permutexvar_ps(codes, _mm512_loadu_ps(E2M1_VALUES.as_ptr())) }
}

#[derive(Clone, Copy)]
pub(crate) struct Mxfp4(pub(crate) *const BlockMxfp4);

impl Decode for Mxfp4 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns / 32))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 32);
            let scale = _mm512_set1_ps(e8m0_to_f32(block.scale));
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.quants.as_ptr().cast()));
            let (low, high) = (e2m1(codes), e2m1(_mm512_srli_epi32::<4>(codes)));
            [_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale)]
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Nvfp4(pub(crate) *const BlockNvfp4, pub(crate) f32);

impl Decode for Nvfp4 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns / 64), self.1)
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m512; 2] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 64);
            let first = column % 64 / 16;
            let quants = _mm_loadu_si128(block.quants.as_ptr().add(8 * first).cast());
            // Eight bytes hold the low nibbles of eight columns, then the high ones of the next eight.
            let shifts = _mm512_set_epi32(4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0);
            let group = |group: usize, bytes: __m128i| {
                let scale = E4M3_VALUES[block.scales[group] as usize] * self.1;
                let codes = _mm512_srlv_epi32(_mm512_cvtepu8_epi32(bytes), shifts);
                _mm512_mul_ps(e2m1(codes), _mm512_set1_ps(scale))
            };
            let twice = [_mm_unpacklo_epi64(quants, quants), _mm_unpackhi_epi64(quants, quants)];
            [group(first, twice[0]), group(first + 1, twice[1])]
        }
    }
}

/// Runs `$body` with `$decoder` bound to the decoder of `$data`'s first row.
macro_rules! with_decoder {
    ($data:expr, $decoder:ident => $body:expr) => {{
        use $crate::dequantize::avx512::{Bf16, F16, F32, Mxfp4, Nvfp4, Q8};
        match $data {
            ::numeric::Data::F32(v) => {
                let $decoder = F32(v.as_ptr());
                $body
            }
            ::numeric::Data::Bf16(v) => {
                let $decoder = Bf16(v.as_ptr());
                $body
            }
            ::numeric::Data::F16(v) => {
                let $decoder = F16(v.as_ptr());
                $body
            }
            ::numeric::Data::Q8_0(v) => {
                let $decoder = Q8(v.as_ptr());
                $body
            }
            ::numeric::Data::Mxfp4(v) => {
                let $decoder = Mxfp4(v.as_ptr());
                $body
            }
            ::numeric::Data::Nvfp4 { blocks, tensor_scale } => {
                let $decoder = Nvfp4(blocks.as_ptr(), tensor_scale);
                $body
            }
            ::numeric::Data::Raw { .. } | ::numeric::Data::Packed(_) => unreachable!("decoded by its definition"),
        }
    }};
}
pub(crate) use with_decoder;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn decode<D: Decode>(row: D, column_start: usize, out: &mut [f32]) {
    // Down to where a load may begin.
    let skip = column_start % 32;
    assert!(skip == 0, "a row is read from a multiple of 32 columns");
    for (index, out) in out.chunks_mut(32).enumerate() {
        let column = column_start + 32 * index;
        let [low, high] = masks(out.len());
        // SAFETY: as promised by the caller, and the stores are masked to `out`.
        unsafe {
            let values = if out.len() == 32 { row.load(column) } else { row.load_part(column, out.len()) };
            _mm512_mask_storeu_ps(out.as_mut_ptr(), low, values[0]);
            _mm512_mask_storeu_ps(out.as_mut_ptr().wrapping_add(16), high, values[1]);
        }
    }
}

/// # Safety
/// The machine has AVX-512, the matrix has these columns, and `column_start` is a multiple of 32.
pub(super) unsafe fn columns(matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    debug_assert!(matches!(matrix.data, Data::F32(_)) || row < matrix.rows);
    // SAFETY: as promised by the caller.
    with_decoder!(matrix.data, decoder => unsafe { decode(decoder.row(row, matrix.columns), column_start, out) });
}
