//! GGUF: a whole model in one memory-mapped file, or in several that say so themselves.
//!
//! Every length is checked before it is used: what opens can be read to its last byte.

mod header;
mod kind;
mod value;

pub use kind::name_of;
pub use value::{Array, Value, ValueKind};

use crate::error::{FormatsError, shown};
use crate::map::{map, release, will_need};
use crate::safetensors::no_tensor;
use header::Header;
use memmap2::Mmap;
use numeric::{Format, Matrix};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The usual ending of such a file's name.
pub const EXTENSION: &str = "gguf";

/// A tensor lent from a mapped file. `bytes` are those of `shape` in `format`: checked when the file was opened.
#[derive(Debug, Clone, Copy)]
pub struct GgufTensor<'a> {
    pub name: &'a str,
    pub format: Format,
    /// The outermost dimension first, as everywhere in this program (the file has it the other way round).
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl<'a> GgufTensor<'a> {
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Part `index` along the outermost dimension: one expert of a stack of them.
    pub fn part(&self, index: usize) -> Option<Self> {
        let (&count, shape) = self.shape.split_first()?;
        let bytes = self.bytes.len() / count;
        (index < count).then(|| Self { shape, bytes: &self.bytes[index * bytes..(index + 1) * bytes], ..*self })
    }

    /// The numbers in memory, in the format that the file has: rows along the innermost dimension. An NVFP4 tensor's
    /// scale is a tensor of its own: see `Matrix::with_tensor_scale`.
    pub fn to_matrix(&self) -> Matrix {
        let columns = self.shape.last().copied().unwrap_or(1);
        let matrix = Matrix::from_le_bytes(self.n_values() / columns, columns, self.format, self.bytes);
        matrix.expect("shape, format and bytes were held together when the file was opened")
    }
}

/// The bytes of a file.
enum Bytes {
    Mapped(Mmap),
    Given(Vec<u8>),
}

struct File {
    bytes: Bytes,
    header: Header,
}

impl File {
    fn open(path: &Path) -> Result<Self, FormatsError> {
        Self::read(path, Bytes::Mapped(map(path, 8)?))
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self, FormatsError> {
        let header = match &bytes {
            Bytes::Mapped(map) => header::parse(path, map),
            Bytes::Given(bytes) => header::parse(path, bytes),
        }?;
        Ok(Self { bytes, header })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Given(bytes) => bytes,
        }
    }

    fn value(&self, key: &str) -> Option<Value<'_>> {
        self.header.value(self.bytes(), key)
    }

    fn at(&self, position: usize) -> GgufTensor<'_> {
        let entry = &self.header.entries[position];
        let bytes = &self.bytes()[entry.start..entry.end];
        GgufTensor { name: &entry.name, format: entry.format, shape: &entry.shape, bytes }
    }
}

/// A model in GGUF: its metadata and tensors, whichever of its files they are in.
pub struct Gguf {
    path: PathBuf,
    files: Vec<File>,
    /// Which file, and where in it.
    places: HashMap<String, (usize, usize)>,
}

impl Gguf {
    /// Opens a file, and those that belong to it where it is one of several (`…-00001-of-00003.gguf`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatsError> {
        let path = path.as_ref();
        let first = File::open(path)?;
        match first.value("split.count").map(|value| value.as_u64()) {
            None | Some(Some(0 | 1)) => Self::gather(path, vec![first]),
            Some(Some(count)) => Self::open_shards(path, count),
            Some(None) => Err(bad(path, "split.count is no number".to_owned())),
        }
    }

    /// Reads a whole file that is already in memory; `path` is for errors.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self, FormatsError> {
        let path = path.as_ref();
        let file = File::read(path, Bytes::Given(bytes))?;
        if file.value("split.count").and_then(|value| value.as_u64()).is_some_and(|count| count > 1) {
            return Err(bad(path, "it is one of several files, and only it was given".to_owned()));
        }
        Self::gather(path, vec![file])
    }

    fn open_shards(path: &Path, count: u64) -> Result<Self, FormatsError> {
        let shards = shard_paths(path, count)?;
        let mut files = Vec::with_capacity(shards.len());
        for (number, shard) in (0..count).zip(&shards) {
            if !shard.exists() {
                let name = shown(&shard.file_name().unwrap_or_default().to_string_lossy());
                let detail = format!(" (it is number {} of {count})", number + 1);
                return Err(FormatsError::NoShard { index: path.to_owned(), shard: name, detail });
            }
            let file = File::open(shard)?;
            for (key, wanted) in [("split.count", count), ("split.no", number)] {
                let found = file.value(key);
                if found.and_then(|value| value.as_u64()) != Some(wanted) {
                    let found = found.map_or("no such key".to_owned(), |value| value.to_string());
                    return Err(bad(shard, format!("{key}: wanted {wanted}, found {found}")));
                }
            }
            files.push(file);
        }
        let wanted = files[0].value("split.tensors.count").and_then(|value| value.as_u64());
        let all = Self::gather(path, files)?;
        match wanted {
            Some(wanted) if wanted != all.len() as u64 => {
                Err(bad(path, format!("split.tensors.count is {wanted}, its {count} files have {}", all.len())))
            }
            _ => Ok(all),
        }
    }

    fn gather(path: &Path, files: Vec<File>) -> Result<Self, FormatsError> {
        let mut places = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for (position, entry) in file.header.entries.iter().enumerate() {
                if places.insert(entry.name.clone(), (number, position)).is_some() {
                    return Err(bad(path, format!("the tensor {} occurs in two of its files", shown(&entry.name))));
                }
            }
        }
        Ok(Self { path: path.to_owned(), files, places })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.files[0].header.version
    }

    /// The value of a metadata key; of several files the first has them all.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.files[0].value(key)
    }

    /// The metadata keys in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.files[0].header.keys.iter().map(|key| key.name.as_str())
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn contains(&self, tensor: &str) -> bool {
        self.places.contains_key(tensor)
    }

    /// Lets the system have a tensor's pages back, after it has been copied: memory then does not hold it twice.
    pub fn release(&self, bytes: &[u8]) {
        if let Some((map, range)) = self.place(bytes) {
            release(map, range);
        }
    }

    /// Lets the system read a tensor's bytes, or some of them, while something else is done.
    pub fn will_need(&self, bytes: &[u8]) {
        if let Some((map, range)) = self.place(bytes) {
            will_need(map, range);
        }
    }

    /// Where bytes of this file's lie in it, if it is mapped.
    fn place(&self, bytes: &[u8]) -> Option<(&Mmap, Range<usize>)> {
        let start = bytes.as_ptr().addr();
        self.files.iter().find_map(|file| {
            let Bytes::Mapped(map) = &file.bytes else { return None };
            let range = map.as_ptr_range();
            let from = start.checked_sub(range.start.addr())?;
            (from + bytes.len() <= map.len()).then(|| (map, from..from + bytes.len()))
        })
    }

    pub fn get(&self, tensor: &str) -> Result<GgufTensor<'_>, FormatsError> {
        match self.places.get(tensor) {
            Some(&(file, position)) => Ok(self.files[file].at(position)),
            None => Err(no_tensor(&self.path, tensor, self.tensors().map(|tensor| tensor.name), self.len())),
        }
    }

    /// Every tensor, file by file, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = GgufTensor<'_>> {
        self.files.iter().flat_map(|file| (0..file.header.entries.len()).map(|position| file.at(position)))
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.bytes.len() as u64).sum()
    }
}

fn bad(path: &Path, problem: String) -> FormatsError {
    FormatsError::BadHeader { path: path.to_owned(), format: "GGUF", problem }
}

/// The files beside `path`, which is `…-00002-of-00003.gguf` for any of the numbers.
fn shard_paths(path: &Path, count: u64) -> Result<Vec<PathBuf>, FormatsError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end = format!("-of-{count:05}.{EXTENSION}");
    let numbered = name.strip_suffix(&end).and_then(|rest| rest.split_at_checked(rest.len().checked_sub(6)?));
    let is_number =
        |part: &str| part.strip_prefix('-').is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
    match numbered {
        Some((begin, number)) if is_number(number) && count <= 99_999 => {
            Ok((1..=count).map(|number| path.with_file_name(format!("{begin}-{number:05}{end}"))).collect())
        }
        _ => Err(bad(path, format!("it is one of {count} files: wanted a name that ends in -00001{end}"))),
    }
}
