//! Causal depthwise convolution and SiLU, the definition. T tokens, C channels, K taps.

use crate::real::Real;

/// The input of channel c at token t − K + 1 + tap, which may lie in the tail before the span.
fn input<R: Real>(x: &[R], tail: &[R], channels: usize, kernel: usize, [t, tap, c]: [usize; 3]) -> R {
    match (t + tap + 1).checked_sub(kernel) {
        Some(row) => x[row * channels + c],
        None => tail[(t + tap) * channels + c],
    }
}

/// pre = Σ_tap weight[c, tap]·x[t − K + 1 + tap], y = silu(pre); the tail becomes the last K − 1 inputs.
pub fn forward<R: Real>(y: &mut [R], pre: &mut [R], x: &[R], weight: &[R], tail: &mut [R], kernel: usize) {
    let channels = weight.len() / kernel;
    let tokens = x.len() / channels;
    for t in 0..tokens {
        for c in 0..channels {
            let mut sum = R::zero();
            for tap in 0..kernel {
                sum += weight[c * kernel + tap] * input(x, tail, channels, kernel, [t, tap, c]);
            }
            pre[t * channels + c] = sum;
            y[t * channels + c] = sum.silu();
        }
    }
    let joined: Vec<R> = tail.iter().chain(x).copied().collect();
    tail.copy_from_slice(&joined[tokens * channels..]);
}

/// dx += and dweight += the adjoint; dtail comes with the gradient into the tail that is left, and is left with that
/// into the one that was found.
pub fn backward<R: Real>(
    [dx, dweight, dtail]: [&mut [R]; 3],
    dy: &[R],
    [pre, x, weight, tail]: [&[R]; 4],
    kernel: usize,
) {
    let channels = weight.len() / kernel;
    let mut djoined = vec![R::zero(); tail.len() + x.len()];
    djoined[x.len()..].copy_from_slice(dtail);
    for t in 0..x.len() / channels {
        for c in 0..channels {
            let slope = dy[t * channels + c] * pre[t * channels + c].silu_slope();
            for tap in 0..kernel {
                dweight[c * kernel + tap] += slope * input(x, tail, channels, kernel, [t, tap, c]);
                djoined[(t + tap) * channels + c] += slope * weight[c * kernel + tap];
            }
        }
    }
    let (into_tail, into_x) = djoined.split_at(tail.len());
    dtail.copy_from_slice(into_tail);
    dx.iter_mut().zip(into_x).for_each(|(sum, &value)| *sum += value);
}
