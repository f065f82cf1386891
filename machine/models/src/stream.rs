//! A model that may be larger than memory: opened from its headers alone, then visited a layer at a time. What a layer
//! is read from is given back to the system as soon as it is copied, so that a visit holds the layer and no more.

use crate::gguf::GgufSource;
use crate::model::read_config;
use crate::source::{Checkpoint, Initial, Source, Taking};
use crate::weights::{LayerWeights, Weights};
use crate::{Config, Loading, Model, ModelError, ModelType};
use formats::safetensors::Tensors;
use formats::{Gguf, hash_bytes};
use numeric::Format;
use ops::{Linear, Norm, Parameter};
use std::path::Path;

/// See the head of this file.
pub struct LayerStream {
    stored: Stored,
    outline: Model,
    loading: Loading,
}

/// Where the layers are.
enum Stored {
    Folder(Tensors),
    Gguf(Box<Gguf>),
}

/// A source of whichever it is.
enum Either<'a> {
    Folder(Checkpoint<'a>),
    Gguf(GgufSource<'a>),
}

impl Source for Either<'_> {
    fn parameter(&mut self, name: String, shape: &[usize], initial: Initial) -> Result<Parameter, ModelError> {
        match self {
            Self::Folder(source) => source.parameter(name, shape, initial),
            Self::Gguf(source) => source.parameter(name, shape, initial),
        }
    }

    fn norm_offset(&self, model_type: ModelType) -> f32 {
        match self {
            Self::Folder(source) => source.norm_offset(model_type),
            Self::Gguf(source) => source.norm_offset(model_type),
        }
    }

    fn splits_delta_input(&self, name: &str) -> bool {
        match self {
            Self::Folder(source) => source.splits_delta_input(name),
            Self::Gguf(source) => source.splits_delta_input(name),
        }
    }
}

impl Stored {
    fn source<'a>(&'a self, config: &'a Config, loading: Loading, taking: Taking) -> Either<'a> {
        match self {
            Self::Folder(tensors) => Either::Folder(Checkpoint::new(tensors, loading, taking)),
            Self::Gguf(gguf) => Either::Gguf(GgufSource::piecewise(gguf, config, loading, taking)),
        }
    }
}

impl LayerStream {
    /// Opens a model folder or a GGUF file. Names and shapes of all tensors are checked against the config; no number
    /// is read.
    pub fn open(path: &Path, loading: Loading) -> Result<Self, ModelError> {
        if path.is_file() {
            let gguf = Box::new(Gguf::open(path)?);
            let config = Config::from_gguf(&gguf)?;
            let (weights, _) = GgufSource::outline(&gguf, &config, loading)?;
            let outline = Model { config, weights }.rounded_as(loading)?;
            return Ok(Self { stored: Stored::Gguf(gguf), outline, loading });
        }
        let config = read_config(path)?;
        let stored = Stored::Folder(Tensors::open(path)?);
        let weights = Weights::bind(&config, &mut stored.source(&config, loading, Taking::Outlines))?;
        let outline = Model { config, weights }.rounded_as(loading)?;
        Ok(Self { stored, outline, loading })
    }

    /// As [`Self::open`], for writing layers again: plain weights as they are stored. Those of a model that is stored
    /// in blocks become f32, since what is cut out of it or added to it is rounded anew.
    pub fn open_plain(directory: &Path) -> Result<Self, ModelError> {
        let stream = Self::open(directory, Loading::Stored)?;
        let is_plain = |format: Format| format.block_columns() == 1;
        match stream.outline.parameters().iter().all(|parameter| is_plain(parameter.matrix.format())) {
            true => Ok(stream),
            false => Self::open(directory, Loading::F32),
        }
    }

    /// The whole model without numbers, as its weights come into memory.
    pub fn outline(&self) -> &Model {
        &self.outline
    }

    /// Of a folder. A GGUF file is run and never written again.
    pub fn tensors(&self) -> &Tensors {
        match &self.stored {
            Stored::Folder(tensors) => tensors,
            Stored::Gguf(gguf) => panic!("{} is no folder of safetensors", gguf.path().display()),
        }
    }

    /// How weights come into memory.
    pub fn loading(&self) -> Loading {
        self.loading
    }

    fn source(&self) -> Either<'_> {
        self.stored.source(&self.outline.config, self.loading, Taking::Numbers)
    }

    /// The weights of one layer.
    pub fn layer(&self, index: usize) -> Result<LayerWeights, ModelError> {
        Weights::bind_layer(&self.outline.config, &mut self.source(), index)
    }

    /// One layer as a model's weights, for what works on those; the ends are without numbers.
    pub fn alone(&self, index: usize) -> Result<Weights, ModelError> {
        let mut outlines = self.stored.source(&self.outline.config, self.loading, Taking::Outlines);
        let mut weights = Weights::bind_layers(&self.outline.config, &mut outlines, 0..0)?;
        weights.layers.push(self.layer(index)?);
        Ok(weights)
    }

    /// The model without its layers.
    pub fn ends(&self) -> Result<Model, ModelError> {
        let weights = Weights::bind_layers(&self.outline.config, &mut self.source(), 0..0)?;
        Ok(Model { config: self.outline.config.clone(), weights })
    }

    /// `[V, H]`.
    pub fn embedding(&self) -> Result<Linear, ModelError> {
        Weights::bind_embedding(&self.outline.config, &mut self.source())
    }

    pub fn final_norm(&self) -> Result<Norm, ModelError> {
        Weights::bind_final_norm(&self.outline.config, &mut self.source())
    }

    /// The final norm, and the head where it is not the embedding.
    pub fn ending(&self) -> Result<(Norm, Option<Linear>), ModelError> {
        Weights::bind_ending(&self.outline.config, &mut self.source())
    }

    /// Tells this model from others, without reading all of it: a hash of its configuration, of every tensor's name,
    /// kind and shape, and of a page of numbers of every few tensors.
    pub fn fingerprint(&self) -> String {
        const PAGES: usize = 1024;
        const PAGE_BYTES: usize = 4096;
        let tensors = self.tensors();
        let stride = tensors.len().div_ceil(PAGES).max(1);
        let mut told = self.outline.config.to_json().into_bytes();
        for (number, tensor) in tensors.tensors().enumerate() {
            told.extend(format!("{} {} {:?}\n", tensor.name, tensor.dtype.name(), tensor.shape).bytes());
            if number % stride == 0 {
                // From the middle: what stands first is often alike.
                let start = (tensor.bytes.len() / 2).min(tensor.bytes.len().saturating_sub(PAGE_BYTES));
                told.extend(&tensor.bytes[start..(start + PAGE_BYTES).min(tensor.bytes.len())]);
                tensors.release(&tensor);
            }
        }
        hash_bytes(&told)
    }
}
