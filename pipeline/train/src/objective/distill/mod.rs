//! Distillation: a student learns what a teacher says of the same tokens, on data and on what it writes itself.
//!
//! A step's micro-batches are data, but for the last ones where self-correction asks for it: there the student writes
//! the continuations. All weights are shares of one mean over the step, so that a term's strength depends neither on
//! accumulation nor on how many micro-batches the student writes.

pub mod cache;
mod projection;
mod recipe;
mod rollout;
mod teacher;

pub use cache::{CacheKey, Cached, TEACHER_CACHE};
pub use projection::Projection;
pub use recipe::{CacheRecipe, DistillRecipe, Keep, ProjectionRecipe, SelfCorrection, StudentDivergence, Weight};
pub use teacher::{KeptParts, Lesson, Output, Resident, Teacher};

use super::{Mean, Measured, Objective, StepWork, shares_of_a_mean};
use crate::error::TrainError;
use models::{
    Config, Examples, FeedForwardKind, GradientOptions, Guidance, Lineage, MixerKind, Model, OutputGuide, Questions,
    Record, RouterGuide, StreamGuide, guided_gradients, teach,
};
use numeric::Rng;
use ops::{Buffer, Divergence, Gradients};
use prepare::{Batch, Sample};
use rollout::Writing;
use std::sync::atomic::Ordering;

/// The objective.
pub struct Distillation<'t> {
    recipe: DistillRecipe,
    teacher: &'t mut dyn Teacher,
    /// Nothing where routers are not taught.
    projection: Option<Projection>,
    /// Layers whose streams are compared.
    layers: Vec<usize>,
    /// Tokens that end a text.
    stop: Vec<u32>,
    seed: u64,
}

/// What a distillation is made from.
pub struct Students<'a, 't> {
    pub recipe: DistillRecipe,
    pub teacher: &'t mut dyn Teacher,
    /// Nothing where routers are not taught.
    pub projection: Option<Projection>,
    pub student: &'a Config,
    pub stop: Vec<u32>,
    pub seed: u64,
}

impl<'t> Distillation<'t> {
    pub fn new(made: Students<'_, 't>) -> Self {
        let Students { recipe, teacher, projection, student, stop, seed } = made;
        let layers = compared_layers(&recipe, student);
        Self { recipe, teacher, projection, layers, stop, seed }
    }
}

/// The layers whose streams are compared.
pub fn compared_layers(recipe: &DistillRecipe, config: &Config) -> Vec<usize> {
    if !recipe.hidden.counts() && !recipe.gram.counts() {
        return Vec::new();
    }
    let with_attention = || {
        let layers = config.layers.iter().enumerate();
        layers.filter(|(_, layer)| layer.mixer == MixerKind::Attention).map(|(index, _)| index).collect()
    };
    recipe.layers.clone().unwrap_or_else(with_attention)
}

/// Refuses a teacher that cannot teach this student what the recipe asks for.
pub fn check_pair(recipe: &DistillRecipe, teacher: &Config, student: &Config) -> Result<(), TrainError> {
    let wrong = |what: String| Err(TrainError::Teacher { what });
    if teacher.vocab_size != student.vocab_size {
        return wrong(format!("it knows {} tokens, the student {}", teacher.vocab_size, student.vocab_size));
    }
    let mixtures = |config: &Config| -> Vec<bool> {
        config.layers.iter().map(|layer| layer.feed_forward != FeedForwardKind::Dense).collect()
    };
    let is_alike = mixtures(teacher) == mixtures(student) && teacher.hidden_size == student.hidden_size;
    if recipe.routers.counts() && !is_alike {
        return wrong("its layers with experts, or its width, are not the student's: set routers to 0".into());
    }
    let layers = compared_layers(recipe, student);
    if layers.is_empty() {
        return Ok(());
    }
    let shape = |config: &Config| (config.layers.len(), config.hidden_size);
    if shape(teacher) != shape(student) {
        return wrong(format!(
            "it has {:?} layers and width, the student {:?}: set hidden and gram to 0",
            shape(teacher),
            shape(student)
        ));
    }
    match layers.iter().find(|&&layer| layer >= student.layers.len()) {
        Some(layer) => Err(TrainError::Recipe {
            what: format!("distill.layers names layer {layer}, and the last is {}", student.layers.len() - 1),
        }),
        None => Ok(()),
    }
}

/// The projection for a recipe that teaches routers, fitted on the first of the samples.
pub fn fit_projection(
    recipe: &DistillRecipe,
    (teacher, student): (&Model, &Model),
    lineage: &Lineage,
    (samples, sequence_length): (&[Sample], usize),
) -> Option<Projection> {
    let has_experts = !student.config.expert_counts().is_empty();
    if !recipe.routers.counts() || !has_experts {
        return None;
    }
    let (mut tokens, mut lengths) = (Vec::new(), Vec::new());
    for sample in samples {
        if tokens.len() >= 4 * recipe.projection.tokens {
            break;
        }
        let some = &sample.tokens[..sample.tokens.len().min(sequence_length)];
        tokens.extend_from_slice(some);
        lengths.push(some.len());
    }
    let questions = Questions { routers: true, inputs: true, layers: Vec::new() };
    let taught = teach(teacher, &tokens, &lengths, models::CHUNK_TOKENS, &questions);
    Some(Projection::fit((teacher, student), lineage, &taught.routers, &recipe.projection))
}

/// A micro-batch, and who wrote it.
enum Material<'a> {
    Data(&'a Batch),
    Own(Batch),
}

impl Material<'_> {
    fn batch(&self) -> &Batch {
        match self {
            Self::Data(batch) => batch,
            Self::Own(batch) => batch,
        }
    }
}

impl Objective for Distillation<'_> {
    fn step(
        &mut self,
        model: &Model,
        work: &StepWork,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<Measured>>, TrainError> {
        let own = self.recipe.on_policy(work.batches.len(), work.step, work.steps);
        let first_own = work.batches.len() - own;
        let mut materials = Vec::with_capacity(work.batches.len());
        for (index, batch) in work.batches.iter().enumerate() {
            let written = if index < first_own { Some(Material::Data(batch)) } else { self.write(model, work, index)? };
            let Some(material) = written else { return Ok(None) };
            materials.push(material);
        }
        let questions = Questions {
            routers: self.projection.is_some() && self.recipe.routers.at(work.step, work.steps) > 0.0,
            inputs: false,
            layers: self.layers.clone(),
        };
        let mut measured = Vec::with_capacity(materials.len());
        for (index, material) in materials.iter().enumerate() {
            if work.cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let lesson = self.teacher.teach(material.batch(), &questions);
            measured.push(match material {
                Material::Data(batch) => self.teach_data(model, batch, &lesson, (work, index), gradients),
                Material::Own(batch) => self.teach_own(model, batch, &lesson, (work, index), gradients),
            });
        }
        Ok(Some(measured))
    }
}

impl Distillation<'_> {
    /// A number for each micro-batch of a run.
    fn seed(&self, step: usize, index: usize) -> u64 {
        Rng::new(self.seed).fork(0x7EAC).fork(step as u64).fork(index as u64).next_u64()
    }

    /// The student continues what a micro-batch begins; nothing if that was given up.
    fn write<'w>(&self, model: &Model, work: &StepWork<'w>, index: usize) -> Result<Option<Material<'w>>, TrainError> {
        let settings = self.recipe.self_correction.as_ref().expect("only then does the student write");
        let (precision, seed) = (work.options[index].precision, self.seed(work.step, index));
        let writing = Writing { settings, precision, stop: &self.stop, seed, cancelled: work.cancelled };
        Ok(writing.write(model, &work.batches[index])?.map(Material::Own))
    }

    fn teach_data(
        &self,
        model: &Model,
        batch: &Batch,
        lesson: &Lesson,
        (work, index): (&StepWork, usize),
        gradients: &mut Gradients,
    ) -> Measured {
        let now = |weight: &Weight| weight.at(work.step, work.steps) as f32;
        let recipe = &self.recipe;
        let weights = shares_of_a_mean(&batch.weights, work.step_weight);
        let output_weights: Vec<f32> = weights.iter().map(|weight| now(&recipe.output) * weight).collect();
        let says = lesson.output.says(self.teacher.head(), Divergence::Forward);
        let teacher = ops::Teacher { says, temperature: recipe.temperature };
        let targets = self.router_targets(lesson);
        let tokens: usize = work.batches.iter().map(|batch| batch.tokens.len()).sum();
        let router_weight = now(&recipe.routers) / (tokens * targets.len().max(1)) as f32;
        let share = 1.0 / (work.batches.len() * lesson.streams.len().max(1)) as f32;
        let rows = self.compared_rows(batch, (work, index));
        let guidance = Guidance {
            cross_entropy: now(&recipe.cross_entropy),
            output: (now(&recipe.output) > 0.0).then_some(OutputGuide { teacher, weights: &output_weights }),
            routers: targets
                .iter()
                .map(|(layer, target)| RouterGuide { layer: *layer, probabilities: target, weight: router_weight })
                .collect(),
            streams: lesson
                .streams
                .iter()
                .map(|(layer, stream)| StreamGuide {
                    layer: *layer,
                    teacher: stream,
                    squares: share * now(&recipe.hidden),
                    gram: share * now(&recipe.gram),
                    rows: &rows,
                })
                .collect(),
        };
        let record = run(model, batch, &weights, &guidance, &work.options[index], gradients);
        let mut measured = Measured::of(record, |guided, terms| {
            if !guided.output.is_empty() {
                terms.insert("output", Mean::weighted(&guided.output, &batch.weights));
            }
            let of = |value: Option<f64>, weight: f64| value.map(|value| Mean { sum: value * weight, weight });
            let others = [
                ("routers", of(guided.routers, batch.tokens.len() as f64)),
                ("hidden", of(guided.squares, 1.0)),
                ("gram", of(guided.gram, 1.0)),
            ];
            terms.extend(others.into_iter().filter_map(|(name, mean)| Some((name, mean?))));
        });
        measured.terms.insert("cross_entropy", Mean::weighted(&measured.losses, &batch.weights));
        measured
    }

    /// What the student wrote, as the teacher judges it. The micro-batch counts what its data would have counted.
    fn teach_own(
        &self,
        model: &Model,
        batch: &Batch,
        lesson: &Lesson,
        (work, index): (&StepWork, usize),
        gradients: &mut Gradients,
    ) -> Measured {
        let written = batch.total_weight();
        if written == 0.0 {
            return Measured::default();
        }
        let settings = self.recipe.self_correction.as_ref().expect("only then does the student write");
        let share = work.batches[index].total_weight() / work.step_weight * settings.weight.at(work.step, work.steps);
        let weights: Vec<f32> = shares_of_a_mean(&batch.weights, written);
        let weights: Vec<f32> = weights.iter().map(|weight| share as f32 * weight).collect();
        let says = lesson.output.says(self.teacher.head(), settings.divergence.divergence());
        let teacher = ops::Teacher { says, temperature: self.recipe.temperature };
        let output = Some(OutputGuide { teacher, weights: &weights });
        let guidance = Guidance { cross_entropy: 0.0, output, routers: Vec::new(), streams: Vec::new() };
        let nothing = vec![0.0; weights.len()];
        let record = run(model, batch, &nothing, &guidance, &work.options[index], gradients);
        let mut measured = Measured::of(record, |guided, terms| {
            terms.insert("self_correction", Mean::weighted(&guided.output, &batch.weights));
        });
        // They are no losses of the data.
        measured.losses.clear();
        measured
    }

    fn router_targets(&self, lesson: &Lesson) -> Vec<(usize, Buffer)> {
        let Some(projection) = &self.projection else { return Vec::new() };
        let target = |routed: &models::Routed| (routed.layer, projection.targets(routed.layer, &routed.probabilities));
        lesson.routers.iter().map(target).collect()
    }

    /// Tokens whose angles are compared, the same in a run that was resumed.
    fn compared_rows(&self, batch: &Batch, (work, index): (&StepWork, usize)) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..batch.tokens.len()).collect();
        let mut rng = Rng::new(self.seed(work.step, index));
        let wanted = self.recipe.gram_tokens.min(rows.len());
        for at in 0..wanted {
            let other = at + rng.below(rows.len() - at);
            rows.swap(at, other);
        }
        rows.truncate(wanted);
        rows.sort_unstable();
        rows
    }
}

fn run(
    model: &Model,
    batch: &Batch,
    weights: &[f32],
    guidance: &Guidance,
    options: &GradientOptions,
    gradients: &mut Gradients,
) -> Record {
    let examples = Examples { tokens: &batch.tokens, lengths: &batch.lengths, targets: &batch.targets, weights };
    guided_gradients(model, &examples, guidance, options, gradients)
}
