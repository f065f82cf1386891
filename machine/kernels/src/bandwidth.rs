//! What the pool's threads read of memory, at best: the bound of decoding.

use crate::pool;
use numeric::WeightBytes;
use std::hint::black_box;
use std::time::Instant;

/// More than any cache holds.
const BYTES: usize = 512 << 20;
/// Places from which a thread reads at the same time: memory answers several faster than one.
const STREAMS: usize = 4;
const LINE: usize = 64;

/// Bytes a second: the median of seven reads of half a gigabyte that is in no cache, in the pages that weights have.
pub fn read() -> f64 {
    let mut bytes = WeightBytes::zeros(BYTES);
    bytes.fill(1);
    // Pieces small enough that a thread that is kept from its core holds up no other.
    let pieces: Vec<&[u8]> = bytes.chunks(BYTES / 64).collect();
    let mut speeds = [0.0; 7];
    for speed in &mut speeds {
        let start = Instant::now();
        pool::run(pieces.len(), &|index| {
            black_box(sum(pieces[index]));
        });
        *speed = BYTES as f64 / start.elapsed().as_secs_f64();
    }
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}

/// Lines from each stream in turn, asked for ahead; in lanes that the compiler makes vectors of.
fn sum(bytes: &[u8]) -> u8 {
    let stream = bytes.len() / STREAMS;
    let mut lanes = [0u8; LINE];
    for at in (0..stream).step_by(LINE) {
        for start in 0..STREAMS {
            let from = start * stream + at;
            prefetch(bytes.as_ptr().wrapping_add(from + 4096));
            let line = &bytes[from..from + LINE];
            lanes.iter_mut().zip(line).for_each(|(lane, byte)| *lane = lane.wrapping_add(*byte));
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(target_arch = "x86_64")]
fn prefetch(address: *const u8) {
    // SAFETY: a prefetch reads nothing that the program sees, wherever it points.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: *const u8) {}
