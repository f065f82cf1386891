//! What an operation multiplies with: parameters, and the small groups of them that one operation takes.

use crate::DeltaShape;
use numeric::Matrix;

/// One tensor of a model. `id` is its place in the model's list of parameters, and in [`Gradients`].
#[derive(Debug, Clone)]
pub struct Parameter {
    pub id: usize,
    /// The name it has on disk.
    pub name: String,
    /// The shape it has on disk: a convolution is `[C, 1, K]` there and a `C × K` matrix here, a vector `[n]` is `1 ×
    /// n`.
    pub shape: Vec<usize>,
    /// Whether gradients are wanted for it.
    pub trained: bool,
    pub matrix: Matrix,
}

impl Parameter {
    pub fn values(&self) -> &[f32] {
        self.matrix.as_f32()
    }
}

/// `y = x·Wᵀ (+ bias) (+ adapter)`, with W in any format.
#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Parameter,
    pub bias: Option<Parameter>,
    /// A map in a bank of experts has none: the bank's stands in [`Moe::adapters`].
    pub adapter: Option<Adapter>,
}

/// A low-rank addition `scale · drop(x)·Aᵀ·Bᵀ` to a linear map, or to every map of a bank.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// `[rank, in]`. In a bank `[E, rank, in]`, or `[rank, in]` where all experts share it.
    pub a: Parameter,
    /// `[out, rank]`. In a bank `[E, out, rank]`, or `[out, rank]` where all experts share it.
    pub b: Parameter,
    pub alpha: f32,
    /// Whether alpha is divided by the root of the rank and not by the rank (rsLoRA; Kalajdzievski 2023).
    pub rank_stabilized: bool,
    /// Share of x's numbers that training leaves out.
    pub dropout: f32,
}

impl Adapter {
    pub fn rank(&self) -> usize {
        self.b.matrix.columns
    }

    /// What the product is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank() as f32;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }

    /// The factors of one map, row by row; `expert` is 0 where there is no bank.
    pub fn factors(&self, expert: usize) -> [&[f32]; 2] {
        [&self.a, &self.b].map(|factor| {
            let expert = if factor.shape.len() == 3 { expert } else { 0 };
            let len = factor.shape[factor.shape.len() - 2..].iter().product::<usize>();
            &factor.values()[expert * len..(expert + 1) * len]
        })
    }
}

impl Linear {
    pub fn output_width(&self) -> usize {
        self.weight.matrix.rows
    }

    pub fn input_width(&self) -> usize {
        self.weight.matrix.columns
    }
}

/// RMS norm over groups of `weight.len()` columns; the gain is `offset + weight` (offset 1 for zero-centred weights).
#[derive(Debug, Clone)]
pub struct Norm {
    pub weight: Parameter,
    pub offset: f32,
    pub epsilon: f32,
}

impl Norm {
    pub(crate) fn read(&self) -> kernels::rms_norm::Norm<'_> {
        kernels::rms_norm::Norm { weight: self.weight.values(), offset: self.offset, epsilon: self.epsilon }
    }
}

/// Depthwise causal convolution with SiLU: weight `[channels, kernel]`, last tap on the current token.
#[derive(Debug, Clone)]
pub struct Conv {
    pub weight: Parameter,
}

/// What turns `(b, a)` into the write strength β = σ(b) and the log-decay g = −exp(A_log)·softplus(a + dt_bias).
#[derive(Debug, Clone)]
pub struct DeltaGates {
    pub a_log: Parameter,
    pub dt_bias: Parameter,
    pub shape: DeltaShape,
}

/// One routed feed-forward network.
#[derive(Debug, Clone)]
pub struct Expert {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// A router and its bank of experts. `normalize`: the chosen probabilities are divided by their sum.
#[derive(Debug, Clone)]
pub struct Moe {
    pub layer: usize,
    pub router: Linear,
    pub experts: Vec<Expert>,
    /// Of the experts' gate, up and down projections.
    pub adapters: [Option<Adapter>; 3],
    pub top_k: usize,
    pub normalize: bool,
}

/// Gradients by parameter id; a parameter that no trained path reached has none.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    by_parameter: Vec<Option<Vec<f32>>>,
}

impl Gradients {
    /// The gradient of a parameter, zeros at first.
    pub fn entry(&mut self, parameter: &Parameter) -> &mut [f32] {
        let len = parameter.matrix.rows * parameter.matrix.columns;
        if self.by_parameter.len() <= parameter.id {
            self.by_parameter.resize(parameter.id + 1, None);
        }
        self.by_parameter[parameter.id].get_or_insert_with(|| vec![0.0; len])
    }

    /// Takes the gradients of several distinct parameters out, so that they can be written side by side; give them back
    /// with [`Gradients::put`].
    pub fn take(&mut self, parameter: &Parameter) -> Vec<f32> {
        self.entry(parameter);
        self.by_parameter[parameter.id].take().expect("the entry was made just now")
    }

    pub fn put(&mut self, parameter: &Parameter, gradient: Vec<f32>) {
        self.by_parameter[parameter.id] = Some(gradient);
    }

    pub fn get(&self, id: usize) -> Option<&[f32]> {
        self.by_parameter.get(id)?.as_deref()
    }

    /// Sets every gradient to zero and keeps the memory.
    pub fn clear(&mut self) {
        self.by_parameter.iter_mut().flatten().for_each(|gradient| gradient.fill(0.0));
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.by_parameter.iter().enumerate().filter_map(|(id, gradient)| Some((id, gradient.as_deref()?)))
    }
}
