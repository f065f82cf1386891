//! `lateen train`: one training stage of a recipe, for when the rest is not wanted.

use super::build::stage_index;
use crate::failure::Problem;
use crate::interrupt;
use crate::recipe::Recipe;
use crate::stages::{Build, Outcome};
use crate::terminal::{put, say};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Run one training stage of a recipe; the stages before it must be there
#[derive(Args)]
pub(crate) struct Arguments {
    /// A recipe, such as recipes/tiny.toml
    recipe: PathBuf,
    /// The stage; may be left out where the recipe has only one that trains
    stage: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::read(&arguments.recipe)?;
    let index = match &arguments.stage {
        Some(name) => stage_index(&recipe, name)?,
        None => only_training(&recipe)?,
    };
    let stage = &recipe.stages[index];
    if !stage.work.is_training() {
        let message = format!("the stage {:?} is of kind {}, which trains nothing", stage.name, stage.work.kind());
        let hint = format!("lateen build {} --until {}", recipe.path.display(), stage.name);
        return Err(Problem::new(message, hint).into());
    }
    let build = Build::new(&recipe, interrupt::listen("stopping after this step; what is done is saved")?);
    let job = build.job(index)?;
    if job.run()? == Outcome::Kept {
        say("nothing has changed since");
    }
    put(&format!("{}\n", job.directory.display()))?;
    Ok(())
}

pub(crate) fn only_training(recipe: &Recipe) -> Result<usize> {
    let training: Vec<usize> = (0..recipe.stages.len()).filter(|&i| recipe.stages[i].work.is_training()).collect();
    match training.as_slice() {
        [only] => Ok(*only),
        several => {
            let names: Vec<&str> = several.iter().map(|&index| recipe.stages[index].name.as_str()).collect();
            let message = format!("{} has {} stages that train", recipe.path.display(), several.len());
            Err(Problem::new(message, format!("name one of them: {}", names.join(", "))).into())
        }
    }
}
