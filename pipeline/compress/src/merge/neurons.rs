//! An expert as its hidden neurons: for each a row of the gate, a row of the up and a column of the down projection.
//!
//! Legend: m neurons, H hidden width of the model.
//!
//! `f(x) = Σᵢ dᵢ · silu(gᵢ·x) · (uᵢ·x)` is the same for any order of the neurons, and for `uᵢ·c, dᵢ/c` with any c that
//! is not 0. Neurons here have `‖uᵢ‖ = ‖dᵢ‖`, so that only order and sign are left open.

use kernels::swiglu;
use numeric::Matrix;
use ops::{Buffer, Execute, Expert, Infer, Linear, Precision};

/// All in f32, `[m, H]` each.
#[derive(Debug, Clone)]
pub struct Neurons {
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// Columns of the down projection, as rows.
    pub(crate) down: Vec<f32>,
    /// Where all weights are bf16 numbers, as those of most checkpoints.
    pub(crate) stored: Option<Stored>,
}

/// Rows of the up and columns of the down projection before they were scaled: products of bf16 numbers are exact in
/// f32, and fast where the processor has them.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) up: Vec<f32>,
    pub(crate) down: Vec<f32>,
    /// What each neuron's up was multiplied by, and its down divided.
    pub(crate) scales: Vec<f32>,
}

fn are_bf16(values: &[f32]) -> bool {
    values.iter().fold(0, |bits, value| bits | value.to_bits()) & 0xffff == 0
}

impl Neurons {
    /// Of an expert in any stored format.
    pub fn of(expert: &Expert) -> Self {
        let (count, width) = (expert.gate.output_width(), expert.gate.input_width());
        let [gate, up] = [&expert.gate, &expert.up].map(|map| map.weight.matrix.to_f32());
        let down = transposed(&expert.down.weight.matrix.to_f32(), width, count);
        let stored = [&gate, &up, &down].into_iter().all(|values| are_bf16(values)).then(|| (up.clone(), down.clone()));
        let mut neurons = Self { count, width, gate, up, down, stored: None };
        let scales = neurons.balance();
        neurons.stored = stored.map(|(up, down)| Stored { up, down, scales });
        neurons
    }

    /// Scales every neuron so that its row of the up and its column of the down projection are equally long, and says
    /// by what.
    fn balance(&mut self) -> Vec<f32> {
        let neurons = self.up.chunks_exact_mut(self.width).zip(self.down.chunks_exact_mut(self.width));
        let balance = |(up, down): (&mut [f32], &mut [f32])| {
            let (of_up, of_down) = (square(up).sqrt(), square(down).sqrt());
            if of_up == 0.0 || of_down == 0.0 {
                return 1.0;
            }
            let scale = (of_down / of_up).sqrt();
            up.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
            down.iter_mut().for_each(|value| *value = (f64::from(*value) / scale) as f32);
            scale as f32
        };
        neurons.map(balance).collect()
    }

    /// Squared length of each neuron: of its gate row, and of its up row and down column together.
    pub(crate) fn squares(&self) -> Vec<[f64; 2]> {
        let rows = |values: &[f32]| -> Vec<f64> { values.chunks_exact(self.width).map(square).collect() };
        let (gate, up, down) = (rows(&self.gate), rows(&self.up), rows(&self.down));
        (0..self.count).map(|i| [gate[i], up[i] + down[i]]).collect()
    }

    /// Neuron i becomes what `from[i]` was, with up and down negated where `flipped[i]`.
    pub(crate) fn reordered(&self, from: &[usize], flipped: &[bool]) -> Self {
        let take = |values: &[f32], may_flip: bool| {
            let rows = from.iter().zip(flipped).flat_map(|(&old, &flipped)| {
                let sign = if flipped && may_flip { -1.0 } else { 1.0 };
                values[old * self.width..(old + 1) * self.width].iter().map(move |value| sign * value)
            });
            rows.collect()
        };
        let (gate, up, down) = (take(&self.gate, false), take(&self.up, true), take(&self.down, true));
        Self { count: self.count, width: self.width, gate, up, down, stored: None }
    }

    /// These weights under an expert's names.
    pub(crate) fn into_expert(self, named: &Expert) -> Expert {
        let down = transposed(&self.down, self.count, self.width);
        let with = |map: &Linear, rows, columns, values| {
            let mut map = Linear { bias: map.bias.clone(), adapter: None, weight: renewed(map) };
            map.weight.matrix = Matrix::from_f32(rows, columns, values);
            map
        };
        Expert {
            gate: with(&named.gate, self.count, self.width, self.gate),
            up: with(&named.up, self.count, self.width, self.up),
            down: with(&named.down, self.width, self.count, down),
        }
    }
}

/// A map's parameter without its numbers.
fn renewed(map: &Linear) -> ops::Parameter {
    let weight = &map.weight;
    ops::Parameter {
        id: weight.id,
        name: weight.name.clone(),
        shape: weight.shape.clone(),
        trained: weight.trained,
        matrix: Matrix::from_f32(0, 0, Vec::new()),
    }
}

/// An expert's numbers as f32, whatever they were stored as.
pub(crate) fn widened(expert: &Expert) -> Expert {
    let widen = |map: &Linear| {
        let Matrix { rows, columns, .. } = map.weight.matrix;
        let mut wide = Linear { bias: map.bias.clone(), adapter: None, weight: renewed(map) };
        wide.weight.matrix = Matrix::from_f32(rows, columns, map.weight.matrix.to_f32());
        wide
    };
    Expert { gate: widen(&expert.gate), up: widen(&expert.up), down: widen(&expert.down) }
}

/// `silu(gate·x) · (up·x)` `[R, m]`.
pub(crate) fn hidden(expert: &Expert, x: &Buffer) -> Buffer {
    if x.rows == 0 {
        return Buffer::zeros(0, expert.gate.output_width());
    }
    let [gate, up] = Infer::new(Precision::F32).linears(x, [&expert.gate, &expert.up]);
    let mut hidden = Buffer::unwritten(gate.rows, gate.width);
    swiglu::forward(&mut hidden, &gate, &up);
    hidden
}

/// The expert's output `[R, H]`.
pub(crate) fn output(expert: &Expert, x: &Buffer) -> Buffer {
    if x.rows == 0 {
        return Buffer::zeros(0, x.width);
    }
    models::dense(&mut Infer::new(Precision::F32), expert, x)
}

pub(crate) fn square(values: &[f32]) -> f64 {
    numeric::dot(values, values)
}

/// `[rows, columns]` as `[columns, rows]`.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    // Square pieces: whole rows on one side would be whole columns on the other.
    const SIDE: usize = 16;
    let mut out = vec![0.0; values.len()];
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            for r in row..(row + SIDE).min(rows) {
                for c in column..(column + SIDE).min(columns) {
                    out[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    out
}
