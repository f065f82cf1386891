//! The definition, which `numeric` has.

use numeric::MatrixView;

/// # Safety
/// None is needed; the signature is the other variants'.
pub(super) unsafe fn columns(matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    matrix.dequantize_columns(row, column_start, out);
}
