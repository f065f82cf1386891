//! A repository at one commit, and the tools that act on it in memory: every result in an episode comes from here.
//!
//! The tools are those of the kata world's repositories where these have them (`list_files`, `read_file`, `search`,
//! `edit`, `run_tests`), with what a real tree needs besides: folders, ranges of lines, whole new files. Nothing is
//! ever run, so `run_tests` has no result here, and an episode that calls it ends with the call.

use super::git::{Repository, Sort};
use super::lines::{Edit, applied, lines};
use super::path::{folder_of, name_of, written_text};
use super::secret::{Found, scrub};
use crate::error::PrepareError;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use text::{ToolCall, ToolDefinition};

/// Results that are longer are no help to anybody.
const LISTED_MAX: usize = 120;
const MATCHES_MAX: usize = 20;
const MATCH_CHARACTERS_MAX: usize = 160;
/// A search looks into so many files and bytes at most; where a folder has more, no search is made there.
const SEARCHED_FILES_MAX: usize = 250;
const SEARCHED_BYTES_MAX: usize = 2 << 20;
/// Texts remembered, together.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// What the tools are and take.
pub(super) fn tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, description: &str, required: &[&str], optional: &[(&str, &str)]| {
        let required_properties = required.iter().map(|name| ((*name).to_owned(), json!({"type": "string"})));
        let optional_properties = optional.iter().map(|(name, kind)| ((*name).to_owned(), json!({"type": kind})));
        let properties: Map<String, Value> = required_properties.chain(optional_properties).collect();
        let parameters = json!({"type": "object", "properties": properties, "required": required});
        ToolDefinition { name: name.to_owned(), description: description.to_owned(), parameters }
    };
    let range = [("first_line", "integer"), ("last_line", "integer")];
    vec![
        tool("list_files", "List a folder; folders end with a slash.", &["path"], &[]),
        tool("read_file", "Show a file, or some of its lines.", &["path"], &range),
        tool("search", "Find lines that contain a text, in a file or a folder.", &["text", "path"], &[]),
        tool("edit", "Replace old, which must stand in the file once, by new.", &["path", "old", "new"], &[]),
        tool("write_file", "Write a whole file.", &["path", "text"], &[]),
        tool("delete_file", "Delete a file.", &["path"], &[]),
        tool("run_tests", "Run the tests with a command.", &["command"], &[]),
    ]
}

/// What is wanted of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    List {
        path: String,
    },
    /// Lines are counted from 1, both ends included; none for the whole file.
    Read {
        path: String,
        range: Option<(usize, usize)>,
    },
    Search {
        text: String,
        path: String,
    },
    Edit {
        path: String,
        edit: Edit,
    },
    Write {
        path: String,
        text: String,
    },
    Delete {
        path: String,
    },
    Test {
        command: String,
    },
}

impl Action {
    /// As the assistant calls it.
    pub(super) fn call(&self) -> ToolCall {
        let mut arguments = Map::new();
        let mut put = |name: &str, value: Value| drop(arguments.insert(name.to_owned(), value));
        let name = match self {
            Self::List { path } => {
                put("path", json!(path));
                "list_files"
            }
            Self::Read { path, range } => {
                put("path", json!(path));
                if let Some((first, last)) = range {
                    put("first_line", json!(first));
                    put("last_line", json!(last));
                }
                "read_file"
            }
            Self::Search { text, path } => {
                put("text", json!(text));
                put("path", json!(path));
                "search"
            }
            Self::Edit { path, edit } => {
                put("path", json!(path));
                put("old", json!(edit.old));
                put("new", json!(edit.new));
                "edit"
            }
            Self::Write { path, text } => {
                put("path", json!(path));
                put("text", json!(text));
                "write_file"
            }
            Self::Delete { path } => {
                put("path", json!(path));
                "delete_file"
            }
            Self::Test { command } => {
                put("command", json!(command));
                "run_tests"
            }
        };
        ToolCall { name: name.to_owned(), arguments }
    }
}

/// What every reading of a repository shares: whose addresses to take out, what was taken out, and texts that were read
/// a moment ago.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    /// In lower case.
    authors: BTreeSet<String>,
    pub(super) found: Found,
    /// By their objects.
    texts: HashMap<String, Result<String, &'static str>>,
    text_bytes: usize,
}

impl Cleaning {
    pub(super) fn of(authors: BTreeSet<String>) -> Self {
        Self { authors, ..Self::default() }
    }

    pub(super) fn scrub(&mut self, text: &str) -> String {
        scrub(text, &self.authors, &mut self.found)
    }

    /// The text of a file by its object, or why it is none that a person wrote.
    pub(super) fn text(
        &mut self,
        repository: &mut Repository,
        id: &str,
        bytes_max: usize,
    ) -> Result<Result<String, &'static str>, PrepareError> {
        if let Some(text) = self.texts.get(id) {
            return Ok(text.clone());
        }
        let text = repository.blob(id, bytes_max)?.ok_or("file too large").and_then(written_text);
        let text = text.map(|text| self.scrub(&text));
        self.text_bytes += text.as_ref().map_or(64, String::len);
        if self.text_bytes > CACHE_BYTES_MAX {
            self.texts.clear();
            self.text_bytes = 0;
        }
        self.texts.insert(id.to_owned(), text.clone());
        Ok(text)
    }
}

/// A tree with changes on top that only exist here.
pub(super) struct Workspace<'a> {
    pub(super) repository: &'a mut Repository,
    pub(super) cleaning: &'a mut Cleaning,
    tree: String,
    file_bytes_max: usize,
    /// None for a file that was deleted.
    changed: BTreeMap<String, Option<String>>,
}

impl<'a> Workspace<'a> {
    pub(super) fn new(
        repository: &'a mut Repository,
        cleaning: &'a mut Cleaning,
        tree: &str,
        file_bytes_max: usize,
    ) -> Self {
        Self { repository, cleaning, tree: tree.to_owned(), file_bytes_max, changed: BTreeMap::new() }
    }

    /// Sets a file as if it had always been so: a fault to be found.
    pub(super) fn set(&mut self, path: &str, text: Option<String>) {
        self.changed.insert(path.to_owned(), text);
    }

    /// A file as it is now; none where there is none, or none that a person wrote.
    pub(super) fn text(&mut self, path: &str) -> Result<Option<String>, PrepareError> {
        if let Some(text) = self.changed.get(path) {
            return Ok(text.clone());
        }
        let Some(entries) = self.repository.folder(&self.tree, folder_of(path))? else { return Ok(None) };
        let is_wanted = |entry: &&super::git::Entry| entry.name == name_of(path) && entry.sort == Sort::File;
        let Some(id) = entries.iter().find(is_wanted).map(|entry| entry.id.clone()) else { return Ok(None) };
        self.blob(&id)
    }

    fn blob(&mut self, id: &str) -> Result<Option<String>, PrepareError> {
        Ok(self.cleaning.text(self.repository, id, self.file_bytes_max)?.ok())
    }

    /// Does what is wanted and gives the result; none where a tool would have refused, or would have shown too much.
    pub(super) fn act(&mut self, action: &Action) -> Result<Option<String>, PrepareError> {
        match action {
            Action::List { path } => self.list(path),
            Action::Read { path, range } => {
                Ok(self.text(path)?.and_then(|text| shown_lines(&text, *range)).filter(|text| !text.is_empty()))
            }
            Action::Search { text, path } => self.search(text, path),
            Action::Edit { path, edit } => {
                let Some(changed) = self.text(path)?.and_then(|text| applied(&text, edit)) else { return Ok(None) };
                self.set(path, Some(changed));
                Ok(Some("ok".to_owned()))
            }
            Action::Write { path, text } => {
                self.set(path, Some(text.clone()));
                Ok(Some("ok".to_owned()))
            }
            Action::Delete { path } => {
                if self.text(path)?.is_none() {
                    return Ok(None);
                }
                self.set(path, None);
                Ok(Some("ok".to_owned()))
            }
            Action::Test { .. } => Ok(None),
        }
    }

    fn list(&mut self, path: &str) -> Result<Option<String>, PrepareError> {
        let Some(entries) = self.repository.folder(&self.tree, path)? else { return Ok(None) };
        if entries.is_empty() || entries.len() > LISTED_MAX {
            return Ok(None);
        }
        let shown = entries.iter().map(|entry| match entry.sort {
            Sort::Folder => format!("{}/", entry.name),
            _ => entry.name.clone(),
        });
        Ok(Some(shown.collect::<Vec<_>>().join("\n")))
    }

    fn search(&mut self, wanted: &str, path: &str) -> Result<Option<String>, PrepareError> {
        let Some(files) = self.files_under(path)? else { return Ok(None) };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (file, id) in files {
            let text = match self.changed.get(&file) {
                Some(text) => text.clone(),
                None => self.blob(&id)?,
            };
            let Some(text) = text else { continue };
            bytes += text.len();
            if bytes > SEARCHED_BYTES_MAX {
                return Ok(None);
            }
            let matching = text.lines().enumerate().filter(|(_, line)| line.contains(wanted));
            found.extend(matching.map(|(index, line)| format!("{file}:{}: {}", index + 1, shortened(line.trim()))));
        }
        if found.is_empty() {
            return Ok(None);
        }
        let more = found.len().saturating_sub(MATCHES_MAX);
        found.truncate(MATCHES_MAX);
        if more > 0 {
            found.push(format!("and {more} more"));
        }
        Ok(Some(found.join("\n")))
    }

    /// A file, or all files below a folder, with their objects; none where they are too many.
    fn files_under(&mut self, path: &str) -> Result<Option<Vec<(String, String)>>, PrepareError> {
        if let Some(entries) = self.repository.folder(&self.tree, folder_of(path))?
            && let Some(file) = entries.iter().find(|entry| entry.name == name_of(path) && entry.sort == Sort::File)
        {
            return Ok(Some(vec![(path.to_owned(), file.id.clone())]));
        }
        let top = if path == "." { "" } else { path };
        let Some(entries) = self.repository.folder(&self.tree, top)? else { return Ok(None) };
        let prefix = |folder: &str, name: &str| match folder.is_empty() {
            true => name.to_owned(),
            false => format!("{folder}/{name}"),
        };
        let mut open: Vec<(String, super::git::Entry)> =
            entries.into_iter().rev().map(|entry| (prefix(top, &entry.name), entry)).collect();
        let mut files = Vec::new();
        while let Some((path, entry)) = open.pop() {
            match entry.sort {
                Sort::File => files.push((path, entry.id)),
                Sort::Folder => {
                    let inside = self.repository.entries(&entry.id)?;
                    open.extend(inside.into_iter().rev().map(|entry| (prefix(&path, &entry.name), entry)));
                }
                Sort::Other => {}
            }
            if files.len() + open.len() > SEARCHED_FILES_MAX {
                return Ok(None);
            }
        }
        Ok(Some(files))
    }
}

/// The whole text, or lines of it, without a line end at its end.
fn shown_lines(text: &str, range: Option<(usize, usize)>) -> Option<String> {
    let Some((first, last)) = range else { return Some(text.trim_end().to_owned()) };
    let all = lines(text);
    let part = all.get(first.checked_sub(1)?..last.min(all.len()))?;
    Some(part.concat().trim_end_matches('\n').to_owned())
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MATCH_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
