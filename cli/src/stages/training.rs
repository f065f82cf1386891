//! Stages that train: from nothing, or from a model.

use super::distilling::Guided;
use super::watching::{Preparing, SystemRoots, Training as Watched};
use super::{Job, save_model};
use crate::failure::Problem;
use crate::place::{open_model, open_text, outline_model};
use crate::recipe::{Distill, Pretrain, SaveFormat, Training, Work};
use crate::terminal::say;
use crate::training_memory::{PlannedTraining, Pupil};
use anyhow::{Context, Result};
use evaluate::table::count_in_words;
use formats::SHARD_BYTES_MAX;
use models::adapter::{self, Export, Import};
use models::{Config, Loading, Model};
use numeric::Format;
use prepare::{DataRecipe, Dataset, Fit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use text::{Renderer, Template, Tokenizer};
use train::{Ending, Method, Run, Summary, Supervised, TrainRecipe};

/// The model that a stage trains, as every process of several has it; the first gives its numbers to the others.
pub(super) fn model_to_train(job: &Job<'_>) -> Result<Model> {
    let (mut model, recipe) = match &job.stage.work {
        Work::Pretrain(work) => (Model::random(configuration(job, work)?.1, work.train.seed), &work.train),
        Work::Sft(work) | Work::Recover(work) => (open_model(job.source()?, work.train.loading())?, &work.train),
        Work::Distill(work) => (open_model(job.source()?, work.train.loading())?, &work.train),
        Work::Prune(_) | Work::Quantize(_) | Work::Evaluate(_) => unreachable!("the stage trains nothing"),
    };
    train::attach(recipe, &mut model)?;
    Ok(model)
}

/// The file that a new model is described in, and what it says.
fn configuration(job: &Job<'_>, work: &Pretrain) -> Result<(PathBuf, Config)> {
    let path = work.config_path(&job.build.recipe.path);
    let reading = || format!("cannot use the configuration {}", path.display());
    let text = std::fs::read_to_string(&path).with_context(reading)?;
    let config = Config::from_json(&text).with_context(reading)?;
    Ok((path, config))
}

/// A new model, taught from nothing.
pub(super) fn pretrain(job: &Job<'_>, work: &Pretrain) -> Result<Value> {
    let (path, mut config) = configuration(job, work)?;
    let (tokenizer, template) = new_text(job, work, config.vocab_size)?;
    let (tokens, rows) = (tokenizer.vocabulary_size(), config.vocab_size);
    if tokens > rows {
        let message = format!("the tokenizer has {tokens} tokens, {} only {rows}", path.display());
        return Err(Problem::new(message, "raise its vocab_size").into());
    }
    job.check_interrupt()?;
    config.set_extra("eos_token_id", json!(tokenizer.end_tokens()));
    config.set_extra("pad_token_id", json!(tokenizer.pad_token()));
    if work.train.loading() != Loading::F32 {
        let message = format!("the stage {:?} begins with no model that could be frozen", job.stage.name);
        return Err(Problem::new(message, "remove quantize from its method").into());
    }
    let outline = |recipe: &TrainRecipe| Ok(Model::imagined(config.clone(), recipe.loading(), Format::F32));
    check(job, &work.train, &outline)?;
    let model = Model::random(config, work.train.seed);
    Lesson { job, data: &work.data, recipe: &work.train, save: work.save, guided: None }
        .teach(model, &tokenizer, &template)
}

/// Refuses what these processes cannot share, and what does not fit.
fn check(job: &Job<'_>, recipe: &TrainRecipe, outline: &dyn Fn(&TrainRecipe) -> Result<Model>) -> Result<()> {
    job.build.together.map_or(Ok(()), |together| together.check(recipe, false))?;
    let sequence_ranks = job.build.together.map_or(1, |together| together.sequence_ranks);
    let pupil = Pupil { outline, teacher: None, sequence_ranks };
    PlannedTraining::of(recipe, pupil)?.check(&job.stage.name, recipe)
}

/// The tokenizer of a new model: another model's, the one that an interrupted run made, or a new one.
fn new_text(job: &Job<'_>, work: &Pretrain, size: usize) -> Result<(Tokenizer, Template)> {
    if let Some(name) = &work.tokenizer.from {
        // A folder with a tokenizer and no model is enough.
        let is_folder = Path::new(name).join("tokenizer.json").is_file();
        return open_text(&if is_folder { name.into() } else { super::find_model(name, &job.earlier)? });
    }
    if job.directory.join("tokenizer.json").is_file() {
        return open_text(&job.directory);
    }
    let (template, watch) = (Template::embedded(), Preparing::default());
    let vocabulary = prepare::Vocabulary { size, episodes: work.tokenizer.documents };
    let tokenizer = prepare::train_tokenizer(vocabulary, &work.data, &template, &SystemRoots, &watch)
        .with_context(|| format!("cannot train the tokenizer of the stage {:?}", job.stage.name))?;
    template.save(&job.directory)?;
    tokenizer.save(&job.directory)?;
    Ok((tokenizer, template))
}

pub(super) fn continue_training(job: &Job<'_>, work: &Training) -> Result<Value> {
    let from = job.source()?;
    let outline = |recipe: &TrainRecipe| outline_model(from, recipe.loading());
    check(job, &work.train, &outline)?;
    let model = open_model(from, work.train.loading())?;
    let (tokenizer, template) = open_text(from)?;
    Lesson { job, data: &work.data, recipe: &work.train, save: work.save, guided: None }
        .teach(model, &tokenizer, &template)
}

/// More training of a model, after a teacher.
pub(super) fn distill(job: &Job<'_>, work: &Distill) -> Result<Value> {
    job.build.together.map_or(Ok(()), |together| together.check(&work.train, true))?;
    let from = job.source()?;
    let guided = Guided::of(job, work)?;
    let model = open_model(from, work.train.loading())?;
    let (tokenizer, template) = open_text(from)?;
    Lesson { job, data: &work.data, recipe: &work.train, save: work.save, guided: Some(guided) }
        .teach(model, &tokenizer, &template)
}

/// What will be trained, before it takes hours: a target that was meant and not written costs them all.
fn describe_adapters(model: &Model) {
    let found = adapter::summary(model);
    let share = 100.0 * found.parameters as f64 / found.base_parameters.max(1) as f64;
    let kinds = found.kinds.iter().map(|kind| match kind.ranks {
        [_, 0] => format!("{} (whole)", kind.kind),
        _ => kind.kind.clone(),
    });
    let kinds: Vec<String> = kinds.collect();
    let size = count_in_words(found.parameters as u64);
    say(&format!("  adapters of {size} parameters ({share:.1} % of the model): {}", kinds.join(", ")));
    if found.expert_weights > 0 && found.adapted_expert_weights == 0 {
        let weights = found.expert_weights;
        say(&format!(
            "  warning: none of the {weights} weights of routed experts has an adapter; targets = [\"experts\", …] \
             adds them"
        ));
    }
}

/// One training run of a stage.
struct Lesson<'a> {
    job: &'a Job<'a>,
    data: &'a DataRecipe,
    recipe: &'a TrainRecipe,
    save: SaveFormat,
    guided: Option<Guided<'a>>,
}

impl Lesson<'_> {
    fn teach(&self, mut model: Model, tokenizer: &Tokenizer, template: &Template) -> Result<Value> {
        let job = self.job;
        let renderer = Renderer::new(tokenizer, template);
        let dataset = self.load(&renderer)?;
        job.check_interrupt()?;
        let run = Run {
            title: &format!("{}: {}", job.build.recipe.title, job.stage.name),
            recipe: self.recipe,
            samples: &dataset.samples,
            validation: &dataset.validation,
            directory: &job.directory,
            result_bytes: &self.result_bytes(&model),
            cancelled: job.build.cancelled,
        };
        if let Method::Lora(lora) = &self.recipe.method {
            adapter::attach(&mut model, lora, self.recipe.seed)?;
            describe_adapters(&model);
        }
        let prepared = self.guided.as_ref().map(|guided| guided.prepare(job, &model, &dataset)).transpose()?;
        job.check_interrupt()?;
        let mut watched = Watched::new(&job.stage.name, job.build.dashboard, renderer, job.build.cancelled);
        let summary = match (&self.guided, prepared) {
            (Some(guided), Some(prepared)) => {
                let run = (&run, job.build.together);
                prepared.train(guided, run, &mut model, tokenizer.end_tokens(), &mut watched)?
            }
            _ => self.train_alone(&run, &mut model, &mut watched)?,
        };
        drop(watched);
        if summary.ending == Ending::Interrupted {
            return Err(job.interrupted(&format!("saved after step {}", summary.step)).into());
        }
        if let Some(best) = summary.best {
            let early = if summary.ending == Ending::StoppedEarly { "it ended early: " } else { "" };
            say(&format!("  {early}the result is the model of step {}, validation loss {:.4}", best.step, best.loss));
        }
        if model.has_adapters() {
            let (base, folder) = (job.from.as_deref().and_then(Path::to_str), job.directory.join("adapter"));
            adapter::save_peft(&model, &folder, &Export { base, ..Export::default() })?;
            if self.recipe.quantize.is_some() {
                // What was learnt goes onto the weights that the frozen ones were rounded from.
                drop(model);
                model = open_model(job.source()?, Loading::F32)?;
                adapter::load_peft(&mut model, &folder, &Import::default())?;
            }
            adapter::merge(&mut model);
        }
        save_model(&model, tokenizer, template, &job.directory, self.save)?;
        if let Some(from) = &job.from {
            super::pass_lineage_on(from, &job.directory, &model.config, None)?;
        }
        Ok(json!({
            "steps": summary.step,
            "loss": summary.loss,
            "validation": summary.validation,
            "best": summary.best,
            "parameters": model.parameter_count(),
            "data": dataset.statistics,
        }))
    }

    /// The run itself, without a teacher.
    fn train_alone(&self, run: &Run<'_>, model: &mut Model, watched: &mut Watched<'_>) -> Result<Summary> {
        Ok(match self.job.build.together {
            Some(together) => train::train(run, model, &mut together.objective(&mut Supervised), watched)?,
            None => train::train(run, model, &mut Supervised, watched)?,
        })
    }

    /// Sizes of the files of weights that the stage will write in the end.
    fn result_bytes(&self, model: &Model) -> Vec<u64> {
        let width = if self.save == SaveFormat::F32 { 4 } else { 2 };
        let total = model.parameter_count() as u64 * width;
        let whole = (total / SHARD_BYTES_MAX) as usize;
        let mut files = vec![SHARD_BYTES_MAX; whole];
        files.push(total % SHARD_BYTES_MAX);
        files
    }

    fn load(&self, renderer: &Renderer<'_>) -> Result<Dataset> {
        let fit = Fit { sequence_length: self.recipe.sequence_length, packing: self.recipe.packing };
        let dataset = prepare::load(self.data, renderer, fit, &SystemRoots, &Preparing::default())
            .with_context(|| format!("cannot prepare the data of the stage {:?}", self.job.stage.name))?;
        dataset.statistics.notes.iter().for_each(|note| say(&format!("  {note}")));
        Ok(dataset)
    }
}
