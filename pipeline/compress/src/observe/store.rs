//! Statistics on disk, a file for each layer and direction, so that an observation that was cut short goes on where it
//! was.

use super::record::GradientTally;
use crate::{CompressError, ExpertUse, LayerStatistics};
use formats::{DType, FormatsError, Tensor, TensorFile, TensorPlan, read_json, write_json};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What statistics are of; a folder holds those of one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Hashes.
    pub(crate) model: String,
    pub(crate) calibration: String,
    pub(crate) tokens: usize,
    pub(crate) similarity_tokens: usize,
    pub(crate) gradient_tokens: usize,
}

const IDENTITY: &str = "observation.json";

pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn open(folder: &Path, identity: &Identity) -> Result<Self, CompressError> {
        let path = folder.join(IDENTITY);
        if path.exists() {
            let found: Identity = read_json(&path)?;
            let what = match () {
                () if found.model != identity.model => "model",
                () if found != *identity => "calibration",
                () => return Ok(Self { folder: folder.to_owned() }),
            };
            return Err(CompressError::OtherJob { path: folder.to_owned(), what });
        }
        fs::create_dir_all(folder).map_err(|source| FormatsError::from_write(folder, 0, source))?;
        write_json(&path, identity)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, layer: usize, direction: &str) -> PathBuf {
        self.folder.join(format!("layer-{layer:04}.{direction}.safetensors"))
    }

    fn read(&self, layer: usize, direction: &str) -> Result<Option<TensorFile>, CompressError> {
        let path = self.path(layer, direction);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(TensorFile::open(path)?))
    }

    pub(crate) fn save_forward(&self, statistics: &LayerStatistics) -> Result<(), CompressError> {
        let n_experts = statistics.experts.len();
        let uses = statistics
            .experts
            .iter()
            .flat_map(|used| [used.tokens as f64, used.gate_mass, used.weighted_norm, f64::from(used.activation_max)]);
        let mut plan = TensorPlan::new();
        plan.set_metadata("tokens", statistics.tokens.to_string());
        plan.set_metadata("router_entropy", statistics.router_entropy.to_string());
        plan.declare("experts", DType::F64, &[n_experts, 4]);
        plan.declare("together", DType::U64, &[n_experts, n_experts]);
        plan.declare("output_similarity", DType::F32, &[n_experts, n_experts]);
        let mut writer = plan.create_file(self.path(statistics.layer, "forward"))?;
        writer.write("experts", &uses.flat_map(f64::to_le_bytes).collect::<Vec<u8>>())?;
        let together = statistics.together.iter().flat_map(|count| count.to_le_bytes());
        writer.write("together", &together.collect::<Vec<u8>>())?;
        writer.write_f32("output_similarity", &statistics.output_similarity)?;
        writer.finish()?;
        Ok(())
    }

    /// Of a layer with so many experts, if it was observed.
    pub(crate) fn forward(&self, layer: usize, n_experts: usize) -> Result<Option<LayerStatistics>, CompressError> {
        let Some(file) = self.read(layer, "forward")? else { return Ok(None) };
        let number = |key: &str| file.metadata().get(key).and_then(|text| text.parse::<f64>().ok());
        let (Some(tokens), Some(router_entropy)) = (number("tokens"), number("router_entropy")) else {
            let problem = "its metadata lack tokens or router_entropy; remove it, and it is made again".to_owned();
            return Err(FormatsError::BadJson { path: file.path().to_owned(), problem }.into());
        };
        let uses = f64s(&shaped(&file, "experts", &[n_experts, 4])?);
        let together = shaped(&file, "together", &[n_experts, n_experts])?;
        let similarity = shaped(&file, "output_similarity", &[n_experts, n_experts])?;
        Ok(Some(LayerStatistics {
            layer,
            tokens: tokens as u64,
            experts: uses.chunks_exact(4).map(used).collect(),
            together: together.to_i64()?.into_iter().map(|count| count as u64).collect(),
            output_similarity: similarity.to_f32(),
            neuron_fisher: Vec::new(),
            router_entropy,
        }))
    }

    pub(crate) fn save_gradient(&self, layer: usize, tally: &GradientTally) -> Result<(), CompressError> {
        let n_experts = tally.taylor.len();
        let mut plan = TensorPlan::new();
        plan.declare("experts", DType::F64, &[n_experts, 2]);
        plan.declare("neurons", DType::F64, &[n_experts, tally.neurons.len() / n_experts.max(1)]);
        let mut writer = plan.create_file(self.path(layer, "gradient"))?;
        let experts = tally.taylor.iter().zip(&tally.fisher).flat_map(|(taylor, fisher)| [*taylor, *fisher]);
        writer.write("experts", &experts.flat_map(f64::to_le_bytes).collect::<Vec<u8>>())?;
        let neurons = tally.neurons.iter().flat_map(|sum| sum.to_le_bytes());
        writer.write("neurons", &neurons.collect::<Vec<u8>>())?;
        writer.finish()?;
        Ok(())
    }

    pub(crate) fn gradient(
        &self,
        layer: usize,
        n_experts: usize,
        inner: usize,
    ) -> Result<Option<GradientTally>, CompressError> {
        let Some(file) = self.read(layer, "gradient")? else { return Ok(None) };
        let experts = f64s(&shaped(&file, "experts", &[n_experts, 2])?);
        let neurons = f64s(&shaped(&file, "neurons", &[n_experts, inner])?);
        let [taylor, fisher] = [0, 1].map(|at| experts.iter().skip(at).step_by(2).copied().collect());
        Ok(Some(GradientTally { taylor, fisher, neurons }))
    }
}

/// What an observation has saved in `folder`, layer by layer in order; nothing where there is none.
pub fn saved_statistics(folder: &Path) -> Result<Vec<LayerStatistics>, CompressError> {
    let store = Store { folder: folder.to_owned() };
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let layer = |name: std::ffi::OsString| {
        let number = name.to_str()?.strip_prefix("layer-")?.strip_suffix(".forward.safetensors")?;
        number.parse::<usize>().ok()
    };
    let mut layers: Vec<usize> = files.filter_map(layer).collect();
    layers.sort_unstable();
    let mut all = Vec::with_capacity(layers.len());
    for layer in layers {
        let rows = |direction: &str, tensor: &str| -> Result<Option<Vec<usize>>, CompressError> {
            store.read(layer, direction)?.map(|file| Ok(file.get(tensor)?.shape.to_vec())).transpose()
        };
        let n_experts = rows("forward", "experts")?.and_then(|shape| shape.first().copied()).unwrap_or(0);
        let Some(mut statistics) = store.forward(layer, n_experts)? else { continue };
        let inner = rows("gradient", "neurons")?.and_then(|shape| shape.get(1).copied()).unwrap_or(0);
        store.gradient(layer, n_experts, inner)?.iter().for_each(|tally| tally.complete(&mut statistics));
        all.push(statistics);
    }
    Ok(all)
}

fn used(numbers: &[f64]) -> ExpertUse {
    ExpertUse {
        tokens: numbers[0] as u64,
        gate_mass: numbers[1],
        weighted_norm: numbers[2],
        activation_max: numbers[3] as f32,
        ..ExpertUse::default()
    }
}

fn shaped<'a>(file: &'a TensorFile, name: &str, shape: &[usize]) -> Result<Tensor<'a>, CompressError> {
    let tensor = file.get(name)?;
    if tensor.shape != shape {
        return Err(FormatsError::BadTensor {
            path: file.path().to_owned(),
            tensor: name.to_owned(),
            wanted: format!("{shape:?}"),
            found: format!("{:?}; remove the file, and it is made again", tensor.shape),
        }
        .into());
    }
    Ok(tensor)
}

fn f64s(tensor: &Tensor) -> Vec<f64> {
    tensor.bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}
