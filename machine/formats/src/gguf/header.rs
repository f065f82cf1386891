//! The head of a GGUF file, believed only as far as the bytes bear it out.
//!
//! Layout (versions 2 and 3, little-endian): `GGUF`, version u32, number of tensors u64, number of keys u64; the keys,
//! each a string, a kind u32 and a value; the tensors, each a string, the number of dimensions u32, the dimensions u64
//! (the innermost first), a kind u32 and an offset u64; then, from the next multiple of the alignment on, the tensors'
//! bytes. A string is its length u64 and its bytes. Source: `docs/gguf.md` of the ggml project.

use super::kind::{format_of, supported};
use super::value::{Cursor, Flaw, Value, ValueKind};
use crate::error::{FormatsError, shown};
use numeric::Format;
use std::collections::HashMap;
use std::path::Path;

/// All that stands before the data. Real heads are ten megabytes (a vocabulary twice over); this bounds the time and
/// the memory that any file can cost.
const HEADER_BYTES_MAX: usize = 128 << 20;
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 20;
const DIMENSIONS_MAX: u32 = 4;
/// The least bytes of a key with its value, and of a tensor's entry.
const KEY_BYTES_LEAST: usize = 13;
const ENTRY_BYTES_LEAST: usize = 24;

const ALIGNMENT: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 20;

/// Where a key's value stands.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    kind: ValueKind,
    at: usize,
}

/// One tensor's place. `start..end` are offsets into the file; the shape's outermost dimension is first.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) shape: Vec<usize>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// In the order of the file.
    pub(crate) keys: Vec<Key>,
    key_positions: HashMap<String, usize>,
    /// In the order of their bytes.
    pub(crate) entries: Vec<Entry>,
    pub(crate) positions: HashMap<String, usize>,
}

/// What is wrong with a file.
enum Fault {
    Bytes(Flaw),
    Tensor { tensor: String, wanted: String, found: String },
}

impl From<Flaw> for Fault {
    fn from(flaw: Flaw) -> Self {
        Self::Bytes(flaw)
    }
}

fn bad(problem: String) -> Fault {
    Fault::Bytes(Flaw::Bad(problem))
}

/// Says what was being read when the bytes turned out wrong.
fn while_reading<T>(what: impl Fn() -> String, result: Result<T, Flaw>) -> Result<T, Fault> {
    result.map_err(|flaw| match flaw {
        Flaw::Bad(problem) => bad(format!("{}: {problem}", what())),
        end => Fault::Bytes(end),
    })
}

/// Reads and checks the head of `file`, the whole file's bytes.
pub(crate) fn parse(path: &Path, file: &[u8]) -> Result<Header, FormatsError> {
    let head = &file[..file.len().min(HEADER_BYTES_MAX)];
    let path = path.to_owned();
    let bad = |problem| FormatsError::BadHeader { path: path.clone(), format: "GGUF", problem };
    read(head, file.len() as u64).map_err(|fault| match fault {
        Fault::Bytes(Flaw::End { wanted }) if wanted <= file.len() as u64 => {
            bad(format!("wanted a header of at most {HEADER_BYTES_MAX} bytes, found one of {wanted} or more"))
        }
        Fault::Bytes(Flaw::End { wanted }) => {
            FormatsError::Truncated { path: path.clone(), wanted, found: file.len() as u64 }
        }
        Fault::Bytes(Flaw::Bad(problem)) => bad(problem),
        Fault::Tensor { tensor, wanted, found } => {
            FormatsError::BadTensor { path: path.clone(), tensor: shown(&tensor), wanted, found }
        }
    })
}

fn read(head: &[u8], file_bytes: u64) -> Result<Header, Fault> {
    let mut cursor = Cursor::new(head);
    let magic: [u8; 4] = cursor.fixed()?;
    if &magic != b"GGUF" {
        return Err(bad(format!(
            "wanted it to begin with \"GGUF\", found {}",
            shown(&String::from_utf8_lossy(&magic))
        )));
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        let hint = match version.swap_bytes() {
            2..=3 => " read backwards: it was written for a big-endian machine",
            _ => "",
        };
        let found = if hint.is_empty() { version } else { version.swap_bytes() };
        return Err(bad(format!("wanted version 2 or 3, found {found}{hint}")));
    }
    let (n_tensors, n_keys) = (cursor.u64()?, cursor.u64()?);
    for (count, most, what) in [(n_tensors, TENSORS_MAX, "tensors"), (n_keys, KEYS_MAX, "keys")] {
        if count > most {
            return Err(bad(format!("wanted at most {most} {what}, found {count}")));
        }
    }
    cursor.expect(n_keys, KEY_BYTES_LEAST)?;
    let (keys, key_positions) = read_keys(&mut cursor, n_keys)?;
    let mut header = Header { version, keys, key_positions, entries: Vec::new(), positions: HashMap::new() };
    let alignment = alignment(header.value(head, ALIGNMENT))?;
    cursor.expect(n_tensors, ENTRY_BYTES_LEAST)?;
    for _ in 0..n_tensors {
        header.entries.push(read_entry(&mut cursor, alignment)?);
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    place(&mut header.entries, data_start, file_bytes)?;
    for (position, entry) in header.entries.iter().enumerate() {
        if header.positions.insert(entry.name.clone(), position).is_some() {
            return Err(bad(format!("the tensor {} occurs twice", shown(&entry.name))));
        }
    }
    Ok(header)
}

fn read_keys(cursor: &mut Cursor, n_keys: u64) -> Result<(Vec<Key>, HashMap<String, usize>), Fault> {
    let (mut keys, mut positions) = (Vec::new(), HashMap::new());
    for index in 0..n_keys {
        let name = while_reading(|| format!("the name of key {index}"), cursor.string())?;
        let within = || format!("the key {}", shown(name));
        let kind = while_reading(within, cursor.kind())?;
        let at = cursor.position();
        while_reading(within, cursor.value(kind, 0))?;
        if positions.insert(name.to_owned(), keys.len()).is_some() {
            return Err(bad(format!("{} occurs twice", within())));
        }
        keys.push(Key { name: name.to_owned(), kind, at });
    }
    Ok((keys, positions))
}

fn alignment(value: Option<Value>) -> Result<u64, Fault> {
    let Some(value) = value else { return Ok(ALIGNMENT_DEFAULT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX => Ok(alignment),
        _ => Err(bad(format!("{ALIGNMENT}: wanted a power of two up to {ALIGNMENT_MAX}, found {value}"))),
    }
}

/// One entry, its offsets not yet moved to where the data begins.
fn read_entry(cursor: &mut Cursor, alignment: u64) -> Result<Entry, Fault> {
    let name = while_reading(|| "a tensor's name".to_owned(), cursor.string())?;
    let wrong = |wanted: String, found: String| Fault::Tensor { tensor: name.to_owned(), wanted, found };
    let n_dimensions = cursor.u32()?;
    if n_dimensions > DIMENSIONS_MAX {
        return Err(wrong(format!("at most {DIMENSIONS_MAX} dimensions"), n_dimensions.to_string()));
    }
    let mut sizes = Vec::new();
    for _ in 0..n_dimensions {
        sizes.push(cursor.u64()?);
    }
    let (kind, offset) = (cursor.u32()?, cursor.u64()?);
    let format = format_of(kind).map_err(|found| wrong(supported(), found))?;
    let bytes = bytes_of(&sizes, format).map_err(|wanted| wrong(wanted, format!("{sizes:?}, innermost first")))?;
    if !offset.is_multiple_of(alignment) {
        return Err(wrong(format!("data to begin at a multiple of {alignment}"), offset.to_string()));
    }
    let end = offset.checked_add(bytes).and_then(|end| usize::try_from(end).ok());
    let shape: Option<Vec<usize>> = sizes.iter().rev().map(|&size| usize::try_from(size).ok()).collect();
    let (Some(end), Ok(start), Some(shape)) = (end, usize::try_from(offset), shape) else {
        return Err(wrong("data at a place that can be counted".to_owned(), format!("{bytes} bytes at {offset}")));
    };
    Ok(Entry { name: name.to_owned(), format, shape, start, end })
}

/// The bytes of a tensor with these sizes, innermost first; else what would have been wanted.
fn bytes_of(sizes: &[u64], format: Format) -> Result<u64, String> {
    let block = format.block_columns() as u64;
    let columns = sizes.first().copied().unwrap_or(1);
    if sizes.contains(&0) {
        return Err("no dimension of zero".to_owned());
    }
    if !columns.is_multiple_of(block) {
        return Err(format!("rows of whole blocks of {block}"));
    }
    let row_bytes = (columns / block).checked_mul(format.block_bytes() as u64);
    let rows = sizes.iter().skip(1).try_fold(1u64, |product, &size| product.checked_mul(size));
    let bytes = row_bytes.zip(rows).and_then(|(bytes, rows)| bytes.checked_mul(rows));
    bytes.filter(|&bytes| usize::try_from(bytes).is_ok()).ok_or_else(|| "a size that can be counted".to_owned())
}

/// Moves entries to where the data begins and sorts them; they lie inside of the file, side by side.
fn place(entries: &mut [Entry], data_start: u64, file_bytes: u64) -> Result<(), Fault> {
    entries.sort_by_key(|entry| (entry.start, entry.end));
    let mut end_before = data_start;
    for entry in entries {
        let moved = |offset: usize| (offset as u64).checked_add(data_start);
        let (Some(start), Some(end)) = (moved(entry.start), moved(entry.end)) else {
            return Err(Flaw::End { wanted: u64::MAX }.into());
        };
        if end > file_bytes {
            return Err(Flaw::End { wanted: end }.into());
        }
        if start < end_before {
            return Err(Fault::Tensor {
                tensor: entry.name.clone(),
                wanted: format!("data to begin at {} or later", end_before - data_start),
                found: format!("{}, which overlaps the one before it", entry.start),
            });
        }
        (entry.start, entry.end) = (start as usize, end as usize);
        end_before = end;
    }
    Ok(())
}

impl Header {
    /// The value of a key; `file` is what was parsed.
    pub(crate) fn value<'a>(&self, file: &'a [u8], key: &str) -> Option<Value<'a>> {
        let key = &self.keys[*self.key_positions.get(key)?];
        // It was read before, so nothing can fail unless the file changed under its map.
        Cursor::at(file, key.at).value(key.kind, 0).ok()
    }
}
