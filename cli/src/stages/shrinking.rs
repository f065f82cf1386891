//! Stages that make a model smaller: fewer experts, fewer bits.

use super::Job;
use super::watching::{Preparing, SystemRoots};
use crate::failure::Problem;
use crate::place::{open_model, open_text};
use crate::recipe::{Prune, Quantize, SaveFormat};
use crate::terminal::{Meter, say};
use anyhow::{Context, Result};
use compress::{
    Budget, Calibration, Importance, LayerOutcome, LayerPlan, LayerStatistics, MergeRecipe, ObserveOptions,
    ObservePlace, ObserveStep, Plan, PlanRecipe, Saliency, SearchStep, Searched, Tokens,
};
use formats::FormatsError;
use models::{LayerStream, Layers, Lineage, Loading, Model};
use prepare::{Fit, Packing, Sample};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use text::{Renderer, Template, Tokenizer};

/// Tokens that calibration runs at a time.
const PASS_TOKENS: usize = 2048;

/// In the folder of a model that lost experts: what became of them, what was measured while they were merged, and what
/// was observed of them before.
pub(crate) const PLAN: &str = "plan.toml";
pub(crate) const MERGING: &str = "merging.json";
pub(crate) const STATISTICS: &str = "statistics";

pub(super) fn prune(job: &Job<'_>, work: &Prune) -> Result<Value> {
    let from = job.source()?;
    let mut model = open_model(from, Loading::F32)?;
    let (tokenizer, template) = open_text(from)?;
    let (source, before) = (model.config.clone(), model.config.expert_counts());
    let fit = Fit { sequence_length: PASS_TOKENS, packing: Packing::BestFit };
    let renderer = Renderer::new(&tokenizer, &template);
    let dataset = prepare::load(&work.data, &renderer, fit, &SystemRoots, &Preparing::default())
        .with_context(|| format!("cannot prepare the data of the stage {:?}", job.stage.name))?;
    job.check_interrupt()?;
    let planned = Planned::Decided(work.plan());
    let kept = Kept::of(from, &job.directory)?;
    let watching = Watching { samples: &dataset.samples, tokens_max: work.tokens, place: Some(kept.place()) };
    let shrunk = shrink(&mut model, &watching, planned, work.merge.as_ref())?;
    job.check_interrupt()?;
    // Before config.json, with which the folder is a model.
    shrunk.save(&job.directory)?;
    super::pass_lineage_on(from, &job.directory, &source, Some(&shrunk.lineage(&before)))?;
    save_model(&model, &tokenizer, &template, &job.directory, work.save)?;
    Ok(json!({
        "experts_before": before,
        "experts": model.config.expert_counts(),
        "experts_merged": shrunk.merged_count(),
        "parameters": model.parameter_count(),
    }))
}

pub(super) fn quantize(job: &Job<'_>, work: &Quantize) -> Result<Value> {
    let from = job.source()?;
    let mut model = open_model(from, Loading::Stored)?;
    let (tokenizer, template) = open_text(from)?;
    let before = model.bytes();
    let bytes = compress::quantize(&mut model, &work.formats)?;
    save_model(&model, &tokenizer, &template, &job.directory, SaveFormat::Bf16)?;
    super::pass_lineage_on(from, &job.directory, &model.config, None)?;
    Ok(json!({ "bytes_before": before, "bytes": bytes }))
}

/// What becomes of the experts.
pub(crate) enum Planned {
    Decided(PlanRecipe),
    /// A file's.
    Given(Plan),
}

impl Planned {
    /// Whether any expert becomes part of another.
    pub(crate) fn merges(&self) -> bool {
        match self {
            Self::Decided(recipe) => recipe.merge,
            Self::Given(plan) => plan.merges(),
        }
    }

    fn asks(&self, merge: Option<&MergeRecipe>) -> Asked {
        let merge = self.merges().then(|| merge.cloned().unwrap_or_default());
        match self {
            Self::Decided(recipe) => Asked::by(recipe, merge.as_ref()),
            Self::Given(_) => Asked::by(&PlanRecipe::default(), merge.as_ref()),
        }
    }
}

/// What became of them.
pub(crate) struct Shrunk {
    plan: Plan,
    /// Of each mixture, where any were merged or fitted.
    outcomes: Vec<LayerOutcome>,
}

impl Shrunk {
    /// Nothing was merged.
    pub(crate) fn pruned(plan: Plan) -> Self {
        Self::merged(plan, Vec::new())
    }

    pub(crate) fn merged(plan: Plan, outcomes: Vec<LayerOutcome>) -> Self {
        Self { plan, outcomes }
    }

    /// Experts that became part of others.
    fn merged_count(&self) -> usize {
        let groups = self.outcomes.iter().flat_map(|outcome| &outcome.groups).filter(|group| group.merged);
        groups.map(|group| group.from.len()).sum()
    }

    /// What became of each of so many experts, layer by layer. A group that was planned and measured worse than
    /// dropping was dropped.
    pub(crate) fn lineage(&self, before: &[usize]) -> Lineage {
        let layer = |(layer, &count): (&LayerPlan, &usize)| {
            let place = |expert: usize| layer.keep.iter().position(|&kept| kept == expert);
            let outcome = self.outcomes.iter().find(|outcome| outcome.layer == layer.layer);
            let groups = outcome.into_iter().flat_map(|outcome| &outcome.groups).filter(|group| group.merged);
            let mut became: Vec<Option<usize>> = (0..count).map(place).collect();
            for group in groups {
                let into = became[group.into];
                group.from.iter().for_each(|&expert| became[expert] = into);
            }
            became
        };
        Lineage { layers: self.plan.layers.iter().zip(before).map(layer).collect() }
    }

    /// Writes the plan, and what was measured while it was carried out.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), FormatsError> {
        self.plan.save(&directory.join(PLAN))?;
        if !self.outcomes.is_empty() {
            formats::write_json(directory.join(MERGING), &self.outcomes)?;
        }
        Ok(())
    }
}

/// What experts are watched on: the first tokens of `samples`; and where what was seen is kept.
pub(crate) struct Watching<'a> {
    pub(crate) samples: &'a [Sample],
    pub(crate) tokens_max: usize,
    pub(crate) place: Option<ObservePlace<'a>>,
}

/// Statistics of a model in the folder of what becomes of it.
struct Kept {
    folder: PathBuf,
    fingerprint: String,
}

impl Kept {
    fn of(from: &Path, out: &Path) -> Result<Self> {
        let stream = LayerStream::open(from, Loading::Stored);
        let fingerprint = stream.with_context(|| format!("cannot open the model in {}", from.display()))?.fingerprint();
        Ok(Self { folder: out.join(STATISTICS), fingerprint })
    }

    fn place(&self) -> ObservePlace<'_> {
        ObservePlace { folder: &self.folder, model: &self.fingerprint }
    }
}

/// Drops and merges experts of a model in memory.
fn shrink(model: &mut Model, watching: &Watching<'_>, planned: Planned, merge: Option<&MergeRecipe>) -> Result<Shrunk> {
    match planned {
        Planned::Given(plan) if !plan.merges() => {
            compress::prune(model, &plan)?;
            Ok(Shrunk::pruned(plan))
        }
        planned => Watched::on(model, watching, planned.asks(merge))?.shrink(model, planned, merge),
    }
}

/// What has to be known of experts beside how they are used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked {
    /// How alike they are.
    similarities: bool,
    /// What the loss asks of them.
    gradients: bool,
}

impl Asked {
    /// By a plan that is to be decided, and by merging, where anything is to be merged.
    pub(crate) fn by(plan: &PlanRecipe, merge: Option<&MergeRecipe>) -> Self {
        let gradients =
            plan.saliency == Saliency::Fisher || merge.is_some_and(|merge| merge.importance == Importance::Fisher);
        Self { similarities: merge.is_some(), gradients }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        let Self { similarities, gradients } = other;
        Self { similarities: self.similarities || similarities, gradients: self.gradients || gradients }
    }
}

/// What a model's experts do on some tokens.
pub(crate) struct Watched {
    batches: Vec<(Vec<u32>, Vec<usize>)>,
    statistics: Vec<LayerStatistics>,
    /// What dropping costs, for each order in which experts would go that was asked about.
    losses: RefCell<Vec<(Order, DropLosses)>>,
}

/// All that says in which order experts would go.
type Order = (Saliency, u64, bool);

/// Of each mixture, by the number of experts dropped.
type DropLosses = Rc<[Vec<f64>]>;

impl Watched {
    /// Watches them.
    pub(crate) fn on(model: &Model, watching: &Watching<'_>, asked: Asked) -> Result<Self> {
        let usual = ObserveOptions::default();
        // What is kept is for reports, which show how alike experts are also where nothing depends on it.
        let compares = asked.similarities || watching.place.is_some();
        let options = ObserveOptions {
            chunk_tokens: PASS_TOKENS,
            similarity_tokens: if compares { usual.similarity_tokens } else { 0 },
            gradient_tokens: if asked.gradients { usize::MAX } else { 0 },
            ..usual
        };
        let batches = calibration_batches(watching.samples, watching.tokens_max);
        let mut watched = Self { batches, statistics: Vec::new(), losses: RefCell::default() };
        let mut meter: Option<Meter> = None;
        let mut watch = |step: ObserveStep| {
            let meter = meter.get_or_insert_with(|| Meter::new("watching the experts", step.total as u64, "steps"));
            meter.set(step.done as u64, "");
            true
        };
        watched.statistics =
            compress::observe(Layers::Resident(model), &watched.calibrations(), &options, watching.place, &mut watch)?;
        Ok(watched)
    }

    fn calibrations(&self) -> Vec<Calibration<'_>> {
        self.batches.iter().map(|(tokens, lengths)| Calibration { tokens, lengths }).collect()
    }

    /// What dropping experts costs each layer; measured once, since it does not depend on how many are to stay.
    fn drop_losses(&self, model: &Model, recipe: &PlanRecipe) -> Result<DropLosses> {
        let order = (recipe.saliency, recipe.seed, recipe.keep_super_experts);
        if let Some((_, losses)) = self.losses.borrow().iter().find(|(known, _)| *known == order) {
            return Ok(losses.clone());
        }
        let losses: DropLosses = compress::drop_losses(model, &self.calibrations(), &self.statistics, recipe)?.into();
        self.losses.borrow_mut().push((order, losses.clone()));
        Ok(losses)
    }

    fn plan(&self, model: &mut Model, recipe: &PlanRecipe) -> Result<Plan> {
        Ok(match recipe.budget {
            Budget::Uniform => Plan::decide(model, &self.statistics, recipe, None)?,
            Budget::Greedy => {
                let losses = self.drop_losses(model, recipe)?;
                Plan::decide(model, &self.statistics, recipe, Some(&losses[..]))?
            }
            Budget::Search => {
                let kept = self.search(model, recipe)?;
                Plan::keeping(model, &self.statistics, recipe, &kept)?
            }
        })
    }

    /// The experts of each mixture that stay.
    fn search(&self, model: &mut Model, recipe: &PlanRecipe) -> Result<Vec<Vec<usize>>> {
        let [calibration, held_out] = split(&self.calibrations())?;
        let tokens = Tokens { calibration: &calibration, held_out: &held_out };
        let mut meter = Meter::new("searching for experts that stay", recipe.search.steps as u64, "steps");
        let mut show = |step: SearchStep| {
            let found = format!(" · KL {:.4} on what was held out", step.divergence);
            meter.set(step.done as u64, &found);
        };
        let found = compress::search(model, &self.statistics, &tokens, recipe, &mut show)?;
        drop(meter);
        let Searched { divergence, divergence_before, .. } = found;
        say(&format!(
            "  KL on what was held out: {divergence:.4} nats a token, {divergence_before:.4} by saliency alone"
        ));
        Ok(found.kept)
    }

    /// Drops and merges experts of the model that was watched, or of a copy.
    pub(crate) fn shrink(&self, model: &mut Model, planned: Planned, merge: Option<&MergeRecipe>) -> Result<Shrunk> {
        let merges = planned.merges();
        let plan = match planned {
            Planned::Decided(recipe) => self.plan(model, &recipe)?,
            Planned::Given(plan) => plan,
        };
        if !merges {
            compress::prune(model, &plan)?;
            return Ok(Shrunk::pruned(plan));
        }
        let [calibration, held_out] = split(&self.calibrations())?;
        let tokens = Tokens { calibration: &calibration, held_out: &held_out };
        let recipe = merge.cloned().unwrap_or_default();
        let mut meter = Meter::new("merging experts", plan.layers.len() as u64, "mixtures");
        let mut done = 0;
        let outcomes = compress::carry_out(model, &plan, &self.statistics, &tokens, &recipe, |_| {
            done += 1;
            meter.set(done, "");
        })?;
        Ok(Shrunk { plan, outcomes })
    }
}

/// Whether a batch is measured on and not fitted on: every fourth, or the last of fewer.
pub(crate) fn is_held_out(index: usize, batches: usize) -> bool {
    index % 4 == 3 || (index + 1 == batches && batches < 4)
}

/// Batches to fit on, and batches to measure on.
pub(crate) fn split<'a>(all: &[Calibration<'a>]) -> Result<[Vec<Calibration<'a>>; 2]> {
    let of_kind = |held_out: bool| {
        let batches = all.iter().enumerate().filter(|&(index, _)| is_held_out(index, all.len()) == held_out);
        batches.map(|(_, batch)| *batch).collect::<Vec<_>>()
    };
    let [calibration, held_out] = [of_kind(false), of_kind(true)];
    if calibration.is_empty() {
        let message = "there are too few tokens to merge experts or search: some are fitted on, others measured on";
        return Err(Problem::new(message, format!("give more than {PASS_TOKENS} tokens, or drop experts only")).into());
    }
    Ok([calibration, held_out])
}

/// The first tokens of `samples` in batches, with the length of each sequence; of a long one its beginning.
pub(crate) fn calibration_batches(samples: &[Sample], tokens_max: usize) -> Vec<(Vec<u32>, Vec<usize>)> {
    let mut batches: Vec<(Vec<u32>, Vec<usize>)> = Vec::new();
    let mut left = tokens_max;
    for sample in samples {
        let length = sample.tokens.len().min(left).min(PASS_TOKENS);
        if length == 0 {
            break;
        }
        left -= length;
        match batches.last_mut() {
            Some((tokens, lengths)) if tokens.len() + length <= PASS_TOKENS => {
                tokens.extend_from_slice(&sample.tokens[..length]);
                lengths.push(length);
            }
            _ => batches.push((sample.tokens[..length].to_vec(), vec![length])),
        }
    }
    batches
}

/// A whole model folder: weights, config and text files.
pub(crate) fn save_model(
    model: &Model,
    tokenizer: &Tokenizer,
    template: &Template,
    directory: &Path,
    save: SaveFormat,
) -> Result<()> {
    let saving = || format!("cannot save the model in {}", directory.display());
    std::fs::create_dir_all(directory).with_context(saving)?;
    model.save(directory, save.format()).with_context(saving)?;
    tokenizer.save(directory).with_context(saving)?;
    template.save(directory).with_context(saving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prepare::Kind;

    #[test]
    fn calibration_takes_as_many_tokens_as_asked() {
        let samples: Vec<Sample> =
            [1500, 700, 3000, 9].map(|n| Sample::new(vec![1; n], vec![1.0; n], Kind::Plain)).to_vec();
        let lengths = |max| -> Vec<Vec<usize>> {
            calibration_batches(&samples, max).into_iter().map(|(_, lengths)| lengths).collect()
        };
        assert_eq!(lengths(100_000), [vec![1500], vec![700], vec![2048], vec![9]]);
        assert_eq!(lengths(1600), [vec![1500, 100]]);
        assert_eq!(lengths(0), Vec::<Vec<usize>>::new());
    }
}
