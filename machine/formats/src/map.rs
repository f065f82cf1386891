//! Mapping a file into memory, once for every format.

use crate::error::FormatsError;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Maps the file at `path`, which must be a plain file of at least `bytes_least` bytes.
pub(crate) fn map(path: &Path, bytes_least: u64) -> Result<Mmap, FormatsError> {
    let file = File::open(path).map_err(|source| FormatsError::from_io("open", path, source))?;
    let kind = file.metadata().map_err(|source| FormatsError::from_io("look at", path, source))?;
    if !kind.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file");
        return Err(FormatsError::from_io("map", path, source));
    }
    // An empty file cannot be mapped everywhere, and has nothing to say.
    if kind.len() < bytes_least {
        return Err(FormatsError::Truncated { path: path.to_owned(), wanted: bytes_least, found: kind.len() });
    }
    // SAFETY: the map is read-only and private to its owner. Nothing of ours changes a file in place (writers rename
    // whole files over old ones, which leaves the mapped one alone); a stranger who does is outside what a map can
    // guard against, as with any program that maps a file.
    unsafe { Mmap::map(&file) }.map_err(|source| FormatsError::from_io("map", path, source))
}

/// Has the system read a range of the file while others work. A hint, as below.
pub(crate) fn will_need(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // Linux cuts a request to what the disk takes at once, and forgets the rest; few disks take less than this.
        const REQUEST: usize = 256 << 10;
        for start in range.clone().step_by(REQUEST) {
            let len = REQUEST.min(range.end - start);
            if map.advise_range(memmap2::Advice::WillNeed, start, len).is_err() {
                return;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

/// Gives the pages of a range of the file back to the system; they are read again if someone looks. A hint: where the
/// system does not take it, they stay.
pub(crate) fn release(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        const PAGE: usize = 4096;
        // Pages at the ends may hold a neighbour's bytes.
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if start < end {
            // SAFETY: the map is of a file and read-only, so dropped pages come back with the same bytes.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}
