//! Where a model's parameters come from: a checkpoint, or a random start.

use crate::model::Loading;
use crate::{ModelError, ModelType, Quantization, store};
use formats::Tensor;
use formats::safetensors::Tensors;
use numeric::{Format, Matrix, Rng};
use ops::Parameter;

/// How a parameter starts when there is no checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Initial {
    /// Normal with standard deviation 0.02.
    Normal,
    Constant(f32),
    /// Uniform within ±1/√kernel, as a depthwise convolution has it in common libraries.
    Conv,
    /// log of a rate uniform in 1..16 (Mamba 2; Dao and Gu 2024).
    DecayRate,
    /// Inverse softplus of a time step log-uniform in 0.001..0.1 (Mamba 2), so that some heads remember long.
    TimeStep,
}

/// Gives parameters by name; whoever asks says the shape.
pub(crate) trait Source {
    fn parameter(&mut self, name: String, shape: &[usize], initial: Initial) -> Result<Parameter, ModelError>;

    /// What is added to the stored weight of a norm: qwen3_next keeps its norms centred on zero.
    fn norm_offset(&self, model_type: ModelType) -> f32 {
        if model_type == ModelType::Qwen3Next { 1.0 } else { 0.0 }
    }

    /// Whether the delta layer of this name has its input projection in two parts.
    fn splits_delta_input(&self, _name: &str) -> bool {
        false
    }
}

pub(crate) fn named(id: usize, name: String, shape: &[usize], matrix: Matrix) -> Parameter {
    Parameter { id, name, shape: shape.to_vec(), trained: true, matrix }
}

/// Rows and columns of a tensor's matrix: vectors are one row, a convolution's middle axis is dropped.
pub(crate) fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    match *shape {
        [n] => (1, n),
        [rows, columns] | [rows, 1, columns] => (rows, columns),
        _ => panic!("a parameter of shape {shape:?} has no place in a model"),
    }
}

/// A random start; the same seed gives the same model.
pub(crate) struct Random {
    rng: Rng,
    next: usize,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), next: 0 }
    }

    fn value(rng: &mut Rng, columns: usize, initial: Initial) -> f32 {
        let value = match initial {
            Initial::Normal => 0.02 * rng.normal(),
            Initial::Constant(value) => f64::from(value),
            Initial::Conv => (2.0 * rng.uniform() - 1.0) / (columns as f64).sqrt(),
            Initial::DecayRate => (1.0 + 15.0 * rng.uniform()).ln(),
            Initial::TimeStep => {
                let step = (0.001f64.ln() + rng.uniform() * (0.1f64.ln() - 0.001f64.ln())).exp();
                step.exp_m1().ln()
            }
        };
        value as f32
    }
}

impl Source for Random {
    fn parameter(&mut self, name: String, shape: &[usize], initial: Initial) -> Result<Parameter, ModelError> {
        let (rows, columns) = rows_and_columns(shape);
        // A stream of its own for every parameter: another size elsewhere does not move this one's numbers.
        let mut rng = self.rng.fork(self.next as u64);
        let values = (0..rows * columns).map(|_| Self::value(&mut rng, columns, initial)).collect();
        self.next += 1;
        Ok(named(self.next - 1, name, shape, Matrix::from_f32(rows, columns, values)))
    }
}

/// A model of which there is no file yet: what a config says, as it would come into memory.
pub(crate) struct Imagined {
    loading: Loading,
    /// The format of what is not read value by value.
    stored: Format,
    next: usize,
}

impl Imagined {
    pub(crate) fn new(loading: Loading, stored: Format) -> Self {
        Self { loading, stored, next: 0 }
    }
}

impl Source for Imagined {
    fn parameter(&mut self, name: String, shape: &[usize], _: Initial) -> Result<Parameter, ModelError> {
        let matrix = self.loading.outline(&name, shape, self.stored);
        self.next += 1;
        Ok(named(self.next - 1, name, shape, matrix))
    }
}

/// What is done with a tensor that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Its numbers come into memory.
    Numbers,
    /// Shape and format alone are noted, as the numbers would come into memory.
    Outlines,
}

/// A checkpoint's tensors, under per-expert or fused names, plain or quantized.
pub(crate) struct Checkpoint<'a> {
    tensors: &'a Tensors,
    loading: Loading,
    taking: Taking,
    next: usize,
}

/// A tensor that was looked at: it is there and has the wanted shape.
enum Found<'a> {
    /// Of a block format, in several tensors.
    Blocks(Format),
    Plain(Tensor<'a>),
}

impl<'a> Checkpoint<'a> {
    pub(crate) fn new(tensors: &'a Tensors, loading: Loading, taking: Taking) -> Self {
        Self { tensors, loading, taking, next: 0 }
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Found<'a>, ModelError> {
        let (rows, columns) = rows_and_columns(shape);
        if let Some(format) = store::quantized_format(self.tensors, name, columns)? {
            return Ok(Found::Blocks(format));
        }
        if !self.tensors.contains(name) {
            if let Some(slice) = self.fused_expert(name, rows, columns)? {
                return Ok(Found::Plain(slice));
            }
            let detail = format!("{} has {} tensors", self.tensors.path().display(), self.tensors.len());
            return Err(ModelError::Missing { name: name.into(), detail });
        }
        let tensor = self.tensors.get(name)?;
        if tensor.shape != shape {
            return Err(ModelError::Shape { name: name.into(), wanted: shape.to_vec(), found: tensor.shape.to_vec() });
        }
        if !tensor.dtype.is_float() {
            let problem = format!("stored as {}, want F32, F16 or BF16", tensor.dtype.name());
            return Err(ModelError::Tensor { name: name.into(), problem });
        }
        Ok(Found::Plain(tensor))
    }

    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Matrix, ModelError> {
        let (rows, columns) = rows_and_columns(shape);
        match self.find(name, shape)? {
            Found::Blocks(format) => store::read_quantized(self.tensors, name, format, rows, columns),
            Found::Plain(tensor) => {
                let storage = tensor.to_storage();
                self.tensors.release(&tensor);
                Ok(Matrix { rows, columns, storage })
            }
        }
    }

    fn outline(&self, name: &str, shape: &[usize]) -> Result<Matrix, ModelError> {
        let format = match self.find(name, shape)? {
            Found::Blocks(format) => format,
            Found::Plain(tensor) => tensor.format(),
        };
        Ok(self.loading.outline(name, shape, format))
    }

    /// `…experts.3.up_proj.weight` out of the fused `…experts.gate_up_proj` `[E, 2I, H]` (gate rows first) or
    /// `…experts.down_proj` `[E, H, I]`.
    fn fused_expert(&self, name: &str, rows: usize, columns: usize) -> Result<Option<Tensor<'a>>, ModelError> {
        let Some((bank, rest)) = name.split_once(".experts.") else { return Ok(None) };
        let Some((expert, projection)) = rest.split_once('.') else { return Ok(None) };
        let (Ok(expert), Some(projection)) = (expert.parse::<usize>(), projection.strip_suffix(".weight")) else {
            return Ok(None);
        };
        let (fused, parts, part) = match projection {
            "gate_proj" => ("gate_up_proj", 2, 0),
            "up_proj" => ("gate_up_proj", 2, 1),
            _ => ("down_proj", 1, 0),
        };
        let fused = format!("{bank}.experts.{fused}");
        if !self.tensors.contains(&fused) {
            return Ok(None);
        }
        let tensor = self.tensors.get(&fused)?;
        let fits = matches!(*tensor.shape, [n, r, c] if expert < n && r == parts * rows && c == columns);
        if !fits {
            let wanted = vec![expert + 1, parts * rows, columns];
            return Err(ModelError::Shape { name: fused, wanted, found: tensor.shape.to_vec() });
        }
        let len = rows * columns * tensor.dtype.bytes();
        let start = (expert * parts + part) * len;
        Ok(Some(Tensor { bytes: &tensor.bytes[start..start + len], ..tensor }))
    }
}

impl Source for Checkpoint<'_> {
    fn parameter(&mut self, name: String, shape: &[usize], _: Initial) -> Result<Parameter, ModelError> {
        let matrix = match self.taking {
            Taking::Numbers => self.loading.of(&name, shape, self.matrix(&name, shape)?)?,
            Taking::Outlines => self.outline(&name, shape)?,
        };
        self.next += 1;
        Ok(named(self.next - 1, name, shape, matrix))
    }
}

impl Loading {
    /// Whether the tensor of this name, shape and format is laid out for the kernels.
    pub(crate) fn packs(self, name: &str, shape: &[usize], format: Format) -> bool {
        // Rounded activations would send tokens to other experts.
        matches!(self, Self::Packed | Self::Quantized(_)) && shape.len() == 2 && !decides(name) && format.packs()
    }

    /// To what a plain tensor of this name and shape is rounded.
    fn rounding(self, name: &str, shape: &[usize]) -> Option<Quantization> {
        match self {
            Self::Quantized(quantization) if shape.len() == 2 => Some(quantization),
            Self::Frozen(quantization) if shape.len() == 2 && !decides(name) => Some(quantization),
            _ => None,
        }
    }

    /// Whether the tensor of this name and shape is f32 in memory unless it is laid out for the kernels.
    fn widens(self, name: &str, shape: &[usize]) -> bool {
        // Norms, gates and the convolution are read value by value everywhere: they are always f32.
        shape.len() != 2 || self == Self::F32 || (matches!(self, Self::Frozen(_)) && decides(name))
    }

    /// The outline of what [`Self::of`] makes of a tensor that is stored in this format.
    pub(crate) fn outline(self, name: &str, shape: &[usize], stored: Format) -> Matrix {
        let (rows, columns) = rows_and_columns(shape);
        let format = match self.rounding(name, shape) {
            Some(quantization) if is_plain(stored) => quantization.format(name, columns),
            _ => stored,
        };
        let is_packed = self.packs(name, shape, format);
        let is_widened = self.widens(name, shape) && !is_packed;
        Matrix::outline(rows, columns, if is_widened { Format::F32 } else { format }, is_packed)
    }

    /// The matrix of the tensor of this name and shape as it is kept in memory.
    pub(crate) fn of(self, name: &str, shape: &[usize], matrix: Matrix) -> Result<Matrix, ModelError> {
        let matrix = match self.rounding(name, shape) {
            Some(quantization) if is_plain(matrix.format()) => quantization.round(name, matrix)?,
            _ => matrix,
        };
        Ok(match self.packs(name, shape, matrix.format()) {
            true => kernels::pack::matrix(matrix),
            false if !self.widens(name, shape) || matrix.format() == Format::F32 => matrix,
            false => Matrix::from_f32(matrix.rows, matrix.columns, matrix.to_f32()),
        })
    }
}

/// Whether the weight of this name decides where tokens go.
fn decides(name: &str) -> bool {
    name.ends_with(".mlp.gate.weight") || name.ends_with("shared_expert_gate.weight")
}

fn is_plain(format: Format) -> bool {
    matches!(format, Format::F32 | Format::Bf16 | Format::F16)
}
