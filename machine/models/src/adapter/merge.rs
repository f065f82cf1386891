//! W' = W + scale·B·A, or W' itself where a module was trained whole: in memory, and from a model's folder to another,
//! one tensor at a time.

use super::import::{self, Import};
use super::places::{Adapters, module};
use super::probe::{Probe, probe};
use super::prove::{Proof, prove};
use crate::{LayerStream, Loading, Model, ModelError};
use formats::safetensors::Tensors;
use formats::{DType, Tensor, TensorPlan};
use kernels::pool;
use ops::Adapter;
use std::fs;
use std::path::{Path, PathBuf};

/// Shards of a merged model grow to this at most.
const SHARD_BYTES_MAX: u64 = formats::SHARD_BYTES_MAX;

/// Adds every adapter to its weight, which must be f32, and removes it.
pub fn merge(model: &mut Model) {
    let adapters = Adapters::take(&mut model.weights);
    for map in model.weights.linears_mut() {
        if let Some((adapter, expert)) = adapters.of_weight(&map.weight.name) {
            let columns = map.input_width();
            add(map.weight.matrix.as_f32_mut(), columns, adapter, expert);
        }
    }
    model.weights.visit_mut(&mut |parameter| parameter.trained = true);
    model.renumber();
}

/// Rows that one thread adds to at a time.
const TASK_ROWS: usize = 16;

/// values += scale·B·A, in f32; the sum over ranks is taken first.
fn add(values: &mut [f32], columns: usize, adapter: &Adapter, expert: usize) {
    let ([a, b], rank, scale) = (adapter.factors(expert), adapter.rank(), adapter.scale());
    assert_eq!((a.len(), b.len() * columns), (rank * columns, values.len() * rank), "an adapter of another size");
    pool::for_each_chunk(values, TASK_ROWS * columns, |task, values| {
        let mut delta = vec![0.0f32; columns];
        for (row, values) in values.chunks_exact_mut(columns).enumerate() {
            delta.fill(0.0);
            let row = task * TASK_ROWS + row;
            for (b, a) in b[row * rank..(row + 1) * rank].iter().zip(a.chunks_exact(columns)) {
                delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
            }
            values.iter_mut().zip(&delta).for_each(|(value, delta)| *value += scale * delta);
        }
    });
}

/// A part of a stored tensor that one adapter adds to.
pub(crate) struct Part<'a> {
    pub(crate) adapter: &'a Adapter,
    pub(crate) expert: usize,
    /// The weight's own name, also where the tensor holds many.
    pub(crate) weight: String,
    /// Numbers before it in the tensor.
    pub(crate) start: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// What the adapters add to a tensor as a model's folder has it: one weight, or a layer's fused experts.
pub(crate) fn parts<'a>(tensor: &Tensor<'_>, adapters: &'a Adapters) -> Vec<Part<'a>> {
    match *tensor.shape {
        [rows, columns] => {
            let part =
                |(adapter, expert)| Part { adapter, expert, weight: tensor.name.to_owned(), start: 0, rows, columns };
            adapters.of_weight(tensor.name).map(part).into_iter().collect()
        }
        [experts, rows, columns] => {
            let Some((bank, fused)) = tensor.name.rsplit_once('.') else { return Vec::new() };
            let projections: &[&str] = match fused {
                "gate_up_proj" => &["gate_proj", "up_proj"],
                "down_proj" => &["down_proj"],
                _ => &[],
            };
            let mut all = Vec::new();
            for expert in 0..experts {
                for (half, projection) in projections.iter().enumerate() {
                    let weight = format!("{bank}.{expert}.{projection}.weight");
                    let Some((adapter, expert)) = adapters.of_weight(&weight) else { continue };
                    let rows = rows / projections.len();
                    let start = (expert * projections.len() + half) * rows * columns;
                    all.push(Part { adapter, expert, weight, start, rows, columns });
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

/// What is to be merged.
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    /// A model folder with plain weights.
    pub base: &'a Path,
    pub adapter: &'a Path,
    /// The folder to make; it must not be there yet.
    pub out: &'a Path,
    pub import: Import,
    /// Token sequences on which the merged model must say what the base says with its adapter.
    pub prompts: &'a [Vec<u32>],
}

/// How far a merge is, in bytes or in layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeStep {
    Writing { done: u64, total: u64 },
    Proving { done: u64, total: u64 },
    Probing { done: u64, total: u64 },
}

/// Makes a folder with the merged model: adds in f32, rounds to what each tensor is stored as, proves every tensor of
/// the result, and runs both on the prompts. The folder has another name until all of that is done, and is gone if any
/// of it fails.
pub fn merge_directory(job: &Merge, watch: &mut dyn FnMut(MergeStep) -> bool) -> Result<(Proof, Probe), ModelError> {
    if job.out.exists() {
        let problem = format!("{} is there already: give another folder, or remove it first", job.out.display());
        return Err(ModelError::Adapter(problem));
    }
    let base = LayerStream::open(job.base, Loading::Stored)?;
    let adapters = import::read(base.outline(), job.adapter, &job.import)?;
    check_plain(base.tensors(), base.outline(), &adapters)?;
    let partial = Partial::make(job.out)?;
    write(base.tensors(), &adapters, &partial.0, watch)?;
    copy_others(job.base, &partial.0)?;
    let merged = LayerStream::open(&partial.0, Loading::Stored)?;
    let proof = prove(base.tensors(), merged.tensors(), &adapters, watch)?;
    proof.check(&adapters)?;
    let found = probe([&base, &merged], &adapters, job.prompts, watch)?;
    found.check()?;
    drop(merged);
    partial.publish(job.out)?;
    Ok((proof, found))
}

/// Refuses weights that are stored in blocks: their rounding would swallow what is added.
fn check_plain(tensors: &Tensors, outline: &Model, adapters: &Adapters) -> Result<(), ModelError> {
    for parameter in outline.parameters() {
        if adapters.of_weight(&parameter.name).is_none() && adapters.whole(&parameter.name).is_none() {
            continue;
        }
        let format = parameter.matrix.format();
        if format.block_columns() > 1 || tensors.contains(&format!("{}_scale", parameter.name)) {
            let name = module(&parameter.name);
            return Err(ModelError::Adapter(format!(
                "{name} is stored as {}: what the adapter adds would be lost in its rounding. Merge into the plain \
                 model that this one was quantized from and quantize the result, or run this one with --adapter",
                formats::gguf::name_of(format)
            )));
        }
    }
    Ok(())
}

/// A folder under way; dropped before it is published, it is gone.
struct Partial(PathBuf);

impl Partial {
    fn make(out: &Path) -> Result<Self, ModelError> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        // What a killed run left.
        let _ = fs::remove_dir_all(&path);
        let partial = Self(path);
        fs::create_dir_all(&partial.0).map_err(|error| failed("make", &partial.0, &error))?;
        Ok(partial)
    }

    fn publish(self, out: &Path) -> Result<(), ModelError> {
        fs::rename(&self.0, out).map_err(|error| failed("rename", &self.0, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn failed(action: &str, path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::Adapter(format!("cannot {action} {}: {error}", path.display()))
}

/// Tells the watcher, who may want to stop.
pub(crate) fn tell(watch: &mut dyn FnMut(MergeStep) -> bool, step: MergeStep) -> Result<(), ModelError> {
    if watch(step) { Ok(()) } else { Err(ModelError::Cancelled) }
}

fn write(
    tensors: &Tensors,
    adapters: &Adapters,
    directory: &Path,
    watch: &mut dyn FnMut(MergeStep) -> bool,
) -> Result<(), ModelError> {
    let mut plan = TensorPlan::new();
    tensors.tensors().for_each(|tensor| plan.declare(tensor.name, tensor.dtype, tensor.shape));
    let mut writer = plan.create_model(directory, SHARD_BYTES_MAX)?;
    let (mut done, total) = (0, tensors.bytes());
    for tensor in tensors.tensors() {
        let parts = parts(&tensor, adapters);
        if let Some(whole) = adapters.whole(tensor.name) {
            check_float(&tensor)?;
            writer.write_f32(tensor.name, whole.values())?;
        } else if parts.is_empty() {
            writer.write(tensor.name, tensor.bytes)?;
        } else {
            check_float(&tensor)?;
            let mut values = tensor.to_f32();
            for Part { adapter, expert, start, rows, columns, .. } in parts {
                add(&mut values[start..start + rows * columns], columns, adapter, expert);
            }
            writer.write_f32(tensor.name, &values)?;
        }
        tensors.release(&tensor);
        done += tensor.bytes.len() as u64;
        tell(watch, MergeStep::Writing { done, total })?;
    }
    writer.finish()?;
    Ok(())
}

fn check_float(tensor: &Tensor) -> Result<(), ModelError> {
    if matches!(tensor.dtype, DType::F32 | DType::BF16 | DType::F16 | DType::F64) {
        return Ok(());
    }
    let problem = format!("stored as {}, which nothing can be added to; want F32, F16 or BF16", tensor.dtype.name());
    Err(ModelError::Tensor { name: tensor.name.into(), problem })
}

/// Configuration, tokenizer, template: every file of the folder that holds no weights and no other program's state.
fn copy_others(from: &Path, to: &Path) -> Result<(), ModelError> {
    let listing = |error| failed("list", from, &error);
    for entry in fs::read_dir(from).map_err(listing)? {
        let path = entry.map_err(listing)?.path();
        let name = path.file_name().unwrap_or_default();
        let text = name.to_string_lossy();
        let is_weights = [".safetensors", ".bin", ".pt", ".gguf"].iter().any(|end| text.ends_with(end));
        // A manifest says how a build made the folder that it lies in.
        let is_own = is_weights || text == formats::safetensors::INDEX || text == formats::manifest::MANIFEST;
        if path.is_file() && !is_own {
            fs::copy(&path, to.join(name)).map_err(|error| failed("copy", &path, &error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
