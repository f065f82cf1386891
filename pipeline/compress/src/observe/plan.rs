//! What an observation takes of memory and disk, known before it begins.

use super::{ObserveOptions, batches, similarity};
use models::{LayerwisePlan, LayerwiseSettings, Loading, Model};
use serde::Serialize;

/// What layers that come and go leave between their blocks, as a part of them: 7 % were found on layers of 480 MB.
pub(crate) const BETWEEN_BLOCKS: usize = 12;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ObservePlan {
    /// The largest layer; of a model in memory all of it.
    pub layer: usize,
    /// One batch through a layer, there or back, or a layer's experts compared.
    pub activations: usize,
    /// Embedding or head, without any layer.
    pub ends: usize,
    /// Hidden states of all tokens between layers: in memory, or on disk.
    pub states: usize,
    pub states_on_disk: bool,
    /// Of all layers, and what one layer counts in.
    pub statistics: usize,
    pub program: usize,
}

impl ObservePlan {
    /// The plan for sequences of these lengths. States are on disk where memory has no room for them.
    pub fn of(
        outline: &Model,
        loading: Loading,
        is_resident: bool,
        lengths: &[usize],
        options: &ObserveOptions,
    ) -> Self {
        let (batches, backward) = batches(lengths, options);
        let settings =
            LayerwiseSettings { batches: &batches, backward, is_resident, threads: kernels::pool::threads() };
        let LayerwisePlan { layer, activations, ends, program } = LayerwisePlan::of(outline, loading, &settings);
        let width = outline.config.hidden_size;
        let rows = |batches: &[Vec<usize>]| batches.iter().flatten().sum::<usize>();
        let (all, back) = (rows(&batches), rows(&batches[..backward]));
        // Of some tokens, what went into every layer and what the loss asks of one, all the way back.
        let kept = if backward > 0 { (outline.config.layers.len() + 1) * back } else { 0 };
        let states = |rows: usize| size_of::<f32>() * width * rows;
        let mut plan = Self {
            layer,
            activations: activations.max(compared(outline, options)),
            ends,
            // In memory what goes into a layer gives way, batch by batch, to what comes out.
            states: states(all + kept),
            states_on_disk: false,
            statistics: statistics(outline, options),
            program,
        };
        if plan.total() > options.memory_max {
            (plan.states, plan.states_on_disk) = (states(2 * all + kept + back), true);
        }
        plan
    }

    /// Bytes of memory that are held at most.
    pub fn total(&self) -> usize {
        let states = if self.states_on_disk { 0 } else { self.states };
        let working = (self.layer + self.activations).max(self.ends);
        self.program + self.statistics + states + working + working / BETWEEN_BLOCKS
    }

    /// Bytes on disk at most, until the observation is done.
    pub fn disk(&self) -> usize {
        self.statistics + if self.states_on_disk { self.states } else { 0 }
    }
}

fn compared(outline: &Model, options: &ObserveOptions) -> usize {
    let width = outline.config.hidden_size;
    let sizes = mixtures(outline).map(|(_, experts, inner)| {
        let sample = size_of::<f32>() * 2 * options.similarity_tokens * (width + experts);
        sample + if options.similarity_tokens > 0 { similarity::bytes(experts, width, inner) } else { 0 }
    });
    sizes.max().unwrap_or(0)
}

fn statistics(outline: &Model, options: &ObserveOptions) -> usize {
    let of = |(_, experts, inner): (usize, usize, usize)| {
        let neurons = if options.gradient_tokens > 0 { experts * inner * size_of::<f32>() } else { 0 };
        let pairs = size_of::<u64>() + size_of::<f32>();
        (experts * (experts * pairs + size_of::<crate::ExpertUse>()) + neurons, neurons)
    };
    let kept: usize = mixtures(outline).map(|mixture| of(mixture).0).sum();
    // What one layer counts in, and as a file has it.
    kept + 2 * mixtures(outline).map(|mixture| of(mixture).0 + of(mixture).1).max().unwrap_or(0)
}

/// Of each layer that is a mixture: its index, its experts, and their hidden neurons.
pub(crate) fn mixtures(outline: &Model) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    outline.weights.layers.iter().enumerate().filter_map(|(index, layer)| {
        let experts = &layer.mixture()?.experts;
        Some((index, experts.len(), experts.first()?.gate.output_width()))
    })
}
