//! `lateen compress report`: what taking experts away cost, and what became of each, as a page.

use crate::failure::Problem;
use crate::place::{RUNS, stage_folders};
use crate::stages::{PLAN, is_of_compression, write_compression};
use crate::terminal::put;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Write an HTML report of what became of experts: groups, similarities, co-activation, and what was measured
#[derive(Args)]
pub(crate) struct Arguments {
    /// Models in the order in which they were made, and folders of stages that measured them; of a run, all stages
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<String>,
    /// The page to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Its heading; if not given, the names of the folders
    #[arg(long)]
    title: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut folders = Vec::new();
    for name in &arguments.folders {
        let found = stage_folders(name, &is_of_compression);
        if found.is_empty() {
            let message = format!("there is no model and nothing that was measured in {name} or {RUNS}/{name}");
            let hint = format!("give a run under {RUNS}/, its stages, or what lateen compress wrote");
            return Err(Problem::new(message, hint).into());
        }
        folders.extend(found);
    }
    if !folders.iter().any(|folder| folder.join(PLAN).is_file()) {
        let message = format!("no folder holds a {PLAN}: no experts were taken away there");
        let hint = "give the folder of a stage of kind prune, or what lateen compress --keep wrote";
        return Err(Problem::new(message, hint).into());
    }
    let title = arguments.title.clone().unwrap_or_else(|| arguments.folders.join(", "));
    write_compression(&arguments.out, &title, &folders)?;
    put(&format!("{}\n", arguments.out.display()))?;
    Ok(())
}
