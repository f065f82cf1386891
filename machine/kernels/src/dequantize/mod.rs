//! Part of one row of a matrix in any format, as f32, at the speed of memory.
//!
//! Writes all of `out`. Both ends on block boundaries. The same bits as [`numeric::MatrixView::dequantize_columns`].

mod scalar;

use numeric::MatrixView;

/// Columns `column_start .. column_start + out.len()` of row `row`.
pub fn columns(matrix: &MatrixView, row: usize, column_start: usize, out: &mut [f32]) {
    scalar::columns(matrix, row, column_start, out);
}
