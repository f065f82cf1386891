//! What training will take of memory, and the refusal of what does not fit.

use crate::failure::Problem;
use crate::memory::Machine;
use anyhow::Result;
use evaluate::table::bytes_in_words;
use models::{Model, TrainingPlan};
use train::{FrozenFormat, Method, TrainPrecision, TrainRecipe};

/// A plan of training beside the machine that it is for.
pub(crate) struct PlannedTraining {
    pub(crate) plan: TrainingPlan,
    pub(crate) machine: Machine,
}

impl PlannedTraining {
    /// `outline` gives the model's outline as a recipe wants it loaded.
    pub(crate) fn of(recipe: &TrainRecipe, outline: &dyn Fn(&TrainRecipe) -> Result<Model>) -> Result<Self> {
        let plan = train::plan(recipe, outline(recipe)?, None, kernels::pool::threads())?;
        Ok(Self { plan, machine: Machine::here() })
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
        let TrainingPlan { weights, gradients, moments, checkpoints, cache, activations, .. } = self.plan;
        let words = |bytes: usize| bytes_in_words(bytes as u64);
        let message = format!(
            "training {name} does not fit into memory: it takes {} (weights {}, gradients {}, the optimizer's means \
             {}, checkpoints of layers {}, keys and values {}, activations {}), and {}",
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
            let total = train::plan(&changed, outline(&changed)?, None, kernels::pool::threads())?.total();
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
