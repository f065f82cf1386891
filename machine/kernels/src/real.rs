//! The number type of the plain definitions: `f32` as the kernels compute, `f64` as their tests judge them.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// A real number with the few functions that the definitions need.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    fn of(value: f64) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sqrt(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;

    fn zero() -> Self {
        Self::default()
    }

    fn one() -> Self {
        Self::of(1.0)
    }

    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// 1 / (1 + e^−x)
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).exp())
    }

    /// x·σ(x)
    fn silu(self) -> Self {
        self * self.sigmoid()
    }

    /// d silu(x) / dx = σ(x)·(1 + x·(1 − σ(x)))
    fn silu_slope(self) -> Self {
        let sigmoid = self.sigmoid();
        sigmoid * (Self::one() + self * (Self::one() - sigmoid))
    }

    /// ln(1 + e^x), without overflow for large x.
    fn softplus(self) -> Self {
        let zero = Self::zero();
        let magnitude = if self > zero { self } else { -self };
        self.larger(zero) + (-magnitude).exp().ln_1p()
    }
}

macro_rules! real {
    ($float:ident) => {
        impl Real for $float {
            #[inline]
            fn of(value: f64) -> Self {
                value as $float
            }
            #[inline]
            fn exp(self) -> Self {
                $float::exp(self)
            }
            #[inline]
            fn ln(self) -> Self {
                $float::ln(self)
            }
            #[inline]
            fn ln_1p(self) -> Self {
                $float::ln_1p(self)
            }
            #[inline]
            fn sqrt(self) -> Self {
                $float::sqrt(self)
            }
            #[inline]
            fn powf(self, exponent: Self) -> Self {
                $float::powf(self, exponent)
            }
            #[inline]
            fn sin(self) -> Self {
                $float::sin(self)
            }
            #[inline]
            fn cos(self) -> Self {
                $float::cos(self)
            }
        }
    };
}
real!(f32);
real!(f64);
