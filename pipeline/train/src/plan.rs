//! What a run will take of memory, before its model is loaded.

use crate::error::TrainError;
use crate::recipe::{Method, TrainRecipe};
use crate::run::{gradient_options, train_routers};
use models::{Model, TrainingPlan, TrainingSettings, adapter};

/// The plan of a run over an outline that was made for [`TrainRecipe::loading`]. `lengths` are those of one
/// micro-batch's sequences; without any, they are as long as the recipe lets them be. Of `sequence_ranks` processes
/// that share each micro-batch it is the first one's.
pub fn plan(
    recipe: &TrainRecipe,
    mut outline: Model,
    lengths: Option<Vec<usize>>,
    (threads, sequence_ranks): (usize, usize),
) -> Result<TrainingPlan, TrainError> {
    recipe.check()?;
    match &recipe.method {
        Method::Lora(lora) => _ = adapter::outline(&mut outline, lora)?,
        Method::Routers => train_routers(&mut outline)?,
        Method::Full => {}
    }
    let lengths = lengths.unwrap_or_else(|| vec![recipe.sequence_length; recipe.loader_settings().sequences]);
    let settings = TrainingSettings { lengths, options: gradient_options(recipe, &outline), threads, sequence_ranks };
    Ok(TrainingPlan::of(&outline, recipe.loading(), &settings))
}
