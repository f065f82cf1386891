//! Low-rank additions to linear maps: y += scale · drop(x)·Aᵀ·Bᵀ, alone or one per group of rows.
//!
//! R rows, r rank. Neither B·A nor anything of a weight's size is ever made: both thin products are grouped like the
//! base's, and the second adds to what the base gave. A factor that all groups share is one product over all rows.
//! Which numbers of x dropout leaves out depends on the pass's seed, the adapter, the group and the token, not on where
//! in memory a row lies, so backward, a recomputed layer and a resumed run make the same mask again.

use crate::linear::Pass;
use crate::{Adapter, Buffer, Gradients, Parameter, TokenNumbers};
use kernels::{dropout, gemm};
use numeric::MatrixView;

/// Which rows belong to which group, and which tokens they are.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Group g has the rows `offsets[g]..offsets[g + 1]`.
    pub(crate) offsets: &'a [usize],
    /// The token of each row; empty where each row is its own.
    pub(crate) tokens: &'a [u32],
}

impl Rows<'_> {
    fn count(&self) -> usize {
        *self.offsets.last().expect("offsets begin with 0")
    }

    /// The keys of all rows for what dropout leaves out.
    fn keys(&self, seed: u64, numbers: TokenNumbers, adapter: &Adapter) -> Vec<u64> {
        let mut keys = Vec::with_capacity(self.count());
        for (group, rows) in self.offsets.windows(2).enumerate() {
            for row in rows[0]..rows[1] {
                let token = numbers.of(self.tokens.get(row).map_or(row, |&token| token as usize)) as u64;
                keys.push(dropout::key(&[seed, adapter.a.id as u64, group as u64, token]));
            }
        }
        keys
    }
}

/// An adapter with the rows that it works on.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub(crate) adapter: &'a Adapter,
    pub(crate) rows: Rows<'a>,
    pub(crate) pass: Pass,
}

impl LowRank<'_> {
    /// Adds to y. What it returns, `scale · drop(x)·Aᵀ` `[R, r]`, is what backward needs besides x.
    pub(crate) fn forward(&self, y: &mut Buffer, x: &Buffer) -> Buffer {
        let hidden = self.narrow(x);
        self.widen(y, &hidden);
        hidden
    }

    /// `scale · drop(x)·Aᵀ`.
    pub(crate) fn narrow(&self, x: &Buffer) -> Buffer {
        let dropped = self.keys().map(|keys| {
            let mut dropped = Buffer::unwritten(x.rows, x.width);
            dropout::forward(&mut dropped, x, &keys, self.adapter.dropout);
            dropped
        });
        let mut hidden = Buffer::unwritten(x.rows, self.adapter.rank());
        let a = &self.adapter.a;
        let (views, offsets) = (self.views(a), self.offsets(a));
        let x = dropped.as_ref().unwrap_or(x);
        gemm::grouped_multiply_transposed(&mut hidden, x, &views, &offsets, false, self.pass.precision);
        self.scale(&mut hidden);
        hidden
    }

    /// y += hidden·Bᵀ.
    pub(crate) fn widen(&self, y: &mut Buffer, hidden: &Buffer) {
        let b = &self.adapter.b;
        let (views, offsets) = (self.views(b), self.offsets(b));
        gemm::grouped_multiply_transposed(y, hidden, &views, &offsets, true, self.pass.precision);
    }

    /// Adds to `dx` (where one is wanted) and to the gradients of both factors.
    pub(crate) fn backward(
        &self,
        dx: Option<&mut Buffer>,
        dy: &Buffer,
        x: &Buffer,
        hidden: &Buffer,
        gradients: &mut Gradients,
    ) {
        let Adapter { a, b, .. } = self.adapter;
        let precision = self.pass.precision;
        self.accumulate_outer(dy, hidden, b, gradients);
        if !a.trained && dx.is_none() {
            return;
        }
        let mut dhidden = Buffer::unwritten(hidden.rows, hidden.width);
        gemm::grouped_multiply(&mut dhidden, dy, &self.views(b), &self.offsets(b), false, precision);
        self.scale(&mut dhidden);
        let (views, offsets) = (self.views(a), self.offsets(a));
        let Some(keys) = self.keys() else {
            self.accumulate_outer(&dhidden, x, a, gradients);
            if let Some(dx) = dx {
                gemm::grouped_multiply(dx, &dhidden, &views, &offsets, true, precision);
            }
            return;
        };
        let mut dropped = Buffer::unwritten(x.rows, x.width);
        dropout::forward(&mut dropped, x, &keys, self.adapter.dropout);
        self.accumulate_outer(&dhidden, &dropped, a, gradients);
        if let Some(dx) = dx {
            gemm::grouped_multiply(&mut dropped, &dhidden, &views, &offsets, false, precision);
            dropout::backward(dx, &dropped, &keys, self.adapter.dropout);
        }
    }

    /// Where this pass leaves numbers out.
    fn keys(&self) -> Option<Vec<u64>> {
        let seed = self.pass.dropout_seed.filter(|_| self.adapter.dropout > 0.0)?;
        Some(self.rows.keys(seed, self.pass.tokens, self.adapter))
    }

    fn scale(&self, hidden: &mut Buffer) {
        let scale = self.adapter.scale();
        hidden.for_each_row(|_, row| row.iter_mut().for_each(|value| *value *= scale));
    }

    /// The matrices of the groups, or the one that they share.
    fn views<'p>(&self, factor: &'p Parameter) -> Vec<MatrixView<'p>> {
        let (rows, columns) = (factor.shape[factor.shape.len() - 2], factor.matrix.columns);
        let values = factor.values().chunks_exact(rows * columns);
        values.map(|values| MatrixView::from_f32(rows, columns, values)).collect()
    }

    fn offsets(&self, factor: &Parameter) -> Vec<usize> {
        if factor.shape.len() == 3 { self.rows.offsets.to_vec() } else { vec![0, self.rows.count()] }
    }

    /// dW += dyᵀ·x, if the factor learns.
    fn accumulate_outer(&self, dy: &Buffer, x: &Buffer, factor: &Parameter, gradients: &mut Gradients) {
        if !factor.trained {
            return;
        }
        let mut groups: Vec<&mut [f32]> = gradients.entry(factor).chunks_exact_mut(dy.width * x.width).collect();
        let offsets = self.offsets(factor);
        gemm::grouped_accumulate_outer(&mut groups, dy, x, dy.width, x.width, &offsets, self.pass.precision);
    }
}
