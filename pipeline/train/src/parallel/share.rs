//! A rank's share of a step, and what it measures on it.

use super::{Ranks, collect};
use crate::error::TrainError;
use crate::objective::{Mean, Measured, Objective, StepWork, TERMS, shares_of_a_mean};
use models::{Beside, Examples, LayerState, MixerKind, Model, Neighbours, loss_and_gradients_beside};
use numeric::wire::{Message, Reading};
use ops::{Carried, Gradients};
use prepare::Batch;
use std::ops::Range;

/// Ranks 0.. in groups of so many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    pub(super) sequence_ranks: usize,
    pub(super) size: usize,
}

/// What a rank measured, laid out as all of a step is, so that the shares of all ranks add up to the whole.
pub(super) struct Share {
    /// The first token of each micro-batch among those of all, and their number.
    firsts: Vec<usize>,
    /// Of each token of each micro-batch.
    losses: Vec<f32>,
    /// Of each micro-batch, by how many ranks its losses were measured: nothing of what a model wrote itself.
    has_losses: Vec<f32>,
    /// Of each micro-batch, layer by layer: tokens per expert. As f32, which is exact up to 16 million tokens.
    counts: Vec<f32>,
    entropies: Vec<f32>,
    /// Of each micro-batch, sum and weight of each of [`TERMS`].
    terms: Vec<f32>,
    /// Experts of each layer that has some.
    experts: Vec<usize>,
}

impl Share {
    /// Adds the gradients of this rank's share. Where it fails the share is that of nothing.
    pub(super) fn compute(
        (ranks, groups): (&dyn Ranks, Groups),
        objective: &mut dyn Objective,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> (Self, Result<(), TrainError>) {
        let (group, member) = (ranks.rank() / groups.sequence_ranks, ranks.rank() % groups.sequence_ranks);
        let n_groups = groups.size / groups.sequence_ranks;
        let own: Vec<usize> = (0..work.batches.len()).filter(|index| index % n_groups == group).collect();
        let mut share = Self::empty(model, work.batches);
        if groups.sequence_ranks > 1 {
            let line = Line { ranks, model, first: group * groups.sequence_ranks, members: groups.sequence_ranks };
            share.cut((line, member), &own, work, gradients);
            return (share, Ok(()));
        }
        match objective.step(model, &StepWork { own: &own, ..*work }, gradients) {
            Ok(measured) => {
                let measured = measured.expect("nobody stops a step that all have begun");
                own.iter().zip(&measured).for_each(|(&index, measured)| share.put(index, measured));
                (share, Ok(()))
            }
            Err(error) => (share, Err(error)),
        }
    }

    fn empty(model: &Model, batches: &[Batch]) -> Self {
        let experts = model.config.expert_counts();
        let mut firsts = vec![0];
        batches.iter().for_each(|batch| firsts.push(firsts[firsts.len() - 1] + batch.tokens.len()));
        let count = batches.len();
        Self {
            losses: vec![0.0; firsts[count]],
            firsts,
            has_losses: vec![0.0; count],
            counts: vec![0.0; count * experts.iter().sum::<usize>()],
            entropies: vec![0.0; count * experts.len()],
            terms: vec![0.0; count * 2 * TERMS.len()],
            experts,
        }
    }

    /// What one micro-batch gave.
    fn put(&mut self, index: usize, measured: &Measured) {
        if !measured.losses.is_empty() {
            self.losses[self.firsts[index]..self.firsts[index + 1]].copy_from_slice(&measured.losses);
            self.has_losses[index] = 1.0;
        }
        let per_batch: usize = self.experts.iter().sum();
        let counts = self.counts[index * per_batch..].iter_mut();
        counts.zip(measured.expert_counts.iter().flatten()).for_each(|(to, &count)| *to = count as f32);
        let entropies = self.entropies[index * self.experts.len()..].iter_mut();
        entropies.zip(&measured.router_entropies).for_each(|(to, entropy)| *to = *entropy);
        for (name, mean) in &measured.terms {
            let place = TERMS.iter().position(|term| term == name).expect("every term is known");
            let terms = &mut self.terms[2 * (index * TERMS.len() + place)..][..2];
            terms.copy_from_slice(&[mean.sum as f32, mean.weight as f32]);
        }
    }

    /// This rank's part of each of its group's micro-batches.
    fn cut(&mut self, (mut line, member): (Line, usize), own: &[usize], work: &StepWork, gradients: &mut Gradients) {
        let (model, members) = (line.model, line.members);
        let (cost, per_batch) = (cost(model), self.experts.iter().sum::<usize>());
        for &index in own {
            let batch = &work.batches[index];
            let rows = cut(&batch.lengths, members, cost).swap_remove(member);
            let Part { lengths, start, goes_on } = Part::of(&batch.lengths, &rows);
            let weights = shares_of_a_mean(&batch.weights[rows.clone()], work.step_weight);
            let examples = Examples {
                tokens: &batch.tokens[rows.clone()],
                lengths: &lengths,
                targets: &batch.targets[rows.clone()],
                weights: &weights,
            };
            let beside = Beside { start, first_token: rows.start, goes_on, neighbours: &mut line };
            let record = loss_and_gradients_beside(model, &examples, &work.options[index], gradients, beside);
            let first = self.firsts[index];
            self.losses[first + rows.start..first + rows.end].copy_from_slice(&record.losses);
            // Counts are of the whole micro-batch already; entropies are means over a part.
            if member == 0 {
                self.has_losses[index] = 1.0;
                let counts = self.counts[index * per_batch..].iter_mut();
                counts.zip(record.expert_counts.iter().flatten()).for_each(|(to, &count)| *to = count as f32);
            }
            let part = rows.len() as f32 / batch.tokens.len() as f32;
            let entropies = self.entropies[index * self.experts.len()..].iter_mut();
            entropies.zip(&record.router_entropies).for_each(|(to, entropy)| *to = part * entropy);
        }
    }

    /// Leaves the sum of all shares with the first rank.
    pub(super) fn sum(&mut self, ranks: &dyn Ranks) {
        let Self { losses, has_losses, counts, entropies, terms, .. } = self;
        for numbers in [losses, has_losses, counts, entropies, terms] {
            collect::sum(ranks, numbers);
        }
    }

    /// What each micro-batch gave, once summed.
    pub(super) fn measured(&self, batches: &[Batch]) -> Vec<Measured> {
        let mut counts = self.counts.as_slice();
        let of = |index: usize| {
            let mut layer = |&experts: &usize| {
                let (own, rest) = counts.split_at(experts);
                counts = rest;
                own.iter().map(|&count| count as u64).collect()
            };
            let losses = match self.has_losses[index] > 0.0 {
                true => self.losses[self.firsts[index]..self.firsts[index + 1]].to_vec(),
                false => Vec::new(),
            };
            let terms = self.terms[2 * index * TERMS.len()..].chunks_exact(2).zip(TERMS);
            let terms = terms.filter(|(mean, _)| mean[1] > 0.0);
            let mean = |mean: &[f32]| Mean { sum: f64::from(mean[0]), weight: f64::from(mean[1]) };
            Measured {
                losses,
                terms: terms.map(|(numbers, name)| (name, mean(numbers))).collect(),
                expert_counts: self.experts.iter().map(&mut layer).collect(),
                router_entropies: self.entropies[index * self.experts.len()..][..self.experts.len()].to_vec(),
            }
        };
        (0..batches.len()).map(of).collect()
    }
}

/// Operations that a token costs by itself, and for each token that it looks back on.
fn cost(model: &Model) -> [f64; 2] {
    let top_k = model.config.experts.map_or(0, |experts| experts.top_k);
    let experts = model.config.expert_counts().first().copied().unwrap_or(1).max(1);
    let visited = |name: &str, numbers: usize| match name.contains(".experts.") {
        true => numbers as f64 * top_k as f64 / experts as f64,
        false => numbers as f64,
    };
    let in_layers = model.parameters().into_iter().filter(|parameter| parameter.name.contains("layers."));
    let own: f64 = in_layers.map(|p| visited(&p.name, p.matrix.rows * p.matrix.columns)).sum();
    let attention = model.config.layers.iter().filter(|layer| layer.mixer == MixerKind::Attention).count();
    let heads = model.config.attention.heads * model.config.attention.head_dim;
    [2.0 * own, 4.0 * (attention * heads) as f64]
}

/// The rows of each of so many parts of a batch, one after the other, at even cost; a part has a row at least.
fn cut(lengths: &[usize], parts: usize, [own, back]: [f64; 2]) -> Vec<Range<usize>> {
    let costs: Vec<f64> = lengths.iter().flat_map(|&length| (0..length).map(|at| own + back * at as f64)).collect();
    assert!(costs.len() >= parts, "{} tokens for {parts} ranks", costs.len());
    let total: f64 = costs.iter().sum();
    let (mut ends, mut so_far) = (Vec::with_capacity(parts), 0.0);
    for (row, cost) in costs.iter().enumerate() {
        so_far += cost;
        // As many rows must stay as there are parts to come.
        let is_due = so_far * parts as f64 >= total * (ends.len() + 1) as f64;
        let must = costs.len() - row == parts - ends.len();
        if ends.len() + 1 < parts && (is_due || must) && ends.last().is_none_or(|&end| end < row + 1) {
            ends.push(row + 1);
        }
    }
    ends.push(costs.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends.iter().copied()).map(|(start, end)| start..end).collect()
}

/// The sequences of some rows of a batch.
struct Part {
    lengths: Vec<usize>,
    /// Tokens of the first sequence that lie before.
    start: usize,
    /// Whether the last one goes on after them.
    goes_on: bool,
}

impl Part {
    fn of(lengths: &[usize], rows: &Range<usize>) -> Self {
        let mut part = Self { lengths: Vec::new(), start: 0, goes_on: false };
        let mut first = 0;
        for &length in lengths.iter().filter(|&&length| length > 0) {
            let sequence = first..first + length;
            first = sequence.end;
            let (from, to) = (sequence.start.max(rows.start), sequence.end.min(rows.end));
            if from >= to {
                continue;
            }
            if part.lengths.is_empty() {
                part.start = from - sequence.start;
            }
            part.lengths.push(to - from);
            part.goes_on = sequence.end > rows.end;
        }
        part
    }
}

/// The ranks of a group as neighbours, each with the tokens after those of the rank before it.
struct Line<'a> {
    ranks: &'a dyn Ranks,
    model: &'a Model,
    /// The group's first rank, and how many it has.
    first: usize,
    members: usize,
}

impl Line<'_> {
    fn send(&self, to: usize, put: impl FnOnce(&mut Message)) {
        let mut message = Message::default();
        put(&mut message);
        self.ranks.send(to, message.bytes());
    }
}

impl Neighbours for Line<'_> {
    fn found(&mut self, layer: usize) -> LayerState {
        let bytes = self.ranks.receive(self.ranks.rank() - 1);
        let mut reading = Reading::new(&bytes);
        let state = LayerState::take(&mut reading, &self.model.config, self.model.config.layers[layer].mixer);
        reading.end();
        state
    }

    fn leave(&mut self, _: usize, state: LayerState) {
        self.send(self.ranks.rank() + 1, |message| state.put(message));
    }

    fn asked(&mut self, _: usize) -> Carried {
        let bytes = self.ranks.receive(self.ranks.rank() + 1);
        let mut reading = Reading::new(&bytes);
        let carried = Carried::take(&mut reading);
        reading.end();
        carried
    }

    fn ask(&mut self, _: usize, carried: Carried) {
        self.send(self.ranks.rank() - 1, |message| carried.put(message));
    }

    /// By the group's first rank, in the order of ranks.
    fn sum(&mut self, numbers: &mut [u64]) {
        if self.ranks.rank() != self.first {
            self.send(self.first, |message| message.put_u64s(numbers));
            numbers.copy_from_slice(&Reading::new(&self.ranks.receive(self.first)).take_u64s());
            return;
        }
        let others = self.first + 1..self.first + self.members;
        for other in others.clone() {
            let theirs = Reading::new(&self.ranks.receive(other)).take_u64s();
            numbers.iter_mut().zip(theirs).for_each(|(sum, number)| *sum += number);
        }
        others.for_each(|other| self.send(other, |message| message.put_u64s(numbers)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_even_in_cost_and_leave_nobody_without() {
        assert_eq!(cut(&[12], 3, [1.0, 0.0]), [0..4, 4..8, 8..12]);
        let parts = cut(&[1000], 2, [0.0, 1.0]);
        assert!((parts[0].end as f64 - 707.0).abs() < 2.0, "{parts:?}");
        // All the cost in the last row.
        assert_eq!(cut(&[1, 1, 1, 5], 4, [0.0, 1.0]).iter().map(Range::len).sum::<usize>(), 8);
        for (lengths, parts) in [(vec![3], 3), (vec![0, 2, 5], 4), (vec![1; 7], 7), (vec![900, 1, 1], 4)] {
            let cut = cut(&lengths, parts, [0.1, 3.0]);
            assert_eq!(cut.len(), parts);
            assert!(cut.iter().all(|rows| !rows.is_empty()), "{cut:?}");
            assert!(cut.windows(2).all(|two| two[0].end == two[1].start));
        }
    }

    #[test]
    fn a_part_knows_where_its_sequences_began() {
        let part = |rows| {
            let Part { lengths, start, goes_on } = Part::of(&[3, 0, 4, 2], &rows);
            (lengths, start, goes_on)
        };
        assert_eq!(part(0..3), (vec![3], 0, false));
        assert_eq!(part(1..5), (vec![2, 2], 1, true));
        assert_eq!(part(5..9), (vec![2, 2], 2, false));
        assert_eq!(part(4..6), (vec![2], 1, true));
    }
}
