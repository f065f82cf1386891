//! `lateen train`: one training stage of a recipe, for when the rest is not wanted; and reports of runs side by side.

use super::build::stage_index;
use crate::failure::Problem;
use crate::interrupt;
use crate::place::{RUNS, stage_folders};
use crate::recipe::Recipe;
use crate::stages::{Build, Outcome, Together};
use crate::terminal::{put, say};
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use train::metrics::METRICS;
use train::{Event, metrics, report};

/// Run one training stage of a recipe; the stages before it must be there
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Ctrl-C and SIGTERM save the run; the same command goes on where it stopped.")]
pub(crate) struct Arguments {
    /// A recipe, such as recipes/tiny.toml
    #[arg(required = true)]
    recipe: Option<PathBuf>,
    /// The stage; may be left out where the recipe has only one that trains
    stage: Option<String>,
    /// Show the run as a picture that fills the terminal: loss, speed, time left, memory, load of the experts
    #[arg(long)]
    tui: bool,
    /// Of the processes that `mpirun` started, how many share the tokens of a micro-batch; the others take other
    /// micro-batches. Needs a program built with the feature `mpi`
    #[arg(long, value_name = "RANKS", default_value_t = 1)]
    sequence_ranks: usize,
    /// Forget what was made of this stage, and begin anew
    #[arg(long)]
    fresh: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    Report(Reported),
}

/// Write an HTML report of one run, or of several with their curves laid over each other
#[derive(Args)]
struct Reported {
    /// A run, a stage of one such as tiny/01-sft, or any folder with a metrics.jsonl; of a run, all stages that trained
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// The page to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Its heading; if not given, the names of the runs
    #[arg(long)]
    title: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match (&arguments.what, &arguments.recipe) {
        (Some(What::Report(reported)), _) => write_report(reported),
        (None, Some(recipe)) => train_stage(&arguments, recipe),
        (None, None) => Err(Problem::new("no recipe is named", "lateen train RECIPE").into()),
    }
}

fn train_stage(arguments: &Arguments, recipe: &Path) -> Result<()> {
    let recipe = Recipe::read(recipe)?;
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
    let cancelled = interrupt::listen_to_all("stopping after this step; what is done is saved")?;
    let together = Together::start(arguments.sequence_ranks)?;
    let again = format!("lateen train {} {}", recipe.path.display(), stage.name);
    let build =
        Build { dashboard: arguments.tui, together: together.as_ref(), again, ..Build::new(&recipe, cancelled) };
    match &together {
        Some(together) if !together.leads() => together.follow(&build, index),
        Some(together) => {
            let outcome = make(&build, index, arguments.fresh);
            together.dismiss();
            outcome
        }
        None => make(&build, index, arguments.fresh),
    }
}

fn make(build: &Build<'_>, index: usize, fresh: bool) -> Result<()> {
    let job = build.job(index)?;
    if fresh {
        job.forget()?;
    }
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

fn write_report(reported: &Reported) -> Result<()> {
    let mut runs: Vec<(String, Vec<Event>)> = Vec::new();
    for name in &reported.runs {
        for folder in folders_of(name)? {
            let name = folder.strip_prefix(RUNS).unwrap_or(&folder).display().to_string();
            runs.push((name, metrics::read(&folder.join(METRICS))?));
        }
    }
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
    let title = reported.title.clone().unwrap_or_else(|| names.join(", "));
    let page = match runs.as_slice() {
        [(_, events)] => report::render(&title, events),
        several => report::render_several(&title, several),
    };
    formats::write_atomically(&reported.out, |file| file.write_all(page.as_bytes()))?;
    put(&format!("{}\n", reported.out.display()))?;
    Ok(())
}

/// The folders with metrics that a name means: itself, or each stage of a run that has some, in order.
fn folders_of(name: &str) -> Result<Vec<PathBuf>> {
    let folders = stage_folders(name, &|folder| folder.join(METRICS).is_file());
    if folders.is_empty() {
        let message = format!("there is no {METRICS} in {name} or {}", Path::new(RUNS).join(name).display());
        let hint = format!("give a run under {RUNS}/, one of its stages that train, or a folder with a {METRICS}");
        return Err(Problem::new(message, hint).into());
    }
    Ok(folders)
}
