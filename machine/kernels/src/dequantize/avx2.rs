//! AVX2: thirty-two columns of a row at a time, decoded in registers. The matrix × vector kernel reads weights through
//! the same decoders.
//!
//! SAFETY: decoders are inlined into functions that enable AVX2 and F16C, which run only where `Cpu` has found them;
//! rows and columns lie within the matrix, which `dequantize::run` and `matvec` have checked.

use numeric::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use numeric::minifloat::{E2M1_VALUES, E4M3_VALUES, e8m0_to_f32};
use numeric::{MatrixView, bf16, f16};
use std::arch::x86_64::*;

/// Reads one row of a matrix. The functions are inlined into ones that enable AVX2 and F16C.
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
    unsafe fn load(self, column: usize) -> [__m256; 4];

    /// Column `column` alone; only formats without blocks have rows that need it.
    ///
    /// # Safety
    /// The row has that column.
    #[inline(always)]
    unsafe fn load_one(self, _column: usize) -> f32 {
        unreachable!("rows are made of whole blocks")
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32(pub(crate) *const f32);

impl Decode for F32 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        std::array::from_fn(|i| unsafe { _mm256_loadu_ps(self.0.add(column + 8 * i)) })
    }

    #[inline(always)]
    unsafe fn load_one(self, column: usize) -> f32 {
        // SAFETY: as promised by the caller.
        unsafe { *self.0.add(column) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Bf16(pub(crate) *const bf16);

impl Decode for Bf16 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        std::array::from_fn(|i| unsafe {
            let bits = _mm_loadu_si128(self.0.add(column + 8 * i).cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        })
    }

    #[inline(always)]
    unsafe fn load_one(self, column: usize) -> f32 {
        // SAFETY: as promised by the caller.
        unsafe { (*self.0.add(column)).to_f32() }
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
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        std::array::from_fn(|i| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(self.0.add(column + 8 * i).cast())) })
    }

    #[inline(always)]
    unsafe fn load_one(self, column: usize) -> f32 {
        // SAFETY: as promised by the caller.
        unsafe { (*self.0.add(column)).to_f32() }
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
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 32);
            let scale = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(block.scale.to_bits())));
            let scale = _mm256_broadcastss_ps(scale);
            std::array::from_fn(|i| {
                let quants = _mm_loadl_epi64(block.quants.as_ptr().add(8 * i).cast());
                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(quants)))
            })
        }
    }
}

/// Eight E2M1 values from the low four bits of each lane: the magnitude from a table of eight, the sign moved up.
#[inline(always)]
unsafe fn e2m1(codes: __m256i) -> __m256 {
    // SAFETY: the table's first half is 32 bytes; inlined where AVX2 is enabled.
    unsafe {
        let magnitude = _mm256_permutevar8x32_ps(_mm256_loadu_ps(E2M1_VALUES.as_ptr()), codes);
        let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(codes, _mm256_set1_epi32(8)));
        _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Mxfp4(pub(crate) *const BlockMxfp4);

impl Decode for Mxfp4 {
    #[inline(always)]
    unsafe fn row(self, row: usize, columns: usize) -> Self {
        Self(self.0.wrapping_add(row * columns / 32))
    }

    #[inline(always)]
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 32);
            let scale = _mm256_set1_ps(e8m0_to_f32(block.scale));
            let codes = |i: usize| _mm256_cvtepu8_epi32(_mm_loadl_epi64(block.quants.as_ptr().add(8 * i).cast()));
            let (first, second) = (codes(0), codes(1));
            let all = [first, second, _mm256_srli_epi32::<4>(first), _mm256_srli_epi32::<4>(second)];
            all.map(|codes| _mm256_mul_ps(e2m1(codes), scale))
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
    unsafe fn load(self, column: usize) -> [__m256; 4] {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = &*self.0.add(column / 64);
            let first = column % 64 / 16;
            let group = |group: usize| {
                let scale = _mm256_set1_ps(E4M3_VALUES[block.scales[group] as usize] * self.1);
                let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(block.quants.as_ptr().add(8 * group).cast()));
                let high = _mm256_srli_epi32::<4>(codes);
                [_mm256_mul_ps(e2m1(codes), scale), _mm256_mul_ps(e2m1(high), scale)]
            };
            let (a, b) = (group(first), group(first + 1));
            [a[0], a[1], b[0], b[1]]
        }
    }
}

/// Runs `$body` with `$decoder` bound to the decoder of `$data`'s first row.
macro_rules! with_decoder {
    ($data:expr, $decoder:ident => $body:expr) => {{
        use $crate::dequantize::avx2::{Bf16, F16, F32, Mxfp4, Nvfp4, Q8};
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

#[target_feature(enable = "avx2,f16c")]
unsafe fn decode<D: Decode>(row: D, column_start: usize, out: &mut [f32]) {
    assert!(column_start.is_multiple_of(32), "a row is read from a multiple of 32 columns");
    let (whole, rest) = out.as_chunks_mut::<32>();
    let rest_start = column_start + 32 * whole.len();
    for (index, out) in whole.iter_mut().enumerate() {
        // SAFETY: as promised by the caller.
        let values = unsafe { row.load(column_start + 32 * index) };
        for (i, vector) in values.into_iter().enumerate() {
            // SAFETY: eight of thirty-two.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), vector) };
        }
    }
    for (index, out) in rest.iter_mut().enumerate() {
        // SAFETY: as promised by the caller.
        *out = unsafe { row.load_one(rest_start + index) };
    }
}

/// # Safety
/// The machine has AVX2 and F16C, the matrix has these columns, and `column_start` is a multiple of 32.
pub(super) unsafe fn columns(matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    // SAFETY: as promised by the caller.
    with_decoder!(matrix.data, decoder => unsafe { decode(decoder.row(row, matrix.columns), column_start, out) });
}
