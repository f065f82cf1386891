//! The ways a file can fail us, each with what was wanted, what was found, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that reading or writing a file can end in.
#[derive(Debug, thiserror::Error)]
pub enum FormatsError {
    /// The operating system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    /// No room: the disk, a quota, or the largest file size allowed. Nothing was left behind.
    #[error(
        "no room for {}: it needs {bytes_wanted} bytes ({source}); free some space or choose another folder, \
         then run again",
        path.display()
    )]
    Full { path: PathBuf, bytes_wanted: u64, source: io::Error },

    /// The folder holds no weights.
    #[error(
        "no weights in {}: wanted model.safetensors, or model.safetensors.index.json with its shards; \
         is this a model directory?",
        path.display()
    )]
    NoModel { path: PathBuf },

    /// The file ends before its tensors do.
    #[error(
        "{} is cut off: its header wants {wanted} bytes, the file has {found}; download or write it again",
        path.display()
    )]
    Truncated { path: PathBuf, wanted: u64, found: u64 },

    /// The header itself is not one.
    #[error("{} is not a sound {format} file: {problem}", path.display())]
    BadHeader { path: PathBuf, format: &'static str, problem: String },

    /// One tensor's entry contradicts itself or its neighbours.
    #[error("{}: tensor {tensor}: wanted {wanted}, found {found}", path.display())]
    BadTensor { path: PathBuf, tensor: String, wanted: String, found: String },

    /// A tensor was asked for that is not there.
    #[error("{}: no tensor named {tensor} among its {n_tensors}{hint}", path.display())]
    NoTensor { path: PathBuf, tensor: String, n_tensors: usize, hint: String },

    /// An index, or a first shard, names a shard that is not beside it.
    #[error("{} names the shard {shard}, which is not there{detail}; the download is incomplete", index.display())]
    NoShard { index: PathBuf, shard: String, detail: String },

    /// A JSON file that cannot be understood.
    #[error("{} is not what it should be: {problem}", path.display())]
    BadJson { path: PathBuf, problem: String },

    /// A tensor holds another kind of number than was asked for.
    #[error("tensor {tensor}: wanted {wanted}, found {found}")]
    WrongKind { tensor: String, wanted: &'static str, found: &'static str },
}

impl FormatsError {
    /// Sorts an operating-system error: running out of room is its own kind, because a caller can act on it.
    pub fn from_write(path: &Path, bytes_wanted: u64, source: io::Error) -> Self {
        let no_room = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if no_room {
            return Self::Full { path: path.to_owned(), bytes_wanted, source };
        }
        Self::Io { action: "write", path: path.to_owned(), source }
    }

    pub(crate) fn from_io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// A name from a file as an error may show it: quoted, control characters escaped, and never a megabyte long.
pub(crate) fn shown(name: &str) -> String {
    const CHARACTERS_MAX: usize = 120;
    if name.chars().nth(CHARACTERS_MAX).is_none() {
        return format!("{name:?}");
    }
    let head: String = name.chars().take(CHARACTERS_MAX).collect();
    format!("{head:?}… ({} bytes)", name.len())
}
