//! The definition: exact sums of bytes per sub-group, scaled and added in f64.

use super::{Class, Part};
use numeric::minifloat::{E4M3_VALUES, e8m0_to_f32};
use numeric::{Format, PANEL, PackedView, f16, ggml};

/// # Safety
/// The part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    let columns = part.x.columns;
    for panel in part.panels.clone() {
        for lane in 0..PANEL.min(part.rows - panel * PANEL) {
            let weight = Weight::of(&part.weight, panel * PANEL + lane, columns);
            for token in 0..part.tokens() {
                let sum = weight.dot(part, token) as f32;
                // SAFETY: as promised by the caller.
                unsafe {
                    let to = part.output(token, panel).0.add(lane);
                    *to = if part.accumulate { *to + sum } else { sum };
                }
            }
        }
    }
}

/// One row: unsigned codes, and a scale and a minimum to each sub-group.
struct Weight {
    class: Class,
    codes: Vec<i32>,
    scales: Vec<f64>,
    minima: Vec<f64>,
}

impl Weight {
    fn of(view: &PackedView, row: usize, columns: usize) -> Self {
        let class = Class::of(view.format, columns);
        let codes = view.codes_of_row(row, columns).into_iter().map(|code| i32::from(value(view.format, code)));
        let block = view.blocks_of_row(row, columns);
        let pairs = (0..columns / class.sub).map(|sub| scale_and_minimum(view, &block, class.sub * sub));
        let (scales, minima) = pairs.unzip();
        Self { class, codes: codes.collect(), scales, minima }
    }

    fn dot(&self, part: &Part, token: usize) -> f64 {
        let (codes, scales) = part.x.parts(part.row(token));
        let Class { group, sub, offset } = self.class;
        let mut total = 0.0;
        for (index, (w, x)) in self.codes.chunks_exact(sub).zip(codes.chunks_exact(sub)).enumerate() {
            let products: i32 = w.iter().zip(x).map(|(w, &x)| w * i32::from(x)).sum();
            let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
            let scale = f64::from(scales[index * sub / group]);
            total += scale
                * match offset {
                    0 => self.scales[index] * f64::from(products) - self.minima[index] * f64::from(sum),
                    offset => self.scales[index] * f64::from(products - offset * sum),
                };
        }
        total
    }
}

/// What a code multiplies as: unsigned, `offset` above what it is worth in scales.
fn value(format: Format, code: u8) -> u8 {
    table(format).map_or(code, |table| table[usize::from(code)])
}

/// The same as a table, for formats that have one: doubled E2M1 values above 16, IQ4 values above 128.
pub(super) fn table(format: Format) -> Option<&'static [u8; 16]> {
    static E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];
    static IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
    match format {
        Format::Mxfp4 | Format::Nvfp4 => Some(&E2M1),
        Format::Iq4Nl | Format::Iq4Xs => Some(&IQ4),
        _ => None,
    }
}

#[test]
fn tables_hold_what_codes_are_worth() {
    for code in 0..16 {
        let [e2m1, iq4] = [Format::Nvfp4, Format::Iq4Xs].map(|format| f32::from(value(format, code as u8)));
        assert_eq!(e2m1, 2.0 * numeric::minifloat::E2M1_VALUES[code] + 16.0);
        assert_eq!(iq4, f32::from(ggml::IQ4_VALUES[code]) + 128.0);
    }
}

fn scale_and_minimum(view: &PackedView, blocks: &[u8], column: usize) -> (f64, f64) {
    let format = view.format;
    let block = &blocks[column / format.block_columns() * format.block_bytes()..][..format.block_bytes()];
    let half = |at: usize| f64::from(f16::from_le_bytes([block[at], block[at + 1]]).to_f32());
    let at = column % format.block_columns();
    let tensor_scale = f64::from(view.tensor_scale);
    match format {
        Format::Q8_0 | Format::Q4_0 | Format::Iq4Nl => (half(0), 0.0),
        // E2M1 values are doubled to be whole.
        Format::Mxfp4 => (0.5 * f64::from(e8m0_to_f32(block[0])), 0.0),
        Format::Nvfp4 => (0.5 * tensor_scale * f64::from(E4M3_VALUES[usize::from(block[at / 16])]), 0.0),
        Format::Q4K | Format::Q5K => {
            let packed = block[4..].first_chunk().expect("a block is whole");
            let (scale, minimum) = ggml::k_scale_and_minimum(packed, at / 32);
            (half(0) * f64::from(scale), half(2) * f64::from(minimum))
        }
        Format::Q6K => (half(208) * f64::from(block[192 + at / 16] as i8), 0.0),
        Format::Iq4Xs => {
            let block = block.first_chunk().expect("a block is whole");
            (half(0) * f64::from(ggml::iq4_xs_scale(block, at / 32)), 0.0)
        }
        Format::F32 | Format::Bf16 | Format::F16 => unreachable!("{format:?} is not packed"),
    }
}
