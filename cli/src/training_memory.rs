//! What training will take of memory, and the refusal of what does not fit.

use crate::failure::Problem;
use crate::memory::Machine;
use anyhow::Result;
use evaluate::table::bytes_in_words;
use models::{Loading, Model, TeacherSettings, TrainingPlan};
use train::objective::distill::{TeacherMemory, compared_layers};
use train::{DistillRecipe, FrozenFormat, Method, TrainPrecision, TrainRecipe};

/// A plan of training beside the machine that it is for.
pub(crate) struct PlannedTraining<'a> {
    pub(crate) plan: TrainingPlan,
    pub(crate) machine: Machine,
    /// Whether the teacher's layers stay on disk.
    pub(crate) is_streamed: bool,
    pupil: Pupil<'a>,
}

/// What is to be trained.
#[derive(Clone, Copy)]
pub(crate) struct Pupil<'a> {
    /// Gives the model's outline as a recipe wants it loaded.
    pub(crate) outline: &'a dyn Fn(&TrainRecipe) -> Result<Model>,
    pub(crate) teacher: Option<&'a BesideTeacher<'a>>,
    /// Processes that share each micro-batch.
    pub(crate) sequence_ranks: usize,
}

/// A stage's teacher.
pub(crate) struct BesideTeacher<'a> {
    pub(crate) distill: &'a DistillRecipe,
    /// Gives its outline.
    pub(crate) outline: &'a dyn Fn(Loading) -> Result<Model>,
}

impl BesideTeacher<'_> {
    fn beside(
        &self,
        plan: TrainingPlan,
        recipe: &TrainRecipe,
        student: &Model,
        is_streamed: bool,
    ) -> Result<TrainingPlan> {
        let distill = self.distill;
        let loading = distill.teacher_loading();
        let outline = &(self.outline)(loading)?;
        let learns = distill.routers.counts() && distill.projection.rate > 0.0;
        let settings = TeacherSettings {
            outline,
            loading,
            tokens: recipe.batch_tokens / recipe.accumulation.max(1),
            at_a_time: if is_streamed { recipe.accumulation } else { 1 },
            is_streamed,
            chunk_tokens: recipe.chunk_tokens,
            mixed_tokens: if learns { distill.projection.step_tokens } else { 0 },
            streams: compared_layers(distill, &student.config).len(),
            threads: kernels::pool::threads(),
        };
        Ok(plan.beside_teacher(student, &settings))
    }
}

impl Pupil<'_> {
    /// The plan of a recipe, with its teacher if it has one.
    fn planned(&self, recipe: &TrainRecipe, is_streamed: bool) -> Result<TrainingPlan> {
        let Self { outline, teacher, sequence_ranks } = *self;
        let plan = train::plan(recipe, outline(recipe)?, None, (kernels::pool::threads(), sequence_ranks))?;
        teacher.map_or(Ok(plan), |teacher| teacher.beside(plan, recipe, &outline(recipe)?, is_streamed))
    }
}

impl<'a> PlannedTraining<'a> {
    /// A teacher whose recipe does not say where it is stays on disk if only that fits.
    pub(crate) fn of(recipe: &TrainRecipe, pupil: Pupil<'a>) -> Result<Self> {
        let wanted = pupil.teacher.and_then(|teacher| teacher.distill.teacher_memory);
        let plan = |is_streamed| -> Result<Self> {
            let plan = pupil.planned(recipe, is_streamed)?;
            Ok(Self { plan, machine: Machine::here(), is_streamed, pupil })
        };
        let first = plan(wanted == Some(TeacherMemory::Streamed))?;
        if first.fits() || pupil.teacher.is_none() || wanted.is_some() {
            return Ok(first);
        }
        let streamed = plan(true)?;
        Ok(if streamed.fits() { streamed } else { first })
    }

    pub(crate) fn fits(&self) -> bool {
        self.machine.has(self.plan.total())
    }

    /// Refuses what does not fit, with the numbers and with what would take less.
    pub(crate) fn check(&self, name: &str, recipe: &TrainRecipe) -> Result<()> {
        if self.fits() {
            return Ok(());
        }
        let TrainingPlan { weights, gradients, moments, checkpoints, cache, activations, teacher, .. } = self.plan;
        let words = |bytes: usize| bytes_in_words(bytes as u64);
        let of_teacher = if teacher > 0 { format!(", the teacher {}", words(teacher)) } else { String::new() };
        let message = format!(
            "training {name} does not fit into memory: it takes {} (weights {}, gradients {}, the optimizer's means \
             {}, checkpoints of layers {}, keys and values {}, activations {}{of_teacher}), and {}",
            words(self.plan.total()),
            words(weights),
            words(gradients),
            words(moments),
            words(checkpoints),
            words(cache),
            words(activations),
            self.machine.in_words(),
        );
        Err(Problem::new(message, self.ways(recipe)?).into())
    }

    /// What would take less, each change beside those before it.
    pub(crate) fn ways(&self, recipe: &TrainRecipe) -> Result<String> {
        let mut ways = Vec::new();
        let mut is_streamed = self.is_streamed;
        if self.pupil.teacher.is_some() && !is_streamed {
            let total = self.pupil.planned(recipe, true)?.total();
            if total < self.plan.total() {
                is_streamed = true;
                let total = bytes_in_words(total as u64);
                ways.push(format!("with teacher_memory = \"streamed\" it takes {total}"));
            }
        }
        for (way, changed) in less(recipe) {
            let total = self.pupil.planned(&changed, is_streamed)?.total();
            if total < self.plan.total() {
                ways.push(format!("{way} takes {}", bytes_in_words(total as u64)));
            }
        }
        Ok(match ways.is_empty() {
            true => "train a smaller model, or shorter sequences".to_owned(),
            false => ways.join("; "),
        })
    }
}

/// What a person could write into the recipe to need less memory, each with what came before it.
fn less(recipe: &TrainRecipe) -> Vec<(String, TrainRecipe)> {
    let mut ways = Vec::new();
    let mut now = recipe.clone();
    let sequences = recipe.loader_settings().sequences;
    if !now.checkpoint_layers {
        now.checkpoint_layers = true;
        ways.push(("checkpoint_layers = true".to_owned(), now.clone()));
    }
    if sequences > 1 {
        now.accumulation *= sequences;
        ways.push((format!("with accumulation = {}, it", now.accumulation), now.clone()));
    }
    if now.precision == TrainPrecision::F32 {
        now.precision = TrainPrecision::Bf16;
        ways.push(("with precision = \"bf16\" it".to_owned(), now.clone()));
    }
    if matches!(now.method, Method::Lora(_)) && now.quantize.is_none() {
        now.quantize = Some(FrozenFormat::Nvfp4);
        ways.push(("with quantize = \"nvfp4\" for the frozen base it".to_owned(), now.clone()));
    }
    if now.chunk_tokens > 1024 {
        now.chunk_tokens = 1024;
        ways.push(("with chunk_tokens = 1024 it".to_owned(), now));
    }
    ways
}
