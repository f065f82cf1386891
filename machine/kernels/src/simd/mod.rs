//! Vectors of f32: a kernel is written once over [`Simd`] and instantiated for each instruction set by [`variants!`].
//!
//! A [`Level`] names an instruction set that this machine has; only detection makes the ones above `Portable`, so
//! holding one is the proof that its instructions may run. Code generic over `Simd` is `#[inline(always)]` down to the
//! wrappers that `variants!` writes, since only there are the instructions switched on.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
mod parallel;
mod portable;
mod product;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transpose;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use math::{dot, exp, largest, scale_in_place, sigmoid, silu_slope};
pub(crate) use parallel::{Disjoint, for_each, for_each_summed, for_each_worth, rows_per_task};
pub(crate) use portable::Portable;
pub(crate) use product::{Product, Strided};

use numeric::f16;

/// The operations of one instruction set. A value of an implementing type is the proof that its instructions may run.
pub(crate) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;

    fn splat(self, value: f32) -> Self::V;
    /// # Safety
    /// `from` is readable for all lanes.
    unsafe fn load_at(self, from: *const f32) -> Self::V;
    /// The first `count` lanes, the rest zero.
    /// # Safety
    /// `from` is readable for `count` ≤ LANES values.
    unsafe fn load_some(self, from: *const f32, count: usize) -> Self::V;
    /// # Safety
    /// `to` is writable for all lanes.
    unsafe fn store_at(self, to: *mut f32, value: Self::V);
    /// The first `count` lanes.
    /// # Safety
    /// `to` is writable for `count` ≤ LANES values.
    unsafe fn store_some(self, to: *mut f32, value: Self::V, count: usize);

    /// Halves, widened.
    /// # Safety
    /// `from` is readable for all lanes.
    unsafe fn load_f16_at(self, from: *const f16) -> Self::V;
    /// Signed bytes as numbers.
    /// # Safety
    /// `from` is readable for all lanes.
    unsafe fn load_i8_at(self, from: *const i8) -> Self::V;
    /// Asks for a cache line, wherever it points.
    fn prefetch(self, from: *const u8);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest whole number.
    fn round(self, a: Self::V) -> Self::V;
    /// a·b + c
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c − a·b
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// value·2^exponent for a whole exponent in −150..=128, through the subnormals down to 0 and up to infinity.
    fn scale_by_power(self, value: Self::V, exponent: Self::V) -> Self::V;
    /// The sum of the lanes, in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    fn largest(self, a: Self::V) -> f32;
    /// Four values from each of LANES/4 rows, one row after the other.
    /// # Safety
    /// `from + i·row` is readable for four values, for i < LANES/4.
    unsafe fn load_quads(self, from: *const f32, row: usize) -> Self::V;
    /// Transposes each group of four lanes across the four vectors.
    fn transpose_quads(self, x: [Self::V; 4]) -> [Self::V; 4];
    /// The sum of the groups of four lanes.
    fn sum_quads(self, a: Self::V) -> [f32; 4];
    /// A product of small matrices, compiled once per instruction set.
    fn product(self, product: &Product, c: &mut [f32], a: Strided, b: &[f32]);
    /// to[j·to_row + i] = from[i·from_row + j] for i < rows, j < columns; compiled once per instruction set.
    fn transpose(self, to: (&mut [f32], usize), from: (&[f32], usize), shape: [usize; 2]);

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// All lanes where `from` has as many, else what it has and zeros.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        // SAFETY: the slice has at least as many values as are read.
        unsafe {
            if from.len() >= Self::LANES {
                self.load_at(from.as_ptr())
            } else {
                self.load_some(from.as_ptr(), from.len())
            }
        }
    }

    /// All lanes where `to` has room, else as many as fit.
    #[inline(always)]
    fn store(self, to: &mut [f32], value: Self::V) {
        // SAFETY: the slice has at least as many values as are written.
        unsafe {
            if to.len() >= Self::LANES {
                self.store_at(to.as_mut_ptr(), value);
            } else {
                self.store_some(to.as_mut_ptr(), value, to.len());
            }
        }
    }

    /// to += value
    #[inline(always)]
    fn add_to(self, to: &mut [f32], value: Self::V) {
        let sum = self.add(self.load(to), value);
        self.store(to, sum);
    }
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Set);

/// Public to the crate only for the match in `variants!`; a `Level` cannot be made from it outside this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What runs here, slowest first.
    pub(crate) fn available() -> Vec<Level> {
        #[allow(unused_mut, reason = "only x86 has more than one")]
        let mut levels = vec![Level(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let cpu = crate::cpu::Cpu::get();
            levels.extend(cpu.avx2.then_some(Level(Set::Avx2)));
            levels.extend(cpu.avx512.then_some(Level(Set::Avx512)));
        }
        levels
    }

    /// The fastest that runs here.
    pub(crate) fn best() -> Level {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Level::available()[Level::available().len() - 1])
    }

    pub(crate) fn set(self) -> Set {
        self.0
    }
}

/// Writes a function that runs a generic kernel with the instruction set of its first argument.
///
/// `variants! { fn name(a: A, b: B) = generic }` makes `fn name(level: Level, a: A, b: B)` which calls
/// `generic(simd, a, b)`, where `generic<S: Simd>` is `#[inline(always)]`.
macro_rules! variants {
    ($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $generic:path) => {
        $(#[$meta])*
        pub(crate) fn $name(level: $crate::simd::Level, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2(simd: $crate::simd::Avx2, $($argument: $type),*) $(-> $result)? {
                $generic(simd, $($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
            fn avx512(simd: $crate::simd::Avx512, $($argument: $type),*) $(-> $result)? {
                $generic(simd, $($argument),*)
            }
            match level.set() {
                $crate::simd::Set::Portable => $generic($crate::simd::Portable, $($argument),*),
                // SAFETY: a level of this set was made by detecting its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Set::Avx2 => unsafe { avx2($crate::simd::Avx2::assume(), $($argument),*) },
                // SAFETY: a level of this set was made by detecting its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Set::Avx512 => unsafe { avx512($crate::simd::Avx512::assume(), $($argument),*) },
            }
        }
    };
}
pub(crate) use variants;
