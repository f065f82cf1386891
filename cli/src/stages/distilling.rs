//! Stages that train beside a teacher: who it is, whether it can teach, and what is made ready before the first step.

use super::Job;
use super::watching::Training as Watched;
use crate::failure::Problem;
use crate::place::{open_model, outline_model};
use crate::recipe::Distill;
use crate::terminal::{Meter, say};
use anyhow::{Context, Result};
use models::{Lineage, Loading, Model};
use prepare::Dataset;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use train::objective::distill::{
    CacheKey, CacheRecipe, Cached, Projection, Resident, Students, TEACHER_CACHE, cache, check_pair, fit_projection,
};
use train::{Distillation, Run, Summary};

/// A stage's teacher, by name.
pub(super) struct Guided<'a> {
    pub(super) work: &'a Distill,
    pub(super) teacher: PathBuf,
}

/// What teaches, made ready.
pub(super) enum Prepared {
    Model { teacher: Box<Model>, projection: Option<Projection> },
    Cache(Cached),
}

impl<'a> Guided<'a> {
    /// Refuses a teacher that cannot teach the stage's model, before either is loaded.
    pub(super) fn of(job: &Job<'_>, work: &'a Distill) -> Result<Self> {
        let teacher = super::find_model(&work.teacher, &job.earlier)?;
        let from = job.source()?;
        let outlines = [teacher.as_path(), from].map(|place| outline_model(place, Loading::Stored));
        let [of_teacher, of_student] = outlines;
        check_pair(&work.distill, &of_teacher?.config, &of_student?.config)?;
        let tokenizer = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).ok();
        if tokenizer(&teacher) != tokenizer(from) {
            let message =
                format!("the teacher {:?} and the model of the stage have different tokenizers", work.teacher);
            let hint = "a teacher speaks of the tokens that the student knows: take one with the same tokenizer.json";
            return Err(Problem::new(message, hint).into());
        }
        Ok(Self { work, teacher })
    }

    /// Loads the teacher, or writes and opens what is to be kept of it.
    pub(super) fn prepare(&self, job: &Job<'_>, student: &Model, dataset: &Dataset) -> Result<Prepared> {
        let (distill, train) = (&self.work.distill, &self.work.train);
        if let Some(recipe) = &distill.cache {
            return self.cached(job, recipe, student, dataset);
        }
        let teacher = open_model(&self.teacher, distill.teacher_loading())?;
        let of_teacher = Lineage::read(&self.teacher, &teacher.config)?;
        let of_student = Lineage::read(job.source()?, &student.config)?;
        let lineage = Lineage::between((&of_teacher, &teacher.config), (&of_student, &student.config));
        let data = (dataset.samples.as_slice(), train.sequence_length);
        let projection = fit_projection(distill, (&teacher, student), &lineage, data);
        if let Some(missed) = projection.as_ref().map(|projection| &projection.missed).filter(|all| !all.is_empty()) {
            let mean = |at: usize| 100.0 * missed.iter().map(|layer| layer[at]).sum::<f64>() / missed.len() as f64;
            say(&format!(
                "  the teacher's experts laid onto the student's miss {:.1} % of its outputs, {:.1} % before they were \
                 fitted",
                mean(1),
                mean(0)
            ));
        }
        Ok(Prepared::Model { teacher: Box::new(teacher), projection })
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
            let teacher = open_model(&self.teacher, self.work.distill.teacher_loading())?;
            let tokens: usize = dataset.samples.iter().map(|sample| sample.tokens.len()).sum();
            let (mut meter, mut done) = (Meter::new("asking the teacher", tokens as u64, "tokens"), 0);
            let mut progress = |tokens: usize| {
                done += tokens as u64;
                meter.set(done, "");
            };
            let writing = || format!("cannot keep what the teacher says in {}", path.display());
            let whole =
                cache::write(&path, &teacher, &key, job.build.cancelled, &mut progress).with_context(writing)?;
            if !whole {
                return Err(job.interrupted("the teacher was not asked about all of the data").into());
            }
        }
        Ok(Prepared::Cache(Cached::open(&path, &key)?))
    }
}

impl Prepared {
    /// The run itself.
    pub(super) fn train(
        &mut self,
        guided: &Guided<'_>,
        run: &Run<'_>,
        model: &mut Model,
        stop: &[u32],
        watched: &mut Watched<'_>,
    ) -> Result<Summary> {
        let (work, recipe) = (guided.work, guided.work.distill.clone());
        let seed = work.train.seed;
        let (config, stop) = (model.config.clone(), stop.to_vec());
        let summary = match self {
            Self::Model { teacher, projection } => {
                let mut teacher = Resident { model: teacher, chunk_tokens: work.train.chunk_tokens };
                let (projection, student) = (projection.take(), &config);
                let made = Students { recipe, teacher: &mut teacher, projection, student, stop, seed };
                train::train(run, model, &mut Distillation::new(made), watched)?
            }
            Self::Cache(teacher) => {
                let made = Students { recipe, teacher, projection: None, student: &config, stop, seed };
                train::train(run, model, &mut Distillation::new(made), watched)?
            }
        };
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
