//! What a stage was made from, kept beside what it made.
//!
//! Hashes are BLAKE3: on a laptop without SHA instructions it reads a model several times faster than SHA-256 would,
//! and hashing inputs is the first thing that every `lateen build` does.

use crate::atomic::{read_json, write_json};
use crate::error::FormatsError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// The file's name in a stage's folder.
pub const MANIFEST: &str = "manifest.json";

/// Written twice: unfinished when a stage begins, finished when all else is on the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub stage: String,
    /// Of the stage's own table in the recipe, so that a change to one stage does not undo the others.
    pub recipe_hash: String,
    /// That table, for the difference to be named; what was written before this was kept has none.
    #[serde(default)]
    pub recipe: Value,
    /// The model that the stage started from, as a recipe names it. It is not compared: its hash is among the inputs.
    #[serde(default)]
    pub from: Option<String>,
    /// Name → hash of everything the stage read.
    pub inputs: BTreeMap<String, String>,
    /// Of the program that ran.
    pub commit: String,
    pub seed: u64,
    pub metrics: Value,
    pub finished: bool,
}

impl Manifest {
    /// The manifest in `directory`; `None` where no stage has begun.
    pub fn read(directory: impl AsRef<Path>) -> Result<Option<Self>, FormatsError> {
        let path = directory.as_ref().join(MANIFEST);
        if !path.exists() {
            return Ok(None);
        }
        read_json(&path).map(Some)
    }

    pub fn write(&self, directory: impl AsRef<Path>) -> Result<(), FormatsError> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory).map_err(|source| FormatsError::from_write(directory, 0, source))?;
        write_json(directory.join(MANIFEST), self)
    }

    /// Whether the stage that wrote this is done and would make the same again from `wanted`.
    pub fn matches(&self, wanted: &Self) -> bool {
        self.difference(wanted).is_none()
    }

    /// Why the stage must run again, in words for the person who waits; `None` if it need not. The commit is not
    /// compared: a new release of the program is no reason to train for a day once more.
    pub fn difference(&self, wanted: &Self) -> Option<String> {
        if self.stage != wanted.stage {
            return Some(format!("the folder holds the stage {:?}, not {:?}", self.stage, wanted.stage));
        }
        if self.recipe_hash != wanted.recipe_hash {
            let what = match (&self.recipe, &wanted.recipe) {
                (Value::Null, _) | (_, Value::Null) => String::new(),
                (before, after) => format!(": {}", changes(before, after).join(", ")),
            };
            return Some(format!("its part of the recipe has changed{what}"));
        }
        if self.seed != wanted.seed {
            return Some(format!("its seed was {}, not {}", self.seed, wanted.seed));
        }
        for (name, hash) in &wanted.inputs {
            match self.inputs.get(name) {
                None => return Some(format!("its input {name} is new")),
                Some(before) if before != hash => return Some(format!("its input {name} has changed")),
                Some(_) => {}
            }
        }
        if let Some(name) = self.inputs.keys().find(|&name| !wanted.inputs.contains_key(name)) {
            return Some(format!("its input {name} is gone"));
        }
        (!self.finished).then(|| "it was interrupted".to_owned())
    }

    /// Whether the folder holds this same stage, cut short: what is there may be taken up again.
    pub fn can_resume(&self, wanted: &Self) -> bool {
        !self.finished && Self { finished: true, ..self.clone() }.matches(wanted)
    }
}

/// The keys in which two tables differ, each with what it was and is: `train.steps was 300, is 400`.
pub fn changes(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        if before != after {
            let path = if path.is_empty() { "it" } else { path };
            found.push(format!("{path} was {}, is {}", short(before), short(after)));
        }
        return;
    };
    let inside = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in old {
        match new.get(key) {
            Some(other) => compare(&inside(key), value, other, found),
            None => found.push(format!("{} was {}, is not given", inside(key), short(value))),
        }
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        found.push(format!("{} was not given, is {}", inside(key), short(value)));
    }
}

/// A value on one line, and never a whole list of targets.
fn short(value: &Value) -> String {
    const CHARACTERS_MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The hash of some bytes, in hexadecimal.
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The hash of a file's contents, in hexadecimal.
pub fn hash_file(path: impl AsRef<Path>) -> Result<String, FormatsError> {
    digest_file(path.as_ref()).map(|digest| digest.to_hex().to_string())
}

/// The hash of every file under `directory`, by name and content, the same on every machine. Left out: manifests (they
/// hold times and rates, which differ between runs that made the same) and `.tmp` leftovers.
pub fn hash_directory(directory: impl AsRef<Path>) -> Result<String, FormatsError> {
    let directory = directory.as_ref();
    let mut files = BTreeMap::new();
    list(directory, "", 0, &mut files)?;
    let mut hasher = blake3::Hasher::new();
    for (name, digest) in files {
        // The length first, so that no two lists of names and contents read alike.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(digest.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn digest_file(path: &Path) -> Result<blake3::Hash, FormatsError> {
    let reading = |source| FormatsError::from_io("read", path, source);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(reading)?).map_err(reading)?;
    Ok(hasher.finalize())
}

fn list(
    directory: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, blake3::Hash>,
) -> Result<(), FormatsError> {
    // A link that leads back up would never end.
    const DEPTH_MAX: usize = 32;
    let listing = |source| FormatsError::from_io("list", directory, source);
    if depth > DEPTH_MAX {
        return Err(listing(std::io::Error::other(format!(
            "folders lie more than {DEPTH_MAX} deep; is there a loop?"
        ))));
    }
    for entry in fs::read_dir(directory).map_err(listing)? {
        let path = entry.map_err(listing)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(FormatsError::from_io("hash", &path, std::io::Error::other("its name is not UTF-8")));
        };
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        if path.is_dir() {
            list(&path, &full, depth + 1, files)?;
        } else if name != MANIFEST && !name.ends_with(".tmp") {
            files.insert(full, digest_file(&path)?);
        }
    }
    Ok(())
}
