//! Every variant against the definition, and the definition against dequantized weights in f64.

use super::{GatedJob, Job, VARIANTS, run_with};
use crate::cpu::Cpu;
use numeric::{Data, Format, Matrix, Rng};

/// Random bits of a format, with scales that are numbers.
fn random_matrix(format: Format, rows: usize, columns: usize, rng: &mut Rng) -> Matrix {
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(columns)).map(|_| rng.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let half = numeric::f16::from_f32((0.01 * rng.normal()) as f32).to_le_bytes();
        match format {
            Format::Mxfp4 => block[0] = 120 + rng.below(8) as u8,
            Format::Nvfp4 => block[..4].iter_mut().for_each(|scale| *scale &= 0x77),
            Format::Q6K => block[208..].copy_from_slice(&half),
            _ => block[..2].copy_from_slice(&half),
        }
        if matches!(format, Format::Q4K | Format::Q5K) {
            block[2..4].copy_from_slice(&half);
        }
    }
    let matrix = Matrix::from_le_bytes(rows, columns, format, &bytes).unwrap();
    if format == Format::Nvfp4 { matrix.with_tensor_scale(0.013) } else { matrix }
}

fn product(variant: &super::Variant, x: &[f32], matrix: &Matrix, before: Option<&[f32]>) -> Vec<f32> {
    let Data::Packed(weight) = matrix.view().data else { panic!("the matrix is not packed") };
    let mut y = before.map_or_else(|| vec![f32::NAN; x.len() / matrix.columns * matrix.rows], <[f32]>::to_vec);
    let job = Job { x, chosen: None, weight, rows: matrix.rows, columns: matrix.columns, y: &mut y };
    run_with(variant, vec![job], before.is_some());
    y
}

#[test]
fn every_variant_is_the_definition_in_another_order() {
    let mut ran = Vec::new();
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        ran.push(variant.name);
        for format in Format::PACKED {
            let columns = format.block_columns() * if format.block_columns() == 256 { 2 } else { 11 };
            for (tokens, rows) in [(1, 37), (2, 16), (3, 61), (5, 5), (8, 33), (9, 67), (23, 47)] {
                let mut rng = Rng::new((tokens * rows) as u64);
                let matrix = random_matrix(format, rows, columns, &mut rng);
                let x: Vec<f32> = (0..tokens * columns).map(|_| rng.normal() as f32).collect();
                let packed = matrix.packed();
                let have = product(variant, &x, &packed, None);
                let want = product(&VARIANTS[0], &x, &packed, None);
                let size = want.iter().fold(0f32, |a, b| a.max(b.abs()));
                for (have, want) in have.iter().zip(&want) {
                    assert!((have - want).abs() <= 4e-6 * size, "{} {format:?}: {have}, not {want}", variant.name);
                }
                let twice = product(variant, &x, &packed, Some(&have));
                assert!(twice.iter().zip(&have).all(|(twice, once)| *twice == once + once), "{format:?} adds");
            }
        }
    }
    let cpu = Cpu::get();
    assert_eq!((ran.contains(&"avx2"), ran.contains(&"avx512_vnni")), (cpu.avx2, cpu.avx512_vnni), "ran {ran:?}");
}

#[test]
fn the_definition_is_the_dequantized_product() {
    let (tokens, rows) = (3, 19);
    for format in Format::PACKED {
        let columns = 512.max(format.block_columns());
        let mut rng = Rng::new(11);
        let matrix = random_matrix(format, rows, columns, &mut rng);
        let x: Vec<f32> = (0..tokens * columns).map(|_| rng.normal() as f32).collect();
        let dense = matrix.to_f32();
        let have = product(&VARIANTS[0], &x, &matrix.packed(), None);
        for (index, have) in have.into_iter().enumerate() {
            let (token, row) = (index / rows, index % rows);
            let pairs = x[token * columns..][..columns].iter().zip(&dense[row * columns..][..columns]);
            let (mut want, mut squares) = (0.0, 0.0);
            for (&x, &w) in pairs {
                want += f64::from(x) * f64::from(w);
                squares += f64::from(w) * f64::from(w);
            }
            // Rounding x to 255 levels of at most 4.5 adds an error of at most 4.5 / 127 / √12 a column; five sigma.
            let allowed = 5.0 * 4.5 / 127.0 / 12f64.sqrt() * squares.sqrt();
            assert!((f64::from(have) - want).abs() <= allowed, "{format:?}: {have}, not {want}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_tokens() {
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        for format in Format::PACKED {
            let (rows, columns, tokens) = (35, 512, 14);
            let mut rng = Rng::new(5);
            let matrix = random_matrix(format, rows, columns, &mut rng).packed();
            let x: Vec<f32> = (0..tokens * columns).map(|_| rng.normal() as f32).collect();
            let all = product(variant, &x, &matrix, None);
            let alone = product(variant, &x[3 * columns..4 * columns], &matrix, None);
            assert_eq!(all[3 * rows..4 * rows], alone[..], "{} {format:?}", variant.name);
        }
    }
}

#[test]
fn chosen_rows_are_the_rows() {
    let mut rng = Rng::new(11);
    for format in Format::PACKED {
        let (rows, columns, tokens) = (37, 2 * 256, 19);
        let matrix = random_matrix(format, rows, columns, &mut rng).packed();
        let x: Vec<f32> = (0..tokens * columns).map(|_| rng.normal() as f32).collect();
        let Data::Packed(weight) = matrix.view().data else { panic!("the matrix is not packed") };
        for variant in VARIANTS.iter().filter(|variant| (variant.runs_on)(Cpu::get())) {
            let all = product(variant, &x, &matrix, None);
            for chosen in [&[18, 0, 7][..], &[3; 14]] {
                let mut y = vec![f32::NAN; chosen.len() * rows];
                let job = Job { x: &x, chosen: Some(chosen), weight, rows, columns, y: &mut y };
                run_with(variant, vec![job], false);
                for (y, &row) in y.chunks_exact(rows).zip(chosen) {
                    assert_eq!(y, &all[row as usize * rows..][..rows], "{} {format:?}", variant.name);
                }
            }
        }
    }
}

/// The same numbers, to the bit, as two products and what SwiGLU makes of them.
#[test]
fn gated_products_are_the_products_and_swiglu() {
    let mut rng = Rng::new(13);
    for [gate, up] in [[Format::Q4K, Format::Q6K], [Format::Nvfp4; 2], [Format::Q8_0, Format::Mxfp4]] {
        let (rows, columns, tokens) = (149, 512, 41);
        let matrices = [gate, up].map(|format| random_matrix(format, rows, columns, &mut rng).packed());
        let x: Vec<f32> = (0..tokens * columns).map(|_| rng.normal() as f32).collect();
        let [gate, up] = [0, 1].map(|index: usize| match matrices[index].view().data {
            Data::Packed(weight) => weight,
            _ => panic!("the matrix is not packed"),
        });
        for variant in VARIANTS.iter().filter(|variant| (variant.runs_on)(Cpu::get())) {
            let [all_gate, all_up] = [0, 1].map(|index: usize| product(variant, &x, &matrices[index], None));
            for chosen in [&[7][..], &[40, 0, 7], &[3; 29]] {
                let weights: Vec<f32> = chosen.iter().map(|_| rng.normal() as f32).collect();
                let pick = |all: &[f32]| -> Vec<f32> {
                    chosen.iter().flat_map(|&row| all[row as usize * rows..][..rows].to_vec()).collect()
                };
                let mut want = vec![f32::NAN; chosen.len() * rows];
                crate::swiglu::forward_weighted(&mut want, &pick(&all_gate), &pick(&all_up), &weights);
                let mut y = vec![f32::NAN; chosen.len() * rows];
                let job = GatedJob { x: &x, chosen, gate, up, rows, columns, weights: &weights, y: &mut y };
                super::gated::run_gated_with(variant, vec![job]);
                assert_eq!(y, want, "{}", variant.name);
            }
        }
    }
}

#[test]
fn summands_are_added_in_their_order() {
    let mut rng = Rng::new(12);
    for format in Format::PACKED {
        let (rows, columns, tokens) = (37, 256, 31);
        let matrices: Vec<Matrix> = (0..3).map(|_| random_matrix(format, rows, columns, &mut rng).packed()).collect();
        let x: Vec<Vec<f32>> =
            [5, 17, 1].map(|n| (0..n * columns).map(|_| rng.normal() as f32).collect()).into_iter().collect();
        let to: Vec<Vec<u32>> =
            x.iter().map(|x| (0..x.len() / columns).map(|r| (7 * r % tokens) as u32).collect()).collect();
        for variant in VARIANTS.iter().filter(|variant| (variant.runs_on)(Cpu::get())) {
            let mut want = vec![0.25; tokens * rows];
            let mut summands = Vec::new();
            for ((matrix, x), to) in matrices.iter().zip(&x).zip(&to) {
                let Data::Packed(weight) = matrix.view().data else { panic!("the matrix is not packed") };
                for (row, &to) in product(variant, x, matrix, None).chunks_exact(rows).zip(to) {
                    let to = &mut want[to as usize * rows..][..rows];
                    to.iter_mut().zip(row).for_each(|(to, value)| *to += value);
                }
                summands.push(super::Summand { x, weight, columns, to });
            }
            let mut y = vec![0.25; tokens * rows];
            super::run_summed_with(variant, &mut y, rows, &summands);
            assert_eq!(y, want, "{} {format:?}", variant.name);
        }
    }
}
