//! The head of a safetensors file, believed only as far as the bytes bear it out.
//!
//! Layout: eight bytes, the header's length n, little-endian; n bytes of JSON `{name: {dtype, shape, data_offsets}}`,
//! with string pairs under `__metadata__`; then the tensors' bytes, without holes and without overlap. Memory used
//! here is a small multiple of the header that is really in the file: no number in it makes us allocate.

use crate::dtype::DType;
use crate::error::{FormatsError, shown};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

/// The format's own limit on a header.
pub(crate) const HEADER_BYTES_MAX: u64 = 100_000_000;
pub(crate) const METADATA: &str = "__metadata__";

/// One tensor's place. `start..end` are offsets into the file, not into the data section.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug)]
pub(crate) struct Header {
    /// In the order of their bytes.
    pub(crate) entries: Vec<Entry>,
    pub(crate) positions: HashMap<String, usize>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of `file`, the whole file's bytes.
pub(crate) fn parse(path: &Path, file: &[u8]) -> Result<Header, FormatsError> {
    let bad = |problem: String| FormatsError::BadHeader { path: path.to_owned(), format: "safetensors", problem };
    let file_bytes = file.len() as u64;
    let truncated = |wanted: u64| FormatsError::Truncated { path: path.to_owned(), wanted, found: file_bytes };

    let Some((length, rest)) = file.split_first_chunk::<8>() else { return Err(truncated(8)) };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > HEADER_BYTES_MAX {
        return Err(bad(format!(
            "wanted a header of at most {HEADER_BYTES_MAX} bytes, its length says {header_bytes}"
        )));
    }
    let Some(json) = rest.get(..header_bytes as usize) else { return Err(truncated(8 + header_bytes)) };
    if json.first() != Some(&b'{') {
        return Err(bad("its header does not begin with a brace".to_owned()));
    }
    let raw: RawHeader =
        serde_json::from_slice(json).map_err(|error| bad(format!("its header does not parse: {error}")))?;

    let data_start = 8 + header_bytes;
    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        entries.push(check_entry(path, name, raw, data_start)?);
    }
    entries.sort_by_key(|entry| (entry.start, entry.end));
    let end = check_neighbours(path, &entries, data_start)?;
    if end > file_bytes {
        return Err(truncated(end));
    }
    if end < file_bytes {
        return Err(bad(format!(
            "wanted {end} bytes in all, found {file_bytes}: {} belong to no tensor",
            file_bytes - end
        )));
    }
    let positions = entries.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect();
    Ok(Header { entries, positions, metadata: raw.metadata })
}

/// An entry agrees with itself: a known kind, an order in its offsets, and as many bytes as its shape calls for.
fn check_entry(path: &Path, name: String, raw: RawEntry, data_start: u64) -> Result<Entry, FormatsError> {
    let bad = |wanted: String, found: String| FormatsError::BadTensor {
        path: path.to_owned(),
        tensor: shown(&name),
        wanted,
        found,
    };
    let Some(dtype) = DType::from_name(&raw.dtype) else {
        return Err(bad("a dtype that this program knows".to_owned(), shown(&raw.dtype)));
    };
    let (first, last) = raw.data_offsets;
    let Some(found_bytes) = last.checked_sub(first) else {
        return Err(bad("data_offsets in rising order".to_owned(), format!("[{first}, {last}]")));
    };
    let wanted_bytes = raw.shape.iter().try_fold(dtype.bytes() as u64, |product, &size| product.checked_mul(size));
    if wanted_bytes != Some(found_bytes) {
        let wanted = match wanted_bytes {
            Some(bytes) => format!("{bytes} bytes for {} {}", dtype.name(), shown_shape(&raw.shape)),
            None => "a size that can be counted".to_owned(),
        };
        return Err(bad(wanted, format!("{found_bytes} bytes for shape {}", shown_shape(&raw.shape))));
    }
    let place = |offset: u64| offset.checked_add(data_start).and_then(|place| usize::try_from(place).ok());
    let shape: Option<Vec<usize>> = raw.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    match (place(first), place(last), shape) {
        (Some(start), Some(end), Some(shape)) => Ok(Entry { name, dtype, shape, start, end }),
        _ => Err(bad("offsets and sizes that this machine can count".to_owned(), format!("[{first}, {last}]"))),
    }
}

/// The entries, sorted by place, cover the data without a hole or an overlap; returns where they end.
fn check_neighbours(path: &Path, entries: &[Entry], data_start: u64) -> Result<u64, FormatsError> {
    let mut end = data_start;
    for entry in entries {
        if entry.start as u64 != end {
            let what =
                if (entry.start as u64) < end { "overlaps the one before it" } else { "leaves a hole before it" };
            return Err(FormatsError::BadTensor {
                path: path.to_owned(),
                tensor: shown(&entry.name),
                wanted: format!("data to begin at {}", end - data_start),
                found: format!("{}, which {what}", entry.start as u64 - data_start),
            });
        }
        end = entry.end as u64;
    }
    Ok(end)
}

fn shown_shape(shape: &[u64]) -> String {
    const DIMENSIONS_MAX: usize = 8;
    match shape.get(..DIMENSIONS_MAX) {
        Some(head) if shape.len() > DIMENSIONS_MAX => format!("{head:?}… ({} dimensions)", shape.len()),
        _ => format!("{shape:?}"),
    }
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

/// A hand-written visitor, because a derived map would keep the last of two tensors of one name and say nothing.
impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut seen = std::collections::HashSet::new();
        let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("{} occurs twice", shown(&name))));
            }
            if name == METADATA {
                header.metadata = map.next_value()?;
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

/// The index of a sharded model: which shard holds each tensor.
pub(crate) struct ShardIndex {
    pub(crate) shard_of: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniqueMap,
}

struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = UniqueMap;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of file names by tensor name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    let again = shown(&name);
                    if all.insert(name, file).is_some() {
                        return Err(A::Error::custom(format_args!("{again} occurs twice")));
                    }
                }
                Ok(UniqueMap(all))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

/// Reads `model.safetensors.index.json`. A shard is a plain file name: an index may not point out of its own folder.
pub(crate) fn parse_index(path: &Path, json: &[u8]) -> Result<ShardIndex, FormatsError> {
    let bad = |problem: String| FormatsError::BadJson { path: path.to_owned(), problem };
    let raw: RawIndex = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
    let shard_of = raw.weight_map.0;
    for (name, shard) in &shard_of {
        let plain = shard.ends_with(".safetensors") && !shard.contains(['/', '\\', '\0']) && !shard.starts_with('.');
        if !plain {
            let found = shown(shard);
            return Err(bad(format!(
                "tensor {}: wanted the name of a .safetensors file beside it, found {found}",
                shown(name)
            )));
        }
    }
    if shard_of.is_empty() {
        return Err(bad("its weight_map is empty".to_owned()));
    }
    Ok(ShardIndex { shard_of })
}
