//! A model in memory: opened from a directory or a GGUF file, started at random, saved as a directory that
//! `transformers` loads.

use crate::adapter::places;
use crate::gguf::GgufSource;
use crate::source::{Checkpoint, Imagined, Random, Taking};
use crate::{Config, FeedForward, ModelError, ModelType, Quantization, Weights, store};
use formats::Gguf;
use formats::safetensors::Tensors;
use numeric::Format;
use ops::Parameter;
use serde_json::json;
use std::path::Path;

/// In which format weights come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    /// As they are stored: for looking at them, and for writing them again.
    Stored,
    /// Blocks laid out for the kernels, everything else as it is stored: for running. Activations are then rounded to
    /// eight bits where they meet quantized weights.
    Packed,
    /// As `Packed`, with plain weights rounded first, each when it is read; what is quantized stays as it is stored.
    Quantized(Quantization),
    /// Plain weights rounded to blocks, each when it is read, and not laid out for running: the frozen base under
    /// adapters that are trained (QLoRA; Dettmers et al. 2023). Products widen them a tile at a time, there and back.
    /// Routers and what is read value by value are f32; what is quantized stays as it is stored.
    Frozen(Quantization),
    /// All f32: for training.
    F32,
}

/// Shards of a saved model grow to this at most.
pub(crate) const SHARD_BYTES_MAX: u64 = 4 << 30;

#[derive(Debug, Clone)]
pub struct Model {
    pub config: Config,
    pub weights: Weights,
}

impl Model {
    /// Opens a Hugging Face directory, or a GGUF file. Names and shapes are checked against the config before anything
    /// runs.
    pub fn open(path: &Path, loading: Loading) -> Result<Self, ModelError> {
        if path.is_file() {
            return Self::from_gguf(&Gguf::open(path)?, loading);
        }
        let config = read_config(path)?;
        let tensors = Tensors::open(path)?;
        let weights = Weights::bind(&config, &mut Checkpoint::new(&tensors, loading, Taking::Numbers))?;
        Self { config, weights }.rounded_as(loading)
    }

    /// As [`Self::open`], but no number is read: the model that could be run, for planning what it takes.
    pub fn outline(path: &Path, loading: Loading) -> Result<Self, ModelError> {
        if path.is_file() {
            let gguf = Gguf::open(path)?;
            let config = Config::from_gguf(&gguf)?;
            let (weights, _) = GgufSource::outline(&gguf, &config, loading)?;
            return Self { config, weights }.rounded_as(loading);
        }
        let config = read_config(path)?;
        let tensors = Tensors::open(path)?;
        let weights = Weights::bind(&config, &mut Checkpoint::new(&tensors, loading, Taking::Outlines))?;
        Self { config, weights }.rounded_as(loading)
    }

    /// The outline of a model of which there is only a config, stored in `stored`: for planning what a stage will do
    /// with what another has yet to make.
    pub fn imagined(config: Config, loading: Loading, stored: Format) -> Self {
        let bound = Weights::bind(&config, &mut Imagined::new(loading, stored));
        let weights = bound.expect("nothing is read, so nothing is refused");
        Self { config, weights }
    }

    /// Takes the model out of a GGUF file. Its tensors are all looked at before the first is copied.
    pub fn from_gguf(gguf: &Gguf, loading: Loading) -> Result<Self, ModelError> {
        let config = Config::from_gguf(gguf)?;
        let (_, parts) = GgufSource::outline(gguf, &config, loading)?;
        let weights = Weights::bind(&config, &mut GgufSource::new(gguf, &config, loading, parts))?;
        Self { config, weights }.rounded_as(loading)
    }

    /// Refuses a model of which nothing was there to round: whoever asked for a format would take its speed and its
    /// quality for those of that format.
    pub(crate) fn rounded_as(self, loading: Loading) -> Result<Self, ModelError> {
        let Loading::Quantized(quantization) = loading else { return Ok(self) };
        let is_rounded = |p: &&Parameter| quantization.format(&p.name, p.matrix.columns) == p.matrix.format();
        let parameters = self.parameters();
        let mut bulk = parameters.iter().filter(|p| p.shape.len() == 2 && Quantization::is_bulk(&p.name)).copied();
        match bulk.any(|parameter| is_rounded(&parameter)) {
            true => Ok(self),
            false => Err(ModelError::AlreadyQuantized { wanted: quantization.experts }),
        }
    }

    /// A model that knows nothing yet, in f32. The same seed gives the same one.
    pub fn random(config: Config, seed: u64) -> Self {
        let bound = Weights::bind(&config, &mut Random::new(seed));
        let mut weights = bound.expect("a random source refuses nothing");
        // Residual branches start small, so that depth does not blow the stream up (GPT-2's scheme).
        let shrink = (2.0 * config.layers.len() as f32).sqrt().recip();
        weights.visit_mut(&mut |parameter| {
            let name = &parameter.name;
            if ["o_proj.weight", "out_proj.weight", "down_proj.weight"].iter().any(|end| name.ends_with(end)) {
                parameter.matrix.as_f32_mut().iter_mut().for_each(|value| *value *= shrink);
            }
        });
        Self { config, weights }
    }

    /// Writes config.json, generation_config.json and the weights; `plain` (F32, F16 or Bf16) is the format of what is
    /// not quantized. Vectors stay f32. Adapters must have been merged.
    pub fn save(&self, directory: &Path, plain: Format) -> Result<(), ModelError> {
        let parameters = self.parameters();
        assert!(!self.has_adapters(), "merge adapters before the model is saved");
        if self.config.model_type == ModelType::Qwen3Next && self.weights.final_norm.offset == 0.0 {
            let problem = "it is laid out as in GGUF, which transformers would misread; save the model of the \
                           directory that the file was made from";
            let name = self.weights.final_norm.weight.name.clone();
            return Err(ModelError::Tensor { name, problem: problem.into() });
        }
        store::write(&parameters, plain, |plan| Ok(plan.create_model(directory, SHARD_BYTES_MAX)?))?;
        write_config(directory, &self.config, plain)
    }

    /// Every parameter; each stands at the place of its id.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mut all = Vec::new();
        self.weights.visit(&mut |parameter| all.push(parameter));
        all.sort_by_key(|parameter| parameter.id);
        all
    }

    pub fn parameters_mut(&mut self) -> Vec<&mut Parameter> {
        let mut all = Vec::new();
        self.weights.visit_mut(&mut |parameter| all.push(parameter));
        all.sort_by_key(|parameter| parameter.id);
        all
    }

    /// Whether anything is added to its weights.
    pub fn has_adapters(&self) -> bool {
        let mut any = false;
        places::visit(&self.weights, &mut |_, slot| any |= slot.is_some());
        any
    }

    /// Marks the rows that choose experts as trained, and nothing else; gives how many layers have some.
    pub fn mark_routers(&mut self) -> usize {
        self.weights.visit_mut(&mut |parameter| parameter.trained = false);
        let mut count = 0;
        for layer in &mut self.weights.layers {
            if let FeedForward::Moe(moe) = &mut layer.feed_forward {
                moe.routed.router.weight.trained = true;
                count += 1;
            }
        }
        count
    }

    /// Numbers ids from 0 in walking order: after parameters were added or dropped.
    pub fn renumber(&mut self) {
        let mut next = 0;
        self.weights.visit_mut(&mut |parameter| {
            parameter.id = next;
            next += 1;
        });
    }

    /// Bytes that the weights take in memory.
    pub fn bytes(&self) -> usize {
        self.parameters().iter().map(|parameter| parameter.matrix.bytes()).sum()
    }

    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|parameter| parameter.matrix.rows * parameter.matrix.columns).sum()
    }
}

pub(crate) fn read_config(directory: &Path) -> Result<Config, ModelError> {
    let path = directory.join("config.json");
    let problem = |problem: String| ModelError::Config { path: path.clone(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| problem(error.to_string()))?;
    Config::from_json(&text).map_err(|error| problem(error.to_string()))
}

/// Writes generation_config.json, then config.json: with that the folder is a model.
pub(crate) fn write_config(directory: &Path, config: &Config, plain: Format) -> Result<(), ModelError> {
    let mut generation = json!({"do_sample": false});
    for key in ["eos_token_id", "pad_token_id"] {
        if let Some(value) = config.extra(key).filter(|value| !value.is_null()) {
            generation[key] = value.clone();
        }
    }
    formats::atomic::write_json(directory.join("generation_config.json"), &generation)?;
    let mut config = config.clone();
    let dtype = match plain {
        Format::F16 => "float16",
        Format::Bf16 => "bfloat16",
        _ => "float32",
    };
    config.set_extra("dtype", json!(dtype));
    config.set_extra("architectures", json!([architecture(config.model_type)]));
    write_text(directory, "config.json", &config.to_json())
}

fn architecture(model_type: ModelType) -> &'static str {
    match model_type {
        ModelType::Qwen2 => "Qwen2ForCausalLM",
        ModelType::Qwen3 => "Qwen3ForCausalLM",
        ModelType::Qwen3Moe => "Qwen3MoeForCausalLM",
        ModelType::Qwen3Next => "Qwen3NextForCausalLM",
    }
}

fn write_text(directory: &Path, name: &str, text: &str) -> Result<(), ModelError> {
    formats::atomic::write_atomically(directory.join(name), |file| writeln!(file, "{text}"))?;
    Ok(())
}
