//! Stages that train beside a teacher: who it is, whether it can teach, and what is made ready before the first step.

use super::Job;
use super::together::Together;
use super::watching::Training as Watched;
use crate::failure::Problem;
use crate::place::{open_model, open_text, outline_model};
use crate::recipe::Distill;
use crate::terminal::{Meter, say};
use crate::training_memory::{BesideTeacher, PlannedTraining, Pupil};
use anyhow::{Context, Result};
use models::{LayerStream, Layers, Lineage, Loading, Model};
use numeric::wire::{Message, Reading};
use prepare::Dataset;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use text::Tokenizer;
use train::objective::distill::{
    CacheKey, CacheRecipe, Cached, Projection, Resident, Streamed, Students, TEACHER_CACHE, Teacher, cache, check_pair,
    fit_projection,
};
use train::{Distillation, Objective, Run, Summary, TrainRecipe, parallel};

/// A stage's teacher, by name.
pub(super) struct Guided<'a> {
    pub(super) work: &'a Distill,
    pub(super) teacher: PathBuf,
    /// Whether its layers stay on disk.
    is_streamed: bool,
}

/// A teacher that was opened.
pub(super) enum Opened {
    Resident(Box<Model>),
    Streamed(Box<LayerStream>),
}

/// What teaches, made ready.
pub(super) enum Prepared {
    Model { teacher: Opened, projection: Option<Projection> },
    Cache(Cached),
}

impl Opened {
    fn layers(&self) -> Layers<'_> {
        match self {
            Self::Resident(model) => Layers::Resident(model),
            Self::Streamed(stream) => Layers::Streamed(stream),
        }
    }
}

impl<'a> Guided<'a> {
    /// Refuses a teacher that cannot teach the stage's model, and what does not fit into memory, before either is
    /// loaded.
    pub(super) fn of(job: &Job<'_>, work: &'a Distill) -> Result<Self> {
        let teacher = super::find_model_to_run(&work.teacher, &job.earlier)?;
        let from = job.source()?;
        let outlines = [teacher.as_path(), from].map(|place| outline_model(place, Loading::Stored));
        let [of_teacher, of_student] = outlines;
        check_pair(&work.distill, &of_teacher?.config, &of_student?.config)?;
        if !speak_alike(&teacher, from)? {
            let message =
                format!("the teacher {:?} and the model of the stage have different tokenizers", work.teacher);
            let hint = "a teacher speaks of the tokens that the student knows: take one with the same tokenizer.json";
            return Err(Problem::new(message, hint).into());
        }
        let outline = |recipe: &TrainRecipe| outline_model(from, recipe.loading());
        let of_teacher = |loading| outline_model(&teacher, loading);
        let beside = BesideTeacher { distill: &work.distill, outline: &of_teacher };
        let pupil = Pupil { outline: &outline, teacher: Some(&beside), sequence_ranks: 1 };
        let planned = PlannedTraining::of(&work.train, pupil)?;
        planned.check(&job.stage.name, &work.train)?;
        let is_streamed = planned.is_streamed;
        Ok(Self { work, teacher, is_streamed })
    }

    fn open(&self) -> Result<Opened> {
        let loading = self.work.distill.teacher_loading();
        if !self.is_streamed {
            return Ok(Opened::Resident(Box::new(open_model(&self.teacher, loading)?)));
        }
        let reading = || format!("cannot open the model in {}", self.teacher.display());
        Ok(Opened::Streamed(Box::new(LayerStream::open(&self.teacher, loading).with_context(reading)?)))
    }

    /// Loads the teacher, or writes and opens what is to be kept of it.
    pub(super) fn prepare(&self, job: &Job<'_>, student: &Model, dataset: &Dataset) -> Result<Prepared> {
        let (distill, train) = (&self.work.distill, &self.work.train);
        if self.is_streamed {
            say("  the teacher's layers stay on disk, and are read once for each step");
        }
        if let Some(recipe) = &distill.cache {
            return self.cached(job, recipe, student, dataset);
        }
        let teacher = self.open()?;
        let of_teacher = Lineage::read(&self.teacher, teacher.layers().config())?;
        let of_student = Lineage::read(job.source()?, &student.config)?;
        let lineage = Lineage::between((&of_teacher, teacher.layers().config()), (&of_student, &student.config));
        let projection = fit_projection(distill, (teacher.layers(), student), &lineage, (&dataset.samples, train))?;
        if let Some(missed) = projection.as_ref().map(|projection| &projection.missed).filter(|all| !all.is_empty()) {
            let mean = |at: usize| 100.0 * missed.iter().map(|layer| layer[at]).sum::<f64>() / missed.len() as f64;
            say(&format!(
                "  the teacher's experts laid onto the student's miss {:.1} % of its outputs, {:.1} % before they were \
                 fitted",
                mean(1),
                mean(0)
            ));
        }
        Ok(Prepared::Model { teacher, projection })
    }

    fn cached(&self, job: &Job<'_>, recipe: &CacheRecipe, student: &Model, dataset: &Dataset) -> Result<Prepared> {
        let train = &self.work.train;
        let key = CacheKey {
            teacher: super::hash_model(&self.teacher)?,
            vocabulary: student.config.vocab_size,
            samples: &dataset.samples,
            sequence_length: train.sequence_length,
            truncates: train.packing.truncates(),
            temperature: self.work.distill.temperature,
            recipe,
            seed: train.seed,
        };
        let path = job.directory.join(TEACHER_CACHE);
        if !path.is_file() {
            let teacher = self.open()?;
            let tokens: usize = dataset.samples.iter().map(|sample| sample.tokens.len()).sum();
            let (mut meter, mut done) = (Meter::new("asking the teacher", tokens as u64, "tokens"), 0);
            let mut progress = |tokens: usize| {
                done += tokens as u64;
                meter.set(done, "");
            };
            let writing = || format!("cannot keep what the teacher says in {}", path.display());
            let whole = cache::write(&path, teacher.layers(), &key, job.build.cancelled, &mut progress)
                .with_context(writing)?;
            if !whole {
                return Err(job.interrupted("the teacher was not asked about all of the data").into());
            }
        }
        Ok(Prepared::Cache(Cached::open(&path, &key)?))
    }

    /// What another process than the first does: it teaches some of each step's micro-batches, as the first made ready.
    pub(super) fn follow(&self, job: &Job<'_>, together: &Together, model: &mut Model, stop: &[u32]) -> Result<()> {
        let (distill, train) = (&self.work.distill, &self.work.train);
        let opened = if distill.cache.is_none() { Some(self.open()?) } else { None };
        let Some(made) = together.wait() else { return Ok(()) };
        let mut reading = Reading::new(&made);
        let prepared = match opened {
            None => Prepared::Cache(Cached::take(&job.directory.join(TEACHER_CACHE), &mut reading)?),
            Some(teacher) => {
                let is_there = reading.take() == 1;
                let projection = is_there.then(|| Projection::take(&mut reading, distill, train));
                Prepared::Model { teacher, projection }
            }
        };
        reading.end();
        let config = model.config.clone();
        prepared.with_objective(self, (&config, stop), |objective| {
            together.serve(model, objective)?;
            Ok(())
        })
    }
}

/// Whether the tokens of a teacher, which may be a GGUF file, are those of a student's folder.
fn speak_alike(teacher: &Path, student: &Path) -> Result<bool> {
    if teacher.is_dir() {
        let file = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).ok();
        return Ok(file(teacher) == file(student));
    }
    let [one, other]: [Tokenizer; 2] = [open_text(teacher)?.0, open_text(student)?.0];
    // A file may have names for rows that only fill the table up.
    let known = other.vocabulary_size();
    Ok(known <= one.vocabulary_size() && (0..known as u32).all(|id| one.token_bytes(id) == other.token_bytes(id)))
}

impl Prepared {
    /// For the other processes.
    fn made(&self) -> Message {
        let mut message = Message::default();
        match self {
            Self::Model { projection, .. } => {
                message.put(u64::from(projection.is_some()));
                projection.iter().for_each(|projection| projection.put(&mut message));
            }
            Self::Cache(cached) => cached.put(&mut message),
        }
        message
    }

    /// Does something with what is learnt after the teacher.
    fn with_objective<R>(
        self,
        guided: &Guided<'_>,
        (student, stop): (&models::Config, &[u32]),
        work: impl FnOnce(&mut dyn Objective) -> Result<R>,
    ) -> Result<R> {
        let (recipe, train, stop) = (guided.work.distill.clone(), &guided.work.train, stop.to_vec());
        let (seed, chunk_tokens) = (train.seed, train.chunk_tokens);
        let learn = |teacher: &mut dyn Teacher, projection: Option<Projection>| {
            let made = Students { recipe, teacher, projection, student, stop, seed };
            work(&mut Distillation::new(made))
        };
        match self {
            Self::Model { teacher: Opened::Resident(model), projection } => {
                learn(&mut Resident { model: &model, chunk_tokens }, projection)
            }
            Self::Model { teacher: Opened::Streamed(stream), projection } => {
                learn(&mut Streamed::new(&stream, chunk_tokens)?, projection)
            }
            Self::Cache(mut cached) => learn(&mut cached, None),
        }
    }

    /// The run itself, by all processes where there are several.
    pub(super) fn train(
        self,
        guided: &Guided<'_>,
        (run, together): (&Run<'_>, Option<&Together>),
        model: &mut Model,
        stop: &[u32],
        watched: &mut Watched<'_>,
    ) -> Result<Summary> {
        if let Some(together) = together {
            parallel::ready(together.ranks(), &self.made());
        }
        let config = model.config.clone();
        let summary = self.with_objective(guided, (&config, stop), |objective| {
            Ok(match together {
                Some(together) => train::train(run, model, &mut together.objective(objective), watched)?,
                None => train::train(run, model, objective, watched)?,
            })
        })?;
        if !run.cancelled.load(Ordering::Relaxed) && summary.ending != train::Ending::Interrupted {
            // What it saved is done, and it is larger than the model.
            let path = run.directory.join(TEACHER_CACHE);
            if path.is_file() {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(summary)
    }
}
