//! Fitting down projections again, by least squares on what the experts before said.
//!
//! With gate and up fixed an expert is linear in its down projection, so the best one has a closed form (after
//! MergeMoE, arXiv 2510.14436).

use super::algebra::{NotPositive, ridge};
use super::neurons::{hidden, square};
use super::rows::{GroupRows, Routed, scale_rows, squared_error};
use kernels::gemm::{self, Precision};
use numeric::MatrixView;
use ops::{Buffer, Expert, Moe};

/// Fits the merged expert's down projection to what its group's members said together: on the rows that chose any of
/// them, gates included, `min Σ ‖G·W·a(x) − Σ g·f(x)‖² + λ‖W − W₀‖²` with W₀ as it is, G the sum of the members' gates
/// and λ this share of the mean diagonal. Returns λ.
pub(super) fn refit_members(merged: &mut Expert, rows: &GroupRows, lambda_share: f64) -> Result<f64, NotPositive> {
    if rows.rows.is_empty() {
        return Ok(0.0);
    }
    let mut inputs = hidden(merged, &rows.x);
    scale_rows(&mut inputs, &rows.mass);
    let mut missing = rows.wanted.clone();
    subtract_product(&mut missing, &inputs, merged.down.weight.matrix.as_f32());
    let found = ridge(&inputs, &missing, lambda_share)?;
    add(merged, &found.change);
    Ok(found.lambda)
}

fn add(expert: &mut Expert, change: &[f32]) {
    let values = expert.down.weight.matrix.as_f32_mut();
    values.iter_mut().zip(change).for_each(|(value, change)| *value += change);
}

/// `y −= x · wᵀ`, w `[y's width, x's width]`.
fn subtract_product(y: &mut Buffer, x: &Buffer, w: &[f32]) {
    let mut product = Buffer::unwritten(y.rows, y.width);
    gemm::multiply_transposed(&mut product, x, MatrixView::from_f32(y.width, x.width, w), false, Precision::F32);
    y.for_each_row(|row, y| y.iter_mut().zip(product.row(row)).for_each(|(y, p)| *y -= p));
}

/// One set of rows, with what the layer still misses on them.
pub(super) struct Missing<'a> {
    pub(super) x: &'a Buffer,
    pub(super) routed: Routed,
    /// What was wanted minus what the layer says, `[T, H]`.
    pub(super) rest: Buffer,
}

impl<'a> Missing<'a> {
    pub(super) fn of(x: &'a Buffer, wanted: &Buffer, said: &Buffer, moe: &Moe) -> Self {
        let mut rest = wanted.clone();
        rest.for_each_row(|row, rest| rest.iter_mut().zip(said.row(row)).for_each(|(rest, said)| *rest -= said));
        Self { x, routed: Routed::of(x, moe), rest }
    }

    /// The rows of an expert, its activations there times the gates, and what is missing there.
    fn of_expert(&self, index: usize, expert: &Expert) -> (Vec<usize>, Buffer, Buffer) {
        let (rows, gates) = self.routed.of_expert(index);
        let mut inputs = hidden(expert, &self.x.gathered(&rows));
        scale_rows(&mut inputs, &gates);
        let rest = self.rest.gathered(&rows);
        (rows, inputs, rest)
    }

    fn put(&mut self, rows: &[usize], rest: &Buffer) {
        rows.iter().enumerate().for_each(|(from, &to)| self.rest.row_mut(to).copy_from_slice(rest.row(from)));
    }
}

/// Fits the down projections of a layer one after the other to what the layer as a whole still misses, the others
/// fixed (block coordinate descent on one least-squares problem), with the gates that tokens now have. A fit that does
/// not also help on the held-out rows is not taken. Returns how many were.
pub(super) fn refit_layer(
    moe: &mut Moe,
    fixed: &[usize],
    [calibration, held_out]: [&mut Missing; 2],
    (sweeps, lambda_share): (usize, f64),
) -> Result<usize, (usize, NotPositive)> {
    let mut taken = vec![false; moe.experts.len()];
    for _ in 0..sweeps {
        for index in (0..moe.experts.len()).filter(|index| !fixed.contains(index)) {
            let expert = &mut moe.experts[index];
            let (rows, inputs, mut rest) = calibration.of_expert(index, expert);
            if rows.is_empty() {
                continue;
            }
            let change = ridge(&inputs, &rest, lambda_share).map_err(|failed| (index, failed))?.change;
            let (held_rows, held_inputs, mut held_rest) = held_out.of_expert(index, expert);
            let before = square(&held_rest);
            subtract_product(&mut held_rest, &held_inputs, &change);
            if square(&held_rest) >= before {
                continue;
            }
            subtract_product(&mut rest, &inputs, &change);
            add(expert, &change);
            calibration.put(&rows, &rest);
            held_out.put(&held_rows, &held_rest);
            taken[index] = true;
        }
    }
    Ok(taken.into_iter().filter(|&taken| taken).count())
}

/// The error of a merged expert in its members' place, routing as it was: `Σ ‖G·f(x) − Σ g·f(x)‖²`.
pub(super) fn tied_error(merged: &Expert, rows: &GroupRows) -> f64 {
    let mut said = super::neurons::output(merged, &rows.x);
    scale_rows(&mut said, &rows.mass);
    let all: Vec<usize> = (0..said.rows).collect();
    squared_error(&said, &rows.wanted, &all)
}
