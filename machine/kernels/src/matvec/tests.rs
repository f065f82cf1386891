//! Every variant that this machine runs, against the definition.

use super::{Job, MOST_ROWS, VARIANTS, run_with, scalar};
use crate::cpu::Cpu;
use crate::gemm::{self, Precision};
use numeric::{Format, Matrix, Rng};

const SHAPES: [(Format, usize, usize); 10] = [
    (Format::F32, 1, 1),
    (Format::F32, 37, 11),
    (Format::F32, 131, 67),
    (Format::Bf16, 29, 3),
    (Format::Bf16, 97, 41),
    (Format::F16, 113, 13),
    (Format::F16, 47, 5),
    (Format::Q8_0, 224, 31),
    (Format::Mxfp4, 352, 19),
    (Format::Nvfp4, 448, 23),
];

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.normal() as f32).collect()
}

fn check_close(name: &str, have: &[f32], want: &[f32], columns: usize) {
    let bound = 4e-6 * (columns as f32).sqrt();
    for (index, (h, w)) in have.iter().zip(want).enumerate() {
        assert!((h - w).abs() <= bound * w.abs().max(1.0), "{name} [{index}]: {h}, want {w}");
    }
}

#[test]
fn every_variant_matches_the_definition() {
    let mut ran = Vec::new();
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        ran.push(variant.name);
        for (format, columns, rows) in SHAPES {
            let weight = Matrix::quantize(&random(rows * columns, 1), rows, columns, format);
            for (tokens, accumulate, round) in (1..=MOST_ROWS)
                .filter(|t| *t < 10 || t % 7 == 2)
                .flat_map(|t| [(t, false, false), (t, true, false), (t, false, true)])
            {
                let x = random(tokens * columns, 2);
                let start = if accumulate { random(tokens * rows, 3) } else { vec![f32::NAN; tokens * rows] };
                let (mut have, mut want) = (start.clone(), start);
                let precision = if round { Precision::Bf16 } else { Precision::F32 };
                gemm::scalar::multiply_transposed(&mut want, &x, weight.view(), accumulate, precision);
                let job = Job { x: &x, weight: weight.view(), y: &mut have };
                run_with(variant, vec![job], accumulate, round);
                let name = format!("{} {format:?} T={tokens} N={rows} K={columns} {precision:?}", variant.name);
                check_close(&name, &have, &want, columns);
            }
        }
    }
    let cpu = Cpu::get();
    assert!(ran.contains(&"scalar") && ran.contains(&"portable"));
    assert_eq!((ran.contains(&"avx2"), ran.contains(&"avx512")), (cpu.avx2, cpu.avx512), "ran {ran:?}");
}

#[test]
fn a_row_does_not_depend_on_its_company_or_the_threads() {
    // Large enough for several threads, and a number of rows that no step divides.
    let (rows, columns, tokens) = (1031, 320, 7);
    let weight = Matrix::from_f32(rows, columns, random(rows * columns, 4));
    let x = random(tokens * columns, 5);
    let mut all = vec![f32::NAN; tokens * rows];
    super::run(vec![Job { x: &x, weight: weight.view(), y: &mut all }], false, false);
    for (x, want) in x.chunks(columns).zip(all.chunks(rows)) {
        let mut one = vec![f32::NAN; rows];
        super::run(vec![Job { x, weight: weight.view(), y: &mut one }], false, false);
        assert!(one.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn not_a_number_stays_so_when_rounded() {
    let mut values = random(64, 6);
    values[40] = f32::from_bits(0x7F80_0001);
    let weight = Matrix::from_f32(1, 64, values);
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        let mut y = [0.0];
        run_with(variant, vec![Job { x: &[1.0; 64], weight: weight.view(), y: &mut y }], false, true);
        assert!(y[0].is_nan(), "{}", variant.name);
    }
}

#[test]
fn the_definition_is_the_one_of_the_larger_products() {
    let (weight, x) = (Matrix::from_f32(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), [10.0, 1.0]);
    let mut y = [f32::NAN; 3];
    let part = super::Part {
        x: &x,
        weight: weight.view(),
        rows: 0..3,
        y: super::Output(y.as_mut_ptr()),
        accumulate: false,
        round: false,
    };
    // SAFETY: the sizes agree.
    unsafe { scalar::multiply(&part) };
    assert_eq!(y, [12.0, 34.0, 56.0]);
}
