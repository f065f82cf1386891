//! L2 normalisation, the definition.

use crate::real::Real;

/// y = scale·x / sqrt(Σx² + epsilon), row by row.
pub fn forward<R: Real>(y: &mut [R], x: &[R], width: usize, scale: R) {
    for (y_w, x_w) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let inverse = inverse_root(x_w);
        for i in 0..width {
            y_w[i] = scale * (x_w[i] * inverse);
        }
    }
}

/// With r the inverse root and n = x·r: dx += scale·r·(dy − n·⟨dy, n⟩).
pub fn backward<R: Real>(dx: &mut [R], dy: &[R], x: &[R], width: usize, scale: R) {
    for ((dx_w, dy_w), x_w) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)) {
        let inverse = inverse_root(x_w);
        let mut along = R::zero();
        for i in 0..width {
            along += dy_w[i] * (x_w[i] * inverse);
        }
        for i in 0..width {
            dx_w[i] += scale * inverse * (dy_w[i] - x_w[i] * inverse * along);
        }
    }
}

fn inverse_root<R: Real>(x_w: &[R]) -> R {
    let mut sum = R::of(f64::from(super::EPSILON));
    for &x in x_w {
        sum += x * x;
    }
    R::one() / sum.sqrt()
}
