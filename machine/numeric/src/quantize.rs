//! f32 values into each format, rounded to nearest.

use crate::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use crate::matrix::{Format, Matrix, Storage};
use crate::minifloat::{E2M1_VALUES, E4M3_MAX, E4M3_VALUES, e8m0_to_f32, f32_to_e2m1, f32_to_e4m3};
use half::{bf16, f16};

impl Matrix {
    /// The matrix nearest to `values` in `format`. Block formats want finite values and whole blocks a row.
    ///
    /// - Q8_0: scale = the block's largest magnitude / 127.
    /// - MXFP4: of the two power-of-two scales around largest / 6, the one with the least squared error.
    /// - NVFP4: tensor scale = largest / (6 · 448); each group's E4M3 scale is the one with the least squared error
    ///   among those that bring the largest to about 6 or to about 4: E2M1 has nothing between the two, so either may
    ///   suit the rest better (as in "Four Over Six", arXiv 2512.02010).
    pub fn quantize(values: &[f32], rows: usize, columns: usize, format: Format) -> Self {
        assert_eq!(values.len(), rows * columns, "{rows} × {columns} does not match {} values", values.len());
        format.row_bytes(columns);
        let in_blocks = format.block_columns() > 1;
        assert!(!in_blocks || values.iter().all(|v| v.is_finite()), "{format:?} cannot hold infinities or NaN");
        let storage = match format {
            Format::F32 => Storage::F32(values.to_vec()),
            Format::Bf16 => Storage::Bf16(values.iter().map(|&v| bf16::from_f32(v)).collect()),
            Format::F16 => Storage::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
            Format::Q8_0 => Storage::Q8_0(values.as_chunks().0.iter().map(BlockQ8::quantize).collect()),
            Format::Mxfp4 => Storage::Mxfp4(values.as_chunks().0.iter().map(BlockMxfp4::quantize).collect()),
            Format::Nvfp4 => {
                let tensor_scale = nvfp4_tensor_scale(values);
                let blocks = values.as_chunks().0.iter().map(|v| BlockNvfp4::quantize(v, tensor_scale)).collect();
                Storage::Nvfp4 { blocks, tensor_scale }
            }
            _ => panic!("{format:?} is read, not written"),
        };
        Self { rows, columns, storage }
    }
}

impl BlockQ8 {
    pub fn quantize(values: &[f32; 32]) -> Self {
        // A block beyond f16's range keeps its largest scale and saturates.
        let scale = f16::from_f32((largest(values) / 127.0).min(f16::MAX.to_f32()));
        // Divide by the scale as it was stored, so that its own rounding is made good.
        let divisor = scale.to_f32();
        let inverse = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
        Self { scale, quants: values.map(|v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8) }
    }
}

impl BlockMxfp4 {
    pub fn quantize(values: &[f32; 32]) -> Self {
        let amax = largest(values);
        if amax == 0.0 {
            return Self { scale: 0, quants: [0; 16] };
        }
        // The exponent at which the largest value lands in [4, 8): it may saturate at 6; one more never saturates.
        let exponent = (f64::from(amax).log2().floor() as i32 - 2 + 127).clamp(0, 254);
        let candidates = [exponent as u8, (exponent + 1).min(254) as u8];
        let scale = least_error(&candidates, values, e8m0_to_f32);
        let codes = e2m1_codes(values, e8m0_to_f32(scale));
        Self { scale, quants: std::array::from_fn(|j| codes[j] | (codes[j + 16] << 4)) }
    }
}

/// From the scale that brings the largest of a group to 6: its neighbours, and those around one and a half times it, in
/// steps of E4M3, of which eight double it.
const NVFP4_STEPS: [i8; 6] = [0, -1, 1, 4, 5, 6];

impl BlockNvfp4 {
    pub fn quantize(values: &[f32; 64], tensor_scale: f32) -> Self {
        let mut block = Self { scales: [0; 4], quants: [0; 32] };
        for (group, values) in values.as_chunks::<16>().0.iter().enumerate() {
            let amax = largest(values);
            if amax == 0.0 {
                continue;
            }
            let rounded = f32_to_e4m3(amax / 6.0 / tensor_scale);
            let candidates = NVFP4_STEPS.map(|step| rounded.saturating_add_signed(step).clamp(1, 0x7E));
            let value = |code: u8| E4M3_VALUES[code as usize] * tensor_scale;
            let scale = least_error(&candidates, values, value);
            let codes = e2m1_codes(values, value(scale));
            block.scales[group] = scale;
            for j in 0..8 {
                block.quants[8 * group + j] = codes[j] | (codes[j + 8] << 4);
            }
        }
        block
    }
}

/// The scale over the whole tensor that puts its largest group scale at the top of E4M3. It is the reciprocal of a
/// number, as that is what files hold: writing and reading it changes nothing.
pub fn nvfp4_tensor_scale(values: &[f32]) -> f32 {
    match largest(values) {
        0.0 => 1.0,
        amax => (amax / (6.0 * E4M3_MAX)).max(f32::MIN_POSITIVE).recip().recip(),
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

fn e2m1_codes<const N: usize>(values: &[f32; N], scale: f32) -> [u8; N] {
    // Divide rather than multiply by an inverse: 1 / 2^−127 is infinite.
    values.map(|v| f32_to_e2m1(v / scale))
}

/// The first of `candidates` with the least squared error over `values`.
fn least_error<const N: usize>(candidates: &[u8], values: &[f32; N], scale_of: impl Fn(u8) -> f32) -> u8 {
    let error = |code: u8| -> f64 {
        let scale = scale_of(code);
        let codes = e2m1_codes(values, scale);
        let pairs = values.iter().zip(codes);
        pairs.map(|(&v, c)| (f64::from(v) - f64::from(E2M1_VALUES[c as usize] * scale)).powi(2)).sum()
    };
    let mut best = (candidates[0], error(candidates[0]));
    for &code in &candidates[1..] {
        let this = error(code);
        if this < best.1 {
            best = (code, this);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_scales_survive_a_file() {
        for mantissa in 0..1 << 23 {
            let scale = nvfp4_tensor_scale(&[f32::from_bits(0x3F80_0000 | mantissa)]);
            assert_eq!(scale.recip().recip(), scale);
        }
        for extreme in [f32::MIN_POSITIVE, 1e-45, f32::MAX] {
            let scale = nvfp4_tensor_scale(&[extreme]);
            assert!(scale.is_normal() && scale.recip().recip() == scale, "{extreme} has the scale {scale}");
        }
    }
}
