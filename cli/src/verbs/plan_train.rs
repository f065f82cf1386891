//! `lateen plan train`: what training will take of memory, time and money, before anything is loaded.

use super::build::stage_index;
use super::train::only_training;
use crate::failure::Problem;
use crate::memory::Machine;
use crate::place::{model_place, outline_model};
use crate::recipe::{Recipe, Work};
use crate::stages::{BASE, check_sharing, stage_directory};
use crate::terminal::{put, put_json, say};
use crate::training_memory::{BesideTeacher, PlannedTraining, Pupil};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use evaluate::Table;
use evaluate::table::{bytes_in_words, duration_in_words};
use models::{Config, Loading, Model, TrainingPlan};
use numeric::Format;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use train::{DistillRecipe, FrozenFormat, LoraConfig, Method, TrainPrecision, TrainRecipe, estimate};

/// Say what training will take of memory, time and money, without loading anything
#[derive(Args)]
pub(crate) struct Arguments {
    /// A recipe, such as recipes/tiny.toml, or a model: a folder, a run, or the name of a fixture
    what: String,
    /// The recipe's stage; may be left out where it has only one that trains
    stage: Option<String>,
    /// Tokens of a sequence [default: the recipe's, or 8192]
    #[arg(long, value_name = "TOKENS")]
    sequence_length: Option<usize>,
    /// Tokens of one optimizer step [default: the recipe's, or one sequence]
    #[arg(long, value_name = "TOKENS")]
    batch_tokens: Option<usize>,
    /// Micro-batches of one optimizer step
    #[arg(long, value_name = "NUMBER")]
    accumulation: Option<usize>,
    /// Tokens that go through a layer at a time
    #[arg(long, value_name = "TOKENS")]
    chunk_tokens: Option<usize>,
    /// Processes that share each micro-batch, as `lateen train` has them, each on a machine like this one: memory is of
    /// the first of them, time and cost of all
    #[arg(long, value_name = "RANKS", default_value_t = 1)]
    sequence_ranks: usize,
    /// What products compute in
    #[arg(long)]
    precision: Option<Precision>,
    /// Keep the inside of every layer for the way back, where a recipe does not say: faster, and much more memory
    #[arg(long)]
    keep_layers: bool,
    /// Train adapters of this rank on all projections, not the whole model
    #[arg(long, value_name = "RANK")]
    lora: Option<usize>,
    /// Freeze the base in this format under the adapters
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<Frozen>,
    /// Optimizer steps [default: the recipe's]
    #[arg(long)]
    steps: Option<usize>,
    /// How fast it trains; if not given, layers of the model's shape are trained for a moment
    #[arg(long, value_name = "TOKENS")]
    tokens_per_second: Option<f64>,
    /// What an hour of this machine costs
    #[arg(long, value_name = "PRICE")]
    price: Option<f64>,
    /// Threads; all processors if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Frozen {
    Nvfp4,
    Mxfp4,
    #[value(name = "q8_0")]
    Q8_0,
}

/// What `--json` writes; all sizes in bytes, all times in seconds.
#[derive(Serialize)]
struct Findings {
    what: String,
    sequence_length: usize,
    batch_tokens: usize,
    plan: TrainingPlan,
    total: usize,
    machine: Machine,
    fits: bool,
    /// Whether the teacher's layers stay on disk, if there is a teacher.
    teacher_streamed: bool,
    tokens_per_second: f64,
    measured: bool,
    step_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// In the unit of the price; of one step where the number of steps is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

/// Module names of all projections that take adapters.
const PROJECTIONS: [&str; 10] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "in_proj_qkvz",
    "in_proj_ba",
    "out_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// The model that a stage starts from.
enum Origin {
    Place(PathBuf),
    /// Not there yet.
    Config(Box<Config>),
}

impl Origin {
    fn outline(&self, recipe: &TrainRecipe) -> Result<Model> {
        self.outlined(recipe.loading())
    }

    fn outlined(&self, loading: Loading) -> Result<Model> {
        match self {
            Self::Place(place) => outline_model(place, loading),
            Self::Config(config) => Ok(Model::imagined((**config).clone(), loading, Format::Bf16)),
        }
    }

    /// The last names of its modules.
    fn module_names(&self) -> Result<BTreeSet<String>> {
        let outline = self.outline(&TrainRecipe::default())?;
        let parameters = outline.parameters();
        let names = parameters.iter().filter_map(|p| p.name.strip_suffix(".weight")?.rsplit('.').next());
        Ok(names.map(str::to_owned).collect())
    }

    fn config(&self) -> Result<Config> {
        match self {
            Self::Place(place) => Ok(outline_model(place, Loading::Stored)?.config),
            Self::Config(config) => Ok((**config).clone()),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        kernels::pool::set_threads(threads);
    }
    let Subject { origin, mut recipe, guided } = subject(&arguments)?;
    let names = origin.module_names()?;
    arguments.change(&mut recipe, &|name| names.iter().any(|known| known == name))?;
    recipe.check()?;
    check_sharing((arguments.sequence_ranks, arguments.sequence_ranks), &recipe, guided.is_some())?;
    let outline = |recipe: &TrainRecipe| origin.outline(recipe);
    let of_teacher = |loading| match &guided {
        Some((teacher, _)) => teacher.outlined(loading),
        None => unreachable!("without a teacher none is outlined"),
    };
    let teacher = guided.as_ref().map(|(_, distill)| BesideTeacher { distill, outline: &of_teacher });
    let pupil = Pupil { outline: &outline, teacher: teacher.as_ref(), sequence_ranks: arguments.sequence_ranks };
    let planned = PlannedTraining::of(&recipe, pupil)?;
    let findings = arguments.findings(&origin, &recipe, &planned)?;
    if arguments.json {
        return put_json(&findings);
    }
    let verdict = match findings.fits {
        true => "it fits".to_owned(),
        false => format!("it does not fit; {}", planned.ways(&recipe)?),
    };
    Ok(put(&in_words(&findings, &verdict))?)
}

/// The model that is to be trained, and how.
struct Subject {
    origin: Origin,
    recipe: TrainRecipe,
    /// A teacher, and how it is asked.
    guided: Option<(Origin, DistillRecipe)>,
}

fn subject(arguments: &Arguments) -> Result<Subject> {
    let path = Path::new(&arguments.what);
    if path.extension().is_some_and(|extension| extension == "toml") {
        let recipe = Recipe::read(path)?;
        let index = match &arguments.stage {
            Some(name) => stage_index(&recipe, name)?,
            None => only_training(&recipe)?,
        };
        let stage = &recipe.stages[index];
        let Some(train) = stage.work.training() else {
            let kind = stage.work.kind();
            let message = format!("the stage {:?} is of kind {kind}, which trains nothing", stage.name);
            return Err(Problem::new(message, "name a stage that trains").into());
        };
        let guided = match &stage.work {
            Work::Distill(work) => Some((named(&recipe, index, &work.teacher)?, work.distill.clone())),
            _ => None,
        };
        return Ok(Subject { origin: origin(&recipe, index)?, recipe: train.clone(), guided });
    }
    let place = model_place(&arguments.what)?;
    let length = arguments.sequence_length.unwrap_or(8192);
    let recipe = TrainRecipe {
        steps: Some(arguments.steps.unwrap_or(1)),
        sequence_length: length,
        batch_tokens: length,
        precision: TrainPrecision::Bf16,
        checkpoint_layers: !arguments.keep_layers,
        ..TrainRecipe::default()
    };
    Ok(Subject { origin: Origin::Place(place), recipe, guided: None })
}

/// A model by name: an earlier stage's, made or not, or any other.
fn named(recipe: &Recipe, index: usize, name: &str) -> Result<Origin> {
    match recipe.stages[..index].iter().position(|stage| stage.name == name) {
        Some(stage) => made_by(recipe, stage),
        None => Ok(Origin::Place(model_place(name)?)),
    }
}

/// What a stage starts from: a model that is there, or what the stages before it will make of one.
fn origin(recipe: &Recipe, index: usize) -> Result<Origin> {
    let stage = &recipe.stages[index];
    if let Work::Pretrain(work) = &stage.work {
        let path = work.config_path(&recipe.path);
        let reading = || format!("cannot use the configuration {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(reading)?;
        return Ok(Origin::Config(Box::new(Config::from_json(&text).with_context(reading)?)));
    }
    if let Some(name) = &stage.from {
        return named(recipe, index, name);
    }
    match recipe.stages[..index].iter().rposition(|stage| stage.work.makes_a_model()) {
        Some(before) => made_by(recipe, before),
        None => Ok(Origin::Place(model_place(BASE)?)),
    }
}

/// What a stage made, or will make.
fn made_by(recipe: &Recipe, before: usize) -> Result<Origin> {
    let directory = stage_directory(recipe, before);
    if directory.join("config.json").is_file() {
        return Ok(Origin::Place(directory));
    }
    let from = origin(recipe, before)?;
    let Work::Prune(prune) = &recipe.stages[before].work else { return Ok(from) };
    let mut config = from.config()?;
    let (plan, layers) = (prune.plan(), config.layers.len());
    // Where layers differ nobody knows yet how; what training takes goes by their sum.
    let keep = plan.keep.or(plan.total.map(|total| total.div_ceil(layers))).unwrap_or(usize::MAX);
    let counts: Vec<usize> = config.expert_counts().iter().map(|&count| count.min(keep)).collect();
    config.set_expert_counts(&counts);
    Ok(Origin::Config(Box::new(config)))
}

impl Arguments {
    /// Puts what was asked for over what the recipe says.
    fn change(&self, recipe: &mut TrainRecipe, has: &dyn Fn(&str) -> bool) -> Result<()> {
        if let Some(length) = self.sequence_length {
            // As many sequences as before, where nothing else is asked.
            recipe.batch_tokens = recipe.batch_tokens / recipe.sequence_length * length;
            recipe.sequence_length = length;
        }
        recipe.batch_tokens = self.batch_tokens.unwrap_or(recipe.batch_tokens);
        recipe.accumulation = self.accumulation.unwrap_or(recipe.accumulation);
        recipe.chunk_tokens = self.chunk_tokens.unwrap_or(recipe.chunk_tokens);
        if let Some(steps) = self.steps {
            (recipe.steps, recipe.epochs) = (Some(steps), None);
        }
        match self.precision {
            Some(Precision::F32) => recipe.precision = TrainPrecision::F32,
            Some(Precision::Bf16) => recipe.precision = TrainPrecision::Bf16,
            None => {}
        }
        if let Some(rank) = self.lora {
            // Which of these there are depends on the model.
            let targets: Vec<&str> = PROJECTIONS.into_iter().filter(|name| has(name)).collect();
            recipe.method = Method::Lora(LoraConfig::new(rank, 2.0 * rank as f32, &targets));
        }
        let frozen = self.quantize.map(|format| match format {
            Frozen::Nvfp4 => FrozenFormat::Nvfp4,
            Frozen::Mxfp4 => FrozenFormat::Mxfp4,
            Frozen::Q8_0 => FrozenFormat::Q8_0,
        });
        recipe.quantize = frozen.or(recipe.quantize);
        if recipe.quantize.is_some() && !matches!(recipe.method, Method::Lora(_)) {
            let message = "--quantize freezes the base under adapters, and this trains the model itself";
            return Err(Problem::new(message, "add --lora 16, say").into());
        }
        Ok(())
    }

    fn findings(&self, origin: &Origin, recipe: &TrainRecipe, planned: &PlannedTraining) -> Result<Findings> {
        let lengths = vec![recipe.sequence_length; recipe.loader_settings().sequences];
        let trained_numbers = planned.plan.gradients / size_of::<f32>();
        let step_seconds = match self.tokens_per_second {
            Some(speed) if speed > 0.0 => recipe.batch_tokens as f64 / speed,
            Some(_) => return Err(Problem::new("--tokens-per-second wants a number above 0", "1000, say").into()),
            None => {
                say("training layers of this shape for a moment, to see how fast they are");
                let speed = estimate::measure(&origin.config()?, recipe).shared(self.sequence_ranks);
                speed.step(&lengths, recipe.accumulation, trained_numbers)
            }
        };
        let steps = recipe.steps.filter(|_| self.steps.is_some() || self.what.ends_with(".toml"));
        let seconds = steps.map(|steps| steps as f64 * step_seconds);
        let machines = self.sequence_ranks as f64;
        Ok(Findings {
            what: self.what.clone(),
            sequence_length: recipe.sequence_length,
            batch_tokens: recipe.batch_tokens,
            plan: planned.plan,
            total: planned.plan.total(),
            machine: planned.machine,
            fits: planned.fits(),
            teacher_streamed: planned.is_streamed,
            tokens_per_second: recipe.batch_tokens as f64 / step_seconds,
            measured: self.tokens_per_second.is_none(),
            step_seconds,
            steps,
            seconds,
            cost: self.price.map(|price| machines * price * seconds.unwrap_or(step_seconds) / 3600.0),
        })
    }
}

fn in_words(findings: &Findings, verdict: &str) -> String {
    let Findings { plan, machine, .. } = findings;
    let mut table = Table::new(&["part", "bytes", "of"]);
    let mut line = |part: &str, bytes: usize, of: &str| {
        table.push(vec![part.to_owned(), bytes_in_words(bytes as u64), of.to_owned()]);
    };
    line("weights", plan.weights, "adapters included");
    line("gradients", plan.gradients, "of what is trained");
    line("optimizer", plan.moments, "two means of each gradient");
    line("checkpoints", plan.checkpoints, "what goes into each layer, and states between chunks");
    line("keys and values", plan.cache, "of sequences longer than a chunk, with gradients");
    line("activations", plan.activations, "of one chunk in a layer, or of all that is not run again");
    if plan.teacher > 0 {
        let of = match findings.teacher_streamed {
            true => "its head, and what it says of a step; its layers stay on disk",
            false => "its weights, and what it says of a micro-batch",
        };
        line("teacher", plan.teacher, of);
    }
    line("program", plan.program, "");
    line("while loading", plan.loading, "the largest weight, before anything runs");
    line("most at a time", findings.total, "");
    let words = |seconds: f64| duration_in_words(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)));
    let how = if findings.measured { "as measured here" } else { "as given" };
    let mut text = format!(
        "{}{}\n{verdict}\none step of {} tokens takes {}: {:.0} tokens/s, {how}\n",
        table.to_text(),
        machine.in_words(),
        findings.batch_tokens,
        words(findings.step_seconds),
        findings.tokens_per_second,
    );
    if let (Some(steps), Some(seconds)) = (findings.steps, findings.seconds) {
        text += &format!("all {steps} steps take {}\n", words(seconds));
    }
    if let Some(cost) = findings.cost {
        let of = if findings.seconds.is_some() { "all of it" } else { "a step" };
        text += &format!("{of} costs {cost:.4}\n");
    }
    text
}
