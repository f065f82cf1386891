//! Carrying out a plan on one mixture: experts that go, and experts that become part of others.
//!
//! Legend: T rows, H hidden width of the model, m hidden neurons of an expert, E experts.
//!
//! A group of experts becomes one in these steps: their neurons are put in one order ([`align`]), averaged or chosen
//! from, cut down to what they have in common, the down projection is fitted to what they said together, and the router
//! gets a row for it. Every step that is a choice is measured on held-out rows, the whole group first of all: where
//! just dropping its members is about as good, they are dropped.

mod algebra;
mod align;
mod assignment;
mod combine;
mod cost;
mod group;
mod losses;
mod memory;
mod neurons;
mod outcome;
mod refit;
mod router;
mod rows;
mod stream;
mod walk;

use crate::prune::{renumbered, router_of};
use crate::{LayerPlan, LayerStatistics, PlanError};
use algebra::NotPositive;
use group::Group;
use ops::{Buffer, Expert, Moe};
use refit::Missing;
use router::BiasDirection;
use rows::squared_error;
use serde::{Deserialize, Serialize};

pub(crate) use algebra::symmetric_eigen;
pub use align::{Activations, Alignment, align};
pub(crate) use cost::EIGEN;
pub use cost::MergeCost;
pub use losses::drop_losses;
pub use memory::{GroupSize, MergePlan};
pub use neurons::Neurons;
pub use outcome::{Combination, GroupOutcome, LayerOutcome};
pub(crate) use rows::Routed;
pub use rows::Rows;
pub use stream::{MergeRewrite, rewrite_merged};
pub(crate) use walk::Walk;
pub use walk::{Tokens, carry_out};

/// What can go wrong while a plan is carried out.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("layer {layer}: {problem}")]
    Layer { layer: usize, problem: String },
    #[error(
        "layer {layer}, expert {expert}: least squares failed at pivot {pivot} ({value:e}); its inputs are far too \
             large: look at the calibration data and at the model's weights"
    )]
    NotPositive { layer: usize, expert: usize, pivot: usize, value: f64 },
}

/// What a neuron counts in an average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// Its expert's gate mass times its own Fisher information, which wants gradients to be observed.
    Fisher,
    /// Its expert's gate mass times its saliency.
    Saliency,
    /// How often its expert is chosen.
    Frequency,
}

/// Which down projections are fitted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refit {
    None,
    /// Those of merged experts, to what their members said together.
    Members,
    /// As `members`, and then all, one after the other, to what the layer still misses.
    Layer,
}

/// The router's row of a merged expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterRow {
    /// As it was of the expert that the others are merged into.
    Centroid,
    /// The members' rows by their gate mass, shifted so that its logit is on average that of all of them together.
    Weighted,
    /// Whichever of the two measures better.
    Measured,
}

/// How a group becomes one expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeRecipe {
    /// Whether neurons are put in one order first.
    pub align: bool,
    /// How much of the cost of pairing two neurons their activations are; the rest is their weights.
    pub activation_share: f64,
    /// Rows on which activations are compared.
    pub activation_rows: usize,
    pub importance: Importance,
    /// Whether the strongest neurons of all members are tried in place of an average.
    pub select: bool,
    /// Share of what an average does that its subspace keeps, where that measures better than the whole; 1 does not
    /// try.
    pub energy: f64,
    pub refit: Refit,
    /// The penalty of a fit, as a share of the mean square of its inputs.
    pub ridge: f64,
    /// How often `refit = "layer"` goes over all experts.
    pub sweeps: usize,
    pub router: RouterRow,
    /// A group is merged only where this share of the error that dropping makes goes away.
    pub gain_min: f64,
    /// Whether that is asked at all.
    pub check: bool,
}

impl Default for MergeRecipe {
    fn default() -> Self {
        Self {
            align: true,
            activation_share: 0.5,
            activation_rows: 512,
            importance: Importance::Fisher,
            select: true,
            energy: 0.99,
            refit: Refit::Layer,
            ridge: 0.01,
            sweeps: 2,
            router: RouterRow::Measured,
            gain_min: 0.05,
            check: true,
        }
    }
}

impl MergeRecipe {
    /// What M-SMoE does without its alignment (arXiv 2310.01334): averages by frequency, always. For comparison.
    pub fn averaging() -> Self {
        Self {
            align: false,
            importance: Importance::Frequency,
            select: false,
            energy: 1.0,
            refit: Refit::None,
            router: RouterRow::Centroid,
            check: false,
            ..Self::default()
        }
    }

    /// Nothing beyond what the plan says: pruning, where it has no merges.
    pub fn as_planned() -> Self {
        Self { refit: Refit::None, ..Self::default() }
    }

    pub fn check(&self) -> Result<(), PlanError> {
        let shares = [
            ("activation_share", self.activation_share),
            ("energy", self.energy),
            ("ridge", self.ridge),
            ("gain_min", self.gain_min),
        ];
        let Some((key, value)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) else {
            return Ok(());
        };
        Err(PlanError::Recipe(format!("{key} is {value}, want a share from 0 to 1")))
    }
}

/// The layer as it becomes, with the experts that stay in their old order.
pub(crate) struct Working {
    pub(crate) moe: Moe,
    /// Their old numbers.
    pub(crate) kept: Vec<usize>,
}

/// What is measured on held-out rows.
pub(crate) struct Held<'a> {
    pub(crate) x: &'a Buffer,
    /// Where the layer routed them before.
    pub(crate) routed: Routed,
    /// What it said before, `[T, H]`.
    pub(crate) wanted: Buffer,
    /// What it says as it is now, `[T, H]`.
    pub(crate) current: Buffer,
}

impl Held<'_> {
    /// Error of the layer as it is, by what was wanted: both in squares over these rows.
    pub(crate) fn error(&self, rows: &[usize]) -> f64 {
        let error = squared_error(&self.current.gathered(rows), &self.wanted, rows);
        error / self.energy(rows)
    }

    pub(crate) fn energy(&self, rows: &[usize]) -> f64 {
        let squares = rows.iter().map(|&row| neurons::square(self.wanted.row(row)));
        squares.sum::<f64>().max(f64::MIN_POSITIVE)
    }
}

/// Carries out the plan of one mixture. `rows` are inputs of the mixture. What comes back has f32 weights, whatever was
/// stored.
pub fn merge_layer(
    moe: &Moe,
    plan: &LayerPlan,
    statistics: &LayerStatistics,
    rows: &Rows,
    recipe: &MergeRecipe,
) -> Result<(Moe, LayerOutcome), MergeError> {
    check(moe, plan, statistics, rows, recipe)?;
    let Rows { calibration, held_out } = rows;
    let wanted = mixture(held_out, moe);
    let mut working = Working::of(moe, &plan.keep);
    let current = mixture(held_out, &working.moe);
    let mut held = Held { x: held_out, routed: Routed::of(held_out, moe), wanted, current };
    let all: Vec<usize> = (0..held_out.rows).collect();
    let error_dropped = held.error(&all);
    let routed = Routed::of(calibration, moe);
    let failed = |expert: usize, NotPositive { pivot, value }| MergeError::NotPositive {
        layer: plan.layer,
        expert,
        pivot,
        value,
    };
    let mut groups = Vec::with_capacity(plan.merge.len());
    let bias = BiasDirection::of(calibration, moe, recipe).map_err(|found| failed(plan.keep[0], found))?;
    for merge in &plan.merge {
        let group = Group { moe, statistics, recipe, merge, calibration, routed: &routed, bias: &bias };
        groups.push(group.carry_out(&mut working, &mut held).map_err(|found| failed(merge.into, found))?);
    }
    let mut refitted = 0;
    if recipe.refit == Refit::Layer && plan.keep.len() < moe.experts.len() {
        let fixed: Vec<usize> =
            plan.super_experts.iter().filter_map(|expert| plan.keep.binary_search(expert).ok()).collect();
        working.balance(&fixed);
        let wanted = mixture(calibration, moe);
        let said = mixture(calibration, &working.moe);
        let mut fitted = Missing::of(calibration, &wanted, &said, &working.moe);
        let mut checked = Missing::of(held_out, &held.wanted, &held.current, &working.moe);
        let how = (recipe.sweeps, recipe.ridge);
        refitted = refit::refit_layer(&mut working.moe, &fixed, [&mut fitted, &mut checked], how)
            .map_err(|(index, found)| failed(plan.keep[index], found))?;
        held.current = mixture(held_out, &working.moe);
    }
    let outcome = LayerOutcome { layer: plan.layer, error_dropped, error: held.error(&all), refitted, groups };
    Ok((working.moe, outcome))
}

fn check(
    moe: &Moe,
    plan: &LayerPlan,
    statistics: &LayerStatistics,
    rows: &Rows,
    recipe: &MergeRecipe,
) -> Result<(), MergeError> {
    assert!(moe.adapters.iter().all(Option::is_none), "merge adapters before experts are merged");
    recipe.check()?;
    plan.check(moe.experts.len(), moe.top_k)?;
    let layer = plan.layer;
    let problem = |problem: String| Err(MergeError::Layer { layer, problem });
    if statistics.experts.len() != moe.experts.len() {
        let (observed, has) = (statistics.experts.len(), moe.experts.len());
        return problem(format!("{observed} experts were observed, the layer has {has}: observe this model again"));
    }
    let neurons = moe.experts.iter().map(|expert| expert.gate.output_width()).sum::<usize>();
    let weighs = recipe.importance == Importance::Fisher && !plan.merge.is_empty();
    if weighs && statistics.neuron_fisher.len() != neurons {
        return problem("no gradients were observed: observe them, or merge by importance = \"saliency\"".into());
    }
    for (name, rows) in [("calibration", &rows.calibration), ("held-out", &rows.held_out)] {
        if rows.rows == 0 {
            return problem(format!("there are no {name} rows: give more tokens"));
        }
        assert_eq!(rows.width, moe.router.input_width(), "{name} rows are inputs of the mixture");
        if rows.iter().any(|value| !value.is_finite()) {
            return problem(format!("the {name} rows hold what is no number: look at the model's weights"));
        }
    }
    let members = plan.merge.iter().flat_map(|merge| [merge.into].into_iter().chain(merge.from.iter().copied()));
    for member in members {
        let Expert { gate, up, down } = &moe.experts[member];
        let is_finite = |map: &ops::Linear| map.weight.matrix.to_f32().iter().all(|value| value.is_finite());
        if ![gate, up, down].into_iter().all(is_finite) {
            return problem(format!("expert {member} holds what is no number: drop it, or repair the model"));
        }
    }
    Ok(())
}

/// Rows that go through a mixture at a time: each is in memory once for every expert that it chooses.
const MIXTURE_ROWS: usize = 2048;

/// What a mixture says, `[T, H]`.
pub(crate) fn mixture(x: &Buffer, moe: &Moe) -> Buffer {
    use ops::{Execute, Infer, Precision};
    let mut said = Buffer::unwritten(x.rows, x.width);
    let pieces = said.chunks_mut(MIXTURE_ROWS * x.width).zip(x.chunks(MIXTURE_ROWS * x.width));
    for (said, x_piece) in pieces {
        let piece = Buffer::from_values(x.width, x_piece.to_vec());
        said.copy_from_slice(&Infer::new(Precision::F32).moe(&piece, moe));
    }
    said
}

impl Working {
    /// The experts that stay, and nothing of the others.
    fn of(moe: &Moe, keep: &[usize]) -> Self {
        let experts = keep.iter().map(|&expert| (expert, neurons::widened(&moe.experts[expert])));
        let moe = Moe {
            layer: moe.layer,
            router: router_of(&moe.router, keep),
            experts: renumbered(experts),
            adapters: [None, None, None],
            top_k: moe.top_k,
            normalize: moe.normalize,
        };
        Self { moe, kept: keep.to_vec() }
    }

    /// Scales the neurons of all experts but these: the penalty of a fit would otherwise go by how large activations
    /// happen to be.
    fn balance(&mut self, fixed: &[usize]) {
        let free = self.moe.experts.iter_mut().enumerate().filter(|(index, _)| !fixed.contains(index));
        free.for_each(|(_, expert)| *expert = Neurons::of(expert).into_expert(expert));
    }

    /// Takes one more expert out.
    pub(crate) fn remove(&mut self, expert: usize) {
        let place = self.place(expert);
        self.kept.remove(place);
        self.moe.experts.remove(place);
        let rest: Vec<usize> = (0..=self.kept.len()).filter(|&other| other != place).collect();
        self.moe.router = router_of(&self.moe.router, &rest);
    }

    /// Where an expert that stays is now.
    pub(crate) fn place(&self, expert: usize) -> usize {
        self.kept.binary_search(&expert).expect("what others are merged into stays")
    }

    /// Puts an expert and its row in place of what is there, and gives that back.
    pub(crate) fn exchange(&mut self, place: usize, expert: Expert, row: router::Row) -> (Expert, router::Row) {
        let expert = std::mem::replace(&mut self.moe.experts[place], expert);
        (expert, row.exchange(&mut self.moe.router, place))
    }
}

/// Runs `work` on every item, on several threads; results in the items' order.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let tasks = results.iter_mut().zip(items).collect();
    kernels::pool::for_each(tasks, |(result, item)| *result = Some(work(item)));
    results.into_iter().map(|result| result.expect("every item was worked on")).collect()
}
