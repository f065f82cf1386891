//! Every format against its definition in f64: what bytes mean, what rounding picks, what files hold.

use numeric::minifloat::{E2M1_VALUES, e8m0_to_f32};
use numeric::{BytesError, Data, Format, Matrix, Rng};

const FORMATS: [Format; 6] = [Format::F32, Format::Bf16, Format::F16, Format::Q8_0, Format::Mxfp4, Format::Nvfp4];

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    // Rows of very different sizes, so that a scale taken from the wrong block shows.
    (0..count).map(|i| (rng.normal() * 10f64.powi((i / 64 % 5) as i32 - 2)) as f32).collect()
}

/// The meaning of file bytes, from the format's description and in f64, sharing nothing with the code under test.
fn define(format: Format, bytes: &[u8], index: usize, tensor_scale: f64) -> f64 {
    let float = |b: &[u8], exponent_bits: i32, mantissa_bits: i32| {
        let bits = b.iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte));
        let sign = if bits >> (exponent_bits + mantissa_bits) & 1 == 1 { -1.0 } else { 1.0 };
        let bias = (1 << (exponent_bits - 1)) - 1;
        let e = (bits >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
        let m = (bits & ((1 << mantissa_bits) - 1)) as f64 * 2f64.powi(-mantissa_bits);
        sign * if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e - bias) }
    };
    let e2m1 = |code: u8| float(&[code & 15], 2, 1);
    match format {
        Format::F32 => float(&bytes[4 * index..4 * index + 4], 8, 23),
        Format::Bf16 => float(&bytes[2 * index..2 * index + 2], 8, 7),
        Format::F16 => float(&bytes[2 * index..2 * index + 2], 5, 10),
        Format::Q8_0 => {
            let block = &bytes[index / 32 * 34..];
            float(&block[..2], 5, 10) * f64::from(block[2 + index % 32] as i8)
        }
        Format::Mxfp4 => {
            let (block, j) = (&bytes[index / 32 * 17..], index % 32);
            2f64.powi(i32::from(block[0]) - 127) * e2m1(block[1 + j % 16] >> (j / 16 * 4))
        }
        Format::Nvfp4 => {
            let (block, group, j) = (&bytes[index / 64 * 36..], index % 64 / 16, index % 16);
            let code = block[4 + 8 * group + j % 8] >> (j / 8 * 4);
            tensor_scale * float(&[block[group]], 4, 3) * e2m1(code)
        }
        _ => unreachable!("{format:?} is only read: tests/ggml.rs"),
    }
}

fn tensor_scale(matrix: &Matrix) -> f64 {
    match matrix.view().data {
        Data::Nvfp4 { tensor_scale, .. } => f64::from(tensor_scale),
        _ => 1.0,
    }
}

#[test]
fn dequantized_values_are_what_the_bytes_mean() {
    let (rows, columns) = (5, 192);
    let values = random(rows * columns, 1);
    for format in FORMATS {
        let matrix = Matrix::quantize(&values, rows, columns, format);
        let bytes = matrix.to_le_bytes();
        assert_eq!(bytes.len(), matrix.bytes());
        for (index, have) in matrix.to_f32().into_iter().enumerate() {
            let want = define(format, &bytes, index, tensor_scale(&matrix));
            assert!((f64::from(have) - want).abs() <= want.abs() * 1e-7, "{format:?} [{index}]: {have}, want {want}");
        }
    }
}

#[test]
fn rounding_errors_stay_within_each_format() {
    let (rows, columns) = (7, 320);
    let values = random(rows * columns, 2);
    for format in FORMATS {
        let have = Matrix::quantize(&values, rows, columns, format).to_f32();
        let block = format.block_columns().clamp(1, 32);
        for (start, chunk) in values.chunks(block).enumerate().map(|(i, c)| (i * block, c)) {
            let amax = chunk.iter().fold(0f32, |a, v| a.max(v.abs()));
            for (j, &v) in chunk.iter().enumerate() {
                let bound = match format {
                    Format::F32 => 0.0,
                    Format::Bf16 => v.abs() / 256.0,
                    Format::F16 => v.abs() / 2048.0 + 3e-8,
                    // Half a step, and half a step more at the ends for the scale's own rounding.
                    Format::Q8_0 => amax / 127.0 * 0.57,
                    // The widest gap is 2 of 6; a saturated 7.99 is off by 1.99 of 8.
                    Format::Mxfp4 => amax * 0.25,
                    Format::Nvfp4 => amax * 0.21,
                    _ => unreachable!("{format:?} is only read"),
                };
                let error = (have[start + j] - v).abs();
                assert!(error <= bound, "{format:?}: {v} became {} (bound {bound})", have[start + j]);
            }
        }
    }
}

#[test]
fn bytes_round_trip_and_wrong_lengths_are_refused() {
    let (rows, columns) = (3, 128);
    for format in FORMATS {
        let matrix = Matrix::quantize(&random(rows * columns, 3), rows, columns, format);
        let bytes = matrix.to_le_bytes();
        let mut back = Matrix::from_le_bytes(rows, columns, format, &bytes).expect("the length is right");
        if format == Format::Nvfp4 {
            back = back.with_tensor_scale(tensor_scale(&matrix) as f32);
        }
        assert_eq!(back.to_f32(), matrix.to_f32(), "{format:?}");
        assert_eq!(back.to_le_bytes(), bytes);
        let short = Matrix::from_le_bytes(rows, columns, format, &bytes[1..]);
        assert!(matches!(short, Err(BytesError::Length { found, .. }) if found == bytes.len() - 1), "{short:?}");
        assert!(matches!(Matrix::from_le_bytes(usize::MAX, columns, format, &bytes), Err(BytesError::Length { .. })));
    }
    let split = Matrix::from_le_bytes(2, 48, Format::Nvfp4, &[0; 54]);
    assert_eq!(split.unwrap_err(), BytesError::SplitBlock { columns: 48, format: Format::Nvfp4 });
}

#[test]
fn representable_values_survive_exactly() {
    // Every E2M1 value times one power of two, in both 4-bit formats.
    let values: Vec<f32> = (0..128).map(|i| E2M1_VALUES[i % 16] * 0.25).collect();
    for format in [Format::Mxfp4, Format::Nvfp4, Format::Bf16, Format::F16, Format::F32] {
        let have = Matrix::quantize(&values, 2, 64, format).to_f32();
        let close = have.iter().zip(&values).all(|(h, v)| (h - v).abs() <= v.abs() * 1e-6);
        assert!(close, "{format:?}: {have:?}");
    }
    // 1.27 is not an f16, so powers of two instead.
    let steps: Vec<f32> = (0..64).map(|i| (i as f32 * 4.0 - 127.0) / 64.0).collect();
    assert_eq!(Matrix::quantize(&steps, 1, 64, Format::Q8_0).to_f32()[..32], steps[..32]);
}

#[test]
fn the_scale_search_beats_its_neighbours() {
    let values = random(640, 5);
    let mx = Matrix::quantize(&values, 10, 64, Format::Mxfp4);
    let Data::Mxfp4(blocks) = mx.view().data else { panic!("asked for MXFP4") };
    let error = |values: &[f32], scale: f64| -> f64 {
        let nearest = |v: f64| E2M1_VALUES.iter().map(|&c| (f64::from(c) * scale - v).powi(2)).fold(f64::MAX, f64::min);
        values.iter().map(|&v| nearest(f64::from(v))).sum()
    };
    for (block, values) in blocks.iter().zip(values.chunks(32)) {
        let scale = f64::from(e8m0_to_f32(block.scale));
        let (have, half, double) = (error(values, scale), error(values, scale / 2.0), error(values, scale * 2.0));
        assert!(have <= half * 1.0001 && have <= double * 1.0001, "scale {scale}: {have} against {half}, {double}");
    }
}

#[test]
fn zeros_extremes_and_parts() {
    for format in FORMATS {
        let zeros = Matrix::quantize(&[0.0; 128], 2, 64, format).to_f32();
        assert!(zeros.iter().all(|&v| v == 0.0), "{format:?}");
        for size in [1e-38f32, 1e-20, 1e4] {
            let have = Matrix::quantize(&[size; 64], 1, 64, format).to_f32();
            assert!(have.iter().all(|v| v.is_finite()), "{format:?} of {size}: {have:?}");
        }
        let matrix = Matrix::quantize(&random(7 * 256, 6), 7, 256, format);
        let (all, part) = (matrix.to_f32(), matrix.view().row_range(2..5));
        assert_eq!(part.to_f32(), all[2 * 256..5 * 256]);
        let mut columns = [0.0; 128];
        part.dequantize_columns(1, 64, &mut columns);
        assert_eq!(columns, all[3 * 256 + 64..3 * 256 + 192]);
    }
}

#[test]
#[should_panic(expected = "cannot hold infinities")]
fn block_formats_refuse_infinities() {
    Matrix::quantize(&[f32::INFINITY; 32], 1, 32, Format::Q8_0);
}
