//! A model in memory, layer by layer: each layer's plan is carried out on what the layers before it now say.

use super::{LayerOutcome, MergeError, MergeRecipe, Rows, merge_layer};
use crate::{Calibration, LayerStatistics, Plan, PlanError};
use models::{FeedForward, Model, layer_from_empty};
use ops::{Buffer, Infer, Moe, Precision, Record, Routing};

/// Tokens to fit on, and tokens to measure on.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    pub calibration: &'a [Calibration<'a>],
    pub held_out: &'a [Calibration<'a>],
}

/// The hidden states of some sequences, on their way through the layers.
struct Batch {
    lengths: Vec<usize>,
    hidden: Buffer,
    is_held_out: bool,
}

/// All batches before the same layer.
pub(super) struct Walk {
    batches: Vec<Batch>,
}

/// Keeps what goes into a mixture.
#[derive(Default)]
struct Inputs(Option<Buffer>);

impl Record for Inputs {
    const LOOKS: bool = false;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {}

    fn routing(&mut self, _: &Moe, x: &Buffer, _: &Routing) {
        self.0 = Some(x.clone());
    }
}

impl Walk {
    pub(super) fn start(model: &Model, tokens: &Tokens) -> Self {
        let mut e = Infer::new(Precision::F32);
        let mut batch = |calibration: &Calibration, is_held_out| {
            let hidden = models::embed(&mut e, model, calibration.tokens);
            Batch { lengths: calibration.lengths.to_vec(), hidden, is_held_out }
        };
        let mut batches: Vec<Batch> = tokens.calibration.iter().map(|some| batch(some, false)).collect();
        batches.extend(tokens.held_out.iter().map(|some| batch(some, true)));
        Self { batches }
    }

    /// Goes through a layer, and keeps what came into its mixture, if it has one.
    pub(super) fn step(&mut self, model: &Model, index: usize) -> Rows {
        let through = |batch: &mut Batch| {
            let (after, inputs) = batch.through(model, index);
            batch.hidden = after;
            (inputs, batch.is_held_out)
        };
        rows(model, self.batches.iter_mut().map(through))
    }

    /// What comes into a layer's mixture; the batches stay before the layer.
    fn inputs(&self, model: &Model, index: usize) -> Rows {
        // A layer without one need not be run to know that.
        let asked = self.batches.iter().filter(|_| model.weights.layers[index].mixture().is_some());
        rows(model, asked.map(|batch| (batch.through(model, index).1, batch.is_held_out)))
    }
}

/// The inputs of all batches; those are held out, or not.
fn rows(model: &Model, inputs: impl Iterator<Item = (Option<Buffer>, bool)>) -> Rows {
    let (mut calibration, mut held_out) = (Vec::new(), Vec::new());
    for (inputs, is_held_out) in inputs {
        let rows = if is_held_out { &mut held_out } else { &mut calibration };
        inputs.iter().for_each(|inputs| rows.extend_from_slice(inputs));
    }
    let buffer = |values| Buffer::from_values(model.config.hidden_size, values);
    Rows { calibration: buffer(calibration), held_out: buffer(held_out) }
}

impl Batch {
    /// What comes out of a layer, and what went into its mixture.
    fn through(&self, model: &Model, index: usize) -> (Buffer, Option<Buffer>) {
        let mut e = Infer::recording(Precision::F32, Inputs::default());
        let layer = &model.weights.layers[index];
        let after = layer_from_empty(&mut e, &model.config, index, layer, &self.lengths, self.hidden.clone());
        (after, e.record.0)
    }
}

/// Carries out a plan on a model in memory, layers in order; each is measured and fitted on what comes out of those
/// before it as they then are. `statistics` are of the model's mixtures, as it is now. `progress` hears of every
/// mixture that is done.
pub fn carry_out(
    model: &mut Model,
    plan: &Plan,
    statistics: &[LayerStatistics],
    tokens: &Tokens,
    recipe: &MergeRecipe,
    mut progress: impl FnMut(&LayerOutcome),
) -> Result<Vec<LayerOutcome>, MergeError> {
    plan.check(model)?;
    let mut walk = Walk::start(model, tokens);
    let mut counts = vec![0; model.weights.layers.len()];
    let mut outcomes = Vec::with_capacity(plan.layers.len());
    let mut planned = plan.layers.iter();
    for (index, count) in counts.iter_mut().enumerate() {
        let rows = walk.inputs(model, index);
        if let FeedForward::Moe(moe) = &mut model.weights.layers[index].feed_forward {
            let plan = planned.next().expect("the plan was checked against the model");
            let observed = statistics.iter().find(|statistics| statistics.layer == index);
            let observed = observed.ok_or(PlanError::Unobserved(index))?;
            let (merged, outcome) = merge_layer(&moe.routed, plan, observed, &rows, recipe)?;
            moe.routed = merged;
            *count = plan.keep.len();
            progress(&outcome);
            outcomes.push(outcome);
        }
        walk.step(model, index);
    }
    model.config.set_expert_counts(&counts);
    model.renumber();
    Ok(outcomes)
}
