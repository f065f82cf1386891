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

/// Adapters by the names of their places.
#[derive(Debug, Default)]
pub(crate) struct Adapters(BTreeMap<String, (Place, Adapter)>);

impl Adapters {
    /// Takes them out of a model.
    pub(crate) fn take(weights: &mut Weights) -> Self {
        let mut all = Self::default();
        visit_mut(weights, &mut |place, slot| {
            slot.take().into_iter().for_each(|adapter| all.put(place.clone(), adapter))
        });
        all
    }

    pub(crate) fn put(&mut self, place: Place, adapter: Adapter) {
        self.0.insert(place.name.clone(), (place, adapter));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a copy of each that belongs to these weights in its place.
    pub(crate) fn attach(&self, weights: &mut Weights) {
        visit_mut(weights, &mut |place, slot| {
            if let Some((_, adapter)) = self.0.get(&place.name) {
                *slot = Some(adapter.clone());
            }
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Place, &Adapter)> {
        self.0.values().map(|(place, adapter)| (place, adapter))
    }

    /// The adapter of the weight of this name, and which expert's it is.
    pub(crate) fn of_weight(&self, weight: &str) -> Option<(&Adapter, usize)> {
        let module = weight.strip_suffix(".weight")?;
        if let Some((_, adapter)) = self.0.get(module) {
            return Some((adapter, 0));
        }
        let (layer, rest) = module.split_once(".experts.")?;
        let (expert, projection) = rest.split_once('.')?;
        let (_, adapter) = self.0.get(&format!("{layer}.experts.{projection}"))?;
        Some((adapter, expert.parse().ok()?))
    }

    /// Weights that an adapter adds to.
    pub(crate) fn weights(&self) -> usize {
        self.iter().map(|(place, _)| place.experts.unwrap_or(1)).sum()
    }
}
