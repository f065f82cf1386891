//! The page of a compression, from the folders that it left.

use super::measuring::{REPORTS, read_reports};
use super::shrinking::{MERGING, PLAN, STATISTICS};
use crate::place::outline_model;
use anyhow::{Context, Result};
use compress::{LayerOutcome, Plan, saved_statistics};
use evaluate::{CompressionStage, Report, Shrinking, compression_page};
use formats::Manifest;
use models::Loading;
use std::path::{Path, PathBuf};

/// The page's name in the folder of a build.
pub(crate) const COMPRESSION: &str = "compression.html";

const CONFIG: &str = "config.json";

/// Whether a folder holds a model or what was measured of some.
pub(crate) fn is_of_compression(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() || folder.join(REPORTS).is_file()
}

/// Writes the page about the models in these folders, in the order in which they were made.
pub(crate) fn write_compression(path: &Path, title: &str, folders: &[PathBuf]) -> Result<()> {
    let page = compression_page(title, &stages(folders)?);
    formats::write_atomically(path, |file| file.write_all(page.as_bytes()))?;
    Ok(())
}

fn stages(folders: &[PathBuf]) -> Result<Vec<CompressionStage>> {
    let (mut stages, mut reports) = (Vec::new(), Vec::new());
    for folder in folders {
        if folder.join(CONFIG).is_file() {
            stages.push(stage(folder)?);
        }
        if folder.join(REPORTS).is_file() {
            reports.extend(read_reports(folder)?);
        }
    }
    // What was measured and stands in none of the folders is what all began with.
    let mut all = Vec::new();
    for report in reports {
        match stages.iter_mut().find(|stage: &&mut CompressionStage| stage.name == report.model) {
            Some(stage) => measured(stage, report),
            None => all.push(of_report(report)),
        }
    }
    all.append(&mut stages);
    Ok(all)
}

fn stage(folder: &Path) -> Result<CompressionStage> {
    let model = outline_model(folder, Loading::Stored)?;
    Ok(CompressionStage {
        name: stage_name(folder),
        // What a build did not make begins with the model before it, in the order in which folders are given.
        from: Manifest::read(folder)?.and_then(|manifest| manifest.from),
        experts: model.config.expert_counts(),
        bytes: model.bytes() as u64,
        report: None,
        shrinking: folder.join(PLAN).is_file().then(|| shrinking(folder)).transpose()?,
    })
}

fn shrinking(folder: &Path) -> Result<Shrinking> {
    let merging = folder.join(MERGING);
    let outcomes: Option<Vec<LayerOutcome>> =
        merging.is_file().then(|| formats::read_json(&merging)).transpose().with_context(|| {
            format!("{} is not what merging leaves; remove it, and the page goes by the plan", merging.display())
        })?;
    let statistics = folder.join(STATISTICS);
    Ok(Shrinking {
        plan: Plan::load(&folder.join(PLAN))?,
        outcomes: outcomes.unwrap_or_default(),
        statistics: saved_statistics(&statistics)
            .with_context(|| format!("cannot read what was observed in {}", statistics.display()))?,
    })
}

fn measured(stage: &mut CompressionStage, report: Report) {
    stage.bytes = report.bytes;
    stage.report = Some(report);
}

fn of_report(report: Report) -> CompressionStage {
    CompressionStage {
        name: report.model.clone(),
        from: None,
        experts: report.experts.clone(),
        bytes: report.bytes,
        report: Some(report),
        shrinking: None,
    }
}

/// A stage's name from its folder's, which begins with a number: `prune` of `02-prune`.
fn stage_name(folder: &Path) -> String {
    let name = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into());
    match name.split_once('-') {
        Some((number, rest)) if number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            rest.to_owned()
        }
        _ => name,
    }
}
