//! The residual stream between layers, and what the loss asks of it: batch by batch, in memory or in files.
//!
//! A file holds the rows of all batches, f32 after f32, little-endian; it has its name only when it is whole.

use crate::CompressError;
use formats::{AtomicFile, FormatsError};
use ops::Buffer;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// What goes into a layer; of the number of layers what comes out of the last.
    Inputs(usize),
    /// `∂L/∂x` of the same.
    Asked(usize),
}

/// Numbers that are converted at a time.
const PIECE: usize = 1 << 16;

pub(crate) struct States {
    /// Rows of each batch.
    rows: Vec<usize>,
    width: usize,
    /// None: they are in memory.
    folder: Option<PathBuf>,
    memory: BTreeMap<Name, Vec<Buffer>>,
}

/// States that are being filled, batch after batch.
pub(crate) enum Filling {
    Memory(Name, Vec<Buffer>),
    File(AtomicFile),
}

impl States {
    pub(crate) fn new(rows: Vec<usize>, width: usize, folder: Option<&Path>) -> Result<Self, CompressError> {
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|source| FormatsError::from_write(folder, 0, source))?;
        }
        Ok(Self { rows, width, folder: folder.map(Path::to_owned), memory: BTreeMap::new() })
    }

    fn path(&self, name: Name) -> Option<PathBuf> {
        let file = match name {
            Name::Inputs(layer) => format!("inputs-{layer:04}.f32"),
            Name::Asked(layer) => format!("asked-{layer:04}.f32"),
        };
        Some(self.folder.as_ref()?.join(file))
    }

    fn bytes(&self, batches: usize) -> u64 {
        (self.rows[..batches].iter().sum::<usize>() * self.width * size_of::<f32>()) as u64
    }

    /// Whether the first batches are there.
    pub(crate) fn has(&self, name: Name, batches: usize) -> bool {
        match self.path(name) {
            Some(path) => fs::metadata(path).is_ok_and(|found| found.len() >= self.bytes(batches)),
            None => self.memory.get(&name).is_some_and(|kept| kept.len() >= batches),
        }
    }

    pub(crate) fn begin(&self, name: Name) -> Result<Filling, CompressError> {
        match self.path(name) {
            Some(path) => Ok(Filling::File(AtomicFile::create(path)?)),
            None => Ok(Filling::Memory(name, Vec::new())),
        }
    }

    pub(crate) fn finish(&mut self, filling: Filling) -> Result<(), CompressError> {
        match filling {
            Filling::Memory(name, kept) => {
                self.memory.insert(name, kept);
            }
            Filling::File(file) => file.publish()?,
        }
        Ok(())
    }

    /// One batch `[T, H]`. In memory it is gone then unless it is to be kept.
    pub(crate) fn get(&mut self, name: Name, batch: usize, keep: bool) -> Result<Buffer, CompressError> {
        if let Some(path) = self.path(name) {
            return self.read(&path, batch);
        }
        let kept = self.memory.get_mut(&name).expect("whoever asks has filled it before");
        Ok(match keep {
            true => kept[batch].clone(),
            false => std::mem::replace(&mut kept[batch], Buffer::zeros(0, 1)),
        })
    }

    fn read(&self, path: &Path, batch: usize) -> Result<Buffer, CompressError> {
        let failed = |source| FormatsError::Io { action: "read", path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.bytes(batch))).map_err(failed)?;
        let mut buffer = Buffer::unwritten(self.rows[batch], self.width);
        let mut bytes = vec![0; PIECE * size_of::<f32>()];
        for piece in buffer.chunks_mut(PIECE) {
            let bytes = &mut bytes[..size_of_val(piece)];
            file.read_exact(bytes).map_err(failed)?;
            let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            piece.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
        }
        Ok(buffer)
    }

    pub(crate) fn remove(&mut self, name: Name) {
        self.memory.remove(&name);
        if let Some(path) = self.path(name) {
            // What is left for want of rights is overwritten by the next job, or removed with the folder.
            let _ = fs::remove_file(path);
        }
    }

    /// Keeps the first batches only.
    pub(crate) fn shorten(&mut self, name: Name, batches: usize) -> Result<(), CompressError> {
        if batches == 0 {
            self.remove(name);
        } else if let Some(path) = self.path(name) {
            let cut = |bytes| OpenOptions::new().write(true).open(&path)?.set_len(bytes);
            cut(self.bytes(batches)).map_err(|source| FormatsError::from_write(&path, 0, source))?;
        } else if let Some(kept) = self.memory.get_mut(&name) {
            kept.truncate(batches);
        }
        Ok(())
    }

    /// Removes all of them: nothing will be asked of them any more.
    pub(crate) fn clear(&mut self) {
        self.memory.clear();
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Filling {
    pub(crate) fn put(&mut self, batch: Buffer) -> Result<(), CompressError> {
        match self {
            Self::Memory(_, kept) => kept.push(batch),
            Self::File(file) => {
                let mut write = |piece: &[f32]| -> io::Result<()> {
                    let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
                    file.write_all(&bytes)
                };
                let written = batch.chunks(PIECE).try_for_each(&mut write);
                written.map_err(|source| FormatsError::from_write(Path::new("hidden states"), 0, source))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_memory_give_back_what_was_put() {
        let folder = std::env::temp_dir().join(format!("lateen-states-{}", std::process::id()));
        for place in [None, Some(folder.as_path())] {
            let mut states = States::new(vec![3, 5, 2], 7, place).expect("a folder");
            let batches =
                [3, 5, 2].map(|rows| Buffer::from_values(7, (0..rows * 7).map(|i| (i as f32).sin() * 1e-20).collect()));
            let mut filling = states.begin(Name::Inputs(4)).expect("it begins");
            for batch in &batches {
                assert!(!states.has(Name::Inputs(4), 1), "nothing is there before all of it is");
                filling.put(batch.clone()).expect("room");
            }
            states.finish(filling).expect("it is put in place");
            assert!(states.has(Name::Inputs(4), 3) && !states.has(Name::Asked(4), 1));
            for at in [1, 0, 2] {
                assert_eq!(states.get(Name::Inputs(4), at, true).expect("it is there")[..], batches[at][..]);
            }
            states.shorten(Name::Inputs(4), 2).expect("it is cut");
            assert!(states.has(Name::Inputs(4), 2) && !states.has(Name::Inputs(4), 3));
            assert_eq!(states.get(Name::Inputs(4), 1, false).expect("it is there")[..], batches[1][..]);
            states.remove(Name::Inputs(4));
            assert!(!states.has(Name::Inputs(4), 1));
            states.clear();
        }
        assert!(!folder.exists());
    }
}
