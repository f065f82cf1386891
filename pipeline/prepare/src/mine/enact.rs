//! A change re-enacted with tools: look around, read, edit, and end with what is known and no more.

use super::Desk;
use super::change::{FileChange, Work, is_document};
use super::episode::Trajectory;
use super::lines::{Hunk, edits, hunks, lines};
use super::path::{folder_of, is_test};
use super::syntax::{Language, Syntax, wanted};
use super::testing::test_command;
use super::workspace::{Action, Workspace};
use crate::error::PrepareError;
use std::collections::{BTreeMap, BTreeSet};
use text::Document;

/// Longer files are read in part.
const WHOLE_LINES_MAX: usize = 300;
/// Lines shown around a change in a longer file.
const AROUND_LINES: usize = 30;
/// Parts of one file that are read, at most.
const PARTS_MAX: usize = 4;
/// A change of more than this share of a file is a new file.
const REWRITTEN: f64 = 0.7;
/// Folders that are gone down to.
const FOLDERS_MAX: usize = 3;

/// Enacts a change; `thought` is what the assistant thinks before its first edit. Gives the conversation and the
/// messages that carry no loss, or why there is none.
pub(super) fn enact(
    desk: &mut Desk,
    work: &Work,
    request: &str,
    thought: String,
) -> Result<Result<(Document, Vec<usize>), &'static str>, PrepareError> {
    let steps: Result<Vec<Vec<Action>>, &'static str> = work.files.iter().map(actions).collect();
    let steps = match steps {
        Ok(steps) => steps,
        Err(why) => return Ok(Err(why)),
    };
    let is_code = work.files.iter().any(|file| !is_document(&file.path));
    let command = if is_code { test_command(desk, work)? } else { None };
    let mut workspace = desk.workspace(&work.tree);
    let mut trajectory = Trajectory::of(request);
    look_around(&mut trajectory, &mut workspace, work)?;
    let mut seen = Seen::default();
    for file in &work.files {
        if !seen.read(&mut trajectory, &mut workspace, file)? {
            return Ok(Err("too long to read"));
        }
    }
    let mut thought = Some(thought).filter(|thought| !thought.is_empty());
    for action in steps.iter().flatten() {
        if !seen.covers(action) {
            return Ok(Err("edits what was not read"));
        }
        if !trajectory.step(&mut workspace, thought.take(), action)? {
            return Ok(Err("an edit does not apply"));
        }
    }
    for file in &work.files {
        if workspace.text(&file.path)? != file.new {
            return Ok(Err("the edits end elsewhere"));
        }
    }
    let test = command.map(|command| Action::Test { command });
    Ok(Ok(trajectory.ended(&closing(work, test.is_some()), test.as_ref())))
}

/// What turns a file into what it became.
fn actions(file: &FileChange) -> Result<Vec<Action>, &'static str> {
    let path = file.path.clone();
    Ok(match (&file.old, &file.new) {
        (_, None) => vec![Action::Delete { path }],
        (None, Some(text)) => vec![Action::Write { path, text: text.clone() }],
        (Some(old), Some(new)) => {
            let whole = lines(old).len().max(lines(new).len()).max(1);
            if old.trim().is_empty() || file.changed_lines as f64 > REWRITTEN * 2.0 * whole as f64 {
                return Ok(vec![Action::Write { path, text: new.clone() }]);
            }
            let edits = edits(old, new).ok_or("no unique edits")?;
            edits.into_iter().map(|edit| Action::Edit { path: path.clone(), edit }).collect()
        }
    })
}

/// Lists the top, looks for what the request names, and goes down, folder by folder, to what that has not found.
fn look_around(trajectory: &mut Trajectory, workspace: &mut Workspace, work: &Work) -> Result<(), PrepareError> {
    trajectory.step(workspace, None, &Action::List { path: ".".to_owned() })?;
    let old: Vec<&FileChange> = work.files.iter().filter(|file| file.old.is_some()).collect();
    let stands =
        |name: &String| old.iter().any(|file| file.old.as_ref().is_some_and(|text| text.contains(name.as_str())));
    if let Some(name) = work.words.names().into_iter().find(stands) {
        let shared = old.iter().map(|file| folder_of(&file.path)).reduce(shared_folder).unwrap_or_default();
        for path in [".", shared] {
            if !path.is_empty()
                && trajectory.step(workspace, None, &Action::Search { text: name.clone(), path: path.to_owned() })?
            {
                break;
            }
        }
    }
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for file in &work.files {
        let folder = folder_of(&file.path);
        if !folder.is_empty() && !trajectory.knows(&file.path) && folders.len() < FOLDERS_MAX {
            folders.insert(folder);
        }
    }
    let mut listed: BTreeSet<&str> = BTreeSet::new();
    for folder in folders {
        for (end, _) in folder.match_indices('/').chain([(folder.len(), "")]) {
            if listed.insert(&folder[..end]) {
                trajectory.step(workspace, None, &Action::List { path: folder[..end].to_owned() })?;
            }
        }
    }
    Ok(())
}

fn shared_folder<'a>(one: &'a str, other: &'a str) -> &'a str {
    let mut folder = one;
    while !folder.is_empty() && !other.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        folder = folder_of(folder);
    }
    folder
}

/// Lines of each file that the assistant has read or written.
#[derive(Default)]
struct Seen {
    lines: BTreeMap<String, String>,
}

impl Seen {
    /// Reads a file, or what is around the changes if it is long. Says whether that was possible.
    fn read(
        &mut self,
        trajectory: &mut Trajectory,
        workspace: &mut Workspace,
        file: &FileChange,
    ) -> Result<bool, PrepareError> {
        let Some(old) = file.old.as_deref().filter(|old| !old.trim().is_empty()) else { return Ok(true) };
        let all = lines(old);
        let path = file.path.clone();
        if all.len() <= WHOLE_LINES_MAX {
            self.lines.insert(path.clone(), old.to_owned());
            return trajectory.step(workspace, None, &Action::Read { path, range: None });
        }
        let Some(new) = &file.new else { return Ok(true) };
        let parts = parts(&path, old, &hunks(&all, &lines(new)));
        if parts.len() > PARTS_MAX {
            return Ok(false);
        }
        for Part { first, last, name } in parts {
            // A line number is known from a search. A name that nothing told before is known only afterwards.
            let is_told =
                name.as_ref().is_some_and(|name| trajectory.shown().any(|shown| shown.contains(name.as_str())));
            let mut is_found = false;
            if let Some(name) = name {
                let names = Language::of_path(&path).map(Language::names);
                let text = names.map_or_else(|| name.clone(), |names| wanted(names, old, &name));
                is_found = trajectory.step(workspace, None, &Action::Search { text, path: path.clone() })?;
                if is_found && !is_told {
                    trajectory.hush_last_step();
                }
            }
            if !trajectory.step(workspace, None, &Action::Read { path: path.clone(), range: Some((first, last)) })? {
                return Ok(false);
            }
            if !is_found {
                trajectory.hush_last_step();
            }
            self.lines.entry(path.clone()).or_default().push_str(&all[first - 1..last].concat());
        }
        Ok(true)
    }

    /// Whether an edit replaces only what was seen.
    fn covers(&mut self, action: &Action) -> bool {
        let Action::Edit { path, edit } = action else { return true };
        let Some(seen) = self.lines.get_mut(path) else { return false };
        let covers = lines(&edit.old).iter().all(|line| seen.contains(line.trim_end_matches('\n')));
        seen.push('\n');
        seen.push_str(&edit.new);
        covers
    }
}

/// Lines to read, from 1, both ends included, and a name to find them by.
struct Part {
    first: usize,
    last: usize,
    name: Option<String>,
}

/// What has to be read of a long file: what is around each change, found by the name of the function it is in.
fn parts(path: &str, old: &str, hunks: &[Hunk]) -> Vec<Part> {
    let all = lines(old);
    let syntax = Syntax::of(path, old);
    let mut parts: Vec<Part> = Vec::new();
    for hunk in hunks {
        let first = hunk.old.start.saturating_sub(AROUND_LINES) + 1;
        let last = (hunk.old.end + AROUND_LINES).min(all.len());
        match parts.last_mut() {
            Some(part) if first <= part.last + AROUND_LINES => part.last = last,
            _ => {
                let name = syntax.as_ref().and_then(|syntax| enclosing(syntax, line_start(&all, hunk.old.start)));
                parts.push(Part { first, last, name });
            }
        }
    }
    parts
}

/// The first byte of a line that is no white space.
fn line_start(all: &[&str], line: usize) -> usize {
    let before: usize = all[..line].iter().map(|line| line.len()).sum();
    before + all.get(line).map_or(0, |line| line.len() - line.trim_start().len())
}

/// The functions that the changes of a file are in, by name.
pub(super) fn touched_functions(file: &FileChange) -> Vec<String> {
    let (Some(old), Some(new)) = (&file.old, &file.new) else { return Vec::new() };
    let Some(syntax) = Syntax::of(&file.path, old) else { return Vec::new() };
    let all = lines(old);
    let mut names: Vec<String> = Vec::new();
    for hunk in hunks(&all, &lines(new)) {
        let name = enclosing(&syntax, line_start(&all, hunk.old.start));
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// The named function around a byte.
pub(super) fn enclosing(syntax: &Syntax, byte: usize) -> Option<String> {
    let mut at = syntax.function_at(byte)?;
    loop {
        if let Some(name) = syntax.name_of(at) {
            return Some(name.to_owned());
        }
        let parent = syntax.nodes[at].parent;
        if parent == 0 {
            return None;
        }
        at = syntax.function_at(syntax.nodes[parent].bytes.start).filter(|&outer| outer < at)?;
    }
}

/// What has to change, file by file: what a person would note before the first edit.
pub(super) fn plan(work: &Work) -> String {
    let lines = work.files.iter().map(|file| match (&file.old, &file.new) {
        (_, None) => format!("- `{}` goes", file.path),
        (None, _) => format!("- `{}` is new", file.path),
        _ => match touched_functions(file).as_slice() {
            [] => format!("- `{}`", file.path),
            names => {
                let names: Vec<String> = names.iter().take(6).map(|name| format!("`{name}`")).collect();
                format!("- `{}`: {}", file.path, names.join(", "))
            }
        },
    });
    let lines: Vec<String> = lines.collect();
    match lines.as_slice() {
        [one] => format!("What has to change: {}.", one.trim_start_matches("- ")),
        _ => format!("What has to change:\n{}", lines.join("\n")),
    }
}

/// What was done, and that nothing was run.
fn closing(work: &Work, is_tested: bool) -> String {
    let named = |is: fn(&FileChange) -> bool| {
        let paths: Vec<String> =
            work.files.iter().filter(|file| is(file)).map(|file| format!("`{}`", file.path)).collect();
        paths.join(", ")
    };
    let done = [
        ("Changed", named(|file| file.old.is_some() && file.new.is_some())),
        ("added", named(|file| file.old.is_none())),
        ("deleted", named(|file| file.new.is_none())),
    ];
    let done: Vec<String> =
        done.iter().filter(|(_, paths)| !paths.is_empty()).map(|(verb, paths)| format!("{verb} {paths}")).collect();
    let done = super::message::capitalised(&done.join(", "));
    match is_tested {
        true if work.files.iter().any(FileChange::brings_tests) => {
            format!("{done}. Now the tests, the new ones among them.")
        }
        true if work.files.iter().any(|file| is_test(&file.path)) => {
            format!("{done}. Now the tests, those that changed among them.")
        }
        true => format!("{done}. Now the tests."),
        false if work.files.iter().all(|file| is_document(&file.path)) => format!("{done}."),
        false => format!("{done}. Nothing was run: the repository does not show how its tests are."),
    }
}
