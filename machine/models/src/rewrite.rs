//! Writing a changed model while it is read, layer by layer: one layer is in memory, whole files appear one by one, and
//! a job that was cut short goes on with the first file that is missing.
//!
//! The folder is no model until all of it is there: its index and its config.json come last.

use crate::model::{SHARD_BYTES_MAX, write_config};
use crate::store::{self, Declared};
use crate::stream::LayerStream;
use crate::weights::LayerWeights;
use crate::{Config, Loading, Model, ModelError, Quantization};
use formats::safetensors::{INDEX, SINGLE};
use formats::{TensorPlan, check_room, hash_bytes, hash_file, read_json, write_json};
use numeric::Format;
use ops::Parameter;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What is written beside the shards until the model is whole.
pub(crate) const NOTES: &str = "rewriting.json";

/// What is to be made of a model.
pub struct Rewrite<'a> {
    pub from: &'a LayerStream,
    /// Of the result: the source's with other numbers of experts.
    pub config: &'a Config,
    pub out: &'a Path,
    /// The format of what is not quantized.
    pub plain: Format,
    /// To what linear maps are rounded when they are written.
    pub quantization: Option<Quantization>,
    /// All that decides what `layer` makes of a layer, for telling this job from another.
    pub key: &'a str,
    /// A file grows to this at most; a layer that is larger has one of its own.
    pub shard_bytes_max: u64,
}

impl<'a> Rewrite<'a> {
    pub fn new(from: &'a LayerStream, config: &'a Config, out: &'a Path, key: &'a str) -> Self {
        let (plain, shard_bytes_max) = (Format::Bf16, SHARD_BYTES_MAX);
        Self { from, config, out, plain, quantization: None, key, shard_bytes_max }
    }
}

/// How far it is, in parts of a model: the embedding, each layer, the ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteStep {
    pub done: usize,
    pub total: usize,
    /// Bytes of weights that this call has read.
    pub bytes_read: u64,
}

/// Which shards of a job are there, with the hash of each.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    key: String,
    shards: BTreeMap<String, String>,
}

/// Consecutive parts of the model in one file.
struct Shard {
    file: String,
    parts: Vec<usize>,
    tensors: Vec<Declared>,
    bytes: u64,
}

/// Bytes of the weights of such a model, written in these formats.
pub fn rewrite_bytes(config: &Config, plain: Format, quantization: Option<Quantization>) -> u64 {
    parts_of(config, plain, quantization).iter().flatten().map(bytes_of).sum()
}

/// Makes the model in `job.out` out of what `layer` makes of each layer, given its index; `watch` may stop it, and the
/// same call then goes on. Shards that are there and unchanged since they were written are not made again. When all of
/// them are there, and before config.json, `beside` writes what is to stand beside the model.
pub fn rewrite_model<E: From<ModelError>>(
    job: &Rewrite,
    layer: &mut dyn FnMut(usize, LayerWeights) -> Result<LayerWeights, E>,
    beside: &mut dyn FnMut() -> Result<(), E>,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<(), E> {
    let shards = shards(job);
    let mut notes = begin(job, &shards)?;
    let total = job.config.layers.len() + 2;
    let mut step = RewriteStep { done: 0, total, bytes_read: 0 };
    for shard in &shards {
        if is_there(job.out, shard, &notes)? {
            step.done += shard.parts.len();
            continue;
        }
        let mut goes_on = true;
        write_shard(job, shard, layer, &mut |bytes| {
            step.done += 1;
            step.bytes_read += bytes;
            goes_on = watch(step);
            goes_on
        })?;
        let hash = hash_file(job.out.join(&shard.file)).map_err(ModelError::from)?;
        notes.shards.insert(shard.file.clone(), hash);
        write_json(job.out.join(NOTES), &notes).map_err(ModelError::from)?;
        if !goes_on {
            return Err(ModelError::Cancelled.into());
        }
    }
    beside()?;
    Ok(finish(job, &shards)?)
}

/// The tensors of each part of the result.
fn parts_of(config: &Config, plain: Format, quantization: Option<Quantization>) -> Vec<Vec<Declared>> {
    let outline = Model::imagined(config.clone(), Loading::Stored, plain);
    let declare = |parameter: &Parameter| {
        let format = quantization.filter(|_| parameter.shape.len() == 2);
        let format =
            format.map_or(plain, |quantization| quantization.format(&parameter.name, parameter.matrix.columns));
        store::declared(parameter, format, plain)
    };
    let mut parts = vec![declare(&outline.weights.embedding.weight)];
    for layer in &outline.weights.layers {
        let mut tensors = Vec::new();
        layer.visit(&mut |parameter| tensors.extend(declare(parameter)));
        parts.push(tensors);
    }
    let mut ending = declare(&outline.weights.final_norm.weight);
    ending.extend(outline.weights.separate_head.iter().flat_map(|head| declare(&head.weight)));
    parts.push(ending);
    parts
}

fn bytes_of((_, dtype, shape): &Declared) -> u64 {
    shape.iter().product::<usize>() as u64 * dtype.bytes() as u64
}

/// Fills shards with parts, in order.
fn shards(job: &Rewrite) -> Vec<Shard> {
    let mut shards: Vec<Shard> = Vec::new();
    for (part, tensors) in parts_of(job.config, job.plain, job.quantization).into_iter().enumerate() {
        let bytes: u64 = tensors.iter().map(bytes_of).sum();
        match shards.last_mut().filter(|shard| shard.bytes + bytes <= job.shard_bytes_max) {
            Some(shard) => {
                shard.parts.push(part);
                shard.tensors.extend(tensors);
                shard.bytes += bytes;
            }
            None => shards.push(Shard { file: String::new(), parts: vec![part], tensors, bytes }),
        }
    }
    let count = shards.len();
    for (number, shard) in (1..).zip(&mut shards) {
        shard.file = match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
    }
    shards
}

/// The notes of an earlier call of the same job, or new ones; refuses a folder that holds something else, and a disk
/// without room for what is missing.
fn begin(job: &Rewrite, shards: &[Shard]) -> Result<Notes, ModelError> {
    let refuse = |problem: &str| {
        let problem = format!("{problem}; give another folder, or remove this one first");
        Err(ModelError::Config { path: job.out.to_owned(), problem })
    };
    if job.out.join("config.json").exists() {
        return refuse("it holds a model already");
    }
    let config = job.config.to_json();
    let told = format!("{}\n{:?}\n{:?}\n{config}\n", job.from.fingerprint(), job.plain, job.quantization);
    let key = hash_bytes(format!("{told}{}\n{}", job.key, job.shard_bytes_max).as_bytes());
    let path = job.out.join(NOTES);
    let notes = match path.exists() {
        true => read_json::<Notes>(&path)?,
        false => Notes { key: key.clone(), shards: BTreeMap::new() },
    };
    if notes.key != key {
        return refuse("it holds the half-made model of another job");
    }
    let making = |source| ModelError::from(formats::FormatsError::from_write(job.out, 0, source));
    fs::create_dir_all(job.out).map_err(making)?;
    let missing = shards.iter().filter(|shard| !notes.shards.contains_key(&shard.file));
    let bytes: Vec<u64> = missing.map(|shard| shard.bytes).collect();
    check_room(job.out, &bytes)?;
    write_json(&path, &notes)?;
    Ok(notes)
}

/// Whether a shard was finished and is still what it was then.
fn is_there(out: &Path, shard: &Shard, notes: &Notes) -> Result<bool, ModelError> {
    let (path, noted) = (out.join(&shard.file), notes.shards.get(&shard.file));
    Ok(path.is_file() && noted.is_some_and(|noted| hash_file(&path).is_ok_and(|found| found == *noted)))
}

fn write_shard<E: From<ModelError>>(
    job: &Rewrite,
    shard: &Shard,
    layer: &mut dyn FnMut(usize, LayerWeights) -> Result<LayerWeights, E>,
    done: &mut dyn FnMut(u64) -> bool,
) -> Result<(), E> {
    let mut plan = TensorPlan::new();
    shard.tensors.iter().for_each(|(name, dtype, shape)| plan.declare(name.clone(), *dtype, shape));
    let mut writer = plan.create_file(job.out.join(&shard.file)).map_err(ModelError::from)?;
    let mut write = |parameter: &mut Parameter| -> Result<(), ModelError> {
        if let Some(quantization) = job.quantization.filter(|_| parameter.shape.len() == 2) {
            let empty = numeric::Matrix::from_f32(0, 0, Vec::new());
            let matrix = std::mem::replace(&mut parameter.matrix, empty);
            parameter.matrix = quantization.round(&parameter.name, matrix)?;
        }
        store::write_parameter(&mut writer, parameter, job.plain)
    };
    let last = job.config.layers.len() + 1;
    for &part in &shard.parts {
        let bytes = match part {
            0 => {
                let mut embedding = job.from.embedding()?;
                write(&mut embedding.weight)?;
                embedding.weight.matrix.bytes()
            }
            part if part == last => {
                let (mut norm, head) = job.from.ending()?;
                write(&mut norm.weight)?;
                head.into_iter().try_for_each(|mut head| write(&mut head.weight))?;
                0
            }
            part => {
                let weights = job.from.layer(part - 1)?;
                let bytes = weights.bytes();
                let mut weights = layer(part - 1, weights)?;
                let mut written = Ok(());
                weights.visit_mut(&mut |parameter| {
                    if written.is_ok() {
                        written = write(parameter);
                    }
                });
                written?;
                bytes
            }
        };
        // A file of which all is written is kept.
        if !done(bytes as u64) && shard.parts.last() != Some(&part) {
            return Err(ModelError::Cancelled.into());
        }
    }
    writer.finish().map_err(ModelError::from)?;
    Ok(())
}

fn finish(job: &Rewrite, shards: &[Shard]) -> Result<(), ModelError> {
    if shards.len() > 1 {
        let names = shards.iter().flat_map(|shard| shard.tensors.iter().map(|(name, ..)| (name, &shard.file)));
        let places: BTreeMap<&String, &String> = names.collect();
        let bytes: u64 = shards.iter().map(|shard| shard.bytes).sum();
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": places });
        write_json(job.out.join(INDEX), &index)?;
    }
    write_config(job.out, job.config, job.plain)?;
    let notes: PathBuf = job.out.join(NOTES);
    // The model is whole; if the notes cannot be removed they lie beside it and harm nobody.
    let _ = fs::remove_file(notes);
    Ok(())
}
