//! Where adapters can be: every linear map but the table of embeddings, and, as one, a projection of all experts of a
//! layer.

use crate::weights::{DeltaInput, FeedForward, Mixer, Weights};
use numeric::Matrix;
use ops::{Adapter, Expert, Linear, Parameter};
use std::collections::BTreeMap;

/// What `gate`, `up` and `down` are called, in the order of [`ops::Moe::adapters`].
pub(crate) const PROJECTIONS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// A place, by the path of its module: `model.layers.0.self_attn.q_proj`; of all experts at once
/// `model.layers.0.mlp.experts.gate_proj`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// How many, where it is a bank of them.
    pub(crate) experts: Option<usize>,
}

impl Place {
    fn of(map: &Linear) -> Self {
        let name = module(&map.weight.name).to_owned();
        Self { name, inputs: map.input_width(), outputs: map.output_width(), experts: None }
    }

    fn of_bank(router: &Linear, experts: &[Expert], bank: usize) -> Self {
        let mlp = module(&router.weight.name).trim_end_matches(".gate");
        let map = [&experts[0].gate, &experts[0].up, &experts[0].down][bank];
        Self {
            name: format!("{mlp}.experts.{}", PROJECTIONS[bank]),
            experts: Some(experts.len()),
            inputs: map.input_width(),
            outputs: map.output_width(),
        }
    }

    /// Whether it decides which experts a token visits.
    pub(crate) fn is_router(&self) -> bool {
        self.name.ends_with(".mlp.gate")
    }

    /// The bank's part of the name: `model.layers.0.mlp.experts` and `gate_proj`.
    pub(crate) fn bank(&self) -> Option<(&str, &str)> {
        self.experts.and_then(|_| self.name.rsplit_once('.'))
    }

    /// The path of one expert's module; of a map that stands alone it is the name.
    pub(crate) fn module_of(&self, expert: usize) -> String {
        match self.bank() {
            Some((experts, projection)) => format!("{experts}.{expert}.{projection}"),
            None => self.name.clone(),
        }
    }

    /// An adapter here; the factors are `[rank, in]` and `[out, rank]`, or have an axis of experts in front.
    pub(crate) fn adapter(&self, [a, b]: [(Vec<usize>, Vec<f32>); 2], scaling: Scaling) -> Adapter {
        let factor = |side: &str, (shape, values): (Vec<usize>, Vec<f32>)| {
            let columns = shape[shape.len() - 1];
            let matrix = Matrix::from_f32(values.len() / columns, columns, values);
            Parameter { id: 0, name: format!("{}.lora_{side}.weight", self.name), shape, trained: true, matrix }
        };
        let Scaling { alpha, rank_stabilized, dropout } = scaling;
        Adapter { a: factor("A", a), b: factor("B", b), alpha, rank_stabilized, dropout }
    }
}

/// All of an adapter but its factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) alpha: f32,
    pub(crate) rank_stabilized: bool,
    pub(crate) dropout: f32,
}

/// A tensor's name without `.weight`.
pub(crate) fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Whether a parameter of this name is a factor of an adapter.
pub(crate) fn is_factor(parameter: &str) -> bool {
    parameter.ends_with(".lora_A.weight") || parameter.ends_with(".lora_B.weight")
}

/// Visits every place with what is there; the same text serves shared and mutable borrows.
macro_rules! walk {
    ($name:ident, $iter:ident, $($mutable:tt)?) => {
        pub(crate) fn $name<'a>(
            weights: &'a $($mutable)? Weights,
            visit: &mut dyn FnMut(Place, &'a $($mutable)? Option<Adapter>),
        ) {
            fn map<'a>(map: &'a $($mutable)? Linear, visit: &mut dyn FnMut(Place, &'a $($mutable)? Option<Adapter>)) {
                visit(Place::of(map), &$($mutable)? map.adapter);
            }
            fn expert<'a>(e: &'a $($mutable)? Expert, visit: &mut dyn FnMut(Place, &'a $($mutable)? Option<Adapter>)) {
                map(&$($mutable)? e.gate, visit);
                map(&$($mutable)? e.up, visit);
                map(&$($mutable)? e.down, visit);
            }
            for layer in weights.layers.$iter() {
                match &$($mutable)? layer.mixer {
                    Mixer::Attention(w) => {
                        map(&$($mutable)? w.query, visit);
                        map(&$($mutable)? w.key, visit);
                        map(&$($mutable)? w.value, visit);
                        map(&$($mutable)? w.output, visit);
                    }
                    Mixer::Delta(w) => {
                        match &$($mutable)? w.input {
                            DeltaInput::Grouped { qkvz, .. } => map(qkvz, visit),
                            DeltaInput::Split { qkv, z } => {
                                map(qkv, visit);
                                map(z, visit);
                            }
                        }
                        map(&$($mutable)? w.ba, visit);
                        map(&$($mutable)? w.output, visit);
                    }
                }
                match &$($mutable)? layer.feed_forward {
                    FeedForward::Dense(w) => expert(&$($mutable)? *w, visit),
                    FeedForward::Moe(w) => {
                        let places = [0, 1, 2].map(|bank| Place::of_bank(&w.routed.router, &w.routed.experts, bank));
                        map(&$($mutable)? w.routed.router, visit);
                        places.into_iter().zip(w.routed.adapters.$iter()).for_each(|(place, slot)| visit(place, slot));
                        if let Some(shared) = &$($mutable)? w.shared {
                            expert(&$($mutable)? shared.expert, visit);
                            map(&$($mutable)? shared.gate, visit);
                        }
                    }
                }
            }
            if let Some(head) = &$($mutable)? weights.separate_head {
                map(head, visit);
            }
        }
    };
}

walk!(visit, iter,);
walk!(visit_mut, iter_mut, mut);

/// All places of a model.
pub(crate) fn places(weights: &Weights) -> Vec<Place> {
    let mut all = Vec::new();
    visit(weights, &mut |place, _| all.push(place));
    all
}

/// What a directory adds to a model, or puts in the place of its own.
#[derive(Debug, Default)]
pub(crate) struct Adapters {
    /// By the names of their places.
    added: BTreeMap<String, (Place, Adapter)>,
    /// Parameters of modules that were trained whole, f32, by their names.
    whole: BTreeMap<String, Parameter>,
}

impl Adapters {
    /// Takes what is added out of a model; what was trained whole is the model's own.
    pub(crate) fn take(weights: &mut Weights) -> Self {
        let mut all = Self::default();
        visit_mut(weights, &mut |place, slot| {
            slot.take().into_iter().for_each(|adapter| all.put(place.clone(), adapter))
        });
        all
    }

    pub(crate) fn put(&mut self, place: Place, adapter: Adapter) {
        self.added.insert(place.name.clone(), (place, adapter));
    }

    pub(crate) fn put_whole(&mut self, parameter: Parameter) {
        self.whole.insert(parameter.name.clone(), parameter);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.whole.is_empty()
    }

    /// Puts a copy of each that belongs to these weights in its place.
    pub(crate) fn attach(&self, weights: &mut Weights) {
        self.attach_to_layers(weights);
        let ends = [&mut weights.embedding.weight, &mut weights.final_norm.weight];
        let head = weights.separate_head.iter_mut().map(|head| &mut head.weight);
        ends.into_iter().chain(head).for_each(|parameter| self.replace(parameter));
    }

    /// As [`Self::attach`], but what was trained whole before and after the layers is left out.
    pub(crate) fn attach_to_layers(&self, weights: &mut Weights) {
        visit_mut(weights, &mut |place, slot| {
            if let Some((_, adapter)) = self.added.get(&place.name) {
                *slot = Some(adapter.clone());
            }
        });
        weights.layers.iter_mut().for_each(|layer| layer.visit_mut(&mut |parameter| self.replace(parameter)));
    }

    fn replace(&self, parameter: &mut Parameter) {
        if let Some(whole) = self.whole.get(&parameter.name) {
            parameter.matrix = whole.matrix.clone();
            parameter.trained = true;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Place, &Adapter)> {
        self.added.values().map(|(place, adapter)| (place, adapter))
    }

    /// The numbers that stand in the place of the tensor of this name.
    pub(crate) fn whole(&self, name: &str) -> Option<&Parameter> {
        self.whole.get(name)
    }

    pub(crate) fn whole_names(&self) -> impl Iterator<Item = &str> {
        self.whole.keys().map(String::as_str)
    }

    /// The adapter of the weight of this name, and which expert's it is.
    pub(crate) fn of_weight(&self, weight: &str) -> Option<(&Adapter, usize)> {
        let module = weight.strip_suffix(".weight")?;
        if let Some((_, adapter)) = self.added.get(module) {
            return Some((adapter, 0));
        }
        let (layer, rest) = module.split_once(".experts.")?;
        let (expert, projection) = rest.split_once('.')?;
        let (_, adapter) = self.added.get(&format!("{layer}.experts.{projection}"))?;
        Some((adapter, expert.parse().ok()?))
    }

    /// Weights that an adapter adds to, and tensors that it has whole.
    pub(crate) fn weights(&self) -> usize {
        self.iter().map(|(place, _)| place.experts.unwrap_or(1)).sum::<usize>() + self.whole.len()
    }
}
