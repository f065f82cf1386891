//! A rank's share of a step, and what it measures on it.

use super::{Ranks, collect};
use crate::error::TrainError;
use crate::objective::{Mean, Measured, Objective, StepWork, TERMS, shares_of_a_mean};
use models::{Examples, Model, loss_and_gradients, shared_gradients};
use numeric::wire::Message;
use ops::{Gradients, Ring, Round};
use prepare::Batch;

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
            let first = group * groups.sequence_ranks;
            let mut circle = Circle { ranks, first, member, members: groups.sequence_ranks };
            share.take_part((model, &mut circle), &own, work, gradients);
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
    fn take_part(
        &mut self,
        (model, circle): (&Model, &mut Circle),
        own: &[usize],
        work: &StepWork,
        gradients: &mut Gradients,
    ) {
        let per_batch: usize = self.experts.iter().sum();
        for &index in own {
            let Batch { tokens, lengths, targets, weights, .. } = &work.batches[index];
            let weights = shares_of_a_mean(weights, work.step_weight);
            let examples = Examples { tokens, lengths, targets, weights: &weights };
            let record = match (tokens.len() < Round::tokens_min(circle.members), circle.member) {
                (false, _) => shared_gradients(model, &examples, &work.options[index], gradients, circle),
                // Too few to share.
                (true, 0) => loss_and_gradients(model, &examples, &work.options[index], gradients),
                (true, _) => continue,
            };
            self.losses[self.firsts[index]..self.firsts[index + 1]].copy_from_slice(&record.losses);
            // Counts are of the whole micro-batch already.
            if circle.member == 0 {
                self.has_losses[index] = 1.0;
                let counts = self.counts[index * per_batch..].iter_mut();
                counts.zip(record.expert_counts.iter().flatten()).for_each(|(to, &count)| *to = count as f32);
            }
            let entropies = self.entropies[index * self.experts.len()..].iter_mut();
            entropies.zip(&record.router_entropies).for_each(|(to, entropy)| *to = *entropy);
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

/// The ranks of a group in a circle.
struct Circle<'a> {
    ranks: &'a dyn Ranks,
    /// The group's first rank, which of them this is, and how many there are.
    first: usize,
    member: usize,
    members: usize,
}

impl Ring for Circle<'_> {
    fn rank(&self) -> usize {
        self.member
    }

    fn size(&self) -> usize {
        self.members
    }

    /// A send may wait until it is received: every other rank receives first, so that no circle of them waits.
    fn pass(&mut self, message: Message) -> Vec<u8> {
        let [next, before] = [1, self.members - 1].map(|step| self.first + (self.member + step) % self.members);
        if self.member.is_multiple_of(2) {
            self.ranks.send(next, message.bytes());
            return self.ranks.receive(before);
        }
        let received = self.ranks.receive(before);
        self.ranks.send(next, message.bytes());
        received
    }
}
