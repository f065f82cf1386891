//! `lateen prepare stats`: what training would take of some sources, before anything is trained.

use super::sources::ReadingArguments;
use crate::failure::Problem;
use crate::recipe::{Recipe, Stage, Work};
use crate::stages::{Preparing, SystemRoots};
use crate::terminal::{put, put_json};
use anyhow::Result;
use clap::Args;
use evaluate::table::Table;
use prepare::{Counts, DataRecipe, Fit, Packing, SourceStatistics, Statistics};
use std::path::{Path, PathBuf};
use text::Renderer;

/// Count what training would take of sources: documents, tokens, weights, lengths, and what is left out and why
#[derive(Args)]
pub(super) struct Arguments {
    /// Data files, folders of them, folders of code, `kata`; or one recipe, whose own settings then count
    #[arg(required = true)]
    sources: Vec<String>,
    #[command(flatten)]
    reading: ReadingArguments,
    /// Of a recipe, the stage; may be left out where only one reads data
    #[arg(long)]
    stage: Option<String>,
    /// Longer documents lose their ends
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    sequence_length: usize,
    /// A file that models are measured with: what shares a run of words with it is left out; may be given several times
    #[arg(long = "evaluation-file", value_name = "FILE")]
    evaluation_files: Vec<PathBuf>,
    /// Words in such a run
    #[arg(long, default_value_t = 13, value_name = "WORDS")]
    evaluation_words: usize,
    /// Documents that share this much of their runs of words are the same; 1 takes only equal ones for the same
    #[arg(long, default_value_t = 0.8, value_name = "SHARE")]
    near_duplicates: f64,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (recipe, fit) = match arguments.sources.as_slice() {
        [recipe] if recipe.ends_with(".toml") => of_recipe(Path::new(recipe), arguments.stage.as_deref())?,
        _ => of_arguments(arguments)?,
    };
    let (tokenizer, template) = arguments.reading.text()?;
    let renderer = Renderer::new(&tokenizer, &template);
    let dataset = prepare::load(&recipe, &renderer, fit, &SystemRoots, &Preparing::default())?;
    match arguments.json {
        true => put_json(&dataset.statistics),
        false => Ok(put(&in_words(&dataset.statistics))?),
    }
}

fn of_arguments(arguments: &Arguments) -> Result<(DataRecipe, Fit)> {
    let reading = &arguments.reading;
    if arguments.sequence_length < 2 {
        return Err(Problem::new("--sequence-length must be at least 2", "leave it out for 4096").into());
    }
    let recipe = DataRecipe {
        seed: reading.seed,
        suffix_first: reading.suffix_first,
        validation: 0,
        evaluation_files: arguments.evaluation_files.clone(),
        evaluation_words: arguments.evaluation_words,
        near_duplicates: arguments.near_duplicates,
        sources: arguments.sources.iter().map(|name| reading.source(name)).collect::<Result<_>>()?,
        ..DataRecipe::default()
    };
    Ok((recipe, Fit { sequence_length: arguments.sequence_length, packing: Packing::BestFit }))
}

/// The data of a recipe's stage, prepared as that stage would.
fn of_recipe(path: &Path, stage: Option<&str>) -> Result<(DataRecipe, Fit)> {
    let recipe = Recipe::read(path)?;
    let of_stage = |stage: &Stage| {
        let data = match &stage.work {
            Work::Pretrain(work) => &work.data,
            Work::Sft(work) | Work::Recover(work) => &work.data,
            Work::Distill(work) => &work.data,
            _ => return None,
        };
        Some((data.clone(), stage.work.training()?.loader_settings()))
    };
    let stages = recipe.stages.iter().filter(|one| stage.is_none_or(|name| one.name == name));
    let found: Vec<_> = stages.filter_map(|stage| Some((stage, of_stage(stage)?))).collect();
    let names = || recipe.stages.iter().filter(|stage| of_stage(stage).is_some()).map(|stage| stage.name.as_str());
    match found.len() {
        1 => {}
        count => {
            let message = match stage {
                Some(name) => format!("{} has no stage {name:?} that trains", path.display()),
                None => format!("{} has {count} stages that train", path.display()),
            };
            let hint = format!("name one of them: --stage {}", names().collect::<Vec<_>>().join(", --stage "));
            return Err(Problem::new(message, hint).into());
        }
    }
    let (data, settings) = found.into_iter().next().map(|(_, found)| found).expect("there is just one");
    Ok((data, Fit { sequence_length: settings.sequence_length, packing: settings.packing }))
}

fn in_words(statistics: &Statistics) -> String {
    let mut table = Table::new(&[
        "source",
        "documents",
        "used",
        "tokens",
        "trained",
        "weight",
        "share",
        "median",
        "90 %",
        "99 %",
        "longest",
        "truncated",
        "duplicates",
        "capped",
        "left out",
    ]);
    for source in &statistics.sources {
        table.push(row(&source.name, &source.total, Some(source)));
        source.by_kind.iter().for_each(|(kind, counts)| table.push(row(&format!("  {kind}"), counts, None)));
    }
    let mut text = table.to_text();
    for source in &statistics.sources {
        text.push_str(&details(source));
    }
    if statistics.validation_samples > 0 {
        text.push_str(&format!("{} samples are held out for validation\n", statistics.validation_samples));
    }
    statistics.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    text
}

fn row(name: &str, counts: &Counts, source: Option<&SourceStatistics>) -> Vec<String> {
    let duplicates = counts.duplicates + counts.near_duplicates;
    // Of a kind it is not known what became of records that could not even be read.
    let unread = source.map_or(0, |source| {
        let skipped = &source.skipped;
        skipped.broken + skipped.too_large + skipped.not_text + skipped.licence + skipped.measured
    });
    let left_out = counts.refused + counts.untrained + counts.unreachable + counts.contaminated + unread;
    let lengths = &counts.lengths;
    vec![
        name.to_owned(),
        counts.documents.to_string(),
        counts.samples.to_string(),
        counts.tokens.to_string(),
        counts.trained_tokens.to_string(),
        format!("{:.1}", counts.weight),
        source.map_or_else(String::new, |source| format!("{:.1} %", source.share * 100.0)),
        lengths.half.to_string(),
        lengths.ninety_percent.to_string(),
        lengths.ninety_nine_percent.to_string(),
        lengths.longest.to_string(),
        counts.truncated.to_string(),
        duplicates.to_string(),
        counts.over_share.to_string(),
        left_out.to_string(),
    ]
}

/// The forms of a source's records, and everything that was left out of it.
fn details(source: &SourceStatistics) -> String {
    let mut lines = Vec::new();
    if let Some(file) = &source.file {
        let formats: Vec<String> = file.formats.iter().map(|(name, count)| format!("{count} {name}")).collect();
        lines.push(format!("{} records: {}", file.records, formats.join(", ")));
        if file.rejected_answers > 0 {
            lines.push(format!("{} worse answers of pairs, which are not learnt", file.rejected_answers));
        }
    }
    let left_out: Vec<String> = source.left_out().iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if !left_out.is_empty() {
        lines.push(format!("left out: {}", left_out.join(", ")));
    }
    if !source.skipped.missing_roots.is_empty() {
        lines.push(format!("not on this machine: {}", source.skipped.missing_roots.join(", ")));
    }
    lines.extend(source.file.iter().flat_map(|file| file.broken.clone()));
    lines.extend(
        source.contamination.iter().map(|hit| format!("{} shares with {}: {}", hit.origin, hit.evaluation, hit.shared)),
    );
    lines.iter().map(|line| format!("{}: {line}\n", source.name)).collect()
}
