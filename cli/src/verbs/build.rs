//! `lateen build`: a recipe's stages in order, each made only if it is not there yet.

use crate::failure::Problem;
use crate::interrupt;
use crate::place::open_model;
use crate::recipe::{Recipe, Work};
use crate::stages::{Build, COMPRESSION, read_reports, write_compression, write_page};
use crate::terminal::{peak_memory_bytes, put, put_json, say};
use anyhow::Result;
use clap::Args;
use evaluate::table::{bytes_in_words, duration_in_words};
use evaluate::{Report, comparison};
use models::Loading;
use std::path::PathBuf;
use std::time::Instant;

/// Run a recipe: its stages in order, each kept if nothing it depends on has changed
#[derive(Args)]
pub(crate) struct Arguments {
    /// A recipe, such as recipes/tiny.toml
    recipe: PathBuf,
    /// Forget what earlier builds made
    #[arg(long)]
    fresh: bool,
    /// Stop after this stage
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::read(&arguments.recipe)?;
    let last = match &arguments.until {
        Some(name) => stage_index(&recipe, name)?,
        None => recipe.stages.len() - 1,
    };
    let began = Instant::now();
    let build = Build::new(&recipe, interrupt::listen_to_all("stopping after this step; what is done is saved")?);
    if arguments.fresh {
        build.clear()?;
    }
    for index in 0..=last {
        build.job(index)?.run()?;
    }
    let reports = reports(&build, last)?;
    match arguments.json {
        true => put_json(&reports)?,
        false => put(&comparison(&reports).to_text())?,
    }
    let page = build.folder.join("report.html");
    write_page(&page, &recipe.title, &reports)?;
    let peak = peak_memory_bytes().map_or_else(String::new, |peak| format!(", peak memory {}", bytes_in_words(peak)));
    if recipe.stages[..=last].iter().any(|stage| matches!(stage.work, Work::Prune(_))) {
        let folders: Vec<PathBuf> = (0..=last).map(|index| build.directory(index)).collect();
        let page = build.folder.join(COMPRESSION);
        write_compression(&page, &recipe.title, &folders)?;
        say(&format!("what became of the experts: {}", page.display()));
    }
    say(&format!("{} in {}{peak}", page.display(), duration_in_words(began.elapsed())));
    Ok(())
}

pub(crate) fn stage_index(recipe: &Recipe, name: &str) -> Result<usize> {
    let found = recipe.stages.iter().position(|stage| stage.name == name);
    Ok(found.ok_or_else(|| {
        let names: Vec<&str> = recipe.stages.iter().map(|stage| stage.name.as_str()).collect();
        let message = format!("{} has no stage {name:?}", recipe.path.display());
        Problem::new(message, format!("its stages are {}", names.join(", ")))
    })?)
}

/// What the last evaluation found; without one, at least what the models are.
fn reports(build: &Build<'_>, last: usize) -> Result<Vec<Report>> {
    let stages = &build.recipe.stages[..=last];
    if let Some(evaluation) = stages.iter().rposition(|stage| matches!(stage.work, Work::Evaluate(_))) {
        return read_reports(&build.directory(evaluation));
    }
    let mut reports = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let model = open_model(&build.directory(index), Loading::Stored)?;
        reports.push(Report {
            model: stage.name.clone(),
            bytes: model.bytes() as u64,
            parameters: model.parameter_count() as u64,
            experts: model.config.expert_counts(),
            perplexity: None,
            divergence: None,
            tasks: None,
            speed: None,
        });
    }
    Ok(reports)
}
