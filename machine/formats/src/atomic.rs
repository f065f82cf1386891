//! Files that are there whole or not at all.

use crate::error::FormatsError;
use crate::output::{Output, folder_of, sync_directory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Calls `fill` with a writer, then puts the file in place. If `fill` fails, the old file (or none) stays.
pub fn write_atomically(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FormatsError> {
    let path = path.as_ref();
    let mut output = Output::create(path, 0)?;
    let filled = {
        let mut writer = BufWriter::new(Appender(&mut output));
        fill(&mut writer).and_then(|()| writer.flush())
    };
    filled.map_err(|source| output.failed(source))?;
    output.publish()?;
    sync_directory(folder_of(path));
    Ok(())
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

struct Appender<'a>(&'a mut Output);

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
