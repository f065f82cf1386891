//! `adapter_config.json`: what of it decides the numbers, and what we refuse because we would compute something else.

use super::pattern::Pattern;
use crate::ModelError;
use serde_json::{Map, Value};
use std::path::Path;

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const TENSORS: &str = "adapter_model.safetensors";
/// What stands before the path of a module.
pub(crate) const PREFIX: &str = "base_model.model.";

/// Options that change nothing about what a trained adapter computes: who made it, for what, and how it began.
const HARMLESS: [&str; 24] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "alpha_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "use_rslora",
    "loftq_config",
];

/// Starts that leave the base as it was; the others (PiSSA and its like) move a part of the base into the adapter.
const HARMLESS_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "rslora"];

/// What an adapter's configuration says.
#[derive(Debug)]
pub(crate) struct PeftConfig {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) rank_stabilized: bool,
    pub(crate) dropout: f32,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    pub(crate) targets: Vec<Pattern>,
    /// Parameters named as targets: `mlp.experts.gate_up_proj`.
    pub(crate) parameters: Vec<String>,
    /// Ends of paths of modules that were trained whole.
    pub(crate) whole: Vec<String>,
    /// Whether it says that some targets are left out: then none is missed.
    pub(crate) leaves_out: bool,
    /// Major and minor.
    pub(crate) version: Option<(u32, u32)>,
    pub(crate) base: Option<String>,
}

impl PeftConfig {
    pub(crate) fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join(CONFIG);
        if !path.is_file() {
            return Err(ModelError::Adapter(format!(
                "{} holds no {CONFIG}: give the folder that PEFT or lateen wrote",
                directory.display()
            )));
        }
        let value: Value = formats::read_json(&path)?;
        let table = value.as_object().ok_or_else(|| wrong("it is no object"))?;
        refuse_unknown(table)?;
        let text = |key: &str| table.get(key).and_then(Value::as_str);
        if text("peft_type").is_some_and(|kind| kind != "LORA") {
            return Err(wrong(&format!(
                "peft_type is {:?}; only LORA is known",
                text("peft_type").unwrap_or_default()
            )));
        }
        let above_0 = |value: Option<&Value>| value.and_then(Value::as_f64).filter(|&x| x > 0.0 && x.is_finite());
        let rank = above_0(table.get("r")).ok_or_else(|| wrong("r must be a number above 0"))?;
        let alpha = above_0(table.get("lora_alpha")).ok_or_else(|| wrong("lora_alpha must be a number above 0"))?;
        let dropout = table.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
        if !(0.0..1.0).contains(&dropout) {
            return Err(wrong(&format!("lora_dropout is {dropout}; it lies in [0, 1)")));
        }
        let says = |key: &str| table.get(key).is_some_and(|value| !is_nothing(value));
        Ok(Self {
            rank: rank as usize,
            alpha,
            rank_stabilized: table.get("use_rslora") == Some(&Value::Bool(true)),
            dropout: dropout as f32,
            ranks: numbers(table, "rank_pattern")?,
            alphas: numbers(table, "alpha_pattern")?,
            targets: targets(table)?,
            parameters: strings(table.get("target_parameters")),
            whole: strings(table.get("modules_to_save")),
            leaves_out: says("layers_to_transform") || says("exclude_modules") || says("layers_pattern"),
            version: text("peft_version").and_then(version),
            base: text("base_model_name_or_path").map(str::to_owned),
        })
    }

    /// Rank and alpha of the module, or of the parameter, at this path.
    pub(crate) fn of(&self, path: &str) -> (usize, f64) {
        let first = |patterns: &[(Pattern, f64)]| {
            patterns.iter().find(|(pattern, _)| pattern.matches(path)).map(|&(_, number)| number)
        };
        (first(&self.ranks).map_or(self.rank, |rank| rank as usize), first(&self.alphas).unwrap_or(self.alpha))
    }

    /// The scale that belongs to [`Self::of`].
    pub(crate) fn scale(&self, rank: usize, alpha: f64) -> f64 {
        alpha / if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 }
    }

    /// The alpha that gives this scale at this rank.
    pub(crate) fn alpha_of(&self, scale: f64, rank: usize) -> f64 {
        scale * if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 }
    }
}

fn wrong(problem: &str) -> ModelError {
    ModelError::Adapter(format!("{CONFIG}: {problem}"))
}

/// Nothing is asked for: null, false, 0, an empty text, list or object, or "none".
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(table) => table.is_empty(),
    }
}

fn refuse_unknown(table: &Map<String, Value>) -> Result<(), ModelError> {
    for (key, value) in table {
        if HARMLESS.contains(&key.as_str()) || is_nothing(value) {
            continue;
        }
        let problem = match (key.as_str(), value) {
            ("init_lora_weights", Value::Bool(_)) => continue,
            ("init_lora_weights", Value::String(start)) if HARMLESS_STARTS.contains(&start.as_str()) => continue,
            ("init_lora_weights", start) => format!(
                "init_lora_weights is {start}, which takes a part out of the base model: save the adapter with PEFT's \
                 path_initial_model_for_weight_conversion, which makes a plain one of it"
            ),
            ("use_dora", _) => "use_dora is true: DoRA also rescales the weights' columns, and is not supported".into(),
            ("bias" | "lora_bias", value) => format!("{key} is {value}: trained biases are not supported"),
            ("fan_in_fan_out", _) => "fan_in_fan_out is true: the weights of these models are stored [out, in]".into(),
            (key, value) => {
                format!("{key} is {value}: that option is not known here and may change what the adapter computes")
            }
        };
        return Err(wrong(&problem));
    }
    Ok(())
}

fn numbers(table: &Map<String, Value>, key: &str) -> Result<Vec<(Pattern, f64)>, ModelError> {
    let Some(patterns) = table.get(key).and_then(Value::as_object) else { return Ok(Vec::new()) };
    let number = |(text, value): (&String, &Value)| -> Result<_, ModelError> {
        let number = value.as_f64().filter(|&number| number > 0.0);
        Ok((Pattern::new(text)?, number.ok_or_else(|| wrong(&format!("{key}: {text:?} must be a number above 0")))?))
    };
    patterns.iter().map(number).collect()
}

/// A text is one expression for a whole path, a list holds ends of paths.
fn targets(table: &Map<String, Value>) -> Result<Vec<Pattern>, ModelError> {
    match table.get("target_modules") {
        // Whatever is linear; and a pattern that only Python reads decides nothing but what is missed.
        Some(Value::String(text)) if text != "all-linear" => Ok(Pattern::whole(text).into_iter().collect()),
        Some(Value::Array(_)) => {
            let escape = |text: &String| Pattern::new(&regex::escape(text));
            strings(table.get("target_modules")).iter().map(escape).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let texts = value.and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
