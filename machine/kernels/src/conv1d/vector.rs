//! The convolution over vectors, lanes along the channels. C channels, K taps; weights come transposed, [K, C].

use crate::simd::{Disjoint, Simd, sigmoid, silu_slope, variants};

/// One span's inputs: token t − K + 1 + tap lies in x, or before it in the tail.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) x: &'a [f32],
    pub(super) tail: &'a [f32],
    pub(super) weight_kc: &'a [f32],
    pub(super) kernel: usize,
}

impl<'a> Span<'a> {
    #[inline(always)]
    fn channels(&self) -> usize {
        self.weight_kc.len() / self.kernel
    }

    #[inline(always)]
    fn weight_c(&self, tap: usize) -> &'a [f32] {
        &self.weight_kc[tap * self.channels()..(tap + 1) * self.channels()]
    }

    #[inline(always)]
    fn input_c(&self, t: usize, tap: usize) -> &'a [f32] {
        let channels = self.channels();
        match (t + tap + 1).checked_sub(self.kernel) {
            Some(row) => &self.x[row * channels..(row + 1) * channels],
            None => &self.tail[(t + tap) * channels..(t + tap + 1) * channels],
        }
    }
}

/// weight [C, K] as [K, C].
#[inline(always)]
fn transposed<S: Simd>(s: S, weight_kc: &mut [f32], weight: &[f32], [channels, kernel]: [usize; 2]) {
    s.transpose((weight_kc, channels), (weight, kernel), [channels, kernel]);
}
variants! { fn transpose(weight_kc: &mut [f32], weight: &[f32], shape: [usize; 2]) = transposed }

/// The taps that all released models have, done in one pass.
const COMMON: usize = 4;

/// Tokens from `first` on, as many as y holds.
#[inline(always)]
fn forward<S: Simd>(s: S, y: &mut [f32], pre: &mut [f32], span: Span, first: usize) {
    let channels = span.channels();
    for (index, (y_c, pre_c)) in y.chunks_exact_mut(channels).zip(pre.chunks_exact_mut(channels)).enumerate() {
        let t = first + index;
        if span.kernel == COMMON {
            let x_c: [&[f32]; COMMON] = std::array::from_fn(|tap| span.input_c(t, tap));
            let weight_c: [&[f32]; COMMON] = std::array::from_fn(|tap| span.weight_c(tap));
            for c in (0..channels).step_by(S::LANES) {
                let mut sum = s.zero();
                for tap in 0..COMMON {
                    sum = s.mul_add(s.load(&weight_c[tap][c..]), s.load(&x_c[tap][c..]), sum);
                }
                s.store(&mut pre_c[c..], sum);
                s.store(&mut y_c[c..], s.mul(sum, sigmoid(s, sum)));
            }
            continue;
        }
        pre_c.fill(0.0);
        for tap in 0..span.kernel {
            let (weight_c, x_c) = (span.weight_c(tap), span.input_c(t, tap));
            for c in (0..channels).step_by(S::LANES) {
                let sum = s.mul_add(s.load(&weight_c[c..]), s.load(&x_c[c..]), s.load(&pre_c[c..]));
                s.store(&mut pre_c[c..], sum);
            }
        }
        for (y, pre) in y_c.chunks_mut(S::LANES).zip(pre_c.chunks(S::LANES)) {
            let pre = s.load(pre);
            s.store(y, s.mul(pre, sigmoid(s, pre)));
        }
    }
}
variants! { fn forward_tokens(y: &mut [f32], pre: &mut [f32], span: Span, first: usize) = forward }

/// The sums of `forward`, in its order, for one token and the channels from `first` on that y has room for; x [C] and
/// weight [C, K] have all. The tail [K − 1, C] of these channels moves on by the token. `turned` has room for the
/// weights of these channels, and keeps nothing.
///
/// # Safety
/// No one else has these channels of the tail.
#[inline(always)]
pub(crate) unsafe fn step<S: Simd>(
    s: S,
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    tail: &Disjoint,
    [first, kernel]: [usize; 2],
    turned: &mut [f32],
) {
    let (channels, count) = (x.len(), y.len());
    let turned = &mut turned[..count * kernel];
    s.transpose((turned, count), (&weight[first * kernel..], kernel), [count, kernel]);
    // SAFETY: these channels are the caller's, and a row of them is not held beyond this.
    let row = |tap: usize| unsafe { tail.part(tap * channels + first, count) };
    for c in (0..count).step_by(S::LANES) {
        let mut sum = s.zero();
        for tap in 0..kernel {
            let weight = s.load(&turned[tap * count + c..(tap + 1) * count]);
            let input = match tap + 1 == kernel {
                true => s.load(&x[first + c..first + count]),
                false => s.load(&row(tap)[c..]),
            };
            sum = s.mul_add(weight, input, sum);
            if tap > 0 {
                s.store(&mut row(tap - 1)[c..], input);
            }
        }
        s.store(&mut y[c..], s.mul(sum, sigmoid(s, sum)));
    }
}

/// Tokens from `first` on, as many as dx holds; dy and pre are the whole span's, dweight is [K, C].
#[inline(always)]
fn backward<S: Simd>(s: S, [dx, dweight]: [&mut [f32]; 2], [dy, pre]: [&[f32]; 2], span: Span, first: usize) {
    let channels = span.channels();
    let rows = dx.len() / channels;
    // The slopes before the SiLU, also of the tokens after the block that look back into it.
    let end = (first + rows + span.kernel - 1).min(dy.len() / channels);
    let mut slopes = vec![0.0; (end - first) * channels];
    let range = first * channels..end * channels;
    let from = dy[range.clone()].chunks(S::LANES).zip(pre[range].chunks(S::LANES));
    for (slope, (dy, pre)) in slopes.chunks_mut(S::LANES).zip(from) {
        let pre = s.load(pre);
        s.store(slope, s.mul(s.load(dy), silu_slope(s, pre, sigmoid(s, pre))));
    }
    for (index, dx_c) in dx.chunks_exact_mut(channels).enumerate() {
        let slope_c = &slopes[index * channels..(index + 1) * channels];
        for tap in 0..span.kernel {
            let x_c = span.input_c(first + index, tap);
            let dweight_c = &mut dweight[tap * channels..(tap + 1) * channels];
            for c in (0..channels).step_by(S::LANES) {
                let sum = s.mul_add(s.load(&slope_c[c..]), s.load(&x_c[c..]), s.load(&dweight_c[c..]));
                s.store(&mut dweight_c[c..], sum);
            }
            // Token `index` is seen through this tap by the token K − 1 − tap later, if the span goes that far.
            let seer = (index + span.kernel - 1 - tap) * channels;
            if let Some(slope_c) = slopes.get(seer..seer + channels) {
                let weight_c = span.weight_c(tap);
                for c in (0..channels).step_by(S::LANES) {
                    let sum = s.mul_add(s.load(&weight_c[c..]), s.load(&slope_c[c..]), s.load(&dx_c[c..]));
                    s.store(&mut dx_c[c..], sum);
                }
            }
        }
    }
}
variants! {
    fn backward_tokens(gradients: [&mut [f32]; 2], given: [&[f32]; 2], span: Span, first: usize) = backward
}
