//! Writing: declare every tensor first, then hand over each one's bytes; nothing needs the whole model in memory.

use crate::atomic::write_json;
use crate::dtype::DType;
use crate::error::{FormatsError, shown};
use crate::header::{HEADER_BYTES_MAX, METADATA};
use crate::output::{Output, folder_of, sync_directory};
use crate::safetensors::{INDEX, SINGLE};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Shards stay below what file systems and upload limits of the ecosystem take.
pub const SHARD_BYTES_MAX: u64 = 4_000_000_000;

/// What is to be written: names, kinds and shapes, known before the first byte.
#[derive(Debug, Clone)]
pub struct TensorPlan {
    declared: Vec<Declared>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: u64,
}

impl Default for TensorPlan {
    fn default() -> Self {
        Self::new()
    }
}

impl TensorPlan {
    /// Empty but for the metadata `format: pt`, without which `transformers` refuses a file.
    pub fn new() -> Self {
        Self { declared: Vec::new(), metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]) }
    }

    pub fn declare(&mut self, name: impl Into<String>, dtype: DType, shape: &[usize]) {
        let name = name.into();
        assert!(name != METADATA, "{METADATA} is not a tensor's name");
        let bytes = shape.iter().try_fold(dtype.bytes() as u64, |product, &size| product.checked_mul(size as u64));
        let bytes = bytes.unwrap_or_else(|| panic!("{}: shape {shape:?} cannot be counted", shown(&name)));
        self.declared.push(Declared { name, dtype, shape: shape.to_vec(), bytes });
    }

    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// Bytes of all tensors together, without headers.
    pub fn bytes(&self) -> u64 {
        self.declared.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Begins one file at `path`.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<TensorWriter, FormatsError> {
        let path = path.as_ref();
        let mut writer = TensorWriter::empty(folder_of(path));
        writer.add_file(path, self.declared.iter().collect(), &self.metadata)?;
        Ok(writer)
    }

    /// Begins the weights of a model directory: `model.safetensors`, or shards with an index where a file would grow
    /// over `shard_bytes_max`. Weights of an earlier model there are replaced when this one is finished.
    pub fn create_model(
        &self,
        directory: impl AsRef<Path>,
        shard_bytes_max: u64,
    ) -> Result<TensorWriter, FormatsError> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory).map_err(|source| FormatsError::from_write(directory, self.bytes(), source))?;
        let shards = self.split(shard_bytes_max);
        let mut writer = TensorWriter::empty(directory);
        writer.is_model = true;
        if shards.len() == 1 {
            writer.add_file(&directory.join(SINGLE), self.declared.iter().collect(), &self.metadata)?;
            return Ok(writer);
        }
        let mut weight_map = Map::new();
        let n_shards = shards.len();
        for (number, shard) in (1..).zip(shards) {
            let file = format!("model-{number:05}-of-{n_shards:05}.safetensors");
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(file.as_str()))));
            writer.add_file(&directory.join(file), shard, &self.metadata)?;
        }
        weight_map.sort_keys();
        writer.index = Some(json!({ "metadata": { "total_size": self.bytes() }, "weight_map": weight_map }));
        Ok(writer)
    }

    /// Fills shards in declared order; a tensor larger than the limit has a shard of its own.
    fn split(&self, shard_bytes_max: u64) -> Vec<Vec<&Declared>> {
        let mut shards = vec![Vec::new()];
        let mut bytes = 0;
        for tensor in &self.declared {
            if bytes + tensor.bytes > shard_bytes_max && bytes > 0 {
                shards.push(Vec::new());
                bytes = 0;
            }
            bytes += tensor.bytes;
            shards.last_mut().expect("there is always one").push(tensor);
        }
        shards
    }
}

/// Where a tensor's bytes go.
struct Place {
    output: usize,
    offset: u64,
    bytes: u64,
    dtype: DType,
}

/// Files under way. Dropped before [`TensorWriter::finish`], it leaves nothing behind.
pub struct TensorWriter {
    directory: PathBuf,
    outputs: Vec<Output>,
    /// What is still to come.
    places: HashMap<String, Place>,
    index: Option<Value>,
    is_model: bool,
}

impl TensorWriter {
    fn empty(directory: &Path) -> Self {
        let (outputs, places) = (Vec::new(), HashMap::new());
        Self { directory: directory.to_owned(), outputs, places, index: None, is_model: false }
    }

    fn add_file(
        &mut self,
        path: &Path,
        mut tensors: Vec<&Declared>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), FormatsError> {
        // Widest numbers first, so that each tensor begins at a multiple of its own number's size: readers that look at
        // the bytes in place need that.
        tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bytes()));
        let header = header_of(&tensors, metadata);
        let mut offset = header.len() as u64;
        for tensor in &tensors {
            let place = Place { output: self.outputs.len(), offset, bytes: tensor.bytes, dtype: tensor.dtype };
            let before = self.places.insert(tensor.name.clone(), place);
            assert!(before.is_none(), "tensor {} is declared twice", shown(&tensor.name));
            offset += tensor.bytes;
        }
        let mut output = Output::create(path, offset)?;
        output.write_at(0, &header)?;
        self.outputs.push(output);
        Ok(())
    }

    /// Writes one declared tensor, in any order, each once.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), FormatsError> {
        let place = self.take(name);
        assert_eq!(bytes.len() as u64, place.bytes, "tensor {}: bytes given against bytes declared", shown(name));
        self.outputs[place.output].write_at(place.offset, bytes)
    }

    /// Rounds `values` to the declared kind (F32, BF16, F16 or F64) and writes them.
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<(), FormatsError> {
        let place = self.take(name);
        let wanted = place.bytes / place.dtype.bytes() as u64;
        assert_eq!(values.len() as u64, wanted, "tensor {}: values given against values declared", shown(name));
        self.outputs[place.output].write_at(place.offset, &place.dtype.encode(values))
    }

    fn take(&mut self, name: &str) -> Place {
        let place = self.places.remove(name);
        place.unwrap_or_else(|| panic!("tensor {} was never declared, or is written twice", shown(name)))
    }

    /// Puts everything on the disk and in place; returns the files written, the index last if there is one.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, FormatsError> {
        if let Some(name) = self.places.keys().min() {
            panic!("{} declared tensors were never written, {} among them", self.places.len(), shown(name));
        }
        for output in &mut self.outputs {
            output.publish()?;
        }
        let mut written: Vec<PathBuf> = self.outputs.iter().map(|output| output.path.clone()).collect();
        if self.is_model {
            self.remove_older_weights(&written)?;
        }
        if let Some(index) = &self.index {
            let path = self.directory.join(INDEX);
            write_json(&path, index)?;
            written.push(path);
        }
        sync_directory(&self.directory);
        Ok(written)
    }

    /// A shard or a single file left from an earlier model would be read in place of the new ones, or beside them.
    /// The index is written after this: between the two the folder is visibly incomplete, never a mixture.
    fn remove_older_weights(&self, written: &[PathBuf]) -> Result<(), FormatsError> {
        let listing = |source| FormatsError::from_io("list", &self.directory, source);
        for entry in fs::read_dir(&self.directory).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
            if (shard || name == SINGLE || name == INDEX) && !written.contains(&path) {
                fs::remove_file(&path).map_err(|source| FormatsError::from_io("remove the older", &path, source))?;
            }
        }
        Ok(())
    }
}

/// The length, the JSON and its padding: data begins at a multiple of eight.
fn header_of(tensors: &[&Declared], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert(METADATA.to_owned(), json!(metadata));
    }
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes;
        let entry = json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end] });
        entries.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    assert!(text.len() as u64 <= HEADER_BYTES_MAX, "a header of {} bytes is over the format's limit", text.len());
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

/// Writes one file of tensors that are at hand.
pub fn write_tensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (String, DType, Vec<usize>, Cow<'a, [u8]>)>,
) -> Result<(), FormatsError> {
    let mut plan = TensorPlan::new();
    let mut contents = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        plan.declare(name.clone(), dtype, &shape);
        contents.push((name, bytes));
    }
    let mut writer = plan.create_file(path)?;
    for (name, bytes) in contents {
        writer.write(&name, &bytes)?;
    }
    writer.finish().map(|_| ())
}
