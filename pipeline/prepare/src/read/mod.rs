//! Files in the forms in use: chats, ShareGPT, Alpaca, prompt and completion, pairs of a good and a bad answer,
//! fill-in-the-middle, code, plain text, and our own episodes and documents; as JSON, Parquet or text, packed or not.
//!
//! Everything is read as a stream. What cannot be read is named with its file, its line and its field.

mod chat;
mod forms;
mod open;
mod parquet;
mod records;

pub use forms::{Format, WrittenAs};

use crate::code::PIECE_BYTES_MAX;
use crate::error::PrepareError;
use crate::kind::Kind;
use crate::source::{Raw, Skipped};
use forms::Form;
use numeric::Rng;
use open::Opened;
use records::JsonRecords;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reasons for leaving a record out that are kept for a person to read.
const EXAMPLES_MAX: usize = 5;
/// A text longer than this is no document.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// A source of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecipe {
    /// A file, or a folder whose data files are read in the order of their names.
    pub path: PathBuf,
    /// Unsaid, each record's own fields tell.
    #[serde(default)]
    pub format: Option<Format>,
    /// What records call their fields, where it is not what we call them: `{ instruction = "question" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Whether a question and its answer go through the chat template, for the forms that could be either.
    #[serde(default, rename = "as")]
    pub written_as: Option<WrittenAs>,
    /// What the records teach, where they do not say so themselves.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// What becomes of a record that cannot be read.
    #[serde(default)]
    pub broken: Broken,
    /// What every token counts, times the weight that a record gives itself.
    #[serde(default = "one")]
    pub weight: f32,
    /// What the right answer of a pair counts, times that.
    #[serde(default = "one")]
    pub pair_weight: f32,
    /// The share of pieces of code that get a hole.
    #[serde(default)]
    pub fill_share: f64,
    /// Longer code is cut between lines.
    #[serde(default = "piece_bytes_max")]
    pub piece_bytes_max: usize,
    /// How often an epoch shows each record, on average.
    #[serde(default = "one")]
    pub repeat: f32,
    /// How much of what is learnt comes from here, in proportion to the `portion` of the other sources.
    #[serde(default)]
    pub portion: Option<f64>,
    /// The largest share of all trained tokens that may come from here.
    #[serde(default)]
    pub share_max: Option<f64>,
    /// Episodes of splits that are measured are read too: who measures wants them, and no recipe of training may.
    #[serde(skip)]
    pub measures: bool,
}

/// What becomes of a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    /// Nothing is prepared, and the record is named.
    #[default]
    Refuse,
    /// It is left out and counted.
    Skip,
}

fn one() -> f32 {
    1.0
}

fn piece_bytes_max() -> usize {
    PIECE_BYTES_MAX
}

impl FileRecipe {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            fields: BTreeMap::new(),
            written_as: None,
            kind: None,
            broken: Broken::Refuse,
            weight: 1.0,
            pair_weight: 1.0,
            fill_share: 0.0,
            piece_bytes_max: PIECE_BYTES_MAX,
            repeat: 1.0,
            portion: None,
            share_max: None,
            measures: false,
        }
    }

    pub fn check(&self) -> Result<(), PrepareError> {
        let wrong = |what: &str| Err(PrepareError::Recipe { what: format!("{}: {what}", self.path.display()) });
        let is_weight = |weight: f32| weight >= 0.0 && weight.is_finite();
        if !is_weight(self.weight) || !is_weight(self.pair_weight) {
            return wrong("weight and pair_weight must be numbers from 0 on");
        }
        if !(0.0..=1.0).contains(&self.fill_share) || self.piece_bytes_max < 64 {
            return wrong("fill_share must lie in [0, 1] and piece_bytes_max be at least 64");
        }
        Ok(())
    }

    /// The files that are read, in order.
    pub fn files(&self) -> Result<Vec<PathBuf>, PrepareError> {
        data_files(&self.path)
    }

    /// All documents, one after the other. The seed decides where code gets its holes.
    pub fn documents(&self, seed: u64) -> Result<Documents<'_>, PrepareError> {
        self.check()?;
        let files = self.files()?;
        let bytes = files.iter().map(|file| std::fs::metadata(file).map_or(0, |metadata| metadata.len())).sum();
        Ok(Documents {
            recipe: self,
            rng: Rng::new(seed),
            files: files.into_iter(),
            open: None,
            waiting: VecDeque::new(),
            bytes,
            bytes_read: Arc::default(),
            report: FileReport::default(),
            skipped: Skipped::default(),
        })
    }
}

/// Whether a file holds records, by its name.
pub fn is_data_file(path: &Path) -> bool {
    Layout::of(path) != Layout::Text
}

/// The data files that a path means: itself, or what lies in the folder, by name.
pub(crate) fn data_files(path: &Path) -> Result<Vec<PathBuf>, PrepareError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    walk(path, &mut files)?;
    files.sort();
    if files.is_empty() {
        let what = format!(
            "the folder {} holds no data file: want .jsonl, .json, .parquet, the first two also packed as .gz or .zst; \
             for source code use type = \"code\"",
            path.display()
        );
        return Err(PrepareError::Recipe { what });
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), PrepareError> {
    let fail = |source| PrepareError::Io { action: "read the folder", path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        // Links to files are followed, as caches of data sets consist of them; links to folders could go in circles.
        if kind.is_dir() && !is_hidden {
            walk(&path, files)?;
        } else if !is_hidden && path.is_file() && is_data_file(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// What lies in a file, by its name without `.gz` and `.zst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Lines,
    Json,
    Parquet,
    Text,
}

impl Layout {
    fn of(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        match () {
            () if ends(&[".jsonl", ".ndjson"]) => Self::Lines,
            () if ends(&[".json"]) => Self::Json,
            () if ends(&[".parquet"]) => Self::Parquet,
            () => Self::Text,
        }
    }
}

/// What the records of a source were, and what was wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    pub records: usize,
    /// How many were of each form.
    pub formats: BTreeMap<&'static str, usize>,
    /// Worse answers of pairs: they are read, and not trained.
    pub rejected_answers: usize,
    /// The first few records that were left out, and why.
    pub broken: Vec<String>,
}

/// The documents of a source, as they are read.
pub struct Documents<'a> {
    recipe: &'a FileRecipe,
    rng: Rng,
    files: std::vec::IntoIter<PathBuf>,
    open: Option<OpenFile>,
    /// Further documents of the last record.
    waiting: VecDeque<Raw>,
    pub bytes: u64,
    bytes_read: Arc<AtomicU64>,
    pub report: FileReport,
    pub skipped: Skipped,
}

struct OpenFile {
    path: PathBuf,
    records: Records,
}

enum Records {
    Json(JsonRecords),
    Parquet(parquet::ParquetRows, u64),
    Text(Option<Box<dyn BufRead + Send>>),
}

impl Iterator for Documents<'_> {
    type Item = Result<Raw, PrepareError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_raw().transpose()
    }
}

impl Documents<'_> {
    /// Bytes of the files that are behind us.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    fn next_raw(&mut self) -> Result<Option<Raw>, PrepareError> {
        loop {
            if let Some(raw) = self.waiting.pop_front() {
                return Ok(Some(raw));
            }
            let Some(open) = &mut self.open else {
                let Some(path) = self.files.next() else { return Ok(None) };
                self.open = Some(OpenFile { records: records(&path, &self.bytes_read)?, path });
                continue;
            };
            let Some((place, value)) = open.next()? else {
                if let Records::Parquet(_, bytes) = open.records {
                    self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
                }
                self.open = None;
                continue;
            };
            self.report.records += 1;
            let path = open.path.clone();
            if let Err(what) = value.and_then(|value| self.take(value, &path, &place)) {
                let error = PrepareError::Record { path, place, what };
                if self.recipe.broken == Broken::Refuse {
                    return Err(error);
                }
                self.skipped.broken += 1;
                if self.report.broken.len() < EXAMPLES_MAX {
                    self.report.broken.push(error.to_string());
                }
            }
        }
    }

    /// Puts a record's documents into the queue.
    fn take(&mut self, mut value: Value, path: &Path, place: &str) -> Result<(), String> {
        rename(&mut value, &self.recipe.fields);
        let file = path.file_name().map(Path::new).unwrap_or(path);
        let origin = format!("{}:{}", file.display(), place.rsplit(' ').next().unwrap_or(place));
        let mut rng = self.rng.fork(self.report.records as u64);
        let form = Form::read(value, self.recipe, &mut rng)?;
        *self.report.formats.entry(form.format.name()).or_default() += 1;
        self.report.rejected_answers += usize::from(form.has_rejected_answer);
        self.skipped.measured += usize::from(form.is_measured);
        for part in form.documents {
            let (document, kind, parts) = (part.document, part.kind, part.parts);
            self.waiting.push_back(Raw { document, kind, weight: form.weight, parts, origin: origin.clone() });
        }
        Ok(())
    }
}

/// A record's value, or what is wrong with it.
type Content = Result<Value, String>;

impl OpenFile {
    /// The next record with its place. A wrong record is not the file's end; an error is.
    fn next(&mut self) -> Result<Option<(String, Content)>, PrepareError> {
        let path = &self.path;
        match &mut self.records {
            Records::Json(records) => match records.next() {
                Ok(record) => Ok(record.map(|record| (format!("line {}", record.number), record.value))),
                Err((line, source)) => Err(unreadable(path, format!("line {line}"), &source)),
            },
            Records::Parquet(rows, _) => {
                let place = format!("row {}", rows.number());
                let row = rows.next().map_err(|error| PrepareError::Record {
                    path: path.clone(),
                    place,
                    what: error.to_string(),
                })?;
                Ok(row.map(|(number, value)| (format!("row {number}"), Ok(value))))
            }
            Records::Text(reader) => {
                let Some(reader) = reader.take() else { return Ok(None) };
                let mut bytes = Vec::new();
                let read = reader.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes);
                read.map_err(|source| unreadable(path, "text".to_owned(), &source))?;
                Ok(Some(("text 1".to_owned(), whole_text(path, bytes))))
            }
        }
    }
}

/// A text file as the record that it would be.
fn whole_text(path: &Path, bytes: Vec<u8>) -> Result<Value, String> {
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(format!("a text of more than {} MB; cut it into records", TEXT_BYTES_MAX >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let is_prose = [".txt", ".md", ".rst", ".gz", ".zst"].iter().any(|end| name.ends_with(end));
    Ok(serde_json::json!({ (if is_prose { "text" } else { "code" }): text }))
}

fn unreadable(path: &Path, place: String, source: &std::io::Error) -> PrepareError {
    let hint = match source.kind() {
        std::io::ErrorKind::UnexpectedEof => "; it is cut off, or still being written: get it again",
        _ => "",
    };
    PrepareError::Record { path: path.to_owned(), place, what: format!("reading stops here: {source}{hint}") }
}

fn records(path: &Path, bytes_read: &Arc<AtomicU64>) -> Result<Records, PrepareError> {
    let fail = |source| PrepareError::Io { action: "read", path: path.to_owned(), source };
    let damaged = |error: ::parquet::errors::ParquetError| PrepareError::Record {
        path: path.to_owned(),
        place: "its end".to_owned(),
        what: format!("this is not a whole Parquet file: {error}"),
    };
    match open::open(path, bytes_read).map_err(fail)? {
        Opened::Parquet(file) => {
            let bytes = file.metadata().map_err(fail)?.len();
            Ok(Records::Parquet(parquet::ParquetRows::open(file).map_err(damaged)?, bytes))
        }
        Opened::Bytes(reader) => match Layout::of(path) {
            Layout::Lines => Ok(Records::Json(JsonRecords::lines(reader).map_err(fail)?)),
            Layout::Json => Ok(Records::Json(JsonRecords::any(reader).map_err(fail)?)),
            Layout::Text => Ok(Records::Text(Some(reader))),
            Layout::Parquet => Err(PrepareError::Record {
                path: path.to_owned(),
                place: "its start".to_owned(),
                what: "this is no Parquet file: it does not begin with PAR1".to_owned(),
            }),
        },
    }
}

/// Gives fields the names that we know them by.
fn rename(value: &mut Value, fields: &BTreeMap<String, String>) {
    let Some(object) = value.as_object_mut() else { return };
    for (ours, theirs) in fields {
        if let Some(found) = object.remove(theirs) {
            object.insert(ours.clone(), found);
        }
    }
}

/// Every text of every record of a file, however they are called: of what is to be measured with, all of it counts.
pub(crate) fn all_texts(path: &Path, mut each: impl FnMut(&str, &str)) -> Result<(), PrepareError> {
    for path in data_files(path)? {
        let mut open = OpenFile { records: records(&path, &Arc::default())?, path: path.clone() };
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        while let Some((place, value)) = open.next()? {
            let value =
                value.map_err(|what| PrepareError::Record { path: path.clone(), place: place.clone(), what })?;
            let origin = format!("{file}:{}", place.rsplit(' ').next().unwrap_or(&place));
            crate::words::texts_within(&value, &mut |text| each(&origin, text));
        }
    }
    Ok(())
}
