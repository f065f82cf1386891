//! What a build is made of: one folder per stage, made again only when something it depends on has changed.

mod compression;
mod distilling;
mod measuring;
mod shrinking;
mod together;
mod training;
mod watching;

pub(crate) use compression::{COMPRESSION, is_of_compression, write_compression};
pub(crate) use measuring::{read_reports, write_page};
pub(crate) use shrinking::{
    Asked, PLAN, Planned, STATISTICS, Shrunk, Watched, Watching, calibration_batches, is_held_out, save_model, split,
};
pub(crate) use together::{Together, check_sharing};
pub(crate) use watching::{Preparing, SystemRoots};

use crate::failure::{Interrupted, Problem};
use crate::place::{self, RUNS};
use crate::recipe::{Recipe, SaveFormat, Stage, Work};
use crate::terminal::say;
use anyhow::{Context, Result};
use evaluate::table::duration_in_words;
use formats::{Manifest, hash_bytes, hash_file};
use models::{Config, Lineage, ModelError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a recipe starts from that does not say.
pub(crate) const BASE: &str = "base";

/// A recipe with the folder that it fills.
pub(crate) struct Build<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) folder: PathBuf,
    pub(crate) cancelled: &'static AtomicBool,
    /// Whether training is shown as a picture that fills the terminal.
    pub(crate) dashboard: bool,
    /// Processes that train together, if there are several.
    pub(crate) together: Option<&'a Together>,
    /// What goes on where this was stopped.
    pub(crate) again: String,
}

/// One stage with all that it reads.
pub(crate) struct Job<'a> {
    pub(crate) build: &'a Build<'a>,
    pub(crate) stage: &'a Stage,
    pub(crate) directory: PathBuf,
    /// The model that it starts from, as a recipe names it, and its folder; a pretraining has none.
    from_name: Option<String>,
    pub(crate) from: Option<PathBuf>,
    /// Models of stages before, by name.
    pub(crate) earlier: Vec<(String, PathBuf)>,
}

/// What happened to a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    Made,
}

impl<'a> Build<'a> {
    pub(crate) fn new(recipe: &'a Recipe, cancelled: &'static AtomicBool) -> Self {
        let (folder, again) = (Path::new(RUNS).join(&recipe.name), format!("lateen build {}", recipe.path.display()));
        Self { recipe, folder, cancelled, dashboard: false, together: None, again }
    }

    /// `runs/<recipe>/<nn>-<stage>`.
    pub(crate) fn directory(&self, index: usize) -> PathBuf {
        stage_directory(self.recipe, index)
    }

    /// Models of the stages before `index`, in order.
    fn earlier(&self, index: usize) -> Vec<(String, PathBuf)> {
        let stages = self.recipe.stages[..index].iter().enumerate();
        let models = stages.filter(|(_, stage)| stage.work.makes_a_model());
        models.map(|(at, stage)| (stage.name.clone(), self.directory(at))).collect()
    }

    pub(crate) fn job(&'a self, index: usize) -> Result<Job<'a>> {
        let stage = &self.recipe.stages[index];
        let earlier = self.earlier(index);
        let from_name = match (&stage.work, &stage.from) {
            (Work::Pretrain(_) | Work::Evaluate(_), None) => None,
            (_, Some(name)) => Some(name.clone()),
            (_, None) => Some(earlier.last().map_or_else(|| BASE.to_owned(), |(name, _)| name.clone())),
        };
        let from = from_name.as_deref().map(|name| find_model(name, &earlier)).transpose()?;
        if let Some(from) = from.as_ref().filter(|from| !from.join("config.json").is_file()) {
            let hint = format!("lateen build {}", self.recipe.path.display());
            return Err(Problem::new(format!("{} holds no model yet", from.display()), hint).into());
        }
        Ok(Job { build: self, stage, directory: self.directory(index), from_name, from, earlier })
    }

    /// Removes what earlier builds made, and nothing else.
    pub(crate) fn clear(&self) -> Result<()> {
        for index in 0..self.recipe.stages.len() {
            remove_stage(&self.directory(index))?;
        }
        Ok(())
    }
}

/// Where a build of the recipe puts this stage.
pub(crate) fn stage_directory(recipe: &Recipe, index: usize) -> PathBuf {
    Path::new(RUNS).join(&recipe.name).join(format!("{:02}-{}", index + 1, recipe.stages[index].name))
}

/// The folder of an earlier stage, of any model, or a GGUF file: a model that is run and not changed.
pub(crate) fn find_model_to_run(name: &str, earlier: &[(String, PathBuf)]) -> Result<PathBuf> {
    match earlier.iter().any(|(stage, _)| stage == name) {
        true => find_model(name, earlier),
        false => place::model_place(name),
    }
}

/// The folder of an earlier stage, or of any model.
pub(crate) fn find_model(name: &str, earlier: &[(String, PathBuf)]) -> Result<PathBuf> {
    match earlier.iter().find(|(stage, _)| stage == name) {
        Some((_, directory)) => Ok(directory.clone()),
        None => place::model_directory(name),
    }
}

impl Job<'_> {
    /// Makes the stage, unless its folder holds just what it would make.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let wanted = self.manifest()?;
        let name = self.directory.display();
        match Manifest::read(&self.directory)? {
            Some(found) if found.matches(&wanted) => {
                say(&format!("{name}: done before"));
                train::checkpoint::remove_all(&self.directory)?;
                return Ok(Outcome::Kept);
            }
            Some(found) if found.can_resume(&wanted) => say(&format!("{name}: continuing")),
            Some(found) => {
                let why = found.difference(&wanted).unwrap_or_default();
                if !found.finished && train::checkpoint::is_there(&self.directory) {
                    return Err(self.would_lose_training(&why).into());
                }
                say(&format!("{name}: making it again: {why}"));
                remove_stage(&self.directory)?;
            }
            None => {
                remove_stage(&self.directory)?;
                say(&format!("{name}: {}", self.stage.work.kind()));
            }
        }
        Manifest { finished: false, ..wanted.clone() }.write(&self.directory)?;
        let began = Instant::now();
        let mut metrics = self.work()?;
        metrics["seconds"] = json!(began.elapsed().as_secs_f64());
        Manifest { metrics, ..wanted }.write(&self.directory)?;
        // What they would resume is done, and they are three times the model. Not before the manifest says so: a run
        // that is killed in between would begin anew.
        train::checkpoint::remove_all(&self.directory)?;
        say(&format!("{name}: done in {}", duration_in_words(began.elapsed())));
        Ok(Outcome::Made)
    }

    /// Hours of training are not thrown away because of a changed line.
    fn would_lose_training(&self, why: &str) -> Problem {
        let (recipe, stage) = (self.build.recipe.path.display(), &self.stage.name);
        let message =
            format!("{} holds a training run that was interrupted and cannot go on: {why}", self.directory.display());
        let hint =
            format!("undo that change to go on, or give up what was trained: lateen train {recipe} {stage} --fresh");
        Problem::new(message, hint)
    }

    /// Forgets what was made of this stage.
    pub(crate) fn forget(&self) -> Result<()> {
        remove_stage(&self.directory)
    }

    fn work(&self) -> Result<Value> {
        match &self.stage.work {
            Work::Pretrain(work) => training::pretrain(self, work),
            Work::Sft(work) | Work::Recover(work) => training::continue_training(self, work),
            Work::Distill(work) => training::distill(self, work),
            Work::Prune(work) => shrinking::prune(self, work),
            Work::Quantize(work) => shrinking::quantize(self, work),
            Work::Evaluate(work) => measuring::measure(self, work),
        }
    }

    /// The model that the stage starts from.
    pub(crate) fn source(&self) -> Result<&Path> {
        let missing =
            || Problem::new(format!("the stage {:?} has no model to start from", self.stage.name), "say from");
        Ok(self.from.as_deref().ok_or_else(missing)?)
    }

    /// Ends the stage early if Ctrl-C was pressed.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        match self.build.cancelled.load(Ordering::Relaxed) {
            true => Err(self.interrupted("nothing of this stage is lost that was saved").into()),
            false => Ok(()),
        }
    }

    pub(crate) fn interrupted(&self, state: &str) -> Interrupted {
        Interrupted { hint: format!("{state}; to go on: {}", self.build.again) }
    }

    /// The manifest that the finished stage would have.
    fn manifest(&self) -> Result<Manifest> {
        let recipe = self.stage.work.identity()?;
        let mut inputs = BTreeMap::new();
        if let Some(from) = &self.from {
            inputs.insert("model".to_owned(), hash_model(from)?);
        }
        if let Work::Distill(work) = &self.stage.work {
            inputs.insert("teacher".to_owned(), hash_model(&find_model_to_run(&work.teacher, &self.earlier)?)?);
        }
        let mut file = |name: String, path: &Path| -> Result<()> {
            let hash = hash_file(path).with_context(|| format!("the stage {:?} reads it", self.stage.name))?;
            inputs.insert(name, hash);
            Ok(())
        };
        let data = match &self.stage.work {
            Work::Pretrain(work) => {
                file("config".into(), &work.config_path(&self.build.recipe.path))?;
                Some(&work.data)
            }
            Work::Sft(work) | Work::Recover(work) => Some(&work.data),
            Work::Distill(work) => Some(&work.data),
            Work::Prune(work) => Some(&work.data),
            Work::Quantize(_) | Work::Evaluate(_) => None,
        };
        let reading = || format!("the stage {:?} reads data", self.stage.name);
        let files = data.map(prepare::DataRecipe::files).transpose().with_context(reading)?;
        for path in files.into_iter().flatten() {
            file(path.display().to_string(), &path)?;
        }
        if let Work::Evaluate(work) = &self.stage.work {
            for (name, directory) in measuring::subjects(self, work)? {
                inputs.insert(name, hash_model(&directory)?);
            }
        }
        Ok(Manifest {
            stage: self.stage.work.kind().to_owned(),
            recipe_hash: hash_bytes(&serde_json::to_vec(&recipe)?),
            recipe,
            from: self.from_name.clone(),
            inputs,
            commit: option_env!("LATEEN_COMMIT").unwrap_or(env!("CARGO_PKG_VERSION")).to_owned(),
            seed: self.stage.work.seed(),
            metrics: Value::Null,
            finished: true,
        })
    }
}

/// The hash of what a model is: its config, weights and text files, not the reports and checkpoints beside them; or of
/// a GGUF file.
pub(crate) fn hash_model(directory: &Path) -> Result<String> {
    if directory.is_file() {
        return Ok(hash_file(directory)?);
    }
    let reading = || format!("cannot list {}", directory.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let text = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", models::LINEAGE];
        if text.contains(&name) || name.starts_with("model") && name.ends_with(".safetensors") {
            files.insert(name.to_owned(), hash_file(&path)?);
        }
    }
    Ok(hash_bytes(&serde_json::to_vec(&files)?))
}

/// Removes a stage's folder. One without a manifest was not made by a build, and is left alone.
fn remove_stage(directory: &Path) -> Result<()> {
    let empty = || std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if !directory.exists() || empty() {
        return Ok(());
    }
    if !directory.join(formats::manifest::MANIFEST).is_file() {
        let message = format!("{} is there, but no build made it (it has no manifest)", directory.display());
        return Err(Problem::new(message, "move it away, or give the stage another name").into());
    }
    std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Writes what is known of the experts' origin into the folder of a new model: what its source says, and what was done
/// since.
pub(crate) fn pass_lineage_on(
    from: &Path,
    to: &Path,
    source: &Config,
    step: Option<&Lineage>,
) -> Result<(), ModelError> {
    if step.is_none() && !from.join(models::LINEAGE).is_file() {
        return Ok(());
    }
    let so_far = Lineage::read(from, source)?;
    step.map_or_else(|| so_far.clone(), |step| so_far.then(step)).write(to)?;
    Ok(())
}

impl SaveFormat {
    pub(crate) fn format(self) -> numeric::Format {
        match self {
            Self::F32 => numeric::Format::F32,
            Self::Bf16 => numeric::Format::Bf16,
        }
    }
}
