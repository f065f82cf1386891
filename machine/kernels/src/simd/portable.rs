//! Eight lanes as an array, which compilers turn into what the target has (NEON, SSE2).
//!
//! SAFETY: every unsafe method of `Simd` asks its caller for readable or writable memory, and reads or writes no
//! more than that; a value of this type exists only where the instructions do.

use numeric::f16;

use super::{Product, Simd, Strided, product, transpose};

/// Runs everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

const LANES: usize = 8;

#[inline(always)]
fn map(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> Self::V {
        // SAFETY: readable for all lanes by contract; an array of f32 has the alignment of f32.
        unsafe { from.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn load_some(self, from: *const f32, count: usize) -> Self::V {
        let mut value = [0.0; LANES];
        // SAFETY: readable for `count` by contract, and `count` ≤ LANES.
        unsafe { std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), count.min(LANES)) };
        value
    }

    #[inline(always)]
    unsafe fn store_at(self, to: *mut f32, value: Self::V) {
        // SAFETY: writable for all lanes by contract; an array of f32 has the alignment of f32.
        unsafe { to.cast::<Self::V>().write(value) };
    }

    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, value: Self::V, count: usize) {
        // SAFETY: writable for `count` by contract, and `count` ≤ LANES.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, count.min(LANES)) };
    }

    #[inline(always)]
    unsafe fn load_f16_at(self, from: *const f16) -> Self::V {
        // SAFETY: readable for all lanes by contract.
        std::array::from_fn(|i| unsafe { (*from.add(i)).to_f32() })
    }

    #[inline(always)]
    unsafe fn load_i8_at(self, from: *const i8) -> Self::V {
        // SAFETY: readable for all lanes by contract.
        std::array::from_fn(|i| unsafe { f32::from(*from.add(i)) })
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding 1.5·2^23 pushes the fraction out of the mantissa; the callers stay far below that.
        const SHIFT: f32 = 12_582_912.0;
        a.map(|a| (a + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction a fused multiply-add is a slow library call.
        if cfg!(target_arch = "aarch64") {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.mul_add(a.map(|a| -a), b, c)
    }

    #[inline(always)]
    fn scale_by_power(self, value: Self::V, exponent: Self::V) -> Self::V {
        // In two factors, since 2^−150 and 2^128 are no numbers themselves.
        std::array::from_fn(|i| {
            let exponent = exponent[i] as i32;
            let half = exponent >> 1;
            let power = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
            value[i] * power(half) * power(exponent - half)
        })
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }

    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        a.iter().fold(a[0], |most, &a| if a > most { a } else { most })
    }

    #[inline(always)]
    unsafe fn load_quads(self, from: *const f32, row: usize) -> Self::V {
        // SAFETY: readable by contract.
        std::array::from_fn(|i| unsafe { *from.add(i / 4 * row + i % 4) })
    }

    #[inline(always)]
    fn transpose_quads(self, x: [Self::V; 4]) -> [Self::V; 4] {
        std::array::from_fn(|j| std::array::from_fn(|i| x[i % 4][i / 4 * 4 + j]))
    }

    #[inline(always)]
    fn sum_quads(self, a: Self::V) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + a[i + 4])
    }

    fn transpose(self, to: (&mut [f32], usize), from: (&[f32], usize), shape: [usize; 2]) {
        transpose::run(self, to, from, shape);
    }

    fn product(self, product: &Product, c: &mut [f32], a: Strided, b: &[f32]) {
        product::run(self, product, c, a, b);
    }
}
