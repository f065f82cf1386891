//! What the pool's threads read of memory, at best: the bound of decoding.

use crate::pool;
use std::hint::black_box;
use std::time::Instant;

/// More than any cache holds.
const BYTES: usize = 512 << 20;

/// Bytes a second: the median of seven reads of half a gigabyte that is in no cache.
pub fn read() -> f64 {
    let words = vec![1u64; BYTES / 8];
    // Pieces small enough that a thread that is kept from its core holds up no other.
    let pieces: Vec<&[u64]> = words.chunks(words.len() / 64).collect();
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

/// In lanes that the compiler makes vectors of.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    for line in words.as_chunks::<32>().0 {
        lanes.iter_mut().zip(line).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
