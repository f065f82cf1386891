//! The definition: rows dequantized, then summed in f64.

use super::Part;
use numeric::minifloat::round_to_bf16;

/// # Safety
/// The part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    let columns = part.weight.columns;
    let mut weight = vec![0.0; columns];
    for row in part.rows.clone() {
        part.weight.dequantize_row(row, &mut weight);
        if part.round {
            weight.iter_mut().for_each(|w| *w = round_to_bf16(*w));
        }
        for (token, x) in part.x.chunks_exact(columns).enumerate() {
            let sum: f64 = weight.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            // SAFETY: as promised by the caller.
            unsafe { part.write(token, row, sum as f32) };
        }
    }
}
