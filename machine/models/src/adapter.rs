//! Low-rank adapters (LoRA; Hu et al. 2021): attached to any linear map, every expert's included, merged, and exchanged
//! with PEFT.
//!
//! On disk each adapter is `base_model.model.{module}.lora_{A,B}.weight`, an expert's projection like any other module.
//! PEFT's fused layout (`…mlp.experts.base_layer.lora_A` and so on) is read too: A is `[E·r, in]` with row `e·r + j`,
//! B is `[out, r·E]` with column `j·E + e`; gate and up share an A there, and B's rows are gate first.

use crate::{Model, ModelError};
use formats::{TensorFile, TensorPlan};
use numeric::{Format, Matrix, Rng};
use ops::{Adapter, Linear, Parameter};
use serde_json::{Value, json};
use std::path::Path;

const PREFIX: &str = "base_model.model.";

/// Which maps get an adapter and of what rank.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Last names of modules, such as `q_proj`, `in_proj_qkvz` or `down_proj`; `experts` stands for the three
    /// projections of every routed expert only.
    pub targets: Vec<String>,
}

impl LoraConfig {
    fn wants(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        let routed = module.contains(".experts.");
        self.targets.iter().any(|target| target == last || (routed && target == "experts"))
    }
}

fn module(map: &Linear) -> &str {
    map.weight.name.strip_suffix(".weight").unwrap_or(&map.weight.name)
}

fn adapter(module: &str, scale: f32, a: Matrix, b: Matrix) -> Adapter {
    let parameter = |side: &str, matrix: Matrix| Parameter {
        id: 0,
        name: format!("{module}.lora_{side}.weight"),
        shape: vec![matrix.rows, matrix.columns],
        trained: true,
        matrix,
    };
    Adapter { a: parameter("A", a), b: parameter("B", b), scale }
}

/// Freezes the model and adds fresh adapters: A uniform within ±1/√in (PEFT's start), B zero, so that nothing changes
/// yet. Returns how many maps got one.
pub fn attach(model: &mut Model, config: &LoraConfig, seed: u64) -> Result<usize, ModelError> {
    model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    let rng = Rng::new(seed);
    let mut attached = 0;
    for map in model.weights.linears_mut() {
        // A router decides for whole experts: it stays as it is (PEFT's custom in mixtures).
        if !config.wants(module(map)) {
            continue;
        }
        let (inputs, outputs) = (map.input_width(), map.output_width());
        let mut rng = rng.fork(attached as u64);
        let bound = (inputs as f64).sqrt().recip();
        let a = (0..config.rank * inputs).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
        let a = Matrix::from_f32(config.rank, inputs, a);
        let b = Matrix::zeros(outputs, config.rank);
        map.adapter = Some(adapter(module(map), config.alpha / config.rank as f32, a, b));
        attached += 1;
    }
    if attached == 0 {
        return Err(ModelError::Adapter(format!("no module of this model is called one of {:?}", config.targets)));
    }
    model.renumber();
    Ok(attached)
}

/// [`attach`] for a model without numbers: the adapters have none either.
pub fn outline(model: &mut Model, config: &LoraConfig) -> Result<usize, ModelError> {
    model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    let mut attached = 0;
    for map in model.weights.linears_mut().into_iter().filter(|map| config.wants(module(map))) {
        let a = Matrix::outline(config.rank, map.input_width(), Format::F32, false);
        let b = Matrix::outline(map.output_width(), config.rank, Format::F32, false);
        map.adapter = Some(adapter(module(map), config.alpha / config.rank as f32, a, b));
        attached += 1;
    }
    if attached == 0 {
        return Err(ModelError::Adapter(format!("no module of this model is called one of {:?}", config.targets)));
    }
    model.renumber();
    Ok(attached)
}

/// Adds every adapter to its weight, which must be f32, and removes it.
pub fn merge(model: &mut Model) {
    for map in model.weights.linears_mut() {
        let Some(Adapter { a, b, scale }) = map.adapter.take() else { continue };
        let (rank, inputs) = (a.matrix.rows, a.matrix.columns);
        let (a, b) = (a.values(), b.values());
        for (row, weights) in map.weight.matrix.as_f32_mut().chunks_exact_mut(inputs).enumerate() {
            for j in 0..rank {
                let factor = scale * b[row * rank + j];
                let along = &a[j * inputs..(j + 1) * inputs];
                weights.iter_mut().zip(along).for_each(|(weight, a)| *weight += factor * a);
            }
        }
    }
    model.weights.visit_mut(&mut |parameter| parameter.trained = true);
    model.renumber();
}

/// Writes `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them.
pub fn save_peft(model: &Model, config: &LoraConfig, directory: &Path) -> Result<(), ModelError> {
    let parameters: Vec<&Parameter> =
        model.parameters().into_iter().filter(|parameter| parameter.name.contains(".lora_")).collect();
    let mut plan = TensorPlan::new();
    for parameter in &parameters {
        plan.declare(format!("{PREFIX}{}", parameter.name), formats::DType::F32, &parameter.shape);
    }
    std::fs::create_dir_all(directory)
        .map_err(|error| ModelError::Adapter(format!("{}: {error}", directory.display())))?;
    let mut writer = plan.create_file(directory.join("adapter_model.safetensors"))?;
    for parameter in &parameters {
        writer.write_f32(&format!("{PREFIX}{}", parameter.name), parameter.values())?;
    }
    writer.finish()?;
    let mut modules: Vec<&str> = parameters.iter().filter_map(|p| p.name.rsplit('.').nth(2)).collect();
    modules.sort_unstable();
    modules.dedup();
    let json = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": null, "inference_mode": true,
        "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
        "use_rslora": false, "use_dora": false, "target_modules": modules,
    });
    Ok(formats::write_json(directory.join("adapter_config.json"), &json)?)
}

/// Reads a PEFT directory onto a model, whose own parameters are frozen. Every tensor of the file must find its place.
pub fn load_peft(model: &mut Model, directory: &Path) -> Result<(), ModelError> {
    let config: Value = formats::read_json(directory.join("adapter_config.json"))?;
    let number = |key: &str| config.get(key).and_then(Value::as_f64).filter(|&value| value > 0.0);
    let (Some(rank), Some(alpha)) = (number("r"), number("lora_alpha")) else {
        return Err(ModelError::Adapter("adapter_config.json: r and lora_alpha must be positive numbers".into()));
    };
    for unsupported in ["use_dora", "use_rslora"] {
        if config.get(unsupported) == Some(&Value::Bool(true)) {
            return Err(ModelError::Adapter(format!("{unsupported} is not supported")));
        }
    }
    let file = TensorFile::open(directory.join("adapter_model.safetensors"))?;
    model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    let experts = model.config.expert_counts().into_iter().max().unwrap_or(0);
    let reader = Reader { file: &file, rank: rank as usize, experts };
    for map in model.weights.linears_mut() {
        let Some((a, b)) = reader.factors(map)? else { continue };
        map.adapter = Some(adapter(module(map), (alpha / rank) as f32, a, b));
    }
    // A fused bank is found once per expert and projection, so only the distinct names can be counted.
    let unplaced = file.names().filter(|name| !reader.places(name, model)).count();
    if unplaced > 0 {
        return Err(ModelError::Adapter(format!("{unplaced} of {} tensors fit no module of this model", file.len())));
    }
    model.renumber();
    Ok(())
}

struct Reader<'a> {
    file: &'a TensorFile,
    rank: usize,
    experts: usize,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, wanted: [usize; 2]) -> Result<Vec<f32>, ModelError> {
        let tensor = self.file.get(name)?;
        if tensor.shape != wanted {
            let (wanted, found) = (wanted.to_vec(), tensor.shape.to_vec());
            return Err(ModelError::Shape { name: name.into(), wanted, found });
        }
        Ok(tensor.to_f32())
    }

    fn factors(&self, map: &Linear) -> Result<Option<(Matrix, Matrix)>, ModelError> {
        let (inputs, outputs, rank) = (map.input_width(), map.output_width(), self.rank);
        let plain = format!("{PREFIX}{}", module(map));
        if self.file.contains(&format!("{plain}.lora_A.weight")) {
            let a = self.tensor(&format!("{plain}.lora_A.weight"), [rank, inputs])?;
            let b = self.tensor(&format!("{plain}.lora_B.weight"), [outputs, rank])?;
            return Ok(Some((Matrix::from_f32(rank, inputs, a), Matrix::from_f32(outputs, rank, b))));
        }
        let Some(place) = FusedPlace::of(module(map)) else { return Ok(None) };
        let Some(bank) = place.bank(self.file) else { return Ok(None) };
        let experts = self.experts;
        let a = self.tensor(&format!("{bank}.lora_A.weight"), [experts * rank, inputs])?;
        let b = self.tensor(&format!("{bank}.lora_B.weight"), [outputs * place.parts, rank * experts])?;
        let a = a[place.expert * rank * inputs..(place.expert + 1) * rank * inputs].to_vec();
        let row = |row: usize| &b[(place.part * outputs + row) * rank * experts..];
        let b = (0..outputs).flat_map(|r| (0..rank).map(move |j| row(r)[j * experts + place.expert])).collect();
        Ok(Some((Matrix::from_f32(rank, inputs, a), Matrix::from_f32(outputs, rank, b))))
    }

    /// Whether a tensor of the file belongs to some module.
    fn places(&self, name: &str, model: &Model) -> bool {
        let Some((module, _)) = name.strip_prefix(PREFIX).and_then(|name| name.split_once(".lora_")) else {
            return false;
        };
        let bank = module.strip_suffix(".base_layer").unwrap_or(module);
        let mut found = false;
        model.weights.visit(&mut |parameter| {
            let fits = |place: &str| parameter.name.strip_prefix(place).is_some_and(|rest| rest.starts_with('.'));
            found |= fits(module) || (bank.ends_with(".experts") && fits(bank));
        });
        found
    }
}

/// Where one expert's projection lies in PEFT's fused layout.
struct FusedPlace<'a> {
    layer: &'a str,
    expert: usize,
    down: bool,
    part: usize,
    parts: usize,
}

impl<'a> FusedPlace<'a> {
    fn of(module: &'a str) -> Option<Self> {
        let (layer, rest) = module.split_once(".experts.")?;
        let (expert, projection) = rest.split_once('.')?;
        let (down, part) = (projection == "down_proj", usize::from(projection == "up_proj"));
        Some(Self { layer, expert: expert.parse().ok()?, down, part, parts: if down { 1 } else { 2 } })
    }

    /// PEFT nests its wrappers: where both fused tensors are adapted, gate and up stand under `base_layer`.
    fn bank(&self, file: &TensorFile) -> Option<String> {
        let outer = format!("{PREFIX}{}.experts", self.layer);
        let inner = format!("{outer}.base_layer");
        let both = file.contains(&format!("{inner}.lora_A.weight"));
        let bank = if both && !self.down { inner } else { outer };
        file.contains(&format!("{bank}.lora_A.weight")).then_some(bank)
    }
}
