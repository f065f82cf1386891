//! Rows of activations as signed bytes, a scale for each group of columns: what packed weights multiply with.

use super::Class;
use crate::pool;
use numeric::AlignedBytes;

/// Values that a task rounds: some tens of microseconds.
const VALUES_PER_TASK: usize = 1 << 17;

/// What one task reads and writes: values; their codes, scales and sums.
type Part<'a> = (((&'a [f32], &'a mut [u8]), &'a mut [f32]), &'a mut [i32]);

/// Quantized rows `[T, K]`.
pub(super) struct Activations {
    pub(super) columns: usize,
    pub(super) class: Class,
    /// `[T, K]` signed bytes.
    codes: AlignedBytes,
    /// `[T, K / group]`: value = scale · code.
    scales: Vec<f32>,
    /// `[T, K / sub]`: the sum of each sub-group's codes; times −offset where the weights' codes have one.
    sums: Vec<i32>,
}

/// One row, by pointers: kernels walk over it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) codes: *const i8,
    pub(super) scales: *const f32,
    pub(super) sums: *const i32,
}

impl Activations {
    /// Rounds each group to 255 levels around zero. Not a number makes its group's scale one, and all products with it.
    pub(super) fn quantize(x: &[f32], columns: usize, class: Class) -> Self {
        let tokens = x.len() / columns;
        let mut codes = AlignedBytes::zeros(tokens * columns);
        let mut scales = vec![0.0; x.len() / class.group];
        let mut sums = vec![0; x.len() / class.sub];
        let factor = if class.offset == 0 { 1 } else { -class.offset };
        // Whole rows to a task, since every row is whole groups.
        let chunk = (VALUES_PER_TASK / columns).max(1) * columns;
        let parts = x.chunks(chunk).zip(codes.chunks_mut(chunk));
        let parts = parts.zip(scales.chunks_mut(chunk / class.group)).zip(sums.chunks_mut(chunk / class.sub));
        pool::for_each(parts.collect(), |(((x, codes), scales), sums): Part<'_>| {
            let groups = x.chunks_exact(class.group).zip(codes.chunks_exact_mut(class.group));
            for ((x, codes), scale) in groups.zip(scales) {
                *scale = quantize_group(x, codes);
            }
            for (codes, sum) in codes.chunks_exact(class.sub).zip(sums) {
                *sum = factor * codes.iter().map(|&code| i32::from(code as i8)).sum::<i32>();
            }
        });
        Self { columns, class, codes, scales, sums }
    }

    pub(super) fn tokens(&self) -> usize {
        self.codes.len() / self.columns
    }

    pub(super) fn row(&self, token: usize) -> Row {
        assert!(token < self.tokens(), "token {token} of {}", self.tokens());
        Row {
            codes: self.codes[token * self.columns..].as_ptr().cast(),
            scales: self.scales[token * (self.columns / self.class.group)..].as_ptr(),
            sums: self.sums[token * (self.columns / self.class.sub)..].as_ptr(),
        }
    }

    /// For the definition: codes, scales and sums of a token.
    pub(super) fn parts(&self, token: usize) -> (Vec<i8>, &[f32], &[i32]) {
        let of = |per: usize| token * (self.columns / per)..(token + 1) * (self.columns / per);
        let codes = self.codes[of(1)].iter().map(|&code| code as i8).collect();
        (codes, &self.scales[of(self.class.group)], &self.sums[of(self.class.sub)])
    }
}

/// Written so that the compiler makes vectors of it: no branch, no call.
fn quantize_group(x: &[f32], codes: &mut [u8]) -> f32 {
    let mut largest = [0f32; 16];
    let mut sum = [0f32; 16];
    for x in x.as_chunks::<16>().0 {
        for lane in 0..16 {
            largest[lane] = largest[lane].max(x[lane].abs());
            sum[lane] += x[lane];
        }
    }
    let largest = largest.iter().fold(0f32, |a, &b| a.max(b));
    // `max` drops what is not a number; the sum does not.
    if !largest.is_finite() || sum.iter().any(|sum| sum.is_nan()) {
        codes.fill(1);
        return f32::NAN;
    }
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    // Adding and taking away 1.5 · 2²³ rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    for (code, &x) in codes.iter_mut().zip(x) {
        let rounded = (x * inverse).clamp(-127.0, 127.0) + ROUND;
        *code = rounded.to_bits() as u8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::{Format, Rng};

    #[test]
    fn codes_are_the_nearest() {
        let class = Class::of(Format::Q4K);
        let mut rng = Rng::new(3);
        let mut x: Vec<f32> = (0..3 * 512).map(|_| rng.normal() as f32).collect();
        x[256..512].fill(0.0);
        let quantized = Activations::quantize(&x, 512, class);
        for token in 0..3 {
            let (codes, scales, sums) = quantized.parts(token);
            for (column, &code) in codes.iter().enumerate() {
                let (have, want) = (scales[column / 256] * f32::from(code), x[512 * token + column]);
                assert!((have - want).abs() <= 0.501 * scales[column / 256], "{have} stands for {want}");
            }
            for (codes, &sum) in codes.chunks(32).zip(sums) {
                assert_eq!(codes.iter().map(|&code| i32::from(code)).sum::<i32>(), sum);
            }
        }
        x[7] = f32::NAN;
        assert!(Activations::quantize(&x, 512, class).parts(0).1[0].is_nan());
        x[7] = f32::INFINITY;
        assert!(Activations::quantize(&x, 512, class).parts(0).1[0].is_nan());
    }
}
