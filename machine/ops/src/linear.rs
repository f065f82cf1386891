//! Linear maps, alone or one per group of rows: y = x·Wᵀ + bias + adapter.
//!
//! Rows of x are sorted by group; group g uses `maps[g]` and the rows `offsets[g]..offsets[g + 1]`. A plain linear map
//! is one group. What an adapter adds is in `low_rank.rs`.

use crate::low_rank::{LowRank, Rows};
use crate::{Adapter, Buffer, Gradients, Linear, Parameter, Precision, TokenNumbers};
use kernels::gemm;
use numeric::MatrixView;
use std::ops::Range;

/// How a pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Of products.
    pub(crate) precision: Precision,
    /// Decides which numbers dropout leaves out; without one it leaves out none.
    pub(crate) dropout_seed: Option<u64>,
    /// Where in its batch the pass's rows stand.
    pub(crate) tokens: TokenNumbers,
}

impl From<Precision> for Pass {
    fn from(precision: Precision) -> Self {
        Self { precision, dropout_seed: None, tokens: TokenNumbers::from(0) }
    }
}

/// Maps and the rows that each of them takes.
#[derive(Clone, Copy)]
pub(crate) struct Grouped<'a> {
    pub(crate) maps: &'a [&'a Linear],
    /// Of all of them together.
    pub(crate) adapter: Option<&'a Adapter>,
    pub(crate) rows: Rows<'a>,
    pub(crate) pass: Pass,
}

/// What backward needs besides x: `scale · drop(x)·Aᵀ` where there is an adapter.
pub(crate) type Hidden = Option<Buffer>;

impl<'a> Grouped<'a> {
    /// One map for all rows; `offsets` says how many.
    fn one(map: &'a [&'a Linear; 1], offsets: &'a [usize; 2], pass: Pass) -> Self {
        Self { maps: map, adapter: map[0].adapter.as_ref(), rows: Rows { offsets, tokens: &[] }, pass }
    }

    fn low_rank(&self) -> Option<LowRank<'a>> {
        self.adapter.map(|adapter| LowRank { adapter, rows: self.rows, pass: self.pass })
    }

    pub(crate) fn forward(&self, x: &Buffer) -> (Buffer, Hidden) {
        let mut y = Buffer::unwritten(x.rows, self.maps[0].output_width());
        assert_eq!(x.width, self.maps[0].input_width(), "{} takes another width", self.maps[0].weight.name);
        let views: Vec<MatrixView> = self.maps.iter().map(|map| map.weight.matrix.view()).collect();
        gemm::grouped_multiply_transposed(&mut y, x, &views, self.rows.offsets, false, self.pass.precision);
        self.add_biases(&mut y);
        let hidden = self.adapt(&mut y, x);
        (y, hidden)
    }

    /// Adds what the adapter, if there is one, makes of x to what the maps made of it.
    pub(crate) fn adapt(&self, y: &mut Buffer, x: &Buffer) -> Hidden {
        self.low_rank().map(|low_rank| low_rank.forward(y, x))
    }

    /// Adds to `dx` (where one is wanted) and to the gradients of the trained parameters.
    pub(crate) fn backward(
        &self,
        dx: Option<&mut Buffer>,
        dy: &Buffer,
        x: &Buffer,
        hidden: &Hidden,
        gradients: &mut Gradients,
    ) {
        let weights: Vec<&Parameter> = self.maps.iter().map(|map| &map.weight).collect();
        self.accumulate_outer(dy, x, &weights, gradients);
        self.accumulate_biases(dy, gradients);
        let mut dx = dx;
        if let Some(dx) = dx.as_deref_mut() {
            let views: Vec<MatrixView> = weights.iter().map(|weight| weight.matrix.view()).collect();
            gemm::grouped_multiply(dx, dy, &views, self.rows.offsets, true, self.pass.precision);
        }
        if let (Some(low_rank), Some(hidden)) = (self.low_rank(), hidden) {
            low_rank.backward(dx, dy, x, hidden, gradients);
        }
    }

    fn add_biases(&self, y: &mut Buffer) {
        for (group, map) in self.maps.iter().enumerate() {
            let Some(bias) = &map.bias else { continue };
            for row in self.rows.offsets[group]..self.rows.offsets[group + 1] {
                y.row_mut(row).iter_mut().zip(bias.values()).for_each(|(y, bias)| *y += bias);
            }
        }
    }

    fn accumulate_biases(&self, dy: &Buffer, gradients: &mut Gradients) {
        for (group, map) in self.maps.iter().enumerate() {
            let Some(bias) = map.bias.as_ref().filter(|bias| bias.trained) else { continue };
            let gradient = gradients.entry(bias);
            for row in self.rows.offsets[group]..self.rows.offsets[group + 1] {
                gradient.iter_mut().zip(dy.row(row)).for_each(|(sum, dy)| *sum += dy);
            }
        }
    }

    /// dW += dyᵀ·x for the trained ones among `weights`; the others' rows are skipped.
    fn accumulate_outer(&self, dy: &Buffer, x: &Buffer, weights: &[&Parameter], gradients: &mut Gradients) {
        if !weights[0].trained {
            return;
        }
        if let [only] = weights {
            return gemm::accumulate_outer(gradients.entry(only), dy, x, dy.width, x.width, self.pass.precision);
        }
        let mut taken: Vec<Vec<f32>> = weights.iter().map(|weight| gradients.take(weight)).collect();
        let mut slices: Vec<&mut [f32]> = taken.iter_mut().map(Vec::as_mut_slice).collect();
        gemm::grouped_accumulate_outer(&mut slices, dy, x, dy.width, x.width, self.rows.offsets, self.pass.precision);
        for (weight, gradient) in weights.iter().zip(taken) {
            gradients.put(weight, gradient);
        }
    }
}

/// Several maps of one x, in one go for the threads; adapters then add to them map by map.
pub(crate) fn forward_each<const N: usize>(x: &Buffer, maps: [&Linear; N], pass: Pass) -> [Buffer; N] {
    let mut outputs = maps.map(|map| Buffer::unwritten(x.rows, map.output_width()));
    let products = outputs.iter_mut().zip(&maps).map(|(y, map)| gemm::Map { y, x, weight: map.weight.matrix.view() });
    gemm::multiply_each(products.collect(), pass.precision);
    for (y, map) in outputs.iter_mut().zip(&maps) {
        let (map, offsets) = ([*map], [0, x.rows]);
        let grouped = Grouped::one(&map, &offsets, pass);
        grouped.add_biases(y);
        grouped.adapt(y, x);
    }
    outputs
}

/// Each group of both banks that has rows: its map, its rows, and where their outputs go.
fn groups<'a>(
    banks: [&'a Grouped; 2],
    outputs: &'a mut [Buffer; 2],
) -> impl Iterator<Item = (&'a Linear, Range<usize>, &'a mut [f32])> {
    banks.into_iter().zip(outputs).flat_map(|(bank, output)| {
        let (mut rest, width) = (&mut output[..], bank.maps[0].output_width());
        let groups = bank.maps.iter().zip(bank.rows.offsets.windows(2)).map(move |(&map, rows)| {
            let y;
            (y, rest) = std::mem::take(&mut rest).split_at_mut((rows[1] - rows[0]) * width);
            (map, rows[0]..rows[1], y)
        });
        groups.filter(|(_, rows, _)| !rows.is_empty())
    })
}

/// Two banks of packed maps, without their adapters, in one go for the threads: sorted row r is row `chosen[r]` of x.
pub(crate) fn forward_pair_chosen(x: &Buffer, chosen: &[u32], banks: [&Grouped; 2]) -> [Buffer; 2] {
    let mut outputs = banks.map(|bank| Buffer::unwritten(chosen.len(), bank.maps[0].output_width()));
    let products = groups(banks, &mut outputs);
    let products = products.map(|(map, rows, y)| (gemm::Map { y, x, weight: map.weight.matrix.view() }, &chosen[rows]));
    gemm::multiply_chosen(products.collect());
    banks.into_iter().zip(&mut outputs).for_each(|(bank, output)| bank.add_biases(output));
    outputs
}

/// Two banks of maps of the same rows, without their adapters, in one go for the threads. With a single token every
/// group reads that token, and `x` is it; else `x` has its rows sorted.
pub(crate) fn forward_pair(x: &Buffer, banks: [&Grouped; 2]) -> [Buffer; 2] {
    let rows = *banks[0].rows.offsets.last().expect("offsets begin with 0");
    let mut outputs = banks.map(|bank| Buffer::unwritten(rows, bank.maps[0].output_width()));
    let products = groups(banks, &mut outputs).map(|(map, rows, y)| {
        let from = if x.rows == 1 { 0..1 } else { rows };
        gemm::Map { y, x: &x[from.start * x.width..from.end * x.width], weight: map.weight.matrix.view() }
    });
    gemm::multiply_each(products.collect(), banks[0].pass.precision);
    banks.into_iter().zip(&mut outputs).for_each(|(bank, output)| bank.add_biases(output));
    outputs
}

/// One map for all rows.
pub(crate) fn forward(x: &Buffer, map: &Linear, pass: impl Into<Pass>) -> (Buffer, Hidden) {
    Grouped::one(&[map], &[0, x.rows], pass.into()).forward(x)
}

pub(crate) fn backward(
    dx: Option<&mut Buffer>,
    dy: &Buffer,
    x: &Buffer,
    hidden: &Hidden,
    map: &Linear,
    pass: impl Into<Pass>,
    gradients: &mut Gradients,
) {
    Grouped::one(&[map], &[0, x.rows], pass.into()).backward(dx, dy, x, hidden, gradients);
}
