//! Training on several processes, which may be on several machines, through messages alone.
//!
//! The first rank runs the whole program: data, optimizer, validation, checkpoints, metrics. The others, [`serve`],
//! hold the same model and compute gradients. In a step every rank gets the parameters that are trained and the
//! micro-batches, takes its share of them, and the gradients are summed once. Ranks form groups: each group takes
//! micro-batches of its own, and the ranks of a group share the tokens of each, a sequence too long for one of them
//! included (`share.rs`).
//!
//! Within a group the tokens lie on a line. Layer by layer a rank waits for what the one before knows of a sequence
//! that is cut between them, a delta layer's matrix or the keys and values so far, and hands on its own; while it works
//! on one layer the next rank works on the layer below. The cuts are where the work is even, so that a rank whose
//! tokens look back far has fewer of them.

mod collect;
mod share;
mod work;

use crate::error::TrainError;
use crate::objective::{Measured, Objective, StepWork};
use models::Model;
use ops::Gradients;
use share::{Groups, Share};
use work::Order;

/// Who sends messages to whom. Messages between two ranks arrive in order; a send may wait until it is received.
pub trait Ranks {
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    fn send(&self, to: usize, message: &[u8]);

    fn receive(&self, from: usize) -> Vec<u8>;
}

/// Why so many ranks cannot share this work, if they cannot: a step of `micro_batches` with `tokens` each.
pub fn check(size: usize, sequence_ranks: usize, micro_batches: usize, tokens: usize) -> Result<(), String> {
    if sequence_ranks == 0 || !size.is_multiple_of(sequence_ranks) {
        return Err(format!("{size} ranks do not make groups of {sequence_ranks}; give a divisor of {size}"));
    }
    let groups = size / sequence_ranks;
    if groups > micro_batches {
        return Err(format!(
            "a step has {micro_batches} micro-batches for {groups} groups of ranks; raise accumulation to {groups}, or \
             let more ranks share a sequence"
        ));
    }
    if tokens < sequence_ranks {
        return Err(format!("{tokens} tokens of a micro-batch cannot be shared by {sequence_ranks} ranks"));
    }
    Ok(())
}

/// Supervised fine-tuning by all ranks; what the first one trains with.
pub struct Distributed<'r> {
    ranks: &'r dyn Ranks,
    groups: Groups,
}

impl<'r> Distributed<'r> {
    /// `sequence_ranks` of the ranks share each micro-batch.
    pub fn new(ranks: &'r dyn Ranks, sequence_ranks: usize) -> Self {
        assert_eq!(ranks.rank(), 0, "the first rank leads");
        Self { ranks, groups: Groups { sequence_ranks, size: ranks.size() } }
    }
}

impl Objective for Distributed<'_> {
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError> {
        if work.cancelled.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(None);
        }
        collect::broadcast(self.ranks, Some(Order::step(model, work)));
        let mut share = Share::compute(self.ranks, self.groups, model, work, gradients);
        share.sum(self.ranks);
        collect::sum_gradients(self.ranks, model, gradients);
        Ok(Some(share.measured(work.batches)))
    }
}

/// The first rank is done, and lets the others end.
pub fn dismiss(ranks: &dyn Ranks) {
    collect::broadcast(ranks, Some(Order::end()));
}

/// What every rank but the first does until the first [dismisses](dismiss) it. `model` is the one that the first
/// trains, with the same parameters trained; their values come from the first.
pub fn serve(ranks: &dyn Ranks, sequence_ranks: usize, model: &mut Model) {
    let groups = Groups { sequence_ranks, size: ranks.size() };
    let mut gradients = Gradients::default();
    let never = std::sync::atomic::AtomicBool::new(false);
    loop {
        let bytes = collect::broadcast(ranks, None);
        let Some(order) = Order::read(&bytes, model) else { return };
        gradients.clear();
        let work = order.work(&never);
        Share::compute(ranks, groups, model, &work, &mut gradients).sum(ranks);
        collect::sum_gradients(ranks, model, &mut gradients);
    }
}
