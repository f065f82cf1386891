//! Files that are there whole or not at all.

use crate::error::FormatsError;
use crate::output::{Output, folder_of, sync_directory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A file that grows under another name and gets its own only when it is published. Dropped before, it leaves nothing.
pub struct AtomicFile(BufWriter<Appender>);

impl AtomicFile {
    pub fn create(path: impl AsRef<Path>) -> Result<Self, FormatsError> {
        Ok(Self(BufWriter::new(Appender(Output::create(path.as_ref(), 0)?))))
    }

    /// Puts the file in place of the old one, if there is one.
    pub fn publish(mut self) -> Result<(), FormatsError> {
        let flushed = self.0.flush();
        let output = &mut self.0.get_mut().0;
        flushed.map_err(|source| output.failed(source))?;
        output.publish()?;
        sync_directory(folder_of(&output.path));
        Ok(())
    }

    fn failed(&self, source: io::Error) -> FormatsError {
        self.0.get_ref().0.failed(source)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Calls `fill` with a writer, then puts the file in place. If `fill` fails, the old file (or none) stays.
pub fn write_atomically(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FormatsError> {
    let mut file = AtomicFile::create(path)?;
    fill(&mut file).map_err(|source| file.failed(source))?;
    file.publish()
}

/// Writes `value` as indented JSON with a last newline.
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<(), FormatsError> {
    let path = path.as_ref();
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| FormatsError::BadJson { path: path.to_owned(), problem: error.to_string() })?;
    text.push(b'\n');
    write_atomically(path, |writer| writer.write_all(&text))
}

/// Reads what [`write_json`] wrote; the error says where in the file it went wrong.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, FormatsError> {
    let path = path.as_ref();
    let text = fs::read(path).map_err(|source| FormatsError::from_io("read", path, source))?;
    serde_json::from_slice(&text)
        .map_err(|error| FormatsError::BadJson { path: path.to_owned(), problem: error.to_string() })
}

struct Appender(Output);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
