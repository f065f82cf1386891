//! Reading: one safetensors file, or a model directory with its shards, memory-mapped.

use crate::error::{FormatsError, shown};
use crate::header::{self, HEADER_BYTES_MAX, Header};
use crate::map::{map, release};
use crate::tensor::Tensor;
use memmap2::Mmap;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// The file of an unsharded model.
pub const SINGLE: &str = "model.safetensors";
/// The list of shards of a sharded one.
pub const INDEX: &str = "model.safetensors.index.json";

/// One file, its header checked in full when it was opened.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl TensorFile {
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatsError> {
        let path = path.as_ref();
        let map = map(path, 8)?;
        let header = header::parse(path, &map)?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The string pairs under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    pub fn len(&self) -> usize {
        self.header.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.header.entries.is_empty()
    }

    /// In the order of their bytes: reading in this order reads the disk forwards.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.entries.iter().map(|entry| entry.name.as_str())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.header.positions.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Result<Tensor<'_>, FormatsError> {
        match self.header.positions.get(name) {
            Some(&position) => Ok(self.at(position)),
            None => Err(no_tensor(&self.path, name, self.names(), self.len())),
        }
    }

    /// Every tensor, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        (0..self.len()).map(|position| self.at(position))
    }

    fn at(&self, position: usize) -> Tensor<'_> {
        let entry = &self.header.entries[position];
        Tensor { name: &entry.name, dtype: entry.dtype, shape: &entry.shape, bytes: &self.map[entry.start..entry.end] }
    }
}

/// The tensors of a model directory, whichever of its files they are in.
pub struct Tensors {
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which file, and where in it.
    places: HashMap<String, (usize, usize)>,
    /// File by file, in the order of their bytes.
    names: Vec<String>,
}

impl Tensors {
    /// Opens a model directory, or a single safetensors file. A directory that holds both a single file and an index is
    /// read as `transformers` reads it: the single file wins.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatsError> {
        let path = path.as_ref();
        if path.is_file() {
            return Ok(Self::gather(path, vec![TensorFile::open(path)?], |_, _| true));
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if single.is_file() {
            return Ok(Self::gather(path, vec![TensorFile::open(&single)?], |_, _| true));
        }
        if index.is_file() {
            return Self::open_shards(path, &index);
        }
        match fs::read_dir(path) {
            Ok(_) => Err(FormatsError::NoModel { path: path.to_owned() }),
            Err(source) => Err(FormatsError::from_io("open", path, source)),
        }
    }

    fn open_shards(path: &Path, index: &Path) -> Result<Self, FormatsError> {
        let shard_of = header::parse_index(index, &read_limited(index, HEADER_BYTES_MAX)?)?.shard_of;
        // The first tensor of each shard, so that an error can name one.
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, shard) in &shard_of {
            shards.entry(shard).or_insert(name);
        }
        let mut files = Vec::with_capacity(shards.len());
        for (&shard, &tensor) in &shards {
            let place = path.join(shard);
            if !place.exists() {
                let detail = format!(" (for tensor {}, among others)", shown(tensor));
                return Err(FormatsError::NoShard { index: index.to_owned(), shard: shard.to_owned(), detail });
            }
            files.push(TensorFile::open(&place)?);
        }
        let positions: HashMap<&str, usize> = shards.keys().enumerate().map(|(at, &shard)| (shard, at)).collect();
        for (name, shard) in &shard_of {
            let file = &files[positions[shard.as_str()]];
            if !file.contains(name) {
                return Err(FormatsError::BadTensor {
                    path: index.to_owned(),
                    tensor: shown(name),
                    wanted: format!("it in {shard}, as the index says"),
                    found: format!("no such tensor among the {} there", file.len()),
                });
            }
        }
        let all =
            Self::gather(path, files, |file, name| shard_of.get(name).is_some_and(|s| positions[s.as_str()] == file));
        Ok(all)
    }

    fn gather(path: &Path, files: Vec<TensorFile>, wanted: impl Fn(usize, &str) -> bool) -> Self {
        let mut places = HashMap::new();
        let mut names = Vec::new();
        for (file_idx, file) in files.iter().enumerate() {
            for (position, name) in file.names().enumerate().filter(|(_, name)| wanted(file_idx, name)) {
                places.insert(name.to_owned(), (file_idx, position));
                names.push(name.to_owned());
            }
        }
        Self { path: path.to_owned(), files, places, names }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// File by file, in the order of their bytes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Result<Tensor<'_>, FormatsError> {
        match self.places.get(name) {
            Some(&(file, position)) => Ok(self.files[file].at(position)),
            None => Err(no_tensor(&self.path, name, self.names(), self.len())),
        }
    }

    /// Lets the system have the pages of a tensor, or of a part of one, back after it has been copied: memory then does
    /// not hold it twice.
    pub fn release(&self, tensor: &Tensor<'_>) {
        let start = tensor.bytes.as_ptr().addr();
        for TensorFile { map, .. } in &self.files {
            let range = map.as_ptr_range();
            if (range.start.addr()..range.end.addr()).contains(&start) {
                let from = start - range.start.addr();
                release(map, from..from + tensor.bytes.len());
            }
        }
    }

    /// Every tensor, file by file, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.names.iter().map(|name| {
            let (file, position) = self.places[name];
            self.files[file].at(position)
        })
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// The metadata of the first file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.files[0].metadata()
    }
}

fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FormatsError> {
    let found = fs::metadata(path).map_err(|source| FormatsError::from_io("look at", path, source))?.len();
    if found > bytes_max {
        let problem = format!("wanted at most {bytes_max} bytes, found {found}");
        return Err(FormatsError::BadJson { path: path.to_owned(), problem });
    }
    fs::read(path).map_err(|source| FormatsError::from_io("read", path, source))
}

/// The commonest cause of a missing name is a prefix too many or too few, so look for a name that ends alike.
pub(crate) fn no_tensor<'a>(
    path: &Path,
    name: &str,
    names: impl Iterator<Item = &'a str>,
    n_tensors: usize,
) -> FormatsError {
    let alike = |other: &&str| !name.is_empty() && (other.ends_with(name) || name.ends_with(*other));
    let hint = match names.into_iter().find(alike) {
        Some(other) => format!("; there is {}", shown(other)),
        None => String::new(),
    };
    FormatsError::NoTensor { path: path.to_owned(), tensor: shown(name), n_tensors, hint }
}
