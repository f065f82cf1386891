//! Functions of vectors: the exponential and what is made of it, and reductions over slices.

use super::Simd;

/// e^x to about one unit in the last place; 0 from −104 down, infinity from 89 up; what is not a number stays so.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 is split in two (Cody and Waite) so that r is exact, and e^r is Cephes'
/// polynomial.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // The bound comes first, so that a NaN in x passes.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(0.693_359_4), x);
    let r = s.neg_mul_add(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
    let p = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    s.scale_by_power(p, n)
}

/// 1 / (1 + e^−x)
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// Given x and σ(x): d silu(x) / dx = σ + x·σ·(1 − σ).
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V, sigmoid: S::V) -> S::V {
    let silu = s.mul(x, sigmoid);
    s.add(sigmoid, s.neg_mul_add(silu, sigmoid, silu))
}

/// Σ a·b, in a fixed order.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut sums = [s.zero(); 4];
    let (a_wide, b_wide) = (a.chunks_exact(4 * S::LANES), b.chunks_exact(4 * S::LANES));
    let (a_rest, b_rest) = (a_wide.remainder(), b_wide.remainder());
    for (a, b) in a_wide.zip(b_wide) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = s.mul_add(s.load(&a[i * S::LANES..]), s.load(&b[i * S::LANES..]), *sum);
        }
    }
    for (a, b) in a_rest.chunks(S::LANES).zip(b_rest.chunks(S::LANES)) {
        sums[0] = s.mul_add(s.load(a), s.load(b), sums[0]);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// x ← factor·x
#[inline(always)]
pub(crate) fn scale_in_place<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    for x in x.chunks_mut(S::LANES) {
        let scaled = s.mul(s.load(x), factor);
        s.store(x, scaled);
    }
}

/// The largest value, −∞ of none.
#[inline(always)]
pub(crate) fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut most = [s.splat(f32::NEG_INFINITY); 4];
    let wide = x.chunks_exact(4 * S::LANES);
    let rest = wide.remainder();
    for x in wide {
        for (i, most) in most.iter_mut().enumerate() {
            *most = s.max(*most, s.load(&x[i * S::LANES..]));
        }
    }
    let whole = rest.chunks_exact(S::LANES);
    let last = whole.remainder();
    for x in whole {
        most[0] = s.max(most[0], s.load(x));
    }
    let most = s.largest(s.max(s.max(most[0], most[1]), s.max(most[2], most[3])));
    last.iter().fold(most, |most, &x| most.max(x))
}
