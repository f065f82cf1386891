//! A commit as work that somebody could be asked to do: which files, from what to what, and in which words. Or why not.

use super::Desk;
use super::function::tests;
use super::git::Commit;
use super::history::Changed;
use super::lines::{changed_lines, hunks, lines};
use super::message::{Words, words};
use super::path::{Standing, extension_of, is_test, standing};
use super::syntax::Syntax;
use crate::error::PrepareError;
use std::collections::BTreeSet;

/// A file before and afterwards; none where there is no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileChange {
    pub(super) path: String,
    pub(super) old: Option<String>,
    pub(super) new: Option<String>,
    pub(super) changed_lines: usize,
}

/// A commit that can be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) commit: Commit,
    /// The tree before.
    pub(super) tree: String,
    pub(super) words: Words,
    /// Code first, then tests, then documents.
    pub(super) files: Vec<FileChange>,
}

impl Work {
    pub(super) fn changed_lines(&self) -> usize {
        self.files.iter().map(|file| file.changed_lines).sum()
    }

    /// Files that are neither tests nor documents.
    pub(super) fn code(&self) -> impl Iterator<Item = &FileChange> {
        self.files.iter().filter(|file| rank(&file.path) == 0)
    }

    /// The file that the change is mostly about.
    pub(super) fn main_path(&self) -> &str {
        let most = self.code().max_by_key(|file| file.changed_lines);
        &most.unwrap_or(&self.files[0]).path
    }
}

/// Words that comments may have gained where they were only laid out anew.
const REWORDED_MAX: usize = 5;

impl FileChange {
    /// Whether this is about form alone: layout, and comments that say no more than they did.
    pub(super) fn is_of_form(&self) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return false };
        let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count();
        match (Syntax::of(&self.path, old), Syntax::of(&self.path, new)) {
            (Some(before), Some(after)) => before.bare() == after.bare() && words(new) <= words(old) + REWORDED_MAX,
            _ => old.split_whitespace().eq(new.split_whitespace()),
        }
    }

    /// The tests that are there afterwards and were not before. A file of expected output, or a function that helps
    /// tests, is none.
    pub(super) fn new_tests(&self) -> Vec<String> {
        let tests = |text: &Option<String>| -> BTreeSet<String> {
            text.as_ref()
                .and_then(|text| Syntax::of(&self.path, text))
                .map_or_else(BTreeSet::new, |syntax| tests(&syntax))
        };
        tests(&self.new).difference(&tests(&self.old)).cloned().collect()
    }

    pub(super) fn brings_tests(&self) -> bool {
        !self.new_tests().is_empty()
    }
}

/// Code, tests, documents.
fn rank(path: &str) -> usize {
    if is_document(path) { 2 } else { usize::from(is_test(path)) }
}

pub(super) fn is_document(path: &str) -> bool {
    ["md", "rst", "txt", "adoc"].contains(&extension_of(path).as_str())
}

/// Programs that commit. A person called Abbott is none.
fn is_bot(commit: &Commit) -> bool {
    let name = commit.author.to_lowercase();
    let mail = commit.email.to_lowercase();
    let known = ["dependabot", "renovate", "greenkeeper", "github-actions", "pre-commit-ci", "snyk-bot", "weblate"];
    name.ends_with("[bot]")
        || mail.contains("[bot]")
        || name.split(|c: char| !c.is_alphanumeric()).any(|word| word == "bot")
        || known.iter().any(|bot| name.contains(bot) || mail.starts_with(bot))
}

/// What a commit did, with everything that keeps it from being re-enacted told by name.
pub(super) fn work(desk: &mut Desk, changed: &Changed) -> Result<Result<Work, &'static str>, PrepareError> {
    let lines_max = desk.recipe.diff_lines_max;
    Ok(gathered(desk, changed)?.and_then(|work| match work.changed_lines() > lines_max {
        true => Err("too many lines"),
        false => Ok(work),
    }))
}

/// What a commit did to one of its files, however much else it did.
pub(super) fn part(desk: &mut Desk, changed: &Changed, path: &str) -> Result<Result<Work, &'static str>, PrepareError> {
    let changes: Vec<_> = changed.changes.iter().filter(|change| change.path == path).cloned().collect();
    gathered(desk, &Changed { id: changed.id.clone(), files: changes.len(), changes })
}

fn gathered(desk: &mut Desk, changed: &Changed) -> Result<Result<Work, &'static str>, PrepareError> {
    let limits = desk.recipe;
    let Some(commit) = desk.repository.commit(&changed.id)? else { return Ok(Err("not readable")) };
    let Some(parent) = commit.parents.first().cloned() else { return Ok(Err("first commit")) };
    if is_bot(&commit) {
        return Ok(Err("by a bot"));
    }
    // Some were not remembered: too many, or with names that are no plain text.
    if changed.changes.len() < changed.files {
        return Ok(Err("too many files"));
    }
    if changed.changes.iter().any(|change| change.is_renamed) {
        return Ok(Err("renames files"));
    }
    let mut files = Vec::new();
    for change in &changed.changes {
        match standing(&change.path) {
            Standing::Derived => continue,
            Standing::Vendored => return Ok(Err("vendored")),
            Standing::Written if !change.is_file => return Ok(Err("links or submodules")),
            Standing::Written => {}
        }
        if files.len() == limits.files_max {
            return Ok(Err("too many files"));
        }
        let mut side = |id: &Option<String>| -> Result<Result<Option<String>, &'static str>, PrepareError> {
            let Some(id) = id else { return Ok(Ok(None)) };
            let text = desk.cleaning.text(&mut desk.repository, id, limits.file_bytes_max)?;
            Ok(text.map(Some))
        };
        match (side(&change.old)?, side(&change.new)?) {
            (Ok(old), Ok(new)) => files.extend(file_change(&change.path, old, new)),
            // What a program wrote follows from the rest, like a lock.
            (Err("generated"), _) | (_, Err("generated")) => {}
            (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
        }
    }
    if files.is_empty() {
        return Ok(Err("nothing that people wrote"));
    }
    files.sort_by_key(|file| rank(&file.path));
    let words = words(&desk.cleaning.scrub(&commit.message));
    let Some(parent) = desk.repository.commit(&parent)? else { return Ok(Err("not readable")) };
    Ok(Ok(Work { commit, tree: parent.tree, words, files }))
}

/// None where nothing changed: only the mode, or only a secret.
fn file_change(path: &str, old: Option<String>, new: Option<String>) -> Option<FileChange> {
    if old == new {
        return None;
    }
    let (before, after) = (lines(old.as_deref().unwrap_or("")), lines(new.as_deref().unwrap_or("")));
    let changed_lines = changed_lines(&hunks(&before, &after));
    Some(FileChange { path: path.to_owned(), changed_lines, old, new })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of a file from one text to another.
    pub(in crate::mine) fn change(path: &str, old: Option<&str>, new: &str) -> FileChange {
        let (old, new) = (old.map(str::to_owned), Some(new.to_owned()));
        FileChange { path: path.to_owned(), old, new, changed_lines: 1 }
    }

    #[test]
    fn texts_that_are_wrapped_differently_are_layout() {
        let of = |old: &str, new: &str| change("a.rs", Some(old), new).is_of_form();
        assert!(of("fn f() {\n    say(\"one two\");\n}\n", "fn f() {\n    say(\"one \\\n         two\");\n}\n"));
        assert!(!of("fn f() {\n    say(\"one two\");\n}\n", "fn f() {\n    say(\"one \\\n         three\");\n}\n"));
    }

    #[test]
    fn only_tests_are_tests() {
        let test = "#[test]\nfn one() {\n    f();\n}\n";
        for (path, old, new, wanted) in [
            ("tests/help/train.txt", None, "Usage: train\n", false),
            ("tests/a.rs", None, "fn folder() {\n    f();\n}\n", false),
            ("tests/a.rs", None, test, true),
            ("src/a.rs", Some(test), test, false),
            ("src/a.rs", Some("fn f() {}\n"), test, true),
        ] {
            assert_eq!(change(path, old, new).brings_tests(), wanted, "{path}: {new}");
        }
    }
}
