//! Stages that measure: each model before them, with the results of a model kept as long as the model stays the same.

use super::{Job, find_model, hash_model};
use crate::failure::Problem;
use crate::place::{Speaking, open_model, sandbox};
use crate::recipe::Evaluation;
use crate::terminal::{Meter, say};
use anyhow::Result;
use evaluate::{EvaluateError, Report, Subject, comparison_page, evaluate};
use formats::{hash_bytes, read_json, write_json};
use models::Loading;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(super) const REPORTS: &str = "reports.json";
pub(crate) const PAGE: &str = "report.html";

/// A model's report, and what it was made from.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    report: Report,
}

/// The models that the stage measures, by name.
pub(super) fn subjects(job: &Job<'_>, work: &Evaluation) -> Result<Vec<(String, PathBuf)>> {
    let Some(names) = &work.stages else {
        // With a model of its own to start from, it measures that one too.
        let own = job.from.iter().zip(&job.stage.from).map(|(path, name)| (name.clone(), path.clone()));
        let own = own.filter(|(name, _)| !job.earlier.iter().any(|(stage, _)| stage == name));
        return Ok(own.chain(job.earlier.iter().cloned()).collect());
    };
    names.iter().map(|name| Ok((name.clone(), find_model(name, &job.earlier)?))).collect()
}

pub(super) fn measure(job: &Job<'_>, work: &Evaluation) -> Result<Value> {
    let subjects = subjects(job, work)?;
    if subjects.is_empty() {
        let hint = "put it after a stage that makes a model, or say stages = […]";
        return Err(Problem::new(format!("the stage {:?} has nothing to measure", job.stage.name), hint).into());
    }
    let teacher_path = work.teacher.as_ref().map(|name| find_model(name, &job.earlier)).transpose()?;
    let teacher_hash = teacher_path.as_deref().map(hash_model).transpose()?;
    let settings = serde_json::to_string(&work.measure)?;
    let mut reports = Vec::new();
    for (name, directory) in &subjects {
        let key = format!("{} {settings} {teacher_hash:?}", hash_model(directory)?);
        let key = hash_bytes(key.as_bytes());
        let path = job.directory.join(format!("{}.report.json", file_name(name)));
        let kept = path.is_file().then(|| read_json::<Kept>(&path).ok()).flatten().filter(|kept| kept.key == key);
        let report = match kept {
            Some(kept) => Report { model: name.clone(), ..kept.report },
            None => {
                let is_teacher = teacher_path.as_deref() == Some(directory.as_path());
                let teacher = teacher_path.as_deref().filter(|_| !is_teacher);
                let report = measure_one(job, work, name, directory, teacher)?;
                write_json(&path, &Kept { key, report: report.clone() })?;
                report
            }
        };
        reports.push(report);
    }
    write_json(job.directory.join(REPORTS), &reports)?;
    write_page(&job.directory.join(PAGE), &job.build.recipe.title, &reports)?;
    let passed = |report: &Report| report.passed(environment::Split::Test).map(|rate| rate.rate);
    let rates: Vec<Value> = reports.iter().map(|r| json!({ "stage": r.model, "rate": passed(r) })).collect();
    Ok(json!({ "pass_at_1": rates }))
}

fn measure_one(job: &Job<'_>, work: &Evaluation, name: &str, path: &Path, teacher: Option<&Path>) -> Result<Report> {
    say(&format!("  measuring {name}"));
    let folder = path.display().to_string();
    let speaking = Speaking::open(&folder, Loading::Packed)?;
    let teacher = teacher.map(|teacher| open_model(teacher, Loading::Packed)).transpose()?;
    let sandbox = sandbox()?;
    let subject = Subject { model: &speaking.model, renderer: speaking.renderer(), sandbox: &sandbox };
    let measure = &work.measure;
    let tasks = measure.count * (measure.kinds.len() * measure.splits.len()) as u64 * (1 + measure.samples);
    let mut meter = Meter::new(format!("tasks of {name}"), tasks, "tasks");
    let mut progress = |at: evaluate::TaskProgress| meter.set(at.done, &format!(" · {} tokens", at.generated_tokens));
    match evaluate(name, &subject, teacher.as_ref(), measure, job.build.cancelled, &mut progress) {
        Err(EvaluateError::Cancelled) => Err(job.interrupted("models that were measured are kept").into()),
        other => Ok(other?),
    }
}

/// A name as part of a file's name.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect()
}

pub(crate) fn write_page(path: &Path, title: &str, reports: &[Report]) -> Result<()> {
    let html = comparison_page(title, reports);
    formats::write_atomically(path, |file| file.write_all(html.as_bytes()))?;
    Ok(())
}

/// The reports of a finished evaluation.
pub(crate) fn read_reports(directory: &Path) -> Result<Vec<Report>> {
    Ok(read_json(directory.join(REPORTS))?)
}
