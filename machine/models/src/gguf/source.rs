//! A GGUF file's tensors as a model's parameters. What the converter changed is undone here, or told to whoever binds.
//!
//! - Norms of qwen3_next have their one added: their offset is 0.
//! - `ssm_a` is −exp(A_log).
//! - A delta layer's input projection is two tensors in the order that is used (in older files one, grouped).
//! - Experts are stacked; a convolution has lost its middle axis; a vector may have got an axis of one.
//! - An NVFP4 tensor's scale is a tensor beside it: one number, or one for each expert.

use super::config::block_count;
use super::names::{Place, place};
use crate::model::Loading;
use crate::source::{Initial, Source, Taking, named, rows_and_columns};
use crate::{Config, FeedForwardKind, ModelError, ModelType, Weights};
use formats::{Gguf, GgufTensor};
use numeric::{Format, Matrix, Storage};
use ops::Parameter;
use std::collections::HashSet;
use std::ops::Range;

pub(crate) struct GgufSource<'a> {
    gguf: &'a Gguf,
    config: &'a Config,
    loading: Loading,
    taking: Taking,
    used: HashSet<String>,
    next: usize,
    reading: Reading<'a>,
}

/// Has the file read while what was read before is laid out. In memory the bytes that are read ahead are the system's,
/// which counts them as free.
#[derive(Default)]
struct Reading<'a> {
    /// The bytes of each parameter, in the order in which they are asked for.
    parts: Vec<&'a [u8]>,
    /// How many of them the system has been told to read.
    told: usize,
    /// Bytes of those that it was told of and that have not been asked for.
    ahead: usize,
}

/// How far ahead: what a fast disk reads while a few matrices are packed, and several times what it has in flight.
const AHEAD_BYTES: usize = 64 << 20;

impl<'a> Reading<'a> {
    /// To be called before part `index` is touched, for each in turn.
    fn on_to(&mut self, index: usize, gguf: &Gguf) {
        let len = |part: usize| self.parts.get(part).map_or(0, |part| part.len());
        // The first part was announced by nobody.
        self.ahead -= if index < self.told { len(index) } else { 0 };
        while self.told < self.parts.len() && (self.told <= index || self.ahead < AHEAD_BYTES) {
            gguf.will_need(self.parts[self.told]);
            self.ahead += if self.told > index { len(self.told) } else { 0 };
            self.told += 1;
        }
    }
}

/// A tensor that was looked at: it is there and has the wanted shape.
struct Found<'a> {
    tensor: GgufTensor<'a>,
    scale: Option<f32>,
}

impl<'a> GgufSource<'a> {
    /// `parts` is what [`Self::outline`] found.
    pub(crate) fn new(gguf: &'a Gguf, config: &'a Config, loading: Loading, parts: Vec<&'a [u8]>) -> Self {
        let reading = Reading { parts, ..Reading::default() };
        Self { gguf, config, loading, taking: Taking::Numbers, used: HashSet::new(), next: 0, reading }
    }

    /// For some of the parameters at a time; the file's tensors have been looked at as a whole before.
    pub(crate) fn piecewise(gguf: &'a Gguf, config: &'a Config, loading: Loading, taking: Taking) -> Self {
        Self { taking, ..Self::new(gguf, config, loading, Vec::new()) }
    }

    /// The weights without their numbers, and the bytes of each parameter in the order in which they are asked for.
    /// Refuses a file whose tensors are not those of the model: none too few, none of another shape, and none left
    /// over, since a tensor without a place here would have changed what the model computes.
    pub(crate) fn outline(
        gguf: &'a Gguf,
        config: &'a Config,
        loading: Loading,
    ) -> Result<(Weights, Vec<&'a [u8]>), ModelError> {
        let mut source = Self { taking: Taking::Outlines, ..Self::new(gguf, config, loading, Vec::new()) };
        let weights = Weights::bind(config, &mut source)?;
        let predicting = config.layers.len()..block_count(gguf);
        let is_left = |name: &str| !source.used.contains(name) && !may_be_left(name, &predicting);
        match gguf.tensors().find(|tensor| is_left(tensor.name)) {
            None => Ok((weights, source.reading.parts)),
            Some(tensor) => {
                let problem = format!("it has no place in a model of type {:?}", config.model_type);
                Err(ModelError::Tensor { name: tensor.name.into(), problem })
            }
        }
    }

    fn experts_of(&self, place: &Place) -> usize {
        let layer = place.layer.and_then(|layer| self.config.layers.get(layer));
        match layer.map(|layer| layer.feed_forward) {
            Some(FeedForwardKind::Experts { count }) => count,
            _ => 0,
        }
    }

    fn find(&mut self, place: &Place, shape: &[usize]) -> Result<Found<'a>, ModelError> {
        let name = &place.tensor;
        if !self.gguf.contains(name) {
            let detail = format!("{} has {} tensors", self.gguf.path().display(), self.gguf.len());
            return Err(ModelError::Missing { name: name.clone(), detail });
        }
        let tensor = self.gguf.get(name)?;
        let wanted = match place.expert {
            Some(_) => [&[self.experts_of(place)], shape].concat(),
            None => shape.to_vec(),
        };
        let fits = match place.expert {
            Some(_) => tensor.shape == wanted,
            None => without_ones(tensor.shape).eq(without_ones(&wanted)),
        };
        let part = match place.expert {
            Some(expert) => tensor.part(expert),
            None => Some(tensor),
        };
        let Some(part) = part.filter(|_| fits) else {
            return Err(ModelError::Shape { name: name.clone(), wanted, found: tensor.shape.to_vec() });
        };
        let scale = self.scale(&tensor, place)?;
        self.used.insert(name.clone());
        Ok(Found { tensor: part, scale })
    }

    /// The number beside an NVFP4 tensor, for `blk.0.ffn_up_exps.weight` in `blk.0.ffn_up_exps.scale`.
    fn scale(&mut self, tensor: &GgufTensor, place: &Place) -> Result<Option<f32>, ModelError> {
        let Some(stem) = tensor.name.strip_suffix(".weight") else { return Ok(None) };
        let name = format!("{stem}.scale");
        if !self.gguf.contains(&name) {
            return Ok(None);
        }
        let problem = |problem: String| ModelError::Tensor { name: name.clone(), problem };
        if tensor.format != Format::Nvfp4 {
            let format = formats::gguf::name_of(tensor.format);
            return Err(problem(format!("only NVFP4 tensors have a scale beside them, {} is {format}", tensor.name)));
        }
        let scales = self.gguf.get(&name)?;
        let index = match (scales.n_values(), place.expert) {
            (1, _) => 0,
            (n, Some(expert)) if n == self.experts_of(place) => expert,
            _ => {
                let (wanted, found) = (vec![self.experts_of(place).max(1)], scales.shape.to_vec());
                return Err(ModelError::Shape { name, wanted, found });
            }
        };
        let value = scales.to_matrix().to_f32()[index];
        if !value.is_finite() {
            return Err(problem(format!("number {index} is {value}, want a finite one")));
        }
        self.used.insert(name);
        Ok(Some(value))
    }
}

/// Blocks behind the last layer predict further tokens; scales of activations are for machines that quantize those.
fn may_be_left(name: &str, predicting: &Range<usize>) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
    block.is_some_and(|block| predicting.contains(&block)) || name.ends_with(".input_scale")
}

fn without_ones(shape: &[usize]) -> impl Iterator<Item = &usize> {
    shape.iter().filter(|&&size| size != 1)
}

impl Found<'_> {
    fn matrix(&self, shape: &[usize]) -> Matrix {
        let (rows, columns) = rows_and_columns(shape);
        // An axis of one may stand on either side of a vector.
        let matrix = Matrix { rows, columns, ..self.tensor.to_matrix() };
        match self.scale {
            Some(scale) => matrix.with_tensor_scale(scale),
            None => matrix,
        }
    }
}

impl Found<'_> {
    /// Laid out for the kernels, straight from the file's bytes.
    fn packed(&self, shape: &[usize]) -> Matrix {
        let (rows, columns) = rows_and_columns(shape);
        let GgufTensor { format, bytes, .. } = self.tensor;
        let packed = kernels::pack::pack(format, rows, columns, self.scale.unwrap_or(1.0), bytes);
        Matrix { rows, columns, storage: Storage::Packed(packed) }
    }
}

/// A_log from −exp(A_log).
fn decay_rates(name: &str, matrix: &Matrix) -> Result<Matrix, ModelError> {
    let values = matrix.to_f32();
    if let Some(value) = values.iter().find(|value| !(value.is_finite() && **value < 0.0)) {
        let problem = format!("it holds {value}, want numbers below zero");
        return Err(ModelError::Tensor { name: name.into(), problem });
    }
    Ok(Matrix::from_f32(matrix.rows, matrix.columns, values.into_iter().map(|value| (-value).ln()).collect()))
}

impl Source for GgufSource<'_> {
    fn parameter(&mut self, name: String, shape: &[usize], initial: Initial) -> Result<Parameter, ModelError> {
        let place = place(&name, self.config.model_type);
        let place = place.unwrap_or_else(|| panic!("GGUF has no name for {name}"));
        let found = self.find(&place, shape)?;
        match self.taking {
            Taking::Outlines => self.reading.parts.push(found.tensor.bytes),
            Taking::Numbers => self.reading.on_to(self.next, self.gguf),
        }
        let loading = self.loading;
        let matrix = match (self.taking, initial) {
            (Taking::Outlines, _) => loading.outline(&name, shape, found.tensor.format),
            (_, Initial::DecayRate) => decay_rates(&place.tensor, &found.matrix(shape))?,
            _ if loading.packs(&name, shape, found.tensor.format) => found.packed(shape),
            _ => loading.of(&name, shape, found.matrix(shape))?,
        };
        if self.taking == Taking::Numbers {
            // It has been copied: its pages need not stay beside the copy.
            self.gguf.release(found.tensor.bytes);
        }
        self.next += 1;
        Ok(named(self.next - 1, name, shape, matrix))
    }

    fn norm_offset(&self, _: ModelType) -> f32 {
        0.0
    }

    fn splits_delta_input(&self, name: &str) -> bool {
        let grouped = place(&format!("{name}.in_proj_qkvz.weight"), self.config.model_type);
        !grouped.is_some_and(|place| self.gguf.contains(&place.tensor))
    }
}
