//! Speed of packing, in bytes of a file a second, into fresh memory as when a model is loaded and, beside it, by the
//! definition on one thread.
//!
//! `cargo run --release -p kernels --example pack_speed [-- FORMAT]`

#![allow(clippy::print_stdout, reason = "an example prints what it measures")]

use kernels::{bandwidth, pool};
use numeric::{Format, Packed};
use std::hint::black_box;
use std::time::Instant;

const COLUMNS: usize = 2048;
/// An expert's matrix: the smallest piece that a model is loaded in.
const ROWS: usize = 512;
/// More than any cache holds.
const BYTES: usize = 400 << 20;

fn main() {
    let only = std::env::args().nth(1);
    println!("{} threads; plain read {:.1} GB/s", pool::threads(), bandwidth::read() / 1e9);
    println!("format    packed    by definition");
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
    let bytes: Vec<u8> = (0..BYTES).map(|index| (index * 7 % 251) as u8).collect();
    for (name, format) in formats.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let speed = |pack: &dyn Fn(&[u8]) -> Packed| {
            let start = Instant::now();
            let matrices = bytes.chunks_exact(ROWS * format.row_bytes(COLUMNS));
            let count = matrices.len();
            // All are kept until the end: a chunk of memory that is used again costs less than a fresh one.
            black_box(matrices.map(pack).collect::<Vec<_>>());
            (count * ROWS * format.row_bytes(COLUMNS)) as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        let pack = |bytes: &[u8]| kernels::pack::pack(format, ROWS, COLUMNS, 1.0, bytes);
        let define = |bytes: &[u8]| Packed::from_blocks(format, ROWS, COLUMNS, 1.0, bytes);
        let best = (0..3).map(|_| speed(&pack)).fold(0.0, f64::max);
        println!("{name:<9} {best:4.1} GB/s     {:4.1} GB/s", speed(&define));
    }
}
