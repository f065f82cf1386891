//! Checkpoints: everything a run needs to continue bit for bit as if it had never stopped.
//!
//! `checkpoints/step-00000100/` holds `state.json` and `tensors.safetensors`: the trained parameters and their moments,
//! those of an objective's companion too; beside them, where adapters are trained, `adapter/` as PEFT reads it.
//! It is written under another name and renamed when complete, and older ones are removed only after that, so that a
//! crash at any moment leaves a whole checkpoint behind. No random state is kept because there is none: order and
//! choice of the data, and what dropout leaves out, follow from the recipe's seed, the cursor and the step.

use crate::best::Best;
use crate::error::TrainError;
use crate::objective::Companion;
use crate::optimizer::{Moments, Optimizer};
use crate::warnings::Watch;
use formats::{DType, FormatsError, TensorFile, TensorPlan};
use models::adapter::{self, Export};
use models::{Model, ModelError};
use ops::Parameter;
use prepare::Cursor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const FOLDER: &str = "checkpoints";
const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const ADAPTER: &str = "adapter";
const PARTIAL: &str = ".partial";
const VERSION: u32 = 2;

/// All of a run but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    pub version: u32,
    pub identity: Identity,
    /// Finished steps.
    pub step: usize,
    /// Updates that the optimizer made: fewer than the steps where some were skipped.
    pub updates: u64,
    /// Of what the objective learns beside the model.
    #[serde(default)]
    pub companion_updates: u64,
    pub cursor: Cursor,
    pub metrics_bytes: u64,
    pub seconds: f64,
    pub watch: Watch,
    pub best: Option<Best>,
    pub expert_counts: Vec<Vec<u64>>,
    /// Updates skipped in a row, because something was no number.
    pub skipped: usize,
}

/// What makes two runs the same run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub recipe: String,
    pub data: String,
    /// Names and shapes of the parameters, and which are trained; of an objective's companion too.
    pub model: String,
    pub steps: usize,
}

impl Identity {
    pub fn new(recipe: String, data: String, parameters: &[&Parameter], steps: usize) -> Self {
        let mut text = String::new();
        for parameter in parameters {
            text += &format!("{} {:?} {}\n", parameter.name, parameter.shape, parameter.trained);
        }
        Self { recipe, data, model: formats::hash_bytes(text.as_bytes()), steps }
    }

    /// What differs, in words.
    fn difference(&self, wanted: &Self) -> Option<String> {
        if self.recipe != wanted.recipe {
            let table = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            return Some(formats::changes(&table(&self.recipe), &table(&wanted.recipe)).join(", "));
        }
        if self.data != wanted.data {
            return Some("the training data has changed".to_owned());
        }
        if self.model != wanted.model {
            return Some("the model has other parameters".to_owned());
        }
        (self.steps != wanted.steps).then(|| format!("it was to take {} steps, now {}", self.steps, wanted.steps))
    }
}

impl RunState {
    pub fn fresh(identity: Identity, warmup_steps: usize) -> Self {
        let watch = Watch::new(identity.steps, warmup_steps);
        Self {
            version: VERSION,
            identity,
            step: 0,
            updates: 0,
            companion_updates: 0,
            cursor: Cursor::default(),
            metrics_bytes: 0,
            seconds: 0.0,
            watch,
            best: None,
            expert_counts: Vec::new(),
            skipped: 0,
        }
    }
}

/// Which checkpoints stay when another is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest.
    pub last: usize,
    /// One more, of this step.
    pub best: Option<usize>,
}

/// What learns in a run.
#[derive(Debug, Clone, Copy)]
pub struct Learners<'a> {
    pub model: &'a Model,
    pub optimizer: &'a Optimizer,
    pub companion: Option<&'a Companion>,
}

/// Writes a checkpoint into a run's folder, then removes those that need not be kept. If it cannot be written, those
/// that are there stay as they are.
pub fn save(run: &Path, state: &RunState, learners: Learners, keep: Keep) -> Result<(), TrainError> {
    let folder = run.join(FOLDER);
    let before = steps(&folder)?;
    write(&folder, state, learners).map_err(|source| {
        // What is half there is of no use, and takes room.
        let _ = fs::remove_dir_all(folder.join(name(state.step) + PARTIAL));
        let last = match before.last() {
            Some(step) => format!("the checkpoint of step {step} is whole"),
            None => "there is no earlier one".to_owned(),
        };
        TrainError::NotSaved { step: state.step, last, source: Box::new(source) }
    })?;
    for old in steps(&folder)?.into_iter().rev().skip(keep.last.max(1)) {
        if Some(old) != keep.best {
            remove(&folder.join(name(old)))?;
        }
    }
    Ok(())
}

fn write(folder: &Path, state: &RunState, learners: Learners) -> Result<(), ModelError> {
    let (last, partial) = (folder.join(name(state.step)), folder.join(name(state.step) + PARTIAL));
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FormatsError::Io { action, path, source }
    };
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed("remove", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(failed("create", &partial))?;
    write_tensors(&partial.join(TENSORS), learners)?;
    if learners.model.has_adapters() {
        // For others to load: what the run continues from are the tensors with their moments.
        adapter::save_peft(learners.model, &partial.join(ADAPTER), &Export::default())?;
    }
    formats::write_json(partial.join(STATE), state)?;
    if last.exists() {
        // Of the same step of the same run: the same but for its place in the metrics.
        fs::remove_dir_all(&last).map_err(failed("remove", &last))?;
    }
    fs::rename(&partial, &last).map_err(failed("rename", &partial))?;
    Ok(sync(folder).map_err(failed("sync", folder))?)
}

/// Looks for room on the disk for all that the run will hold at its fullest: the checkpoints that are kept, the next
/// one beside them, and `result_bytes`, what is written when it is done.
pub fn check_room(
    run: &Path,
    model: &Model,
    companion: Option<&Companion>,
    keep: usize,
    result_bytes: &[u64],
) -> Result<(), TrainError> {
    // Names, shapes and numbers of the run.
    const OVERHEAD_BYTES: u64 = 1 << 16;
    let size = |parameter: &Parameter| parameter.matrix.rows * parameter.matrix.columns;
    let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
    let numbers: usize = trained.map(size).sum();
    // Adapters are there once more, for others to load; a table of tokens that is the head too twice.
    let table = &model.weights.embedding.weight;
    let is_head = table.trained && model.weights.separate_head.is_none();
    let others = match model.has_adapters() {
        true => numbers + if is_head { size(table) } else { 0 },
        false => 0,
    };
    let beside: usize = companion.map_or_else(Vec::new, Companion::parameters).into_iter().map(size).sum();
    let checkpoint = (((numbers + beside) * PARTS.len() + others) * size_of::<f32>()) as u64 + OVERHEAD_BYTES;
    let there = steps(&run.join(FOLDER))?.len();
    let missing = (keep + 1).saturating_sub(there);
    let mut wanted = vec![checkpoint; missing];
    wanted.extend_from_slice(result_bytes);
    formats::check_room(run, &wanted).map_err(|error| match error {
        full @ FormatsError::Full { .. } => {
            let source = Box::new(full);
            TrainError::NoRoom { checkpoints: missing, checkpoint_bytes: checkpoint, source }
        }
        other => other.into(),
    })
}

/// Puts the parameters of the checkpoint of `step` into the model; the optimizer's moments are not looked at.
pub fn restore_parameters(run: &Path, step: usize, model: &mut Model) -> Result<(), TrainError> {
    let path = run.join(FOLDER).join(name(step));
    let damaged = |what: String| TrainError::Damaged { path: path.clone(), what };
    let file = TensorFile::open(path.join(TENSORS)).map_err(|error| damaged(error.to_string()))?;
    let mut kept = Vec::new();
    for parameter in model.parameters().into_iter().filter(|parameter| parameter.trained) {
        kept.push(read_part(&file, PARTS[0], parameter).map_err(damaged)?);
    }
    for (parameter, values) in model.parameters_mut().into_iter().filter(|p| p.trained).zip(kept) {
        parameter.matrix.as_f32_mut().copy_from_slice(&values);
    }
    Ok(())
}

/// Whether a run's folder holds a checkpoint to go on from.
pub fn is_there(run: &Path) -> bool {
    steps(&run.join(FOLDER)).is_ok_and(|steps| !steps.is_empty())
}

/// The newest checkpoint of a run's folder, put into the model, the optimizer and the companion; `None` where there is
/// none.
pub fn resume(
    run: &Path,
    identity: &Identity,
    (model, optimizer): (&mut Model, &mut Optimizer),
    companion: Option<&mut Companion>,
) -> Result<Option<RunState>, TrainError> {
    let folder = run.join(FOLDER);
    let Some(&newest) = steps(&folder)?.last() else { return Ok(None) };
    let path = folder.join(name(newest));
    let damaged = |what: String| TrainError::Damaged { path: path.clone(), what };
    let state: RunState = formats::read_json(path.join(STATE)).map_err(|error| damaged(error.to_string()))?;
    if state.version != VERSION {
        return Err(damaged(format!("its format is {}, this program writes {VERSION}", state.version)));
    }
    if let Some(what) = state.identity.difference(identity) {
        return Err(TrainError::Changed { path, what });
    }
    let file = TensorFile::open(path.join(TENSORS)).map_err(|error| damaged(error.to_string()))?;
    let kept = read_tensors(&file, &model.parameters()).map_err(damaged)?;
    // All is read before anything is changed.
    let beside = companion.as_ref().map_or_else(Vec::new, |companion| companion.parameters());
    let kept_beside = read_tensors(&file, &beside).map_err(damaged)?;
    put_back(model.parameters_mut(), optimizer, kept, state.updates);
    if let Some(companion) = companion {
        let (parameters, optimizer) = companion.parts_mut();
        put_back(parameters, optimizer, kept_beside, state.companion_updates);
    }
    Ok(Some(state))
}

/// Forgets all checkpoints of a run's folder.
pub fn remove_all(run: &Path) -> Result<(), TrainError> {
    remove(&run.join(FOLDER))
}

const PARTS: [&str; 3] = ["parameter", "first", "second"];

fn trained<'a>(parameters: &[&'a Parameter]) -> Vec<&'a Parameter> {
    parameters.iter().copied().filter(|parameter| parameter.trained).collect()
}

fn write_tensors(path: &Path, learners: Learners) -> Result<(), FormatsError> {
    let of_model = trained(&learners.model.parameters());
    let of_companion = learners.companion.map_or_else(Vec::new, Companion::parameters);
    let mut plan = TensorPlan::new();
    for parameter in of_model.iter().chain(&of_companion) {
        PARTS.iter().for_each(|part| plan.declare(format!("{part}.{}", parameter.name), DType::F32, &parameter.shape));
    }
    let mut writer = plan.create_file(path)?;
    let mut write = |parameter: &Parameter, moments: &Moments| -> Result<(), FormatsError> {
        for (part, values) in PARTS.iter().zip([parameter.values(), &moments.first, &moments.second]) {
            writer.write_f32(&format!("{part}.{}", parameter.name), values)?;
        }
        Ok(())
    };
    of_model.iter().try_for_each(|parameter| write(parameter, learners.optimizer.moments(parameter)))?;
    if let Some(companion) = learners.companion {
        of_companion.iter().try_for_each(|parameter| write(parameter, companion.optimizer().moments(parameter)))?;
    }
    writer.finish()?;
    Ok(())
}

/// What was kept of each trained parameter, in the order of [`PARTS`].
fn read_tensors(file: &TensorFile, parameters: &[&Parameter]) -> Result<Vec<[Vec<f32>; 3]>, String> {
    let mut kept: Vec<[Vec<f32>; 3]> = Vec::new();
    for parameter in trained(parameters) {
        let mut values: [Vec<f32>; 3] = Default::default();
        for (part, values) in PARTS.iter().zip(&mut values) {
            *values = read_part(file, part, parameter)?;
        }
        kept.push(values);
    }
    Ok(kept)
}

fn put_back(parameters: Vec<&mut Parameter>, optimizer: &mut Optimizer, kept: Vec<[Vec<f32>; 3]>, updates: u64) {
    let mut moments = Vec::with_capacity(kept.len());
    for (parameter, [values, first, second]) in parameters.into_iter().filter(|p| p.trained).zip(kept) {
        parameter.matrix.as_f32_mut().copy_from_slice(&values);
        moments.push(Moments { first, second });
    }
    optimizer.restore(updates, moments);
}

fn read_part(file: &TensorFile, part: &str, parameter: &Parameter) -> Result<Vec<f32>, String> {
    let tensor = file.get(&format!("{part}.{}", parameter.name)).map_err(|error| error.to_string())?;
    tensor.expect_shape(&parameter.shape).map_err(|error| error.to_string())?;
    Ok(tensor.to_f32())
}

fn name(step: usize) -> String {
    format!("step-{step:08}")
}

/// The steps of all complete checkpoints, oldest first.
fn steps(folder: &Path) -> Result<Vec<usize>, TrainError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", folder)(error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut steps: Vec<usize> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    Ok(steps)
}

fn remove(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a rename survive a power cut, on systems where a folder can be synced.
fn sync(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path: PathBuf = path.to_owned();
    move |source| TrainError::Io { action, path, source }
}
