//! Transposing small matrices in registers: scattering single values costs as much as a product does.

use super::Simd;

/// The body that each instruction set compiles once; see `Simd::transpose`.
///
/// LANES rows by four columns at a time: lane group g of vector k is loaded from row 4·g + k, so that after transposing
/// each group across the four vectors, vector j is column j of all the rows, in order.
#[inline(always)]
pub(super) fn run<S: Simd>(
    s: S,
    (to, to_row): (&mut [f32], usize),
    (from, from_row): (&[f32], usize),
    [rows, columns]: [usize; 2],
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_row + columns, "the matrix is too small");
    assert!(to.len() >= (columns - 1) * to_row + rows && to_row >= rows, "the transpose is too small");
    let (whole_rows, whole_columns) = (rows / S::LANES * S::LANES, columns / 4 * 4);
    for i in (0..whole_rows).step_by(S::LANES) {
        for j in (0..whole_columns).step_by(4) {
            // SAFETY: rows i..i + LANES and columns j..j + 4 exist on both sides by the asserts.
            unsafe {
                let corner = from.as_ptr().add(i * from_row + j);
                let mut x = [s.zero(); 4];
                for (k, x) in x.iter_mut().enumerate() {
                    *x = s.load_quads(corner.add(k * from_row), 4 * from_row);
                }
                for (k, &column) in s.transpose_quads(x).iter().enumerate() {
                    s.store_at(to.as_mut_ptr().add((j + k) * to_row + i), column);
                }
            }
        }
    }
    for i in 0..rows {
        let rest = if i < whole_rows { whole_columns } else { 0 };
        for j in rest..columns {
            to[j * to_row + i] = from[i * from_row + j];
        }
    }
}
