//! A file being made: written under `name.tmp`, given its name only when it is whole and on the disk.

use crate::error::FormatsError;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Dropped before [`Output::publish`], it leaves nothing behind.
pub(crate) struct Output {
    pub(crate) path: PathBuf,
    temporary: PathBuf,
    /// `None` once published.
    file: Option<File>,
    /// What the file is to hold in all, as far as is known: what an error about room will name.
    bytes_wanted: u64,
}

impl Output {
    /// Creates `path`'s temporary neighbour, and reserves `bytes_wanted` where the system can, so that a full disk is
    /// known now and not after an hour of work.
    pub(crate) fn create(path: &Path, bytes_wanted: u64) -> Result<Self, FormatsError> {
        let temporary = temporary_name(path);
        // A leftover of a killed run is removed, not opened: it might be a link to somewhere else.
        match fs::remove_file(&temporary) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FormatsError::from_io("remove the leftover", &temporary, source));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|source| FormatsError::from_write(path, bytes_wanted, source))?;
        let output = Self { path: path.to_owned(), temporary, file: Some(file), bytes_wanted };
        if bytes_wanted > 0 {
            reserve(output.open_file(), bytes_wanted).map_err(|source| output.failed(source))?;
        }
        Ok(output)
    }

    #[cfg(test)]
    pub(crate) fn over(path: &Path, file: File, bytes_wanted: u64) -> Self {
        Self { path: path.to_owned(), temporary: temporary_name(path), file: Some(file), bytes_wanted }
    }

    fn open_file(&self) -> &File {
        self.file.as_ref().expect("a published file is not written to")
    }

    pub(crate) fn failed(&self, source: io::Error) -> FormatsError {
        FormatsError::from_write(&self.path, self.bytes_wanted, source)
    }

    pub(crate) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FormatsError> {
        let mut file = self.open_file();
        let done = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
        done.map_err(|source| self.failed(source))
    }

    /// Appends, and counts: for files whose length is not known beforehand.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes_wanted += bytes.len() as u64;
        self.open_file().write_all(bytes)
    }

    /// Puts the bytes on the disk, then gives the file its name. After this a crash finds either the old or the new.
    pub(crate) fn publish(&mut self) -> Result<(), FormatsError> {
        self.open_file().sync_all().map_err(|source| self.failed(source))?;
        fs::rename(&self.temporary, &self.path).map_err(|source| self.failed(source))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nothing more can be done if even removing fails; the leftover is removed by the next run.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Whether files of these sizes fit into `folder` together, beside what is there: each is reserved for a moment under a
/// passing name, so that quotas and limits count, which figures of free space leave out. Where the system cannot
/// reserve, nothing is known and nothing refused.
pub fn check_room(folder: &Path, bytes: &[u64]) -> Result<(), FormatsError> {
    let reserved: Result<Vec<Output>, FormatsError> = bytes
        .iter()
        .enumerate()
        .map(|(index, &bytes)| Output::create(&folder.join(format!("room-{index}")), bytes))
        .collect();
    match reserved {
        Err(FormatsError::Full { source, .. }) => {
            let bytes_wanted = bytes.iter().sum();
            Err(FormatsError::Full { path: folder.to_owned(), bytes_wanted, source })
        }
        other => other.map(drop),
    }
}

/// Makes renames in `directory` last through a power cut. Systems that cannot do this are not asked twice.
pub(crate) fn sync_directory(directory: &Path) {
    if let Ok(handle) = File::open(directory) {
        let _ = handle.sync_all();
    }
}

/// The folder that a file is in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_else(|| panic!("{} does not name a file", path.display()));
    let mut temporary = OsString::from(name);
    temporary.push(".tmp");
    path.with_file_name(temporary)
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let Ok(length) = libc::off_t::try_from(bytes) else { return Err(io::ErrorKind::FileTooLarge.into()) };
    // SAFETY: the descriptor is open for writing as long as `file` is borrowed; the call touches no memory of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Err(error),
        // A file system that cannot reserve is no reason to stop: the writes themselves will tell.
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn full_device() -> File {
        OpenOptions::new().write(true).open("/dev/full").expect("every Linux has /dev/full")
    }

    #[test]
    fn a_full_disk_names_the_file_and_the_bytes() {
        let mut output = Output::over(Path::new("/nowhere/model.safetensors"), full_device(), 4096);
        let error = output.write_at(0, &[0; 100]).expect_err("nothing can be written there");
        assert!(matches!(error, FormatsError::Full { bytes_wanted: 4096, .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("/nowhere/model.safetensors") && message.contains("4096 bytes"), "{message}");
    }

    #[test]
    fn room_is_looked_for_and_given_back() {
        let folder = std::env::temp_dir().join(format!("lateen-room-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be made");
        check_room(&folder, &[1000, 1 << 20]).expect("a megabyte is there");
        // No file system has room for this, or says so by a limit of its own.
        let error = check_room(&folder, &[1000, 1 << 62]).expect_err("four exabytes are not");
        assert!(
            matches!(&error, FormatsError::Full { bytes_wanted, .. } if *bytes_wanted == 1000 + (1 << 62)),
            "{error}"
        );
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "nothing is left");
        fs::remove_dir(&folder).expect("it is empty");
    }

    #[test]
    fn an_appended_file_names_what_it_had_to_hold() {
        let mut output = Output::over(Path::new("/nowhere/report.json"), full_device(), 0);
        let source = output.append(&[0; 77]).expect_err("nothing can be written there");
        assert!(matches!(output.failed(source), FormatsError::Full { bytes_wanted: 77, .. }));
    }
}
