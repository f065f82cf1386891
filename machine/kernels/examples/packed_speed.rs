//! Speed of products with packed weights: bytes a second for one token against a plain read of the same memory, and
//! operations a second for many tokens.
//!
//! `cargo run --release -p kernels --example packed_speed [-- FORMAT]`

#![allow(clippy::print_stdout, reason = "an example prints what it measures")]

use kernels::gemm::{Precision, multiply_transposed};
use kernels::{bandwidth, pool};
use numeric::{Format, Matrix, Rng};
use std::hint::black_box;
use std::time::Instant;

const COLUMNS: usize = 2048;
/// Enough matrices that none is in a cache when its turn comes.
const BYTES: usize = 600 << 20;
const ROWS: usize = 4096;

fn main() {
    let only = std::env::args().nth(1);
    println!("{} threads; plain read {:.1} GB/s", pool::threads(), bandwidth::read() / 1e9);
    println!("format    1 token      of read   4 tokens   16 tokens  512 tokens");
    let formats = [
        ("Q4_K", Format::Q4K),
        ("Q5_K", Format::Q5K),
        ("Q6_K", Format::Q6K),
        ("MXFP4", Format::Mxfp4),
        ("NVFP4", Format::Nvfp4),
        ("Q8_0", Format::Q8_0),
        ("Q4_0", Format::Q4_0),
        ("IQ4_NL", Format::Iq4Nl),
        ("IQ4_XS", Format::Iq4Xs),
    ];
    for (name, format) in formats.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        measure(name, format);
    }
}

fn matrix(format: Format) -> Matrix {
    let mut rng = Rng::new(1);
    let row: Vec<u8> = (0..format.row_bytes(COLUMNS)).map(|_| (rng.next_u64() & 0x3F) as u8).collect();
    Matrix::from_le_bytes(ROWS, COLUMNS, format, &row.repeat(ROWS)).expect("whole rows").packed()
}

fn measure(name: &str, format: Format) {
    let first = matrix(format);
    let bytes = first.bytes();
    let matrices: Vec<Matrix> = std::iter::repeat_n(first, (BYTES / bytes).max(1)).collect();
    let x = vec![0.5f32; 512 * COLUMNS];
    let mut y = vec![0.0; 512 * ROWS];
    let mut seconds = |tokens: usize, count: usize| {
        let mut run = || {
            let start = Instant::now();
            for matrix in &matrices[..count] {
                let (x, y) = (&x[..tokens * COLUMNS], &mut y[..tokens * ROWS]);
                multiply_transposed(y, x, matrix.view(), false, Precision::F32);
                black_box(&*y);
            }
            start.elapsed().as_secs_f64() / count as f64
        };
        median((0..7).map(|_| run()).collect())
    };
    let one = bytes as f64 / seconds(1, matrices.len()) / 1e9;
    let operations = |tokens: usize, seconds: f64| 2.0 * (tokens * ROWS * COLUMNS) as f64 / seconds / 1e9;
    let few = operations(4, seconds(4, 8));
    let some = operations(16, seconds(16, 8));
    let many = operations(512, seconds(512, 4));
    let share = 100.0 * one / (bandwidth::read() / 1e9);
    println!("{name:7} {one:5.1} GB/s   {share:5.1} %   {few:6.0} Gop/s {some:6.0} Gop/s {many:6.0} Gop/s");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
