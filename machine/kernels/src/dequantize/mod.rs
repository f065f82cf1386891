//! Part of one row of a matrix in any format, as f32, at the speed of memory.
//!
//! Writes all of `out`. Both ends on block boundaries. The same bits as [`numeric::MatrixView::dequantize_columns`].

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod scalar;

use crate::cpu::Cpu;
use numeric::MatrixView;

struct Variant {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests report which variants ran"))]
    name: &'static str,
    runs_on: fn(&Cpu) -> bool,
    columns: unsafe fn(&MatrixView, usize, usize, &mut [f32]),
}

/// Slowest first: the last that runs here wins.
static VARIANTS: &[Variant] = &[
    Variant { name: "scalar", runs_on: |_| true, columns: scalar::columns },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", runs_on: |cpu| cpu.avx2, columns: avx2::columns },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512", runs_on: |cpu| cpu.avx512, columns: avx512::columns },
];

/// Columns `column_start .. column_start + out.len()` of row `row`.
pub fn columns(matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    let cpu = Cpu::get();
    let variant = VARIANTS.iter().rev().find(|v| (v.runs_on)(cpu)).expect("the scalar variant runs everywhere");
    run(variant, matrix, row, column_start, out);
}

/// Row `row`.
pub fn row(matrix: &MatrixView, row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), matrix.columns, "a row has {} columns, not {}", matrix.columns, out.len());
    columns(matrix, row, 0, out);
}

fn run(variant: &Variant, matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    let block = matrix.format().block_columns();
    assert!(row < matrix.rows && column_start + out.len() <= matrix.columns, "columns outside of the matrix");
    assert!(column_start.is_multiple_of(block) && out.len().is_multiple_of(block), "columns split a block");
    let start = row * matrix.columns + column_start;
    assert!((start + out.len()) / block <= matrix.blocks(), "the matrix is shorter than its shape says");
    // Formats that are only read are run from packed panels; here, as bytes, they are rare enough for the definition.
    let vector = column_start.is_multiple_of(32) && !matrix.format().is_read_only();
    let columns = if vector { variant.columns } else { scalar::columns };
    // SAFETY: the variant runs on this machine, and the matrix has these columns.
    unsafe { columns(matrix, row, column_start, out) };
}

#[cfg(test)]
mod tests {
    use super::{VARIANTS, run};
    use crate::cpu::Cpu;
    use numeric::{Format, Matrix, Rng};

    #[test]
    fn every_variant_gives_the_bits_of_the_definition() {
        let (rows, mut ran) = (5, Vec::new());
        let formats = [
            (Format::F32, 131),
            (Format::Bf16, 97),
            (Format::F16, 83),
            (Format::Q8_0, 224),
            (Format::Mxfp4, 352),
            (Format::Nvfp4, 320),
        ];
        for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
            ran.push(variant.name);
            for (format, columns) in formats {
                let mut rng = Rng::new(columns as u64);
                let values: Vec<f32> = (0..rows * columns).map(|_| rng.normal() as f32).collect();
                let matrix = Matrix::quantize(&values, rows, columns, format);
                for (row, start, end) in [(0, 0, columns), (4, 0, columns), (3, 64, columns), (1, 0, 64)] {
                    let (mut have, mut want) = (vec![f32::NAN; end - start], vec![f32::NAN; end - start]);
                    run(variant, &matrix.view(), row, start, &mut have);
                    matrix.view().dequantize_columns(row, start, &mut want);
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&have), bits(&want), "{} {format:?} row {row} from {start}", variant.name);
                }
            }
        }
        let cpu = Cpu::get();
        assert!(ran.contains(&"scalar"));
        assert_eq!((ran.contains(&"avx2"), ran.contains(&"avx512")), (cpu.avx2, cpu.avx512), "ran {ran:?}");
    }
}
