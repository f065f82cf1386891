//! Speed of the matrix products beside the `gemm` crate's, interleaved, medians: `cargo run --release -p kernels
//! --example gemm_speed`.
#![allow(clippy::print_stdout)]

use kernels::gemm::{self, Precision};
use numeric::{Format, Matrix, MatrixView, Rng};
use std::time::Instant;

const ROUNDS: usize = 15;

struct Case {
    name: &'static str,
    t: usize,
    k: usize,
    n: usize,
    groups: usize,
}

const CASES: &[Case] = &[
    Case { name: "192 → 768", t: 4096, k: 192, n: 768, groups: 1 },
    Case { name: "768 → 192", t: 4096, k: 768, n: 192, groups: 1 },
    Case { name: "192 → 768", t: 2048, k: 192, n: 768, groups: 1 },
    Case { name: "192 → 3072", t: 2048, k: 192, n: 3072, groups: 1 },
    Case { name: "32 × 192 → 64", t: 32 * 128, k: 192, n: 64, groups: 32 },
    Case { name: "32 × 192 → 64", t: 32 * 512, k: 192, n: 64, groups: 32 },
    Case { name: "32 × 64 → 192", t: 32 * 128, k: 64, n: 192, groups: 32 },
    Case { name: "32 × 64 → 192", t: 32 * 512, k: 64, n: 192, groups: 32 },
    Case { name: "1024 → 1024", t: 1024, k: 1024, n: 1024, groups: 1 },
    Case { name: "192 → 768", t: 64, k: 192, n: 768, groups: 1 },
];

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.uniform() as f32 - 0.5).collect()
}

/// The other library: `out (+)= left · right`, with (row stride, column stride) for each factor.
fn reference(
    out: &mut [f32],
    shape: [usize; 3],
    left: (&[f32], [usize; 2]),
    right: (&[f32], [usize; 2]),
    accumulate: bool,
) {
    let [m, n, k] = shape;
    // SAFETY: the strides describe matrices of these shapes inside of the slices.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            left.0.as_ptr(),
            left.1[1] as isize,
            left.1[0] as isize,
            right.0.as_ptr(),
            right.1[1] as isize,
            right.1[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            ::gemm::Parallelism::Rayon(0),
        );
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Median seconds of each of the runs, taken in turn.
fn measure(runs: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut seconds = vec![Vec::new(); runs.len()];
    for round in 0..ROUNDS + 2 {
        for (run, seconds) in runs.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            run();
            if round >= 2 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.into_iter().map(median).collect()
}

fn report(case: &Case, what: &str, seconds: &[f64]) {
    let gflops: Vec<f64> = seconds.iter().map(|s| 2e-9 * (case.t * case.k * case.n) as f64 / s).collect();
    let [theirs, f32s, bf16s] = gflops[..] else { panic!("three runs") };
    println!(
        "{:14} T={:5} {what:5} gemm {theirs:7.1}  f32 {f32s:7.1} ({:4.0} %)  bf16 {bf16s:7.1} ({:4.1} × f32)  GFLOP/s",
        case.name,
        case.t,
        100.0 * f32s / theirs,
        bf16s / f32s
    );
}

fn run(case: &Case) {
    let &Case { t, k, n, groups, .. } = case;
    let each = t / groups;
    let offsets: Vec<usize> = (0..=groups).map(|g| g * each).collect();
    let weights: Vec<Matrix> = (0..groups).map(|g| Matrix::from_f32(n, k, random(n * k, g as u64))).collect();
    let views: Vec<MatrixView> = weights.iter().map(Matrix::view).collect();
    let (x, dy) = (random(t * k, 100), random(t * n, 101));
    let outs = || [vec![0f32; t * n], vec![0f32; t * n], vec![0f32; t * n]];
    let [mut y0, mut y1, mut y2] = outs();
    let seconds = measure(&mut [
        &mut || {
            for g in 0..groups {
                let (x, y) = (&x[g * each * k..], &mut y0[g * each * n..]);
                reference(y, [each, n, k], (x, [k, 1]), (weights[g].as_f32(), [1, k]), false);
            }
        },
        &mut || gemm::grouped_multiply_transposed(&mut y1, &x, &views, &offsets, false, Precision::F32),
        &mut || gemm::grouped_multiply_transposed(&mut y2, &x, &views, &offsets, false, Precision::Bf16),
    ]);
    report(case, "y", &seconds);
    let outs = || [vec![0f32; t * k], vec![0f32; t * k], vec![0f32; t * k]];
    let [mut y0, mut y1, mut y2] = outs();
    let seconds = measure(&mut [
        &mut || {
            for g in 0..groups {
                let (dy, dx) = (&dy[g * each * n..], &mut y0[g * each * k..]);
                reference(dx, [each, k, n], (dy, [n, 1]), (weights[g].as_f32(), [k, 1]), false);
            }
        },
        &mut || gemm::grouped_multiply(&mut y1, &dy, &views, &offsets, false, Precision::F32),
        &mut || gemm::grouped_multiply(&mut y2, &dy, &views, &offsets, false, Precision::Bf16),
    ]);
    report(case, "dx", &seconds);
    let outs = || vec![vec![0f32; n * k]; groups];
    let (mut w0, mut w1, mut w2) = (outs(), outs(), outs());
    fn borrow(w: &mut [Vec<f32>]) -> Vec<&mut [f32]> {
        w.iter_mut().map(Vec::as_mut_slice).collect()
    }
    let seconds = measure(&mut [
        &mut || {
            for g in 0..groups {
                let (dy, x) = (&dy[g * each * n..], &x[g * each * k..]);
                reference(&mut w0[g], [n, k, each], (dy, [1, n]), (x, [k, 1]), true);
            }
        },
        &mut || gemm::grouped_accumulate_outer(&mut borrow(&mut w1), &dy, &x, n, k, &offsets, Precision::F32),
        &mut || gemm::grouped_accumulate_outer(&mut borrow(&mut w2), &dy, &x, n, k, &offsets, Precision::Bf16),
    ]);
    report(case, "dW", &seconds);
}

/// Decoding: bytes of weight read a second, for a few rows of `x`.
fn run_decode(rows: usize, columns: usize) {
    for format in [Format::F32, Format::Bf16, Format::F16, Format::Q8_0, Format::Mxfp4, Format::Nvfp4] {
        // Many copies in turn, so that the weight comes from where a model's weights would.
        let weight = Matrix::quantize(&random(rows * columns, 1), rows, columns, format);
        let copies = vec![weight.clone(); ((64 << 20) / weight.bytes()).clamp(1, 64)];
        print!("{rows} × {columns} {format:?}:");
        for t in [1, 2, 4, 8] {
            let (x, mut y) = (random(t * columns, 2), vec![0f32; t * rows]);
            let mut all = || {
                for copy in &copies {
                    gemm::multiply_transposed(&mut y, &x, copy.view(), false, Precision::F32);
                }
            };
            let seconds = measure(&mut [&mut all])[0] / copies.len() as f64;
            print!("  T={t} {:6.1} GB/s ({:7.1} µs)", 1e-9 * weight.bytes() as f64 / seconds, 1e6 * seconds);
        }
        println!();
    }
}

fn main() {
    println!("threads {}, sets {:?}, medians of {ROUNDS}", kernels::pool::threads(), kernels::cpu::Cpu::get().names());
    println!(
        "variants: {} in f32, {} in bf16",
        gemm::variant_name(Precision::F32),
        gemm::variant_name(Precision::Bf16)
    );
    CASES.iter().for_each(run);
    run_decode(4096, 4096);
    run_decode(768, 192);
}
