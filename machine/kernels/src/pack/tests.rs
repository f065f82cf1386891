//! Every variant against the definition, byte for byte.

use super::{VARIANTS, matrix, pack, run};
use crate::cpu::Cpu;
use numeric::{Format, Matrix, Packed, Rng};

/// Any bytes at all: not every pattern is a number, but every pattern must come to its place.
fn random_bytes(format: Format, rows: usize, columns: usize) -> Vec<u8> {
    let mut rng = Rng::new((rows * columns) as u64);
    (0..rows * format.row_bytes(columns)).map(|_| rng.below(256) as u8).collect()
}

#[test]
fn every_variant_gives_the_bytes_of_the_definition() {
    let mut ran = Vec::new();
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        ran.push(variant.name);
        for format in Format::PACKED {
            for (rows, blocks) in [(16, 1), (48, 3), (37, 7), (5, 2), (1, 1), (31, 4)] {
                let columns = blocks * format.block_columns();
                let bytes = random_bytes(format, rows, columns);
                let want = Packed::from_blocks(format, rows, columns, 0.5, &bytes);
                let mut have = Packed::zeros(format, rows, columns, 0.5);
                // What a panel does not write must be found; short panels leave the scales of missing rows alone.
                have.codes.fill(0xA5);
                if rows.is_multiple_of(16) {
                    have.scales.fill(0xA5);
                }
                run(variant, (rows, columns), &bytes, &mut have);
                assert!(*have.codes == *want.codes, "{} {format:?} {rows} × {columns}: codes", variant.name);
                assert!(*have.scales == *want.scales, "{} {format:?} {rows} × {columns}: scales", variant.name);
            }
        }
    }
    let cpu = Cpu::get();
    assert_eq!((ran.contains(&"avx2"), ran.contains(&"avx512")), (cpu.avx2, cpu.avx512), "ran {ran:?}");
}

#[test]
fn what_is_packed_reads_back_as_it_was() {
    for format in Format::PACKED {
        let (rows, columns) = (35, 2 * format.block_columns());
        let bytes = random_bytes(format, rows, columns);
        let packed = pack(format, rows, columns, 1.0, &bytes);
        let back: Vec<u8> = (0..rows).flat_map(|row| packed.view().blocks_of_row(row, columns)).collect();
        assert!(back == bytes, "{format:?}");
    }
}

#[test]
fn a_matrix_is_packed_as_by_numeric() {
    for format in Format::PACKED.into_iter().chain([Format::Bf16, Format::F32]) {
        let (rows, columns) = (21, 512);
        let plain = Matrix::from_le_bytes(rows, columns, format, &random_bytes(format, rows, columns));
        let plain = plain.expect("whole rows");
        let plain = if format == Format::Nvfp4 { plain.with_tensor_scale(0.03) } else { plain };
        let (want, have) = (plain.clone().packed(), matrix(plain));
        assert!(have.to_le_bytes() == want.to_le_bytes(), "{format:?}");
        assert!(have.to_f32().iter().zip(want.to_f32()).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?}");
        assert!(have.bytes() == want.bytes(), "{format:?}");
    }
}
