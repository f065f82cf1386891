//! Sums over a step or a validation: the loss that counts, the losses by kind, the load of the experts.

use crate::event::Losses;
use crate::objective::{Mean, Measured};
use prepare::{Batch, Kind};
use std::collections::BTreeMap;

/// Adds up micro-batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    weighted: f64,
    weight: f64,
    by_kind: BTreeMap<Kind, (f64, usize)>,
    pub(crate) expert_counts: Vec<Vec<u64>>,
    /// Sums over micro-batches, and how many those were.
    entropies: (Vec<f32>, usize),
    terms: BTreeMap<&'static str, Mean>,
    pub(crate) tokens: usize,
    pub(crate) trained_tokens: usize,
}

impl Tally {
    /// A micro-batch with what came of it.
    pub(crate) fn add_measured(&mut self, batch: &Batch, measured: &Measured) {
        match measured.losses.is_empty() {
            true => self.tokens += batch.tokens.len(),
            false => self.add(batch, &measured.losses),
        }
        for (name, mean) in &measured.terms {
            let into = self.terms.entry(name).or_default();
            into.sum += mean.sum;
            into.weight += mean.weight;
        }
        add_counts(&mut self.expert_counts, &measured.expert_counts);
        let (sums, count) = &mut self.entropies;
        sums.resize(measured.router_entropies.len(), 0.0);
        sums.iter_mut().zip(&measured.router_entropies).for_each(|(sum, entropy)| *sum += entropy);
        *count += 1;
    }

    pub(crate) fn add(&mut self, batch: &Batch, losses: &[f32]) {
        assert_eq!(batch.tokens.len(), losses.len(), "a loss for every token");
        for ((&loss, &weight), kind) in losses.iter().zip(&batch.weights).zip(batch.token_kinds()) {
            if weight > 0.0 {
                self.weighted += f64::from(loss) * f64::from(weight);
                self.weight += f64::from(weight);
                let (sum, count) = self.by_kind.entry(kind).or_default();
                *sum += f64::from(loss);
                *count += 1;
                self.trained_tokens += 1;
            }
        }
        self.tokens += batch.tokens.len();
    }

    /// How undecided each layer's router was, the mean over micro-batches.
    pub(crate) fn router_entropies(&self) -> Vec<f32> {
        let (sums, count) = &self.entropies;
        sums.iter().map(|sum| sum / (*count).max(1) as f32).collect()
    }

    /// The weighted mean; 0 where nothing is trained.
    pub(crate) fn loss(&self) -> f64 {
        if self.weight > 0.0 { self.weighted / self.weight } else { 0.0 }
    }

    pub(crate) fn losses(&self) -> Losses {
        self.by_kind.iter().map(|(kind, (sum, count))| (kind.name().to_owned(), sum / *count as f64)).collect()
    }

    /// What else was measured, by name.
    pub(crate) fn terms(&self) -> Losses {
        let counted = self.terms.iter().filter(|(_, mean)| mean.weight > 0.0);
        counted.map(|(name, mean)| ((*name).to_owned(), mean.sum / mean.weight)).collect()
    }

    /// The busiest expert's load over an even share, in the layer where that is worst.
    pub(crate) fn expert_imbalance(&self) -> f64 {
        let worst = shares(&self.expert_counts).into_iter().map(|layer| {
            let count = layer.len() as f64;
            f64::from(layer.into_iter().fold(0.0, f32::max)) * count
        });
        worst.fold(0.0, f64::max)
    }
}

/// `into += counts`; the first addition gives the shape.
pub(crate) fn add_counts(into: &mut Vec<Vec<u64>>, counts: &[Vec<u64>]) {
    if into.is_empty() {
        into.extend_from_slice(counts);
        return;
    }
    for (into, counts) in into.iter_mut().zip(counts) {
        into.iter_mut().zip(counts).for_each(|(into, count)| *into += count);
    }
}

/// Each expert's share of its layer's choices.
pub(crate) fn shares(counts: &[Vec<u64>]) -> Vec<Vec<f32>> {
    let share = |layer: &Vec<u64>| {
        let total = layer.iter().sum::<u64>().max(1) as f64;
        layer.iter().map(|&count| (count as f64 / total) as f32).collect()
    };
    counts.iter().map(share).collect()
}
