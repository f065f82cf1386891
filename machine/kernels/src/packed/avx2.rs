//! AVX2: a panel's sixteen rows are two vectors of eight; products of bytes are added in pairs, then in fours.
//!
//! SAFETY: runs only where `Cpu` has found AVX2; a part's panels, rows and tokens are those of its job, whose sizes
//! `run_with` has checked; pointers stay within a panel's streams, whose lengths the layout asserts.

use super::activations::{RUN, Run};
use super::{Class, Part, scalar};
use numeric::{Format, PANEL, minifloat::E4M3_VALUES, minifloat::e8m0_to_f32};
use std::arch::x86_64::*;

/// # Safety
/// The machine has AVX2, FMA and F16C; the part's sizes agree.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(part: &Part) {
    for panel in part.panels.clone() {
        let mut token = 0;
        while token < part.tokens() {
            // SAFETY: as promised by the caller.
            token += unsafe {
                match part.tokens() - token {
                    1 => tokens::<1>(part, panel, token),
                    2 | 3 => tokens::<2>(part, panel, token),
                    _ => tokens::<4>(part, panel, token),
                }
            };
        }
    }
}

/// Sixteen rows' numbers.
type Rows = [__m256; 2];

/// The scales and minima of a group, by sub-group.
struct Scales {
    scales: [[f32; PANEL]; 16],
    minima: [[f32; PANEL]; 8],
}

/// One panel by T tokens; returns T.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tokens<const T: usize>(part: &Part, panel: usize, token: usize) -> usize {
    let (format, columns) = (part.weight.format, part.x.columns);
    let Class { group, sub, offset } = part.x.class;
    let (codes, scales) = part.weight.panel(panel, columns);
    let groups = columns / group;
    let (step_bytes, group_bytes) = (codes.len() / (columns / 32), scales.len() / groups);
    let table = scalar::table(format).unwrap_or(&[0; 16]);
    let mut head = Scales { scales: [[0.0; PANEL]; 16], minima: [[0.0; PANEL]; 8] };
    let mut totals = [[_mm256_setzero_ps(); 2]; T];
    for g in 0..groups {
        scales_of_group(format, part.weight.tensor_scale, &scales[g * group_bytes..(g + 1) * group_bytes], &mut head);
        let x: [Run; T] = std::array::from_fn(|t| part.run(token + t, g * group / RUN));
        let first = g * group % RUN;
        let mut sums = [[_mm256_setzero_ps(); 2]; T];
        for step in 0..group / 32 {
            // SAFETY: within the panel's codes and the rows of x.
            unsafe {
                let weights = unpack(format, codes.as_ptr().add((g * group / 32 + step) * step_bytes), table);
                for half in 0..32 / sub {
                    let (local, column) = (step * 32 / sub + half, first + step * 32 + half * sub);
                    let weights = &weights[half * sub / 4..(half + 1) * sub / 4];
                    for t in 0..T {
                        let start = if matches!(offset, 0 | 128) { 0 } else { *x[t].sums.add(column / sub) };
                        let dot = dot(weights, x[t].codes.add(column), start, offset == 128);
                        for (half, sum) in sums[t].iter_mut().enumerate() {
                            let scale = _mm256_loadu_ps(head.scales[local][8 * half..].as_ptr());
                            *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[half]), scale, *sum);
                            if offset == 0 {
                                let minimum = _mm256_loadu_ps(head.minima[local][8 * half..].as_ptr());
                                let codes = _mm256_set1_ps(f32::from(*x[t].plain_sums.add(column / sub)));
                                *sum = _mm256_fnmadd_ps(minimum, codes, *sum);
                            }
                        }
                    }
                }
            }
        }
        for t in 0..T {
            // SAFETY: the row has this group.
            let scale = _mm256_set1_ps(unsafe { *x[t].scales.add(first / group) });
            for (total, sum) in totals[t].iter_mut().zip(sums[t]) {
                *total = _mm256_fmadd_ps(sum, scale, *total);
            }
        }
    }
    for (t, total) in totals.into_iter().enumerate() {
        // SAFETY: as promised by the caller.
        unsafe { store(part, token + t, panel, total) };
    }
    T
}

/// The sum of some fours of columns, for sixteen rows. `signed`: codes are 128 above what they are worth, which the
/// products of pairs could not hold; they are taken as signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot(weights: &[[__m256i; 2]], x: *const i8, start: i32, signed: bool) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [_mm256_set1_epi32(start); 2];
    for (j, weights) in weights.iter().enumerate() {
        // SAFETY: four bytes of the row.
        let four = _mm256_set1_epi32(unsafe { x.add(4 * j).cast::<i32>().read_unaligned() });
        for (dot, &weight) in dots.iter_mut().zip(weights) {
            let pairs = if signed {
                let weight = _mm256_xor_si256(weight, _mm256_set1_epi8(-128));
                _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(four, weight))
            } else {
                _mm256_maddubs_epi16(weight, four)
            };
            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
        }
    }
    dots
}

/// Thirty-two columns: eight fours, sixteen rows each.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack(format: Format, codes: *const u8, table: &[u8; 16]) -> [[__m256i; 2]; 8] {
    let low = _mm256_set1_epi8(15);
    // SAFETY: within the thirty-two columns' codes, as promised by the caller.
    let load =
        |vector: usize, half: usize| unsafe { _mm256_load_si256(codes.add(64 * vector + 32 * half).cast::<__m256i>()) };
    let nibble = |vector: usize, half: usize, four: usize| {
        let pairs = load(vector, half);
        _mm256_and_si256(if four.is_multiple_of(2) { pairs } else { _mm256_srli_epi16::<4>(pairs) }, low)
    };
    // SAFETY: sixteen bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let mut out = [[_mm256_setzero_si256(); 2]; 8];
    for (four, out) in out.iter_mut().enumerate() {
        for (half, out) in out.iter_mut().enumerate() {
            *out = match format {
                Format::Q8_0 => load(four, half),
                Format::Q4_0 | Format::Q4K => nibble(four / 2, half, four),
                Format::Q5K => {
                    let fifth = _mm256_srl_epi16(load(4, half), _mm_cvtsi32_si128(four as i32));
                    let fifth = _mm256_slli_epi16::<4>(_mm256_and_si256(fifth, _mm256_set1_epi8(1)));
                    _mm256_or_si256(nibble(four / 2, half, four), fifth)
                }
                Format::Q6K => {
                    let (start, four) = (four / 4 * 3, four % 4);
                    let pair = _mm256_srl_epi16(load(start + 2, half), _mm_cvtsi32_si128(2 * four as i32));
                    let pair = _mm256_slli_epi16::<4>(_mm256_and_si256(pair, _mm256_set1_epi8(3)));
                    _mm256_or_si256(nibble(start + four / 2, half, four), pair)
                }
                _ => _mm256_shuffle_epi8(table, nibble(four / 2, half, four)),
            };
        }
    }
    out
}

/// Sixteen f16 numbers.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(from: &[u8]) -> [f32; PANEL] {
    let mut out = [0.0; PANEL];
    let from: &[u8; 32] = from.first_chunk().expect("a panel has sixteen numbers");
    for half in 0..2 {
        // SAFETY: sixteen bytes of thirty-two, eight numbers of sixteen.
        unsafe {
            let numbers = _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(16 * half).cast()));
            _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), numbers);
        }
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales_of_group(format: Format, tensor_scale: f32, bytes: &[u8], out: &mut Scales) {
    match format {
        Format::Q8_0 | Format::Q4_0 | Format::Iq4Nl => {
            for (scales, bytes) in out.scales.iter_mut().zip(bytes.chunks_exact(2 * PANEL)) {
                *scales = halves(bytes);
            }
        }
        Format::Mxfp4 => {
            for (scales, bytes) in out.scales.iter_mut().zip(bytes.chunks_exact(PANEL)) {
                (0..PANEL).for_each(|row| scales[row] = 0.5 * e8m0_to_f32(bytes[row]));
            }
        }
        Format::Nvfp4 => {
            for (sub, scales) in out.scales[..bytes.len() / PANEL].iter_mut().enumerate() {
                let value = |row: usize| E4M3_VALUES[usize::from(bytes[PANEL * sub + row])];
                (0..PANEL).for_each(|row| scales[row] = 0.5 * tensor_scale * value(row));
            }
        }
        Format::Q4K | Format::Q5K => {
            let (scale, minimum) = (halves(bytes), halves(&bytes[32..]));
            let packed: &[u8; 192] = bytes[64..].first_chunk().expect("a panel has twelve bytes a row");
            for sub in 0..8 {
                for row in 0..PANEL {
                    let at = |byte: usize| packed[PANEL * byte + row];
                    let (s, m) = if sub < 4 {
                        (at(sub) & 63, at(sub + 4) & 63)
                    } else {
                        let low = at(sub + 4);
                        (low & 15 | at(sub - 4) >> 6 << 4, low >> 4 | at(sub) >> 6 << 4)
                    };
                    out.scales[sub][row] = scale[row] * f32::from(s);
                    out.minima[sub][row] = minimum[row] * f32::from(m);
                }
            }
        }
        Format::Q6K | Format::Iq4Xs => {
            let (scale, subs) = (halves(bytes), if format == Format::Q6K { 16 } else { 8 });
            for (sub, scales) in out.scales[..subs].iter_mut().enumerate() {
                let numbers = &bytes[32 + PANEL * sub..][..PANEL];
                (0..PANEL).for_each(|row| scales[row] = scale[row] * f32::from(numbers[row] as i8));
            }
        }
        Format::F32 | Format::Bf16 | Format::F16 => unreachable!("plain numbers are not packed"),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(part: &Part, token: usize, panel: usize, total: Rows) {
    let mut values = [0.0; PANEL];
    // SAFETY: the panel's rows of the output are the part's, as promised by the caller.
    unsafe {
        (0..2).for_each(|half| _mm256_storeu_ps(values.as_mut_ptr().add(8 * half), total[half]));
        let (to, rows) = part.output(token, panel);
        for (row, value) in values.into_iter().enumerate().take(rows) {
            let to = to.add(row);
            *to = if part.accumulate { *to + value } else { value };
        }
    }
}
