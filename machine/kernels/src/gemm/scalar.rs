//! The definition: every product as a plain sum, in f64, of inputs rounded as the precision says.

use super::Precision;
use numeric::MatrixView;
use numeric::minifloat::round_to_bf16;

fn rounded(values: &[f32], precision: Precision) -> Vec<f64> {
    values
        .iter()
        .map(|&v| match precision {
            Precision::F32 => f64::from(v),
            Precision::Bf16 => f64::from(round_to_bf16(v)),
        })
        .collect()
}

fn write(to: &mut f32, sum: f64, accumulate: bool) {
    *to = if accumulate { (f64::from(*to) + sum) as f32 } else { sum as f32 };
}

/// `y_TN (+)= x_TK · W_NKᵀ`
pub fn multiply_transposed(y: &mut [f32], x: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    let (n, k) = (weight.rows, weight.columns);
    let (x, w) = (rounded(x, precision), rounded(&weight.to_f32(), precision));
    for (index, to) in y.iter_mut().enumerate() {
        let (t, row) = (index / n, index % n);
        write(to, (0..k).map(|i| x[t * k + i] * w[row * k + i]).sum(), accumulate);
    }
}

/// `dx_TK (+)= dy_TN · W_NK`
pub fn multiply(dx: &mut [f32], dy: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    let (n, k) = (weight.rows, weight.columns);
    let (dy, w) = (rounded(dy, precision), rounded(&weight.to_f32(), precision));
    for (index, to) in dx.iter_mut().enumerate() {
        let (t, column) = (index / k, index % k);
        write(to, (0..n).map(|i| dy[t * n + i] * w[i * k + column]).sum(), accumulate);
    }
}

/// `dW_NK += dy_TNᵀ · x_TK`
pub fn accumulate_outer(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, k: usize, precision: Precision) {
    let (dy, x) = (rounded(dy, precision), rounded(x, precision));
    for (index, to) in dw.iter_mut().enumerate() {
        let (row, column) = (index / k, index % k);
        write(to, (0..dy.len() / n).map(|t| dy[t * n + row] * x[t * k + column]).sum(), true);
    }
}
