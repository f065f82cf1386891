//! A change re-enacted with tools: look around, read, edit, and end with what is known and no more.

use super::Desk;
use super::change::{FileChange, Work, is_document};
use super::episode::Trajectory;
use super::function::functions;
use super::lines::{Hunk, edits, hunks, lines, names_in};
use super::message::{Words, has_phrase};
use super::path::{folder_of, is_named_in, is_test, name_of};
use super::syntax::{Language, Syntax, wanted};
use super::testing::{Testing, testing};
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
    let testing = if is_code { testing(desk, work)? } else { None };
    let mut workspace = desk.workspace(&work.tree);
    let mut trajectory = Trajectory::of(request);
    look_around(&mut trajectory, &mut workspace, work)?;
    let mut seen = Seen::default();
    for file in &work.files {
        if !seen.read(&mut trajectory, &mut workspace, (file, &work.words))? {
            return Ok(Err("too long to read"));
        }
    }
    if !work.files.iter().all(|file| seen.bears(file)) {
        return Ok(Err("a new file of what was not read"));
    }
    let mut thought = Some(thought).filter(|thought| !thought.is_empty());
    for (file, steps) in work.files.iter().zip(&steps) {
        // That lines were broken elsewhere as well, nobody asked for.
        let is_of_form = file.is_of_form();
        for action in steps {
            if !seen.covers(action) {
                return Ok(Err("edits what was not read"));
            }
            let thought = if is_of_form { None } else { thought.take() };
            if !trajectory.step(&mut workspace, thought, action)? {
                return Ok(Err("an edit does not apply"));
            }
            if is_of_form {
                trajectory.hush_last_step();
            }
        }
    }
    for file in &work.files {
        if workspace.text(&file.path)? != file.new {
            return Ok(Err("the edits end elsewhere"));
        }
    }
    let words = closing(work, testing.as_ref());
    let test = testing.map(|testing| Action::Test { command: testing.command });
    Ok(Ok(trajectory.ended(&words, test.as_ref())))
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

/// Whether a request names a file, or something that stands in it: only then somebody could have gone there.
fn is_asked_for(words: &Words, file: &FileChange) -> bool {
    let old = file.old.as_deref().unwrap_or("");
    let lower = words.whole().to_lowercase();
    is_named_in(&file.path, &lower)
        || words.names().iter().any(|name| has_phrase(old, name))
        || touched_functions(file).iter().any(|name| name.len() >= 5 && has_phrase(&lower, &name.to_lowercase()))
}

/// Lists the top, looks for what the request names, and goes down, folder by folder, to what that has not found. The
/// way down is learnt where the request says where to.
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
    let whole = work.words.whole().to_lowercase();
    for folder in folders {
        for (end, _) in folder.match_indices('/').chain([(folder.len(), "")]) {
            let is_new = listed.insert(&folder[..end]);
            let is_listed =
                is_new && trajectory.step(workspace, None, &Action::List { path: folder[..end].to_owned() })?;
            let is_told = has_phrase(&whole, &name_of(&folder[..end]).to_lowercase())
                || work
                    .files
                    .iter()
                    .any(|file| is_below(&file.path, &folder[..end]) && is_asked_for(&work.words, file));
            if is_listed && !is_told {
                trajectory.hush_last_step();
            }
        }
    }
    Ok(())
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
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
        (file, words): (&FileChange, &Words),
    ) -> Result<bool, PrepareError> {
        let Some(old) = file.old.as_deref().filter(|old| !old.trim().is_empty()) else { return Ok(true) };
        let all = lines(old);
        let path = file.path.clone();
        if all.len() <= WHOLE_LINES_MAX {
            self.lines.insert(path.clone(), old.to_owned());
            let is_read = trajectory.step(workspace, None, &Action::Read { path, range: None })?;
            if is_read && !is_asked_for(words, file) {
                trajectory.hush_last_step();
            }
            return Ok(is_read);
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

    /// Whether a file may be written: a new one of code only where it uses a name that what was read defines. Nobody
    /// could know how to call what they have not seen.
    fn bears(&self, file: &FileChange) -> bool {
        let (None, Some(new)) = (&file.old, &file.new) else { return true };
        let Some(syntax) = Syntax::of(&file.path, new) else { return true };
        let code = syntax.without_comments();
        let used: BTreeSet<&str> = names_in(&code).collect();
        self.lines.iter().any(|(path, text)| defined(path, text).iter().any(|name| used.contains(name.as_str())))
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

/// Words before a name that is defined.
const DEFINING: [&str; 13] = [
    "fn",
    "struct",
    "enum",
    "trait",
    "const",
    "static",
    "type",
    "mod",
    "def",
    "class",
    "func",
    "function",
    "interface",
];
/// Names that code of every sort defines.
const COMMON: [&str; 12] =
    ["main", "from", "into", "default", "next", "drop", "clone", "index", "test", "tests", "init", "setup"];
const NAME_CHARACTERS_MIN: usize = 4;

/// The names that a text of code defines; none where it is no code.
fn defined(path: &str, text: &str) -> BTreeSet<String> {
    let Some(syntax) = Syntax::of(path, text) else { return BTreeSet::new() };
    let code = syntax.without_comments();
    let words: Vec<&str> = names_in(&code).collect();
    let after_word = words.windows(2).filter(|pair| DEFINING.contains(&pair[0])).map(|pair| pair[1].to_owned());
    let all = after_word.chain(functions(&syntax).into_iter().map(|function| function.name));
    all.filter(|name| name.len() >= NAME_CHARACTERS_MIN && !COMMON.contains(&name.as_str())).collect()
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
    let lines = work.files.iter().filter(|file| !file.is_of_form()).map(|file| match (&file.old, &file.new) {
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
fn closing(work: &Work, testing: Option<&Testing>) -> String {
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
    let is_run = |file: &&FileChange| testing.is_some_and(|testing| testing.runs.contains(&file.path));
    match testing.is_some() {
        true if work.files.iter().filter(is_run).any(FileChange::brings_tests) => {
            format!("{done}. Now the tests, the new ones among them.")
        }
        true if work.files.iter().filter(is_run).any(|file| is_test(&file.path)) => {
            format!("{done}. Now the tests, those that changed among them.")
        }
        true => format!("{done}. Now the tests."),
        false if work.files.iter().all(|file| is_document(&file.path)) => format!("{done}."),
        false => format!("{done}. Nothing was run: the repository does not show how its tests are."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::change::tests::change;
    use crate::mine::message::words;

    #[test]
    fn a_new_file_stands_on_what_was_read() {
        let mut seen = Seen::default();
        seen.lines.insert("src/queue.rs".into(), "pub struct Queue;\nfn main() {}\nfn take_one() {}\n".into());
        seen.lines.insert("notes.md".into(), "The class Reader\n".into());
        for (new, wanted) in [
            ("use crate::queue::Queue;\n", true),
            ("fn f() {\n    take_one();\n}\n", true),
            ("// As Queue has it.\nfn f() {}\n", false),
            ("fn main() {\n    Reader::read();\n}\n", false),
        ] {
            assert_eq!(seen.bears(&change("src/new.rs", None, new)), wanted, "{new}");
        }
        assert!(seen.bears(&change("notes/new.md", None, "Words.\n")), "no code");
        assert!(seen.bears(&change("src/new.rs", Some("fn f() {}\n"), "fn g() {}\n")), "it is not new");
    }

    #[test]
    fn a_file_is_asked_for_by_its_name_or_by_one_in_it() {
        let text = "fn count_all() {\n    f(1);\n    other_name();\n}\n";
        let file = change("src/counting.rs", Some(text), &text.replace('1', "2"));
        for (message, wanted) in [
            ("Counting begins at two", true),
            ("`other_name` is called for two", true),
            ("count_all begins at two", true),
            ("Totals begin at two", false),
        ] {
            assert_eq!(is_asked_for(&words(message), &file), wanted, "{message}");
        }
    }
}
