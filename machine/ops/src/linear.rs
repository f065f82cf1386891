//! Linear maps, alone or one per group of rows: y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ.
//!
//! Rows of x are sorted by group; group g uses `maps[g]` and the rows `offsets[g]..offsets[g + 1]`. A plain linear map
//! is one group. An adapter is never multiplied out: its two thin products are grouped like the base's.

use crate::{Adapter, Buffer, Gradients, Linear, Parameter, Precision};
use kernels::gemm;
use numeric::MatrixView;
use std::ops::Range;

/// Maps and the rows that each of them takes.
#[derive(Clone, Copy)]
pub(crate) struct Grouped<'a> {
    pub(crate) maps: &'a [&'a Linear],
    pub(crate) offsets: &'a [usize],
    pub(crate) precision: Precision,
}

/// What backward needs besides x: `scale · x·Aᵀ` where there are adapters.
pub(crate) type Hidden = Option<Buffer>;

impl Grouped<'_> {
    pub(crate) fn forward(&self, x: &Buffer) -> (Buffer, Hidden) {
        let mut y = Buffer::unwritten(x.rows, self.maps[0].output_width());
        assert_eq!(x.width, self.maps[0].input_width(), "{} takes another width", self.maps[0].weight.name);
        let weights: Vec<&Parameter> = self.maps.iter().map(|map| &map.weight).collect();
        self.multiply_transposed(&mut y, x, &weights, false);
        self.add_biases(&mut y);
        let hidden = self.adapters().map(|adapters| {
            let a: Vec<&Parameter> = adapters.iter().map(|adapter| &adapter.a).collect();
            let b: Vec<&Parameter> = adapters.iter().map(|adapter| &adapter.b).collect();
            let mut hidden = Buffer::unwritten(x.rows, a[0].matrix.rows);
            self.multiply_transposed(&mut hidden, x, &a, false);
            hidden.iter_mut().for_each(|value| *value *= adapters[0].scale);
            self.multiply_transposed(&mut y, &hidden, &b, true);
            hidden
        });
        (y, hidden)
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
            self.multiply(dx, dy, &weights);
        }
        if let (Some(adapters), Some(hidden)) = (self.adapters(), hidden) {
            let a: Vec<&Parameter> = adapters.iter().map(|adapter| &adapter.a).collect();
            let b: Vec<&Parameter> = adapters.iter().map(|adapter| &adapter.b).collect();
            self.accumulate_outer(dy, hidden, &b, gradients);
            let mut dhidden = Buffer::zeros(hidden.rows, hidden.width);
            self.multiply(&mut dhidden, dy, &b);
            dhidden.iter_mut().for_each(|value| *value *= adapters[0].scale);
            self.accumulate_outer(&dhidden, x, &a, gradients);
            if let Some(dx) = dx {
                self.multiply(dx, &dhidden, &a);
            }
        }
    }

    fn adapters(&self) -> Option<Vec<&Adapter>> {
        let adapters: Vec<&Adapter> = self.maps.iter().filter_map(|map| map.adapter.as_ref()).collect();
        assert!(
            adapters.is_empty() || adapters.len() == self.maps.len(),
            "either all maps of a bank have adapters or none"
        );
        (!adapters.is_empty()).then_some(adapters)
    }

    fn add_biases(&self, y: &mut Buffer) {
        for (group, map) in self.maps.iter().enumerate() {
            let Some(bias) = &map.bias else { continue };
            for row in self.offsets[group]..self.offsets[group + 1] {
                y.row_mut(row).iter_mut().zip(bias.values()).for_each(|(y, bias)| *y += bias);
            }
        }
    }

    fn accumulate_biases(&self, dy: &Buffer, gradients: &mut Gradients) {
        for (group, map) in self.maps.iter().enumerate() {
            let Some(bias) = map.bias.as_ref().filter(|bias| bias.trained) else { continue };
            let gradient = gradients.entry(bias);
            for row in self.offsets[group]..self.offsets[group + 1] {
                gradient.iter_mut().zip(dy.row(row)).for_each(|(sum, dy)| *sum += dy);
            }
        }
    }

    fn multiply_transposed(&self, y: &mut Buffer, x: &Buffer, weights: &[&Parameter], accumulate: bool) {
        let views: Vec<MatrixView> = weights.iter().map(|weight| weight.matrix.view()).collect();
        match views[..] {
            [only] => gemm::multiply_transposed(y, x, only, accumulate, self.precision),
            _ => gemm::grouped_multiply_transposed(y, x, &views, self.offsets, accumulate, self.precision),
        }
    }

    fn multiply(&self, dx: &mut Buffer, dy: &Buffer, weights: &[&Parameter]) {
        let views: Vec<MatrixView> = weights.iter().map(|weight| weight.matrix.view()).collect();
        match views[..] {
            [only] => gemm::multiply(dx, dy, only, true, self.precision),
            _ => gemm::grouped_multiply(dx, dy, &views, self.offsets, true, self.precision),
        }
    }

    /// dW += dyᵀ·x for the trained ones among `weights`; the others' rows are skipped.
    fn accumulate_outer(&self, dy: &Buffer, x: &Buffer, weights: &[&Parameter], gradients: &mut Gradients) {
        if !weights[0].trained {
            return;
        }
        if let [only] = weights {
            return gemm::accumulate_outer(gradients.entry(only), dy, x, dy.width, x.width, self.precision);
        }
        let mut taken: Vec<Vec<f32>> = weights.iter().map(|weight| gradients.take(weight)).collect();
        let mut slices: Vec<&mut [f32]> = taken.iter_mut().map(Vec::as_mut_slice).collect();
        gemm::grouped_accumulate_outer(&mut slices, dy, x, dy.width, x.width, self.offsets, self.precision);
        for (weight, gradient) in weights.iter().zip(taken) {
            gradients.put(weight, gradient);
        }
    }
}

/// Several maps of one x, in one go for the threads; adapters are applied map by map.
pub(crate) fn forward_each<const N: usize>(x: &Buffer, maps: [&Linear; N], precision: Precision) -> [Buffer; N] {
    if maps.iter().any(|map| map.adapter.is_some()) {
        return maps.map(|map| forward(x, map, precision).0);
    }
    let mut outputs = maps.map(|map| Buffer::unwritten(x.rows, map.output_width()));
    let products = outputs.iter_mut().zip(&maps).map(|(y, map)| gemm::Map { y, x, weight: map.weight.matrix.view() });
    gemm::multiply_each(products.collect(), precision);
    for (y, map) in outputs.iter_mut().zip(&maps) {
        Grouped { maps: &[map], offsets: &[0, x.rows], precision }.add_biases(y);
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
        let groups = bank.maps.iter().zip(bank.offsets.windows(2)).map(move |(&map, rows)| {
            let y;
            (y, rest) = std::mem::take(&mut rest).split_at_mut((rows[1] - rows[0]) * width);
            (map, rows[0]..rows[1], y)
        });
        groups.filter(|(_, rows, _)| !rows.is_empty())
    })
}

/// Two banks of packed maps without adapters, in one go for the threads: sorted row r is row `chosen[r]` of x.
pub(crate) fn forward_pair_chosen(x: &Buffer, chosen: &[u32], banks: [&Grouped; 2]) -> [Buffer; 2] {
    let mut outputs = banks.map(|bank| Buffer::unwritten(chosen.len(), bank.maps[0].output_width()));
    let products = groups(banks, &mut outputs);
    let products = products.map(|(map, rows, y)| (gemm::Map { y, x, weight: map.weight.matrix.view() }, &chosen[rows]));
    gemm::multiply_chosen(products.collect());
    banks.into_iter().zip(&mut outputs).for_each(|(bank, output)| bank.add_biases(output));
    outputs
}

/// Two banks of maps of the same rows, in one go for the threads. With a single token every group reads that token, and
/// `x` is it; else `x` has its rows sorted.
pub(crate) fn forward_pair(x: &Buffer, banks: [&Grouped; 2]) -> [(Buffer, Hidden); 2] {
    if banks.iter().any(|bank| bank.adapters().is_some()) {
        return banks.map(|bank| bank.forward(x));
    }
    let rows = *banks[0].offsets.last().expect("offsets begin with 0");
    let mut outputs = banks.map(|bank| Buffer::unwritten(rows, bank.maps[0].output_width()));
    let products = groups(banks, &mut outputs).map(|(map, rows, y)| {
        let from = if x.rows == 1 { 0..1 } else { rows };
        gemm::Map { y, x: &x[from.start * x.width..from.end * x.width], weight: map.weight.matrix.view() }
    });
    gemm::multiply_each(products.collect(), banks[0].precision);
    banks.into_iter().zip(&mut outputs).for_each(|(bank, output)| bank.add_biases(output));
    outputs.map(|output| (output, None))
}

/// One map for all rows.
pub(crate) fn forward(x: &Buffer, map: &Linear, precision: Precision) -> (Buffer, Hidden) {
    Grouped { maps: &[map], offsets: &[0, x.rows], precision }.forward(x)
}

pub(crate) fn backward(
    dx: Option<&mut Buffer>,
    dy: &Buffer,
    x: &Buffer,
    hidden: &Hidden,
    map: &Linear,
    precision: Precision,
    gradients: &mut Gradients,
) {
    Grouped { maps: &[map], offsets: &[0, x.rows], precision }.backward(dx, dy, x, hidden, gradients);
}
