//! A training stage by several processes: the first makes it as always, the others compute with it.

use super::training::model_to_train;
use super::{Build, Job};
use crate::failure::{self, Problem};
use crate::ranks::{self, Mpi};
use anyhow::Result;
use train::TrainRecipe;
use train::parallel::{self, Distributed, Ranks};

pub(crate) struct Together {
    ranks: Mpi,
    /// How many of them share a micro-batch.
    sequence_ranks: usize,
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

    /// What the first process trains with.
    pub(super) fn objective(&self, recipe: &TrainRecipe) -> Result<Distributed<'_>> {
        let (size, tokens) = (self.ranks.size(), recipe.batch_tokens / recipe.accumulation.max(1));
        match parallel::check(size, self.sequence_ranks, recipe.accumulation, tokens) {
            Ok(()) => Ok(Distributed::new(&self.ranks, self.sequence_ranks)),
            Err(why) => Err(Problem::new(why, "see docs/training.md, \"Several processes\"").into()),
        }
    }

    /// The first process is done.
    pub(crate) fn dismiss(&self) {
        parallel::dismiss(&self.ranks);
    }

    /// All that another process does.
    pub(crate) fn follow(&self, build: &Build<'_>, index: usize) -> Result<()> {
        let model = build.job(index).and_then(|job: Job<'_>| model_to_train(&job));
        match model {
            Ok(mut model) => {
                parallel::serve(&self.ranks, self.sequence_ranks, &mut model);
                Ok(())
            }
            Err(error) => {
                failure::report(&error);
                self.ranks.abort()
            }
        }
    }
}
