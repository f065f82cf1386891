//! What training will take of memory, and the refusal of what does not fit.

use crate::failure::Problem;
use crate::memory::Machine;
use anyhow::Result;
use evaluate::table::bytes_in_words;
use models::{Loading, Model, TeacherSettings, TrainingPlan};
use train::objective::distill::compared_layers;
use train::{DistillRecipe, FrozenFormat, Method, TrainPrecision, TrainRecipe};

/// A plan of training beside the machine that it is for.
pub(crate) struct PlannedTraining<'a> {
    pub(crate) plan: TrainingPlan,
    pub(crate) machine: Machine,
    teacher: Option<&'a BesideTeacher<'a>>,
}

/// A stage's teacher.
pub(crate) struct BesideTeacher<'a> {
    pub(crate) distill: &'a DistillRecipe,
    /// Gives its outline.
    pub(crate) outline: &'a dyn Fn(Loading) -> Result<Model>,
}

impl BesideTeacher<'_> {
    fn beside(&self, plan: TrainingPlan, recipe: &TrainRecipe, student: &Model) -> Result<TrainingPlan> {
        let loading = self.distill.teacher_loading();
        let outline = &(self.outline)(loading)?;
        let settings = TeacherSettings {
            outline,
            loading,
            tokens: recipe.batch_tokens / recipe.accumulation.max(1),
            chunk_tokens: recipe.chunk_tokens,
            streams: compared_layers(self.distill, &student.config).len(),
            threads: kernels::pool::threads(),
        };
        Ok(plan.beside_teacher(student, &settings))
    }
}

/// The plan of a recipe, with its teacher if it has one.
fn planned(
    recipe: &TrainRecipe,
    outline: &dyn Fn(&TrainRecipe) -> Result<Model>,
    teacher: Option<&BesideTeacher<'_>>,
) -> Result<TrainingPlan> {
    let plan = train::plan(recipe, outline(recipe)?, None, kernels::pool::threads())?;
    teacher.map_or(Ok(plan), |teacher| teacher.beside(plan, recipe, &outline(recipe)?))
}

impl<'a> PlannedTraining<'a> {
    /// `outline` gives the model's outline as a recipe wants it loaded.
    pub(crate) fn of(
        recipe: &TrainRecipe,
        outline: &dyn Fn(&TrainRecipe) -> Result<Model>,
        teacher: Option<&'a BesideTeacher<'a>>,
    ) -> Result<Self> {
        Ok(Self { plan: planned(recipe, outline, teacher)?, machine: Machine::here(), teacher })
    }

    pub(crate) fn fits(&self) -> bool {
        self.machine.has(self.plan.total())
    }

    /// Refuses what does not fit, with the numbers and with what would take less.
    pub(crate) fn check(
        &self,
        name: &str,
        recipe: &TrainRecipe,
        outline: &dyn Fn(&TrainRecipe) -> Result<Model>,
    ) -> Result<()> {
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
        Err(Problem::new(message, self.ways(recipe, outline)?).into())
    }

    /// What would take less, each change beside those before it.
    pub(crate) fn ways(&self, recipe: &TrainRecipe, outline: &dyn Fn(&TrainRecipe) -> Result<Model>) -> Result<String> {
        let mut ways = Vec::new();
        for (way, changed) in less(recipe) {
            let total = planned(&changed, outline, self.teacher)?.total();
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
