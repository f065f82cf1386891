//! Training on several processes, which may be on several machines, through messages alone.
//!
//! The first rank runs the whole program: data, optimizer, validation, checkpoints, metrics. The others, [`serve`],
//! hold the same model and compute gradients. In a step every rank gets the parameters that are trained and the
//! micro-batches, takes its share of them, and the gradients are summed once. Ranks form groups: each group takes
//! micro-batches of its own, by whatever objective there is, and the ranks of a group share the tokens of each, a
//! sequence too long for one of them included (`share.rs`).
//!
//! Within a group a micro-batch goes through the model in rounds of so many tokens to each rank (`ops/src/ring`): a
//! delta layer's state is scanned over the ranks, keys and values go round them. Every rank has an early and a late
//! strip of each round, so that none has more to look back on. Only the data's own next tokens are learnt so: what a
//! teacher says is of whole micro-batches, and a rank of a group has no whole one.

mod collect;
mod share;
mod work;

use crate::error::TrainError;
use crate::objective::{Companion, Measured, Objective, StepWork};
use models::Model;
use numeric::wire::Message;
use ops::{Gradients, Parameter, Round};
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

/// How ranks are to share a step.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    pub size: usize,
    pub sequence_ranks: usize,
    pub micro_batches: usize,
    /// Of a micro-batch.
    pub tokens: usize,
    /// Whether it is learnt from a teacher.
    pub has_teacher: bool,
}

/// Why so many ranks cannot share this work, if they cannot.
pub fn check(sharing: Sharing) -> Result<(), String> {
    let Sharing { size, sequence_ranks, micro_batches, tokens, has_teacher } = sharing;
    if sequence_ranks == 0 || !size.is_multiple_of(sequence_ranks) {
        return Err(format!("{size} ranks do not make groups of {sequence_ranks}; give a divisor of {size}"));
    }
    if has_teacher && sequence_ranks > 1 {
        return Err(format!(
            "a teacher speaks of whole micro-batches, and {sequence_ranks} ranks would have a part of each; leave \
             --sequence-ranks at 1, and raise accumulation where a micro-batch is too long for one rank"
        ));
    }
    let groups = size / sequence_ranks;
    if groups > micro_batches {
        return Err(format!(
            "a step has {micro_batches} micro-batches for {groups} groups of ranks; raise accumulation to {groups}, or \
             let more ranks share a sequence"
        ));
    }
    if sequence_ranks > 1 && tokens < Round::tokens_min(sequence_ranks) {
        return Err(format!("{tokens} tokens of a micro-batch cannot be shared by {sequence_ranks} ranks"));
    }
    Ok(())
}

/// An objective by all ranks; what the first one trains with.
pub struct Distributed<'r, 'o> {
    ranks: &'r dyn Ranks,
    groups: Groups,
    objective: &'o mut dyn Objective,
}

impl<'r, 'o> Distributed<'r, 'o> {
    /// `sequence_ranks` of the ranks share each micro-batch; where that is more than one, `objective` must be that of
    /// the next tokens.
    pub fn new(ranks: &'r dyn Ranks, sequence_ranks: usize, objective: &'o mut dyn Objective) -> Self {
        assert_eq!(ranks.rank(), 0, "the first rank leads");
        Self { ranks, groups: Groups { sequence_ranks, size: ranks.size() }, objective }
    }
}

impl Objective for Distributed<'_, '_> {
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError> {
        if work.cancelled.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(None);
        }
        let companion = self.objective.companion().map(|companion| &*companion);
        collect::broadcast(self.ranks, Some(Order::step(model, companion, work)));
        // A step that all have begun is not given up by one of them.
        let never = std::sync::atomic::AtomicBool::new(false);
        let work = StepWork { cancelled: &never, ..*work };
        let (mut share, outcome) = Share::compute((self.ranks, self.groups), self.objective, model, &work, gradients);
        share.sum(self.ranks);
        collect_gradients(self.ranks, model, self.objective, gradients);
        outcome.map(|()| Some(share.measured(work.batches)))
    }

    fn companion(&mut self) -> Option<&mut Companion> {
        self.objective.companion()
    }
}

fn collect_gradients(ranks: &dyn Ranks, model: &Model, objective: &mut dyn Objective, gradients: &mut Gradients) {
    collect::sum_gradients(ranks, &model.parameters(), gradients);
    if let Some(companion) = objective.companion() {
        let mut gradients = std::mem::take(&mut companion.gradients);
        collect::sum_gradients(ranks, &companion.parameters(), &mut gradients);
        companion.gradients = gradients;
    }
}

/// What the first rank made ready, to all others, before the first step: they [wait](wait) for it.
pub fn ready(ranks: &dyn Ranks, made: &Message) {
    collect::broadcast(ranks, Some(Order::ready(made)));
}

/// What the first rank made ready; nothing if it was done before it began.
pub fn wait(ranks: &dyn Ranks) -> Option<Vec<u8>> {
    Order::made_ready(&collect::broadcast(ranks, None))
}

/// The first rank is done, and lets the others end.
pub fn dismiss(ranks: &dyn Ranks) {
    collect::broadcast(ranks, Some(Order::end()));
}

/// What every rank but the first does until the first [dismisses](dismiss) it. `model` and `objective` are those that
/// the first trains with, with the same parameters trained; their values come from the first. After an error the other
/// ranks wait in vain: the caller ends them all.
pub fn serve(
    ranks: &dyn Ranks,
    sequence_ranks: usize,
    model: &mut Model,
    objective: &mut dyn Objective,
) -> Result<(), TrainError> {
    let groups = Groups { sequence_ranks, size: ranks.size() };
    let mut gradients = Gradients::default();
    let never = std::sync::atomic::AtomicBool::new(false);
    loop {
        let bytes = collect::broadcast(ranks, None);
        let Some(order) = Order::read(&bytes, model, objective.companion()) else { return Ok(()) };
        gradients.clear();
        objective.companion().into_iter().for_each(Companion::clear);
        let work = order.work(&never);
        let (mut share, outcome) = Share::compute((ranks, groups), objective, model, &work, &mut gradients);
        outcome?;
        share.sum(ranks);
        collect_gradients(ranks, model, objective, &mut gradients);
    }
}

/// Of these the trained ones.
fn trained<'a>(parameters: &[&'a Parameter]) -> Vec<&'a Parameter> {
    parameters.iter().copied().filter(|parameter| parameter.trained).collect()
}
