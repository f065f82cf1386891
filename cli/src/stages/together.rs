//! A training stage by several processes: the first makes it as always, the others compute with it.

use super::distilling::Guided;
use super::training::model_to_train;
use super::{Build, Job};
use crate::failure::{self, Problem};
use crate::place::open_text;
use crate::ranks::{self, Mpi};
use crate::recipe::Work;
use anyhow::Result;
use models::Model;
use train::parallel::{self, Distributed, Ranks, Sharing};
use train::{Objective, Supervised, TrainError, TrainRecipe};

/// Refuses a stage that so many processes cannot share, of which so many take each micro-batch together.
pub(crate) fn check_sharing(
    (size, sequence_ranks): (usize, usize),
    recipe: &TrainRecipe,
    has_teacher: bool,
) -> Result<()> {
    let tokens = recipe.batch_tokens / recipe.accumulation.max(1);
    let sharing = Sharing { size, sequence_ranks, micro_batches: recipe.accumulation, tokens, has_teacher };
    parallel::check(sharing).map_err(|why| Problem::new(why, "see docs/training.md, \"Several processes\"").into())
}

pub(crate) struct Together {
    ranks: Mpi,
    /// How many of them share a micro-batch.
    pub(super) sequence_ranks: usize,
}

impl Together {
    /// Nothing if there is one process.
    pub(crate) fn start(sequence_ranks: usize) -> Result<Option<Self>> {
        let together = ranks::start()?.map(|ranks| Self { ranks, sequence_ranks });
        match (&together, sequence_ranks) {
            (None, 2..) => {
                let message = format!("--sequence-ranks {sequence_ranks} needs as many processes, and there is one");
                Err(Problem::new(message, "mpirun -n 4 lateen train …, with a program built with --features mpi")
                    .into())
            }
            _ => Ok(together),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// Refuses a stage that so many processes cannot share.
    pub(super) fn check(&self, recipe: &TrainRecipe, has_teacher: bool) -> Result<()> {
        check_sharing((self.ranks.size(), self.sequence_ranks), recipe, has_teacher)
    }

    pub(super) fn ranks(&self) -> &dyn Ranks {
        &self.ranks
    }

    /// What the first process trains with.
    pub(super) fn objective<'o>(&'o self, objective: &'o mut dyn Objective) -> Distributed<'o, 'o> {
        Distributed::new(&self.ranks, self.sequence_ranks, objective)
    }

    /// What the first process made ready; nothing if it ended before.
    pub(super) fn wait(&self) -> Option<Vec<u8>> {
        parallel::wait(&self.ranks)
    }

    /// Computes until the first process is done.
    pub(super) fn serve(&self, model: &mut Model, objective: &mut dyn Objective) -> Result<(), TrainError> {
        parallel::serve(&self.ranks, self.sequence_ranks, model, objective)
    }

    /// The first process is done.
    pub(crate) fn dismiss(&self) {
        parallel::dismiss(&self.ranks);
    }

    /// All that another process does.
    pub(crate) fn follow(&self, build: &Build<'_>, index: usize) -> Result<()> {
        match build.job(index).and_then(|job: Job<'_>| self.compute(&job)) {
            Ok(()) => Ok(()),
            Err(error) => {
                failure::report(&error);
                self.ranks.abort()
            }
        }
    }

    fn compute(&self, job: &Job<'_>) -> Result<()> {
        let mut model = model_to_train(job)?;
        match &job.stage.work {
            Work::Distill(work) => {
                let stop = open_text(job.source()?)?.0.end_tokens().to_vec();
                Guided::of(job, work)?.follow(job, self, &mut model, &stop)
            }
            _ => Ok(self.serve(&mut model, &mut Supervised)?),
        }
    }
}
