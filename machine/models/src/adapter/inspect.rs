//! What adapters a model has, by kind: how many, of what rank, how large beside the weights.

use super::import::{self, Import};
use super::merge::parts;
use super::peft::{PeftConfig, TENSORS};
use super::places::{Adapters, Place, visit};
use super::prove::kind_of;
use super::whole;
use crate::{Loading, Model, ModelError};
use formats::TensorFile;
use formats::safetensors::Tensors;
use ops::Adapter;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// All weights of one kind, such as `self_attn.q_proj` or `mlp.experts.*.gate_proj`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct KindSummary {
    pub kind: String,
    /// Weights that adapters add to, or tensors that were trained whole.
    pub weights: usize,
    /// The lowest and the highest rank; 0 of what was trained whole.
    pub ranks: [usize; 2],
    pub scales: [f32; 2],
    /// Numbers in the factors, or in what was trained whole.
    pub parameters: usize,
    /// ‖scale·B·A‖ over all of them, or by how much what was trained whole differs from the base's, where that is
    /// known.
    pub delta_norm: f64,
    /// ‖W‖ over the same weights; 0 where only their shapes are known.
    pub weight_norm: f64,
}

/// What adapters a model has.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AdapterSummary {
    pub kinds: Vec<KindSummary>,
    pub parameters: usize,
    /// Of the model without its adapters.
    pub base_parameters: usize,
    /// Weights of routed experts in the model, and how many of these are adapted.
    pub expert_weights: usize,
    pub adapted_expert_weights: usize,
    pub dropout: f32,
}

/// What the adapters of a model are; the weights' own norms are left out.
pub fn summary(model: &Model) -> AdapterSummary {
    let mut kinds: BTreeMap<String, KindSummary> = BTreeMap::new();
    let mut all = AdapterSummary { base_parameters: model.parameter_count(), ..AdapterSummary::default() };
    visit(&model.weights, &mut |place, slot| {
        all.expert_weights += place.experts.unwrap_or(0);
        let Some(adapter) = slot else { return };
        all.adapted_expert_weights += place.experts.unwrap_or(0);
        all.dropout = all.dropout.max(adapter.dropout);
        let kind = kinds.entry(kind_of(&place.module_of(0))).or_default();
        kind.note(&place, adapter);
    });
    let added: usize = kinds.values().map(|kind| kind.parameters).sum();
    for parameter in whole::of(model) {
        let kind = kinds.entry(kind_of(&parameter.name)).or_default();
        kind.weights += 1;
        kind.parameters += parameter.shape.iter().product::<usize>();
    }
    all.kinds = kinds.into_iter().map(|(kind, summary)| KindSummary { kind, ..summary }).collect();
    all.parameters = all.kinds.iter().map(|kind| kind.parameters).sum();
    all.base_parameters -= added;
    all
}

impl KindSummary {
    fn note(&mut self, place: &Place, adapter: &Adapter) {
        let (rank, scale) = (adapter.rank(), adapter.scale());
        if self.weights == 0 {
            (self.ranks, self.scales) = ([rank, rank], [scale, scale]);
        }
        self.ranks = [self.ranks[0].min(rank), self.ranks[1].max(rank)];
        self.scales = [self.scales[0].min(scale), self.scales[1].max(scale)];
        self.weights += place.experts.unwrap_or(1);
        self.parameters += adapter.a.values().len() + adapter.b.values().len();
        for expert in 0..place.experts.unwrap_or(1) {
            self.delta_norm = self.delta_norm.hypot(delta_norm(adapter, expert));
        }
    }
}

/// ‖scale·B·A‖ by way of the two small matrices BᵀB and A·Aᵀ: ‖B·A‖² is the sum of their products.
fn delta_norm(adapter: &Adapter, expert: usize) -> f64 {
    let ([a, b], rank) = (adapter.factors(expert), adapter.rank());
    let mut squares = 0.0;
    let of_b: Vec<&[f32]> = b.chunks_exact(rank).collect();
    let of_a: Vec<&[f32]> = a.chunks_exact(a.len() / rank).collect();
    for j in 0..rank {
        for k in 0..rank {
            let b: f64 = of_b.iter().map(|row| f64::from(row[j]) * f64::from(row[k])).sum();
            let a: f64 = of_a[j].iter().zip(of_a[k]).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            squares += a * b;
        }
    }
    f64::from(adapter.scale()).abs() * squares.max(0.0).sqrt()
}

/// The adapters that a PEFT directory has for the model in `base`, of which only what they change is read.
pub fn inspect(base: &Path, directory: &Path, import: &Import) -> Result<AdapterSummary, ModelError> {
    let mut outline = Model::outline(base, Loading::Stored)?;
    let adapters = import::read(&outline, directory, import)?;
    outline.weights.visit_mut(&mut |parameter| parameter.trained = false);
    adapters.attach(&mut outline.weights);
    let mut all = summary(&outline);
    if base.is_dir() {
        add_weight_norms(&mut all, &Tensors::open(base)?, &adapters);
    }
    Ok(all)
}

fn add_weight_norms(all: &mut AdapterSummary, tensors: &Tensors, adapters: &Adapters) {
    for tensor in tensors.tensors() {
        let (parts, whole) = (parts(&tensor, adapters), adapters.whole(tensor.name));
        if parts.is_empty() && whole.is_none() || !tensor.dtype.is_float() {
            continue;
        }
        let values = tensor.to_f32();
        if let Some(whole) = whole {
            let squares = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            let differences = values.iter().zip(whole.values()).map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2));
            let (kind, difference) = (kind_of(tensor.name), differences.sum::<f64>());
            for summary in all.kinds.iter_mut().filter(|summary| summary.kind == kind) {
                summary.weight_norm = summary.weight_norm.hypot(squares.sqrt());
                summary.delta_norm = summary.delta_norm.hypot(difference.sqrt());
            }
        }
        for part in parts {
            let values = &values[part.start..part.start + part.rows * part.columns];
            let norm = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let kind = kind_of(&part.weight);
            for summary in all.kinds.iter_mut().filter(|summary| summary.kind == kind) {
                summary.weight_norm = summary.weight_norm.hypot(norm);
            }
        }
        tensors.release(&tensor);
    }
}

/// What a PEFT directory says without its model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    pub rank: usize,
    pub alpha: f64,
    pub rank_stabilized: bool,
    pub dropout: f32,
    pub peft_version: Option<String>,
    /// The base model's name, or the folder that it was in.
    pub base: Option<String>,
    pub target_parameters: Vec<String>,
    pub parameters: usize,
    pub tensors: Vec<TensorKind>,
}

/// Tensors that differ only in their layer and expert.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorKind {
    pub kind: String,
    pub count: usize,
    /// Of the first.
    pub shape: Vec<usize>,
}

/// Reads a PEFT directory, whose options are checked; which model it fits is not.
pub fn describe(directory: &Path) -> Result<Description, ModelError> {
    let config = PeftConfig::read(directory)?;
    let file = TensorFile::open(directory.join(TENSORS))?;
    let mut tensors: Vec<TensorKind> = Vec::new();
    for tensor in file.tensors() {
        let kind = kind_of(tensor.name);
        match tensors.iter_mut().find(|known| known.kind == kind) {
            Some(known) => known.count += 1,
            None => tensors.push(TensorKind { kind, count: 1, shape: tensor.shape.to_vec() }),
        }
    }
    tensors.sort_by(|a, b| a.kind.cmp(&b.kind));
    Ok(Description {
        rank: config.rank,
        alpha: config.alpha,
        rank_stabilized: config.rank_stabilized,
        dropout: config.dropout,
        peft_version: config.version.map(|(major, minor)| format!("{major}.{minor}")),
        base: config.base.clone(),
        target_parameters: config.parameters.clone(),
        parameters: file.tensors().map(|tensor| tensor.n_values()).sum(),
        tensors,
    })
}
