//! A model layer by layer: each layer's plan is carried out on what the layers before it now say.

use super::{LayerOutcome, MergeRecipe, Rows, merge_layer};
use crate::observe::{Name, States};
use crate::{Calibration, CompressError, LayerStatistics, Plan, PlanError};
use models::{Config, FeedForward, LayerWeights, Model, layer_from_empty};
use ops::{Buffer, Execute, Infer, Linear, Moe, Precision, Record, Routing};
use std::path::Path;

/// Tokens to fit on, and tokens to measure on. Each pack goes through a layer at once.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    pub calibration: &'a [Calibration<'a>],
    pub held_out: &'a [Calibration<'a>],
}

impl<'a> Tokens<'a> {
    /// All packs, and whether they are held out.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (&'a Calibration<'a>, bool)> + use<'a> {
        let calibration = self.calibration.iter().map(|pack| (pack, false));
        calibration.chain(self.held_out.iter().map(|pack| (pack, true)))
    }

    /// Rows to fit on, and to measure on.
    pub(crate) fn rows(&self) -> [usize; 2] {
        [self.calibration, self.held_out].map(|packs| packs.iter().map(|pack| pack.tokens.len()).sum())
    }
}

/// The hidden states of all packs on their way through the layers: before some layer at a time, in memory or on disk.
pub(crate) struct Walk<'a> {
    tokens: Tokens<'a>,
    states: States,
    width: usize,
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

impl<'a> Walk<'a> {
    /// States are in files of a folder, if one is given, where an earlier call may have left some.
    pub(crate) fn new(config: &Config, tokens: Tokens<'a>, folder: Option<&Path>) -> Result<Self, CompressError> {
        let rows = tokens.packs().map(|(pack, _)| pack.tokens.len()).collect();
        let states = States::new(rows, config.hidden_size, folder)?;
        Ok(Self { tokens, states, width: config.hidden_size })
    }

    /// Whether all packs are there, before a layer.
    pub(crate) fn is_before(&self, index: usize) -> bool {
        self.states.has(Name::Inputs(index), self.tokens.packs().count())
    }

    /// Brings all packs before the first layer.
    pub(crate) fn embed(&mut self, embedding: &Linear) -> Result<(), CompressError> {
        let mut e = Infer::new(Precision::F32);
        let mut filling = self.states.begin(Name::Inputs(0))?;
        self.tokens.packs().try_for_each(|(pack, _)| filling.put(e.embedding(embedding, pack.tokens)))?;
        self.states.finish(filling)
    }

    /// Takes all packs through a layer; gives what came into its mixture, if it has one. What was before the layer
    /// stays until it is forgotten.
    pub(crate) fn step(&mut self, config: &Config, index: usize, layer: &LayerWeights) -> Result<Rows, CompressError> {
        let mut filling = self.states.begin(Name::Inputs(index + 1))?;
        let rows = self.through(config, index, layer, &mut |after| filling.put(after))?;
        self.states.finish(filling)?;
        Ok(rows)
    }

    /// What comes into a layer's mixture; the packs stay before the layer.
    pub(super) fn inputs(
        &mut self,
        config: &Config,
        index: usize,
        layer: &LayerWeights,
    ) -> Result<Rows, CompressError> {
        // A layer without one need not be run to know that.
        match layer.mixture() {
            Some(_) => self.through(config, index, layer, &mut |_| Ok(())),
            None => Ok(Rows { calibration: Buffer::zeros(0, self.width), held_out: Buffer::zeros(0, self.width) }),
        }
    }

    /// Forgets what was before a layer.
    pub(crate) fn forget(&mut self, index: usize) {
        self.states.remove(Name::Inputs(index));
    }

    pub(crate) fn clear(&mut self) {
        self.states.clear();
    }

    fn through(
        &mut self,
        config: &Config,
        index: usize,
        layer: &LayerWeights,
        put: &mut dyn FnMut(Buffer) -> Result<(), CompressError>,
    ) -> Result<Rows, CompressError> {
        let mut rows = self.tokens.rows().map(|rows| {
            let room = if layer.mixture().is_some() { rows * self.width } else { 0 };
            Vec::with_capacity(room)
        });
        for (number, (pack, is_held_out)) in self.tokens.packs().enumerate() {
            let x = self.states.get(Name::Inputs(index), number, true)?;
            let mut e = Infer::recording(Precision::F32, Inputs::default());
            let after = layer_from_empty(&mut e, config, index, layer, pack.lengths, x);
            e.record.0.iter().for_each(|inputs| rows[usize::from(is_held_out)].extend_from_slice(inputs));
            put(after)?;
        }
        let [calibration, held_out] = rows.map(|values| Buffer::from_values(self.width, values));
        Ok(Rows { calibration, held_out })
    }
}

/// What is known of a layer.
pub(super) fn observed(statistics: &[LayerStatistics], layer: usize) -> Result<&LayerStatistics, PlanError> {
    statistics.iter().find(|statistics| statistics.layer == layer).ok_or(PlanError::Unobserved(layer))
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
) -> Result<Vec<LayerOutcome>, CompressError> {
    plan.check(model)?;
    let mut walk = Walk::new(&model.config, *tokens, None)?;
    walk.embed(&model.weights.embedding)?;
    let counts = plan.expert_counts(model.weights.layers.len());
    let mut outcomes = Vec::with_capacity(plan.layers.len());
    let (mut planned, last) = (plan.layers.iter(), counts.len().saturating_sub(1));
    for index in 0..counts.len() {
        let layer = &mut model.weights.layers[index];
        let rows = walk.inputs(&model.config, index, layer)?;
        if let FeedForward::Moe(moe) = &mut layer.feed_forward {
            let plan = planned.next().expect("the plan was checked against the model");
            let (merged, outcome) = merge_layer(&moe.routed, plan, observed(statistics, index)?, &rows, recipe)?;
            moe.routed = merged;
            progress(&outcome);
            outcomes.push(outcome);
        }
        // Nobody asks what comes out of the last.
        if index < last {
            walk.step(&model.config, index, layer)?;
            walk.forget(index);
        }
    }
    model.config.set_expert_counts(&counts);
    model.renumber();
    Ok(outcomes)
}
