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
pub use recipe::{
    CacheRecipe, DistillRecipe, Keep, ProjectionRecipe, SelfCorrection, StudentDivergence, TeacherMemory, Weight,
};
pub use teacher::{KeptParts, Lesson, Mixed, Output, Resident, Streamed, Teacher};

use super::{Companion, Mean, Measured, Objective, StepWork, shares_of_a_mean};
use crate::error::TrainError;
use crate::recipe::TrainRecipe;
use models::{
    Asked, Config, Examples, FeedForwardKind, GradientOptions, Guidance, Guided, Layers, Lineage, MixerKind, Model,
    OutputGuide, Questions, Record, RouterGuide, StreamGuide, guided_gradients, teach,
};
use numeric::Rng;
use ops::{Buffer, Divergence, Gradients};
use prepare::{Batch, Sample};
use projection::{Fitted, Shares};
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
    (teacher, student): (Layers, &Model),
    lineage: &Lineage,
    (samples, train): (&[Sample], &TrainRecipe),
) -> Result<Option<Projection>, TrainError> {
    let counts = student.config.expert_counts();
    if !recipe.routers.counts() || counts.is_empty() {
        return Ok(None);
    }
    let (mut tokens, mut lengths) = (Vec::new(), Vec::new());
    for sample in samples {
        if tokens.len() >= 4 * recipe.projection.tokens {
            break;
        }
        let some = &sample.tokens[..sample.tokens.len().min(train.sequence_length)];
        tokens.extend_from_slice(some);
        lengths.push(some.len());
    }
    let n = recipe.projection.tokens.min(tokens.len());
    let rows: Vec<usize> = (0..n).map(|i| i * tokens.len() / n).collect();
    let questions = Questions { inputs: rows.clone(), ..Questions::default() };
    let asked = Asked { tokens: &tokens, lengths: &lengths, questions: &questions };
    let mut lineages = lineage.layers.iter();
    let mut fitted = Vec::with_capacity(counts.len());
    teach(teacher, &[asked], train.chunk_tokens, &mut |_, moe, routed| {
        let lineage = lineages.next().expect("a lineage knows every layer with experts");
        let of_student = student.weights.layers[routed.layer].mixture();
        let of_student = of_student.expect("teacher and student have experts in the same layers");
        fitted.push(Fitted::of([moe, of_student], lineage, routed, &rows, &recipe.projection));
    })?;
    Ok(Some(Projection::new(fitted, recipe, train)))
}

/// What every term counts in a step.
#[derive(Debug, Clone, Copy)]
struct Now {
    cross_entropy: f32,
    output: f32,
    routers: f32,
    hidden: f32,
    gram: f32,
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
        if let Some(projection) = &mut self.projection {
            projection.refresh();
        }
        let first_written = work.batches.len() - self.recipe.on_policy(work.batches.len(), work.step, work.steps);
        let mut asked = Vec::with_capacity(work.own.len());
        for &index in work.own {
            let written = match index < first_written {
                true => Some(Material::Data(&work.batches[index])),
                false => self.write(model, work, index)?,
            };
            let Some(material) = written else { return Ok(None) };
            asked.push((index, self.questions(&material, (work, index)), material));
        }
        let mut measured = Vec::with_capacity(asked.len());
        for some in asked.chunks(self.teacher.at_a_time().clamp(1, asked.len().max(1))) {
            if work.cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            for ((index, _, material), lesson) in some.iter().zip(self.ask(some)?) {
                measured.push(match material {
                    Material::Data(batch) => {
                        self.teach_data(model, batch, &lesson, (work, *index, first_written), gradients)
                    }
                    Material::Own(batch) => self.teach_own(model, batch, &lesson, (work, *index), gradients),
                });
            }
        }
        Ok(Some(measured))
    }

    fn companion(&mut self) -> Option<&mut Companion> {
        self.projection.as_mut().map(Projection::companion)
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

    /// What the teacher says of some of a step's micro-batches; it never hears of those of which nothing is asked.
    fn ask(&mut self, some: &[(usize, Questions, Material)]) -> Result<Vec<Lesson>, TrainError> {
        let asked = some.iter().filter(|(_, questions, _)| !questions.ask_nothing());
        let asked: Vec<(&Batch, &Questions)> =
            asked.map(|(_, questions, material)| (material.batch(), questions)).collect();
        let lessons = if asked.is_empty() { Vec::new() } else { self.teacher.teach(&asked)? };
        let mut lessons = lessons.into_iter();
        let of = |(_, questions, _): &(usize, Questions, Material)| match questions.ask_nothing() {
            true => Lesson::default(),
            false => lessons.next().expect("a lesson for every micro-batch"),
        };
        Ok(some.iter().map(of).collect())
    }

    fn now(&self, work: &StepWork) -> Now {
        let recipe = &self.recipe;
        let at = |weight: &Weight| weight.at(work.step, work.steps) as f32;
        Now {
            cross_entropy: at(&recipe.cross_entropy),
            output: at(&recipe.output),
            routers: if self.projection.is_some() { at(&recipe.routers) } else { 0.0 },
            hidden: at(&recipe.hidden),
            gram: at(&recipe.gram),
        }
    }

    /// What a micro-batch asks of the teacher in this step: a term that counts nothing now asks nothing.
    fn questions(&self, material: &Material, (work, index): (&StepWork, usize)) -> Questions {
        let batch = match material {
            Material::Own(_) => return Questions { output: true, ..Questions::default() },
            Material::Data(batch) => batch,
        };
        let now = self.now(work);
        let routers = now.routers > 0.0;
        let learns = routers && self.projection.as_ref().is_some_and(Projection::learns);
        let tokens = if learns { self.recipe.projection.step_tokens } else { 0 };
        Questions {
            output: now.output > 0.0,
            routers,
            inputs: self.some_rows(batch, tokens, (work, index)),
            layers: if now.hidden > 0.0 || now.gram > 0.0 { self.layers.clone() } else { Vec::new() },
        }
    }

    fn teach_data(
        &mut self,
        model: &Model,
        batch: &Batch,
        lesson: &Lesson,
        (work, index, data): (&StepWork, usize, usize),
        gradients: &mut Gradients,
    ) -> Measured {
        let now = self.now(work);
        let learnt = self.projection.as_mut().and_then(|it| it.learn(&lesson.mixed, model, 1.0 / data as f64));
        let weights = shares_of_a_mean(&batch.weights, work.step_weight);
        let output_weights: Vec<f32> = weights.iter().map(|weight| now.output * weight).collect();
        let output = lesson.output.as_ref().map(|output| OutputGuide {
            teacher: ops::Teacher {
                says: output.says(self.teacher.head(), Divergence::Forward),
                temperature: self.recipe.temperature,
            },
            weights: &output_weights,
        });
        let targets = self.router_targets(lesson);
        let tokens: usize = work.batches.iter().map(|batch| batch.tokens.len()).sum();
        // Each router hears its own layer alone. A mean over layers would leave it the less the deeper the model is.
        let router_weight = now.routers / tokens as f32;
        let share = 1.0 / (work.batches.len() * lesson.streams.len().max(1)) as f32;
        let compared = if now.gram > 0.0 { self.recipe.gram_tokens } else { 0 };
        let rows = self.some_rows(batch, compared, (work, index));
        let guidance = Guidance {
            cross_entropy: now.cross_entropy,
            output,
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
                    squares: share * now.hidden,
                    gram: share * now.gram,
                    rows: &rows,
                })
                .collect(),
        };
        let record = run(model, batch, &weights, &guidance, &work.options[index], gradients);
        let mut measured = Measured::of(record, |guided, terms| {
            if !guided.output.is_empty() {
                terms.insert("output", Mean::weighted(&guided.output, &batch.weights));
            }
            terms.extend(means(guided, learnt, batch.tokens.len()));
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
        let said = lesson.output.as_ref().expect("the teacher was asked what comes after each token");
        let says = said.says(self.teacher.head(), settings.divergence.divergence());
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

    /// So many tokens by chance, the same in a run that was resumed.
    fn some_rows(&self, batch: &Batch, wanted: usize, (work, index): (&StepWork, usize)) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..batch.tokens.len()).collect();
        let mut rng = Rng::new(self.seed(work.step, index));
        let wanted = wanted.min(rows.len());
        for at in 0..wanted {
            let other = at + rng.below(rows.len() - at);
            rows.swap(at, other);
        }
        rows.truncate(wanted);
        rows.sort_unstable();
        rows
    }
}

/// Of the terms that are no means over trained tokens, those that were measured.
fn means(guided: &Guided, learnt: Option<Shares>, tokens: usize) -> impl Iterator<Item = (&'static str, Mean)> + use<> {
    let of = |value: Option<f64>, weight: f64| value.map(|value| Mean { sum: value * weight, weight });
    let means = [
        ("routers", of(guided.routers, tokens as f64)),
        ("hidden", of(guided.squares, 1.0)),
        ("gram", of(guided.gram, 1.0)),
        ("projection", of(learnt.map(|shares| shares.missed), 1.0)),
        ("projection_drift", of(learnt.map(|shares| shares.drift), 1.0)),
    ];
    means.into_iter().filter_map(|(name, mean)| Some((name, mean?)))
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
