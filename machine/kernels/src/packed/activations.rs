//! Rows of activations as signed bytes, a scale for each group of columns: what packed weights multiply with.
//!
//! They lie run by run, 256 columns of all rows, so that the rows that a kernel takes together are neighbours: rows
//! that are a power of two apart would fall on the same lines of the first cache.

use super::Class;
use crate::pool;
use numeric::{AlignedBytes, PackedView};

/// Columns of a run; the last one may have fewer, and then has room for as many.
pub(super) const RUN: usize = 256;

/// Values that a task rounds: some tens of microseconds.
const VALUES_PER_TASK: usize = 1 << 15;

/// Quantized rows.
pub(super) struct Activations {
    pub(super) columns: usize,
    pub(super) class: Class,
    tokens: usize,
    groups_per_run: usize,
    subs_per_run: usize,
    /// `[runs, T, 256]` signed bytes.
    codes: AlignedBytes,
    /// `[runs, T, 256 / group]`: value = scale · code.
    scales: Vec<f32>,
    /// `[runs, T, 256 / sub]`: −offset times the sum of each sub-group's codes, where the weights' codes have an
    /// offset.
    sums: Vec<i32>,
    /// `[runs, T, 256 / sub]`: the sums themselves, where minima are stored.
    plain_sums: Vec<i16>,
}

/// One run of one row, by pointers: kernels walk over it.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) codes: *const i8,
    pub(super) scales: *const f32,
    /// One of the two is not there, and not read.
    pub(super) sums: *const i32,
    pub(super) plain_sums: *const i16,
}

/// The whole of the four, of which tasks write different rows.
#[derive(Clone, Copy)]
struct Whole {
    tokens: usize,
    codes: *mut u8,
    scales: *mut f32,
    sums: *mut i32,
    plain_sums: *mut i16,
}

// SAFETY: tasks write disjoint rows, and the vectors outlive them.
unsafe impl Send for Whole {}

/// Rows that are to be rounded.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) class: Class,
}

impl<'a> Plain<'a> {
    /// For products with `weight`.
    pub(super) fn of(x: &'a [f32], weight: PackedView, columns: usize) -> Self {
        Self { x, columns, class: Class::of(weight.format, columns) }
    }
}

impl Activations {
    /// Rounds each group to 255 levels around zero, of all inputs in one go for the threads. Not a number makes its
    /// group's scale one, and all products with it.
    pub(super) fn quantize(inputs: &[Plain]) -> Vec<Self> {
        let mut all: Vec<Self> = inputs.iter().map(|input| Self::zeros(input)).collect();
        let mut tasks = Vec::new();
        for (input, to) in inputs.iter().zip(&mut all) {
            let to = to.whole();
            let tokens_per_task = (VALUES_PER_TASK / input.columns).max(1);
            let rows = input.x.chunks(tokens_per_task * input.columns).enumerate();
            tasks.extend(rows.map(|(task, x)| (task * tokens_per_task, Plain { x, ..*input }, to)));
        }
        pool::for_each(tasks, |(first, Plain { x, columns, class }, to)| {
            for (token, row) in x.chunks_exact(columns).enumerate() {
                for (run, x) in row.chunks(RUN).enumerate() {
                    // SAFETY: no other task has this token.
                    unsafe { to.write(run * to.tokens + first + token, x, class) };
                }
            }
        });
        all
    }

    fn zeros(&Plain { x, columns, class }: &Plain) -> Self {
        let tokens = x.len() / columns;
        let rows = columns.div_ceil(RUN) * tokens;
        let subs = rows * (RUN / class.sub);
        let (shifted, unshifted) = if class.offset == 0 { (0, subs) } else { (subs, 0) };
        Self {
            columns,
            class,
            tokens,
            groups_per_run: RUN / class.group,
            subs_per_run: RUN / class.sub,
            codes: AlignedBytes::zeros(rows * RUN),
            scales: vec![0.0; rows * (RUN / class.group)],
            sums: vec![0; shifted],
            plain_sums: vec![0; unshifted],
        }
    }

    fn whole(&mut self) -> Whole {
        Whole {
            tokens: self.tokens,
            codes: self.codes.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            plain_sums: self.plain_sums.as_mut_ptr(),
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Of a token and a run that there are.
    #[inline(always)]
    pub(super) fn run(&self, token: usize, run: usize) -> Run {
        debug_assert!(token < self.tokens && run * RUN < self.columns, "run {run} of token {token}");
        let row = run * self.tokens + token;
        let sub = row * self.subs_per_run;
        Run {
            codes: self.codes.as_ptr().wrapping_add(row * RUN).cast(),
            scales: self.scales.as_ptr().wrapping_add(row * self.groups_per_run),
            sums: self.sums.as_ptr().wrapping_add(sub),
            plain_sums: self.plain_sums.as_ptr().wrapping_add(sub),
        }
    }

    /// For the definition: codes and scales of a token.
    pub(super) fn parts(&self, token: usize) -> (Vec<i8>, Vec<f32>) {
        let row = |column: usize| column / RUN * self.tokens + token;
        let code = |column: usize| self.codes[row(column) * RUN + column % RUN] as i8;
        let (group, groups) = (self.class.group, self.groups_per_run);
        let scale = |index: usize| self.scales[row(index * group) * groups + index % groups];
        ((0..self.columns).map(code).collect(), (0..self.columns / group).map(scale).collect())
    }
}

impl Whole {
    /// Rounds one run of a token into row `row`.
    ///
    /// # Safety
    /// The row exists, and nobody else has it.
    unsafe fn write(&self, row: usize, x: &[f32], class: Class) {
        let Class { group, sub, offset } = class;
        let (groups, subs) = (RUN / group, RUN / sub);
        // SAFETY: as promised by the caller; of the sums only those that there are.
        let (codes, scales) = unsafe {
            let codes = std::slice::from_raw_parts_mut(self.codes.add(row * RUN), x.len());
            (codes, std::slice::from_raw_parts_mut(self.scales.add(row * groups), x.len() / group))
        };
        for ((x, codes), scale) in x.chunks_exact(group).zip(codes.chunks_exact_mut(group)).zip(scales) {
            *scale = round_to_bytes(x, codes);
        }
        for (index, codes) in codes.chunks_exact(sub).enumerate() {
            let sum: i32 = codes.iter().map(|&code| i32::from(code as i8)).sum();
            // SAFETY: as above.
            unsafe {
                match offset {
                    // At most 32 · 127.
                    0 => self.plain_sums.add(row * subs + index).write(sum as i16),
                    _ => self.sums.add(row * subs + index).write(-offset * sum),
                }
            }
        }
    }
}

/// Rounds numbers to 255 levels around zero, as signed bytes, and returns what one level is worth; not a number where
/// one of them is none. Written so that the compiler makes vectors of it: no branch, no call.
pub(crate) fn round_to_bytes(x: &[f32], codes: &mut [u8]) -> f32 {
    let mut largest = [0f32; 16];
    let mut sum = [0f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for lane in 0..16 {
            largest[lane] = largest[lane].max(x[lane].abs());
            sum[lane] += x[lane];
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        largest[lane] = largest[lane].max(x.abs());
        sum[lane] += x;
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
        let class = Class::of(Format::Q4K, 512);
        let mut rng = Rng::new(3);
        let mut x: Vec<f32> = (0..3 * 512).map(|_| rng.normal() as f32).collect();
        x[256..512].fill(0.0);
        let quantize = |x: &[f32]| Activations::quantize(&[Plain { x, columns: 512, class }]).remove(0);
        let quantized = quantize(&x);
        for token in 0..3 {
            let (codes, scales) = quantized.parts(token);
            for (column, &code) in codes.iter().enumerate() {
                let (have, want) = (scales[column / 256] * f32::from(code), x[512 * token + column]);
                assert!((have - want).abs() <= 0.501 * scales[column / 256], "{have} stands for {want}");
            }
            for (run, codes) in codes.chunks(RUN).enumerate() {
                for (sub, codes) in codes.chunks(32).enumerate() {
                    // SAFETY: the run has eight sub-groups.
                    let sum = unsafe { *quantized.run(token, run).plain_sums.add(sub) };
                    assert_eq!(codes.iter().map(|&code| i16::from(code)).sum::<i16>(), sum);
                }
            }
        }
        x[7] = f32::NAN;
        assert!(quantize(&x).parts(0).1[0].is_nan());
        x[7] = f32::INFINITY;
        assert!(quantize(&x).parts(0).1[0].is_nan());
    }
}
