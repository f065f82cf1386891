//! Matrix products, each with an optional grouped form in which every expert multiplies its own rows.
//!
//! T rows (tokens), K columns of `x`, N rows of the weight; everything row-major and contiguous, no alignment assumed.
//!
//! | function              | meaning                      |
//! |-----------------------|------------------------------|
//! | [`multiply_transposed`] | `y_TN (+)= x_TK · W_NKᵀ`   |
//! | [`multiply`]            | `dx_TK (+)= dy_TN · W_NK`  |
//! | [`accumulate_outer`]    | `dW_NK += dy_TNᵀ · x_TK`   |
//!
//! Writes all of its output; reads it only to accumulate. The same call on the same machine gives the same bits, whatever
//! the threads do: no sum is ever split by timing.

pub mod scalar;

use numeric::MatrixView;

/// How the products are computed; sums are always f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// f32 multiplies.
    F32,
    /// Both inputs rounded to bf16, nearest even, before they are multiplied.
    Bf16,
}

/// `y_TN (+)= x_TK · W_NKᵀ`; adds to `y` when `accumulate`.
pub fn multiply_transposed(y: &mut [f32], x: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    scalar::multiply_transposed(y, x, weight, accumulate, precision);
}

/// `dx_TK (+)= dy_TN · W_NK`; adds to `dx` when `accumulate`.
pub fn multiply(dx: &mut [f32], dy: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    scalar::multiply(dx, dy, weight, accumulate, precision);
}

/// `dW_NK += dy_TNᵀ · x_TK`.
pub fn accumulate_outer(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, k: usize, precision: Precision) {
    scalar::accumulate_outer(dw, dy, x, n, k, precision);
}

/// [`multiply_transposed`] of rows `offsets[g]..offsets[g + 1]` with `weights[g]`, for each group g. The weights have
/// the same shape; the offsets start at 0, never fall, and end at T.
pub fn grouped_multiply_transposed(
    y: &mut [f32],
    x: &[f32],
    weights: &[MatrixView],
    offsets: &[usize],
    accumulate: bool,
    precision: Precision,
) {
    for (weight, rows) in weights.iter().zip(offsets.windows(2)) {
        let (n, k) = (weight.rows, weight.columns);
        let y = &mut y[rows[0] * n..rows[1] * n];
        multiply_transposed(y, &x[rows[0] * k..rows[1] * k], *weight, accumulate, precision);
    }
}

/// [`multiply`] of rows `offsets[g]..offsets[g + 1]` with `weights[g]`, for each group g.
pub fn grouped_multiply(
    dx: &mut [f32],
    dy: &[f32],
    weights: &[MatrixView],
    offsets: &[usize],
    accumulate: bool,
    precision: Precision,
) {
    for (weight, rows) in weights.iter().zip(offsets.windows(2)) {
        let (n, k) = (weight.rows, weight.columns);
        let dx = &mut dx[rows[0] * k..rows[1] * k];
        multiply(dx, &dy[rows[0] * n..rows[1] * n], *weight, accumulate, precision);
    }
}

/// [`accumulate_outer`] of rows `offsets[g]..offsets[g + 1]` into `dw[g]`, for each group g.
pub fn grouped_accumulate_outer(
    dw: &mut [&mut [f32]],
    dy: &[f32],
    x: &[f32],
    n: usize,
    k: usize,
    offsets: &[usize],
    precision: Precision,
) {
    for (dw, rows) in dw.iter_mut().zip(offsets.windows(2)) {
        let (dy, x) = (&dy[rows[0] * n..rows[1] * n], &x[rows[0] * k..rows[1] * k]);
        accumulate_outer(dw, dy, x, n, k, precision);
    }
}
