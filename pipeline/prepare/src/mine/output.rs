//! One file for each kind, all of them whole or none of them there.

use super::episode::{Episode, MinedKind};
use crate::error::PrepareError;
use flate2::Compression;
use flate2::write::GzEncoder;
use formats::AtomicFile;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

enum Sheet {
    Plain(AtomicFile),
    Packed(GzEncoder<AtomicFile>),
}

/// The files that are being written.
pub(super) struct Output {
    sheets: BTreeMap<MinedKind, (PathBuf, Sheet)>,
}

impl Output {
    pub(super) fn create(folder: &Path, kinds: &[MinedKind], is_packed: bool) -> Result<Self, PrepareError> {
        let fail = |source| PrepareError::Io { action: "make the folder", path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(fail)?;
        let mut sheets = BTreeMap::new();
        for &kind in kinds {
            let path = folder.join(format!("{}.jsonl{}", kind.name(), if is_packed { ".gz" } else { "" }));
            let file = AtomicFile::create(&path)?;
            let sheet = match is_packed {
                true => Sheet::Packed(GzEncoder::new(file, Compression::default())),
                false => Sheet::Plain(file),
            };
            sheets.insert(kind, (path, sheet));
        }
        Ok(Self { sheets })
    }

    pub(super) fn write(&mut self, episode: &Episode, repository: &str) -> Result<(), PrepareError> {
        let (path, sheet) = self.sheets.get_mut(&episode.kind).expect("only wanted kinds are kept");
        let line = format!("{}\n", episode.line(repository));
        let written = match sheet {
            Sheet::Plain(file) => file.write_all(line.as_bytes()),
            Sheet::Packed(encoder) => encoder.write_all(line.as_bytes()),
        };
        written.map_err(|source| PrepareError::Io { action: "write", path: path.clone(), source })
    }

    /// Gives the files their names. Nothing has been lost before, and nothing is half there afterwards.
    pub(super) fn publish(self) -> Result<Vec<PathBuf>, PrepareError> {
        let mut paths = Vec::new();
        for (path, sheet) in self.sheets.into_values() {
            let file = match sheet {
                Sheet::Plain(file) => file,
                Sheet::Packed(encoder) => encoder.finish().map_err(|source| PrepareError::Io {
                    action: "write",
                    path: path.clone(),
                    source,
                })?,
            };
            file.publish()?;
            paths.push(path);
        }
        Ok(paths)
    }
}
