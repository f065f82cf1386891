//! Plain Rust for machines without a variant of their own: rows dequantized, then summed in lanes that the compiler
//! makes vectors of.

use super::Part;
use crate::dequantize;
use numeric::minifloat::round_to_bf16;

const LANES: usize = 16;

/// # Safety
/// The part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    let columns = part.weight.columns;
    let mut weight = vec![0.0; columns];
    for row in part.rows.clone() {
        dequantize::row(&part.weight, row, &mut weight);
        if part.round {
            weight.iter_mut().for_each(|w| *w = round_to_bf16(*w));
        }
        for token in 0..part.tokens() {
            let sum = dot(&weight, &part.x[token * columns..(token + 1) * columns]);
            // SAFETY: as promised by the caller.
            unsafe { part.write(token, row, sum) };
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
