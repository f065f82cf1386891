//! RMS normalisation, the definition. W is the width of a row.

use crate::real::Real;

fn inverse_root<R: Real>(x_w: &[R], epsilon: R) -> R {
    let mut sum = R::zero();
    for &x in x_w {
        sum += x * x;
    }
    R::one() / (sum / R::of(x_w.len() as f64) + epsilon).sqrt()
}

/// y = (offset + weight)·x / sqrt(mean(x²) + epsilon), row by row.
pub fn forward<R: Real>(y: &mut [R], x: &[R], weight: &[R], offset: R, epsilon: R) {
    let width = weight.len();
    for (y_w, x_w) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let inverse = inverse_root(x_w, epsilon);
        for i in 0..width {
            y_w[i] = (offset + weight[i]) * (x_w[i] * inverse);
        }
    }
}

/// With n = x·r and h = dy·(offset + weight): dx += r·(h − n·mean(h·n)), dweight += dy·n.
pub fn backward<R: Real>(dx: &mut [R], dweight: &mut [R], dy: &[R], x: &[R], weight: &[R], offset: R, epsilon: R) {
    let width = weight.len();
    for ((dx_w, dy_w), x_w) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)) {
        let inverse = inverse_root(x_w, epsilon);
        let mut mean = R::zero();
        for i in 0..width {
            mean += dy_w[i] * (offset + weight[i]) * (x_w[i] * inverse);
        }
        mean = mean / R::of(width as f64);
        for i in 0..width {
            let normal = x_w[i] * inverse;
            dx_w[i] += inverse * (dy_w[i] * (offset + weight[i]) - normal * mean);
            dweight[i] += dy_w[i] * normal;
        }
    }
}

/// y = forward(x)·silu(gate)
pub fn gated_forward<R: Real>(y: &mut [R], x: &[R], gate: &[R], weight: &[R], offset: R, epsilon: R) {
    forward(y, x, weight, offset, epsilon);
    for (y, gate) in y.iter_mut().zip(gate) {
        *y *= gate.silu();
    }
}

/// The adjoint of [`gated_forward`] in `[dx, dgate, dweight]`, each added to.
pub fn gated_backward<R: Real>(
    [dx, dgate, dweight]: [&mut [R]; 3],
    dy: &[R],
    [x, gate, weight]: [&[R]; 3],
    offset: R,
    epsilon: R,
) {
    let mut normal = vec![R::zero(); x.len()];
    forward(&mut normal, x, weight, offset, epsilon);
    let mut dnormal = vec![R::zero(); x.len()];
    for i in 0..x.len() {
        dgate[i] += dy[i] * normal[i] * gate[i].silu_slope();
        dnormal[i] = dy[i] * gate[i].silu();
    }
    backward(dx, dweight, &dnormal, x, weight, offset, epsilon);
}
