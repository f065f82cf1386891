//! What merging a model from folder to folder takes of memory and disk, known before it begins.
//!
//! Legend: T rows, H hidden width, m hidden neurons, E experts, k chosen, K members of a group.

use super::MIXTURE_ROWS;
use crate::observe::{BETWEEN_BLOCKS, mixtures};
use crate::{LayerPlan, LayerStatistics, Plan};
use models::{LayerwisePlan, LayerwiseSettings, Loading, Model};
use serde::Serialize;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MergePlan {
    /// The largest layer, as it is read.
    pub layer: usize,
    /// A pack of tokens on its way through it.
    pub activations: usize,
    /// Embedding or head, without any layer.
    pub ends: usize,
    /// What comes into a mixture, all packs of it.
    pub rows: usize,
    /// A mixture being merged: its experts in f32, what it said and says, and one group.
    pub working: usize,
    /// What is known of all experts.
    pub statistics: usize,
    pub program: usize,
    /// Hidden states before a layer and after it, on disk.
    pub states: usize,
}

/// The largest group that is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSize {
    pub members: usize,
    /// Rows to fit on that choose any of them, at most.
    pub rows: usize,
}

impl GroupSize {
    /// Before anything is known: full groups of experts twice as busy as others.
    pub fn expected(outline: &Model, group_max: usize, calibration_rows: usize) -> Self {
        let experts = outline.config.expert_counts().into_iter().max().unwrap_or(1).max(1);
        let top_k = outline.config.experts.map_or(1, |experts| experts.top_k);
        let members = group_max.min(experts);
        Self { members, rows: calibration_rows.min(2 * calibration_rows * members * top_k / experts) }
    }

    /// Of a plan, with the tokens that its experts were seen to get.
    pub fn of(plan: &Plan, statistics: &[LayerStatistics], calibration_rows: usize) -> Self {
        let mut largest = Self { members: 1, rows: 0 };
        let of_layer = |layer: &LayerPlan| statistics.iter().find(|statistics| statistics.layer == layer.layer);
        for (layer, seen) in plan.layers.iter().filter_map(|layer| Some((layer, of_layer(layer)?))) {
            for merge in &layer.merge {
                let members = [merge.into].into_iter().chain(merge.from.iter().copied());
                let tokens: u64 = members.filter_map(|member| Some(seen.experts.get(member)?.tokens)).sum();
                largest.members = largest.members.max(merge.from.len() + 1);
                largest.rows = largest.rows.max(calibration_rows.min(tokens as usize));
            }
        }
        largest
    }
}

impl MergePlan {
    /// For packs of sequences of these lengths to fit on and to measure on, and so many experts that stay in each
    /// layer.
    pub fn of(
        outline: &Model,
        loading: Loading,
        [calibration, held_out]: [&[Vec<usize>]; 2],
        keep: &[usize],
        group: GroupSize,
    ) -> Self {
        let packs = [calibration, held_out].concat();
        let threads = kernels::pool::threads();
        let settings = LayerwiseSettings { batches: &packs, backward: 0, is_resident: false, threads };
        let LayerwisePlan { layer, activations, ends, program } = LayerwisePlan::of(outline, loading, &settings);
        let rows = |packs: &[Vec<usize>]| packs.iter().flatten().sum::<usize>();
        let (fitted, measured) = (rows(calibration), rows(held_out));
        let width = outline.config.hidden_size;
        let top_k = outline.config.experts.map_or(1, |experts| experts.top_k);
        let working = mixtures(outline).map(|(index, experts, inner)| {
            let shape = Shape { width, inner, experts, top_k, keep: keep[index], fitted, measured, group, threads };
            shape.working()
        });
        let of_experts = |(_, experts, inner): (usize, usize, usize)| {
            experts * (experts * (size_of::<u64>() + size_of::<f32>()) + inner * size_of::<f32>())
        };
        Self {
            layer,
            activations,
            ends,
            rows: size_of::<f32>() * width * (fitted + measured),
            working: working.max().unwrap_or(0),
            statistics: mixtures(outline).map(of_experts).sum(),
            program,
            states: 2 * size_of::<f32>() * width * (fitted + measured),
        }
    }

    /// Bytes of memory that are held at most.
    pub fn total(&self) -> usize {
        let inside = self.layer + self.rows + self.activations.max(self.working);
        let most = inside.max(self.ends);
        self.program + self.statistics + most + most / BETWEEN_BLOCKS
    }
}

/// One mixture.
struct Shape {
    width: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    keep: usize,
    fitted: usize,
    measured: usize,
    group: GroupSize,
    threads: usize,
}

impl Shape {
    fn working(&self) -> usize {
        let Self { width, inner, experts, top_k, keep, fitted, measured, group, threads } = *self;
        let expert = 3 * width * inner;
        // Logits and probabilities, before and now.
        let routed = 2 * experts * (fitted + measured);
        let said = 2 * width * measured;
        // Rows sorted by expert: in, gate, up, both together, out.
        let through = MIXTURE_ROWS * (top_k * (2 * width + 3 * inner) + width);
        // As they are, in one order, as they are made: average, filtered, selected; and activations of all.
        let neurons = expert * (2 * group.members + 4);
        let seen = group.rows * (2 * width + group.members * inner);
        let candidates = measured * 5 * width;
        // Costs of pairs, by threads; sums of squares of a fit; a basis: all of them in f64.
        let squares = 2 * inner * inner * (2 * threads).max(6) + 4 * width * inner.max(width);
        let grouping = neurons + seen + candidates + through.max(squares);
        // What was wanted, what is said, and what is missing.
        let refit = width * (3 * fitted + measured) + routed + through.max(squares);
        size_of::<f32>() * (keep * expert + routed + said + grouping.max(refit))
    }
}
