//! The processes that train together: those that `mpirun` started, where the program was built for that.

use crate::failure::Problem;
use anyhow::Result;

#[cfg(feature = "mpi")]
pub(crate) use with::{Mpi, start};
#[cfg(not(feature = "mpi"))]
pub(crate) use without::{Mpi, start};

/// Launchers of MPI programs say here how many processes there are (Open MPI; MPICH and Slurm's PMI).
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// Refuses what would train the same stage several times over in one folder.
fn refuse_several() -> Result<()> {
    let several = |name| std::env::var(name).is_ok_and(|size| size.parse().is_ok_and(|size: usize| size > 1));
    match SIZES.into_iter().any(several) {
        false => Ok(()),
        true => {
            let message = "several processes were started, and this program was built without MPI";
            Err(Problem::new(message, "cargo build --release --features mpi").into())
        }
    }
}

#[cfg(not(feature = "mpi"))]
mod without {
    use anyhow::Result;
    use train::parallel::Ranks;

    /// There is none.
    pub(crate) enum Mpi {}

    impl Mpi {
        pub(crate) fn abort(&self) -> ! {
            match *self {}
        }
    }

    impl Ranks for Mpi {
        fn rank(&self) -> usize {
            match *self {}
        }

        fn size(&self) -> usize {
            match *self {}
        }

        fn send(&self, _: usize, _: &[u8]) {
            match *self {}
        }

        fn receive(&self, _: usize) -> Vec<u8> {
            match *self {}
        }
    }

    pub(crate) fn start() -> Result<Option<Mpi>> {
        super::refuse_several().map(|()| None)
    }
}

#[cfg(feature = "mpi")]
mod with {
    use anyhow::{Context, Result};
    use mpi::environment::Universe;
    use mpi::topology::SimpleCommunicator;
    use mpi::traits::{Communicator, Destination, Source};
    use train::parallel::Ranks;

    /// Bytes of one message: MPI counts in 31 bits.
    const PIECE: usize = 1 << 30;

    pub(crate) struct Mpi {
        world: SimpleCommunicator,
        /// MPI ends when this is dropped.
        _universe: Universe,
    }

    /// All processes, if there are several. Messages are sent by the thread that calls this.
    pub(crate) fn start() -> Result<Option<Mpi>> {
        let universe = mpi::initialize().context("MPI was started before")?;
        let world = universe.world();
        match world.size() {
            1 => super::refuse_several().map(|()| None),
            _ => Ok(Some(Mpi { world, _universe: universe })),
        }
    }

    impl Mpi {
        /// Ends all processes: one that cannot go on would let the others wait.
        pub(crate) fn abort(&self) -> ! {
            self.world.abort(1)
        }
    }

    impl Drop for Mpi {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.abort();
            }
        }
    }

    impl Ranks for Mpi {
        fn rank(&self) -> usize {
            self.world.rank() as usize
        }

        fn size(&self) -> usize {
            self.world.size() as usize
        }

        fn send(&self, to: usize, message: &[u8]) {
            let other = self.world.process_at_rank(to as i32);
            other.send(&(message.len() as u64));
            message.chunks(PIECE).for_each(|piece| other.send(piece));
        }

        fn receive(&self, from: usize) -> Vec<u8> {
            let other = self.world.process_at_rank(from as i32);
            let (len, _) = other.receive::<u64>();
            let mut message = vec![0u8; len as usize];
            message.chunks_mut(PIECE).for_each(|piece| {
                other.receive_into(piece);
            });
            message
        }
    }
}
