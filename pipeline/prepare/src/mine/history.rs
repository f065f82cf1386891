//! The commits of a repository, oldest first, with what each changed: a stream, however long the history.

use super::git::{Repository, Sort, failure, git, is_plain_path, not_started};
use crate::error::PrepareError;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

/// Files of one commit that are remembered; a change beyond this is nobody's to re-enact.
const FILES_MAX: usize = 500;

/// What a commit did to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: String,
    /// The file's object before; none where it is new.
    pub(super) old: Option<String>,
    /// The file's object afterwards; none where it is gone.
    pub(super) new: Option<String>,
    /// It had another path before.
    pub(super) is_renamed: bool,
    /// An ordinary file, not a link or another repository.
    pub(super) is_file: bool,
}

/// A commit's name and its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) id: String,
    pub(super) changes: Vec<Change>,
    /// Files in all, those that are not remembered too.
    pub(super) files: usize,
}

/// The stream: `git rev-list` names commits to `git diff-tree`, which this reads.
pub(super) struct History {
    path: PathBuf,
    processes: [Child; 2],
    stream: BufReader<ChildStdout>,
    /// The field that was read too far.
    ahead: Option<String>,
}

impl History {
    pub(super) fn of(repository: &Repository, commits_max: usize) -> Result<Self, PrepareError> {
        let path = repository.path().to_owned();
        let most = format!("--max-count={commits_max}");
        let mut names = git(&path)
            .args(["rev-list", "--reverse", "--topo-order", "--no-merges", &most, "HEAD"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| not_started(&path, &error))?;
        let piped = names.stdout.take().expect("it was piped");
        let mut diffs = git(&path)
            .args(["diff-tree", "--stdin", "-r", "-z", "--raw", "--root", "-M", "--no-ext-diff", "--no-textconv"])
            .stdin(Stdio::from(piped))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| not_started(&path, &error))?;
        let stream = BufReader::new(diffs.stdout.take().expect("it was piped"));
        Ok(Self { path, processes: [names, diffs], stream, ahead: None })
    }

    /// The next commit that changed something; none at the end.
    pub(super) fn next_commit(&mut self) -> Result<Option<Changed>, PrepareError> {
        let Some(id) = self.field()? else {
            return self.ended().map(|()| None);
        };
        let mut changed = Changed { id, changes: Vec::new(), files: 0 };
        while let Some(field) = self.field()? {
            if !field.starts_with(':') {
                self.ahead = Some(field);
                break;
            }
            let change = self.change(&field)?;
            changed.files += 1;
            // A path that is not plain text could not be named in a call.
            if changed.changes.len() < FILES_MAX && is_plain_path(&change.path) {
                changed.changes.push(change);
            }
        }
        Ok(Some(changed))
    }

    /// `:mode mode id id status`, then one path, or two where it moved.
    fn change(&mut self, field: &str) -> Result<Change, PrepareError> {
        let words: Vec<&str> = field[1..].split(' ').collect();
        let &[old_mode, new_mode, old, new, status] = words.as_slice() else {
            return Err(failure(&self.path, format!("git described a change as {field:?}")));
        };
        let is_renamed = status.starts_with(['R', 'C']);
        let mut path = self.field()?;
        if is_renamed {
            path = self.field()?;
        }
        let path = path.ok_or_else(|| failure(&self.path, "git stopped in the middle of a change"))?;
        let there = |id: &str| id.bytes().any(|byte| byte != b'0').then(|| id.to_owned());
        let is_plain = |mode: &str| mode == "000000" || Sort::of_mode(mode) == Sort::File;
        let is_file = is_plain(old_mode) && is_plain(new_mode);
        Ok(Change { path, old: there(old), new: there(new), is_renamed, is_file })
    }

    fn field(&mut self) -> Result<Option<String>, PrepareError> {
        if let Some(field) = self.ahead.take() {
            return Ok(Some(field));
        }
        let mut bytes = Vec::new();
        let count = self.stream.read_until(0, &mut bytes);
        let count = count.map_err(|error| failure(&self.path, format!("git stopped answering: {error}")))?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok((count > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A stream that ended because git failed is not a history that ended.
    fn ended(&mut self) -> Result<(), PrepareError> {
        for process in &mut self.processes {
            let status = process.wait().map_err(|error| failure(&self.path, error.to_string()))?;
            if !status.success() {
                return Err(failure(&self.path, "its history cannot be read to the end; `git fsck` says more"));
            }
        }
        Ok(())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
