//! Every variant that this machine runs, against the definition.

use super::{Outer, Precision, VARIANTS, Variant, Weighted, groups, run_groups, run_outer, scalar};
use crate::cpu::Cpu;
use numeric::{Format, Matrix, MatrixView, Rng};

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// Calls `check` with every variant and precision that runs here.
fn each_variant(mut check: impl FnMut(&Variant, Precision)) {
    for variant in VARIANTS.iter().filter(|v| (v.runs_on)(Cpu::get())) {
        check(variant, Precision::Bf16);
        if !variant.bf16 {
            check(variant, Precision::F32);
        }
    }
}

/// Largest |have − want| relative to √depth, which the size of random sums grows with.
fn check_close(name: &str, have: &[f32], want: &[f32], depth: usize) {
    assert_eq!(have.len(), want.len());
    let bound = 4e-6 * (depth as f32).sqrt().max(1.0);
    for (index, (h, w)) in have.iter().zip(want).enumerate() {
        assert!((h - w).abs() <= bound * w.abs().max(1.0), "{name} [{index}]: {h}, want {w}");
    }
}

#[test]
fn the_variants_of_this_machine_ran() {
    let mut ran = Vec::new();
    each_variant(|variant, precision| ran.push((variant.name, precision)));
    let cpu = Cpu::get();
    let mut required = vec!["portable"];
    let sets =
        [(cpu.avx2, "avx2"), (cpu.avx512, "avx512"), (cpu.avx512_bf16, "avx512_bf16"), (cpu.amx_bf16, "amx_bf16")];
    for (here, name) in sets {
        if here {
            required.push(name);
        }
    }
    for name in required {
        assert!(ran.contains(&(name, Precision::Bf16)), "{name} must run on {:?}; ran {ran:?}", cpu.names());
    }
}

/// (T, K, N): different primes, single rows, exact panels, more than one block of depth, rows and columns.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (2, 3, 5),
    (7, 11, 13),
    (17, 19, 23),
    (31, 37, 29),
    (32, 64, 64),
    (61, 67, 131),
    (97, 101, 3),
    (3, 1031, 37),
    (151, 257, 41),
    (5, 523, 1087),
    (1, 2111, 71),
];

const FORMATS: [Format; 6] = [Format::F32, Format::Bf16, Format::F16, Format::Q8_0, Format::Mxfp4, Format::Nvfp4];

/// Where the output starts from: poisoned when it is to be overwritten.
fn start(count: usize, accumulate: bool) -> Vec<f32> {
    if accumulate { random(count, 99) } else { vec![f32::NAN; count] }
}

fn check_weighted(t: usize, weight: &Matrix, transposed: bool, accumulate: bool) {
    let (n, k) = (weight.rows, weight.columns);
    let (depth, columns) = if transposed { (k, n) } else { (n, k) };
    let left = random(t * depth, 1);
    let shape = format!("T={t} N={n} K={k} {:?} transposed={transposed} accumulate={accumulate}", weight.format());
    let definition = |precision| {
        let mut want = start(t * columns, accumulate);
        let define = if transposed { scalar::multiply_transposed } else { scalar::multiply };
        define(&mut want, &left, weight.view(), accumulate, precision);
        want
    };
    let (exact, rounded) = (definition(Precision::F32), definition(Precision::Bf16));
    each_variant(|variant, precision| {
        let mut out = start(t * columns, accumulate);
        let (weights, offsets) = ([weight.view()], [0, t]);
        let (out_rows, weights) = (&mut out, &weights);
        let job =
            Weighted { out: out_rows, left: &left, weights, offsets: &offsets, columns, depth, transposed, accumulate };
        run_groups(variant, groups(job), transposed, accumulate, precision);
        let want = if precision == Precision::F32 { &exact } else { &rounded };
        check_close(&format!("{} {precision:?} {shape}", variant.name), &out, want, depth);
    });
}

#[test]
fn products_with_a_weight_match_the_definition() {
    for (t, k, n) in SHAPES {
        let weight = Matrix::from_f32(n, k, random(n * k, 2));
        for transposed in [true, false] {
            check_weighted(t, &weight, transposed, false);
        }
        check_weighted(t, &weight, t % 2 == 0, true);
    }
}

#[test]
fn products_with_every_format_match_the_definition() {
    for format in FORMATS {
        for (t, k, n) in [(37, 192, 67), (13, 320, 129), (2, 64, 1), (19, 1280, 37)] {
            let weight = Matrix::quantize(&random(n * k, 3), n, k, format);
            check_weighted(t, &weight, true, false);
            check_weighted(t, &weight, false, false);
        }
    }
}

#[test]
fn outer_products_match_the_definition() {
    for (t, k, n) in SHAPES {
        let (dy, x) = (random(t * n, 4), random(t * k, 5));
        each_variant(|variant, precision| {
            let (mut have, mut want) = (start(n * k, true), start(n * k, true));
            scalar::accumulate_outer(&mut want, &dy, &x, n, k, precision);
            let job = Outer { out: &mut [&mut have], dy: &dy, x: &x, n, k, offsets: &[0, t] };
            run_outer(variant, job, precision);
            check_close(&format!("{} {precision:?} T={t} N={n} K={k}", variant.name), &have, &want, t);
        });
    }
}

#[test]
fn groups_are_products_of_their_own_rows() {
    // An empty first group, a single row, an empty one in the middle, uneven ones.
    let offsets = [0, 0, 1, 14, 14, 87, 201];
    let (t, n, k) = (201, 37, 64);
    let weights: Vec<Matrix> = (0..6).map(|g| Matrix::from_f32(n, k, random(n * k, 10 + g))).collect();
    let views: Vec<MatrixView> = weights.iter().map(Matrix::view).collect();
    let (x, dy) = (random(t * k, 6), random(t * n, 7));
    for precision in [Precision::F32, Precision::Bf16] {
        let (mut y, mut dx) = (vec![f32::NAN; t * n], vec![f32::NAN; t * k]);
        super::grouped_multiply_transposed(&mut y, &x, &views, &offsets, false, precision);
        super::grouped_multiply(&mut dx, &dy, &views, &offsets, false, precision);
        let mut gradients = vec![vec![0.5; n * k]; 6];
        let mut borrowed: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
        super::grouped_accumulate_outer(&mut borrowed, &dy, &x, n, k, &offsets, precision);
        for g in 0..6 {
            let (rows, xs) = (offsets[g] * n..offsets[g + 1] * n, offsets[g] * k..offsets[g + 1] * k);
            let mut want = vec![f32::NAN; rows.len()];
            scalar::multiply_transposed(&mut want, &x[xs.clone()], views[g], false, precision);
            check_close("grouped y", &y[rows.clone()], &want, k);
            let mut want = vec![f32::NAN; xs.len()];
            scalar::multiply(&mut want, &dy[rows.clone()], views[g], false, precision);
            check_close("grouped dx", &dx[xs.clone()], &want, n);
            let mut want = vec![0.5; n * k];
            scalar::accumulate_outer(&mut want, &dy[rows], &x[xs], n, k, precision);
            check_close("grouped dw", &gradients[g], &want, offsets[g + 1] - offsets[g]);
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let (t, n, k) = (517, 193, 331);
    let weight = Matrix::from_f32(n, k, random(n * k, 8));
    let (x, dy) = (random(t * k, 9), random(t * n, 10));
    for precision in [Precision::F32, Precision::Bf16] {
        let once = || {
            let (mut y, mut dw) = (vec![f32::NAN; t * n], vec![0.0; n * k]);
            super::multiply_transposed(&mut y, &x, weight.view(), false, precision);
            super::accumulate_outer(&mut dw, &dy, &x, n, k, precision);
            y.iter().chain(&dw).map(|v| v.to_bits()).collect::<Vec<u32>>()
        };
        let first = once();
        assert!((0..5).all(|_| once() == first), "{precision:?} gave different bits");
        assert_eq!(crate::pool::Pool::new(1).install(once), first, "{precision:?} depends on the number of threads");
    }
}

#[test]
fn nothing_to_do_and_no_depth() {
    let weight = Matrix::from_f32(3, 0, Vec::new());
    let mut y = vec![f32::NAN; 6];
    let (weights, offsets) = ([weight.view()], [0, 2]);
    super::grouped_multiply_transposed(&mut y, &[], &weights, &offsets, false, Precision::F32);
    assert_eq!(y, [0.0; 6]);
    super::multiply(&mut [], &[], Matrix::from_f32(3, 2, vec![1.0; 6]).view(), false, Precision::Bf16);
    super::accumulate_outer(&mut [1.0, 2.0], &[], &[], 1, 2, Precision::F32);
}

#[test]
#[should_panic(expected = "the input is not 2 rows of 3")]
fn a_short_input_is_refused() {
    let weight = Matrix::from_f32(1, 3, vec![0.0; 3]);
    super::grouped_multiply_transposed(&mut [0.0; 2], &[0.0; 5], &[weight.view()], &[0, 2], false, Precision::F32);
}

#[test]
fn outputs_on_and_off_cache_lines() {
    // Whole panels, where a variant may store straight into the output.
    let (t, n, k) = (64, 96, 128);
    let weight = Matrix::from_f32(n, k, random(n * k, 11));
    let x = random(t * k, 12);
    for accumulate in [false, true] {
        let mut want = start(t * n, accumulate);
        scalar::multiply_transposed(&mut want, &x, weight.view(), accumulate, Precision::Bf16);
        for shift in [0, 1, 16] {
            each_variant(|variant, precision| {
                let mut room = vec![7.0; t * n + 48];
                let first = (64 - room.as_ptr() as usize % 64) / 4 % 16 + shift;
                room[first..first + t * n].copy_from_slice(&start(t * n, accumulate));
                let (weights, offsets) = ([weight.view()], [0, t]);
                let job = Weighted {
                    out: &mut room[first..first + t * n],
                    left: &x,
                    weights: &weights,
                    offsets: &offsets,
                    columns: n,
                    depth: k,
                    transposed: true,
                    accumulate,
                };
                run_groups(variant, groups(job), true, accumulate, precision);
                if precision == Precision::Bf16 {
                    check_close(&format!("{} at {shift}", variant.name), &room[first..first + t * n], &want, k);
                }
                let outside = room[..first].iter().chain(&room[first + t * n..]);
                assert!(outside.copied().all(|v| v == 7.0), "{} wrote outside of its output", variant.name);
            });
        }
    }
}
