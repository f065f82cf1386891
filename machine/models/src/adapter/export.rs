//! Adapters into a PEFT directory.
//!
//! What PEFT cannot say is said in what it can: a factor that experts share is written for each of them, and gate's and
//! up's own A become one of twice the rank whose B is block-diagonal, as PEFT itself fuses them. Dropout on what it
//! reaches by parameters is left out, since PEFT refuses it there; a trained adapter computes the same without.

use super::peft::{CONFIG, PREFIX, TENSORS};
use super::places::{Place, places, visit};
use super::whole;
use crate::{FeedForwardKind, Model, ModelError};
use formats::{DType, TensorPlan};
use ops::{Adapter, Parameter};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of PEFT whose layout is written.
const VERSION: &str = "0.21.2";

/// How the adapters of experts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExportLayout {
    /// As parameters of fused experts, which is how `transformers` 5 has them.
    #[default]
    Fused,
    /// Each expert's projection as a module of its own, as in the files of models.
    PerExpert,
}

/// What a directory says beside the adapters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Export<'a> {
    pub layout: ExportLayout,
    /// The name or the folder of the base model.
    pub base: Option<&'a str>,
}

/// A pair of tensors.
struct Entry {
    /// The path of the module that the tensors are named after.
    module: String,
    /// What PEFT calls it when it looks for ranks and targets; a parameter's path where it is one.
    target: String,
    is_parameter: bool,
    rank: usize,
    scale: f64,
    a: (Vec<usize>, Vec<f32>),
    b: (Vec<usize>, Vec<f32>),
}

/// Writes `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them.
pub fn save_peft(model: &Model, directory: &Path, export: &Export) -> Result<(), ModelError> {
    let mut found: Vec<(Place, &Adapter)> = Vec::new();
    visit(&model.weights, &mut |place, slot| found.extend(slot.iter().map(|adapter| (place.clone(), adapter))));
    if found.is_empty() {
        return Err(ModelError::Adapter("this model has no adapter to save".into()));
    }
    let entries = entries(model, &found, export.layout)?;
    let whole = whole::of(model);
    let config = config(model, &found, &entries, &whole, export)?;
    let creating = |error| ModelError::Adapter(format!("cannot make {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(creating)?;
    let mut plan = TensorPlan::new();
    let name = |entry: &Entry, side: &str| format!("{PREFIX}{}.lora_{side}.weight", entry.module);
    for entry in &entries {
        plan.declare(name(entry, "A"), DType::F32, &entry.a.0);
        plan.declare(name(entry, "B"), DType::F32, &entry.b.0);
    }
    let whole = tensors_of(model, &whole)?;
    whole.iter().for_each(|(name, parameter)| plan.declare(name, DType::F32, &parameter.shape));
    let mut writer = plan.create_file(directory.join(TENSORS))?;
    for entry in &entries {
        writer.write_f32(&name(entry, "A"), &entry.a.1)?;
        writer.write_f32(&name(entry, "B"), &entry.b.1)?;
    }
    whole.iter().try_for_each(|(name, parameter)| writer.write_f32(name, parameter.values()))?;
    writer.finish()?;
    Ok(formats::write_json(directory.join(CONFIG), &config)?)
}

/// Modules that are trained whole by the names that PEFT has for their tensors. A table of tokens that is the head too
/// has two.
fn tensors_of<'a>(model: &Model, whole: &[&'a Parameter]) -> Result<Vec<(String, &'a Parameter)>, ModelError> {
    let mut tensors = Vec::new();
    for &parameter in whole {
        if whole::stored_offset(model, &parameter.name) != 0.0 {
            let problem =
                "norms are laid out otherwise in a GGUF file: train on the model folder that it was made from";
            return Err(ModelError::Adapter(format!("{}: {problem}", parameter.name)));
        }
        tensors.push((format!("{PREFIX}{}", parameter.name), parameter));
        if is_tied(model, parameter) {
            tensors.push((format!("{PREFIX}lm_head.weight"), parameter));
        }
    }
    Ok(tensors)
}

fn is_tied(model: &Model, parameter: &Parameter) -> bool {
    parameter.name == model.weights.embedding.weight.name && model.weights.separate_head.is_none()
}

fn entries(model: &Model, found: &[(Place, &Adapter)], layout: ExportLayout) -> Result<Vec<Entry>, ModelError> {
    let mut entries = Vec::new();
    let mut banks: BTreeMap<&str, [Option<(&Place, &Adapter)>; 3]> = BTreeMap::new();
    for (place, adapter) in found {
        let Some((bank, _)) = place.bank() else {
            entries.push(single(model, place, adapter)?);
            continue;
        };
        let index = super::places::PROJECTIONS.iter().position(|name| place.name.ends_with(name));
        banks.entry(bank).or_default()[index.expect("a bank is one of three projections")] = Some((place, *adapter));
    }
    for (bank, [gate, up, down]) in banks {
        match layout {
            ExportLayout::PerExpert => {
                let pair = [gate, up, down].into_iter().flatten();
                pair.for_each(|(place, adapter)| entries.extend(per_expert(place, adapter)));
            }
            ExportLayout::Fused => {
                let nested = gate.or(up).is_some() && down.is_some();
                entries.extend(gate.or(up).map(|_| fused_gate_up(bank, [gate, up], nested)));
                entries.extend(down.map(|(place, adapter)| fused(bank, "down_proj", false, Bank::of(place, adapter))));
            }
        }
    }
    Ok(entries)
}

/// Names that PEFT takes for the experts' in a model with mixtures, wherever they stand.
const CLAIMED: [&str; 4] = ["gate_proj", "up_proj", "down_proj", "gate"];

fn single(model: &Model, place: &Place, adapter: &Adapter) -> Result<Entry, ModelError> {
    if place.name.ends_with("in_proj_qkv") || place.name.ends_with("in_proj_z") {
        let problem = "a delta layer's input projection is in two parts in this file, and in one for PEFT: train on \
                       the model folder that the file was made from";
        return Err(ModelError::Adapter(format!("{}: {problem}", place.name)));
    }
    let is_mixed = model.config.layers.iter().any(|layer| layer.feed_forward != FeedForwardKind::Dense);
    let is_parameter = is_mixed && CLAIMED.contains(&last(&place.name));
    let target = if is_parameter { format!("{}.weight", place.name) } else { place.name.clone() };
    let [a, b] = adapter.factors(0);
    let rank = adapter.rank();
    Ok(Entry {
        module: place.name.clone(),
        target,
        is_parameter,
        rank,
        scale: f64::from(adapter.scale()),
        a: (vec![rank, place.inputs], a.to_vec()),
        b: (vec![place.outputs, rank], b.to_vec()),
    })
}

fn per_expert<'a>(place: &'a Place, adapter: &'a Adapter) -> impl Iterator<Item = Entry> + 'a {
    let rank = adapter.rank();
    (0..place.experts.unwrap_or_default()).map(move |expert| {
        let [a, b] = adapter.factors(expert);
        Entry {
            module: place.module_of(expert),
            target: place.module_of(expert),
            is_parameter: false,
            rank,
            scale: f64::from(adapter.scale()),
            a: (vec![rank, place.inputs], a.to_vec()),
            b: (vec![place.outputs, rank], b.to_vec()),
        }
    })
}

/// Factors of each expert: `[rank, in]` and `[out, rank]`.
struct Bank {
    rank: usize,
    scale: f64,
    inputs: usize,
    outputs: usize,
    factors: Vec<[Vec<f32>; 2]>,
}

impl Bank {
    fn of(place: &Place, adapter: &Adapter) -> Self {
        let experts = place.experts.unwrap_or_default();
        Self {
            rank: adapter.rank(),
            scale: f64::from(adapter.scale()),
            inputs: place.inputs,
            outputs: place.outputs,
            factors: (0..experts).map(|expert| adapter.factors(expert).map(<[f32]>::to_vec)).collect(),
        }
    }

    /// One that adds nothing, beside another.
    fn nothing_beside(other: &Self) -> Self {
        let nothing = [Vec::new(), Vec::new()];
        Self { rank: 0, factors: vec![nothing; other.factors.len()], ..*other }
    }
}

/// One parameter of all experts: row e·r + j of A and column j·E + e of B belong to expert e.
fn fused(bank: &str, parameter: &str, nested: bool, of: Bank) -> Entry {
    let Bank { rank, scale, inputs, outputs, factors } = of;
    let experts = factors.len();
    let a = factors.iter().flat_map(|[a, _]| a).copied().collect();
    let mut b = vec![0.0; outputs * rank * experts];
    for (expert, [_, of_b]) in factors.iter().enumerate() {
        for (at, &value) in of_b.iter().enumerate() {
            b[at * experts + expert] = value;
        }
    }
    Entry {
        module: format!("{bank}{}", if nested { ".base_layer" } else { "" }),
        target: format!("{bank}.{parameter}"),
        is_parameter: true,
        rank,
        scale,
        a: (vec![experts * rank, inputs], a),
        b: (vec![outputs, rank * experts], b),
    }
}

/// Gate's rows above up's. Where both have one A (as PEFT trains them) it stays one, else the two stand side by side.
fn fused_gate_up(bank: &str, pair: [Option<(&Place, &Adapter)>; 2], nested: bool) -> Entry {
    let [gate, up] = pair.map(|side| side.map(|(place, adapter)| Bank::of(place, adapter)));
    let (gate, up) = match (gate, up) {
        (Some(gate), Some(up)) => (gate, up),
        (Some(gate), None) => {
            let up = Bank::nothing_beside(&gate);
            (gate, up)
        }
        (None, Some(up)) => (Bank::nothing_beside(&up), up),
        (None, None) => unreachable!("one of the two is adapted"),
    };
    let scale = gate.scale;
    let ratio = (up.scale / scale) as f32;
    let is_one =
        gate.rank == up.rank && ratio == 1.0 && gate.factors.iter().zip(&up.factors).all(|(g, u)| g[0] == u[0]);
    let rank = if is_one { gate.rank } else { gate.rank + up.rank };
    let inner = gate.outputs;
    let join = |([gate_a, gate_b], [up_a, up_b]): ([Vec<f32>; 2], [Vec<f32>; 2])| {
        if is_one {
            return [gate_a, [gate_b, up_b].concat()];
        }
        let mut b = vec![0.0; 2 * inner * rank];
        for (row, b) in b.chunks_exact_mut(rank).enumerate() {
            let (from, own, at) = match row < inner {
                true => (&gate_b[row * gate.rank..(row + 1) * gate.rank], 1.0, 0),
                false => (&up_b[(row - inner) * up.rank..(row - inner + 1) * up.rank], ratio, gate.rank),
            };
            b[at..at + from.len()].iter_mut().zip(from).for_each(|(b, from)| *b = own * from);
        }
        [[gate_a, up_a].concat(), b]
    };
    let factors = gate.factors.iter().cloned().zip(up.factors.iter().cloned()).map(join).collect();
    fused(bank, "gate_up_proj", nested, Bank { rank, scale, inputs: gate.inputs, outputs: 2 * inner, factors })
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The path without its layer: `self_attn.q_proj`.
fn kind(path: &str) -> &str {
    let rest = path.split_once(".layers.").and_then(|(_, rest)| rest.split_once('.'));
    rest.map_or(path, |(_, kind)| kind)
}

/// A rank and an alpha.
type Numbers = (usize, f64);

fn config(
    model: &Model,
    found: &[(Place, &Adapter)],
    entries: &[Entry],
    whole: &[&Parameter],
    export: &Export,
) -> Result<Value, ModelError> {
    let rank_stabilized = found.iter().all(|(_, adapter)| adapter.rank_stabilized);
    let numbers = |entry: &Entry| -> Numbers {
        let rank = entry.rank as f64;
        (entry.rank, tidy(entry.scale * if rank_stabilized { rank.sqrt() } else { rank }))
    };
    let usual = match export.layout {
        ExportLayout::PerExpert => per_expert_numbers(entries, &numbers)?,
        ExportLayout::Fused => commonest(entries.iter().map(&numbers)),
    };
    let (ranks, alphas) = patterns(entries, &numbers, usual);
    let (modules, parameters) = targets(model, entries);
    let dropout = found.iter().map(|(_, adapter)| adapter.dropout).fold(0.0, f32::max);
    let dropout = if parameters.is_empty() { f64::from(dropout) } else { 0.0 };
    let parameters = if parameters.is_empty() { Value::Null } else { json!(parameters) };
    let is_tied = whole.iter().any(|parameter| is_tied(model, parameter));
    let whole = if whole.is_empty() { Value::Null } else { json!(whole::names(model, whole)) };
    Ok(json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "peft_version": VERSION, "base_model_name_or_path": export.base,
        "inference_mode": true, "r": usual.0, "lora_alpha": number(usual.1), "use_rslora": rank_stabilized,
        "rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": modules, "target_parameters": parameters,
        "lora_dropout": (dropout * 1e6).round() / 1e6, "bias": "none", "fan_in_fan_out": false, "use_dora": false,
        "init_lora_weights": true, "modules_to_save": whole, "ensure_weight_tying": is_tied,
    }))
}

/// Without the last bits, which f32 and square roots leave: 31.999998 was meant as 32.
fn tidy(alpha: f64) -> f64 {
    let rounded = (alpha * 1e4).round() / 1e4;
    if (rounded - alpha).abs() < 1e-6 * alpha.abs() { rounded } else { alpha }
}

/// A whole number as one.
fn number(value: f64) -> Value {
    if value == value.trunc() && value < 1e9 { json!(value as i64) } else { json!(value) }
}

fn commonest(all: impl Iterator<Item = Numbers>) -> Numbers {
    let mut counts: Vec<(Numbers, usize)> = Vec::new();
    for numbers in all {
        match counts.iter_mut().find(|(known, _)| *known == numbers) {
            Some((_, count)) => *count += 1,
            None => counts.push((numbers, 1)),
        }
    }
    counts.into_iter().max_by_key(|&(_, count)| count).expect("there is an adapter").0
}

/// PEFT fuses single experts when it loads them, and takes rank and alpha for that from the top of the configuration.
fn per_expert_numbers(entries: &[Entry], numbers: &impl Fn(&Entry) -> Numbers) -> Result<Numbers, ModelError> {
    let of_experts: Vec<Numbers> = entries.iter().filter(|e| e.module.contains(".experts.")).map(numbers).collect();
    let Some(&first) = of_experts.first() else { return Ok(commonest(entries.iter().map(numbers))) };
    if of_experts.iter().any(|&other| other != first) {
        return Err(ModelError::Adapter(
            "PEFT cannot read experts one by one whose ranks or alphas differ: write them fused, or train all with one"
                .into(),
        ));
    }
    let has = |name: &str| entries.iter().any(|e| e.module.contains(".experts.") && e.module.ends_with(name));
    if has("gate_proj") != has("up_proj") {
        return Err(ModelError::Adapter(
            "PEFT cannot read experts one by one with an adapter on gate_proj and none on up_proj, or the other way \
             round: write them fused"
                .into(),
        ));
    }
    Ok(first)
}

/// What differs from the usual, by kind where all of a kind agree and by name where not.
fn patterns(
    entries: &[Entry],
    numbers: &impl Fn(&Entry) -> Numbers,
    usual: Numbers,
) -> (Map<String, Value>, Map<String, Value>) {
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for entry in entries {
        let own = numbers(entry);
        if own == usual {
            continue;
        }
        let of_kind = |other: &&Entry| kind(&other.target) == kind(&entry.target);
        let agree = entries.iter().filter(of_kind).all(|other| numbers(other) == own);
        let key = regex::escape(if agree { kind(&entry.target) } else { &entry.target });
        if own.0 != usual.0 {
            ranks.insert(key.clone(), json!(own.0));
        }
        if own.1 != usual.1 {
            alphas.insert(key, number(own.1));
        }
    }
    (ranks, alphas)
}

/// Targets by their last names where these mean the adapted modules and no others, else by their whole names.
fn targets(model: &Model, entries: &[Entry]) -> (Vec<String>, Vec<String>) {
    let all: Vec<String> = places(&model.weights).iter().map(|place| place.module_of(0)).collect();
    let mut modules: Vec<String> = Vec::new();
    let adapted = |name: &String| entries.iter().any(|entry| entry.module == *name);
    for entry in entries.iter().filter(|entry| !entry.is_parameter) {
        let name = last(&entry.module);
        let same = |other: &&String| last(other) == name;
        // An expert by itself is always meant by its last name: PEFT makes the fused parameter of it.
        let is_whole = entry.module.contains(".experts.") || all.iter().filter(same).all(adapted);
        modules.push(if is_whole { name.to_owned() } else { entry.module.clone() });
    }
    let mut parameters: Vec<String> = Vec::new();
    let layers = |of: &str| all.iter().filter(|name| kind(name) == of).count();
    for entry in entries.iter().filter(|entry| entry.is_parameter) {
        let of = kind(&entry.target);
        let adapted = entries.iter().filter(|other| kind(&other.target) == of).count();
        let module = of.trim_end_matches(".weight").replace("experts.gate_up_proj", "experts.0.gate_proj");
        let module = module.replace("experts.down_proj", "experts.0.down_proj");
        parameters.push(if adapted == layers(&module) { of.to_owned() } else { entry.target.clone() });
    }
    [&mut modules, &mut parameters].into_iter().for_each(|names| {
        names.sort();
        names.dedup();
    });
    (modules, parameters)
}
