//! Debugging: a fault is told, found, and corrected. Real ones come from commits that fixed them, made ones from
//! mutants of the code as it stands.

use super::Desk;
use super::change::{FileChange, Work};
use super::enact::{enact, touched_functions};
use super::episode::{Episode, MinedKind, Trajectory};
use super::function::Function;
use super::lines::{Hunk, edits, hunks, is_code, is_import, lines};
use super::message::Words;
use super::mutant::{Mutant, mutant};
use super::replay::is_imperative;
use super::syntax::{Language, Syntax, wanted};
use super::workspace::{Action, Workspace};
use crate::error::PrepareError;
use numeric::Rng;

/// A larger change is more than a fix.
const FIX_LINES_MAX: usize = 40;
const FIX_FILES_MAX: usize = 3;
/// Lines of a fault that are quoted.
const QUOTED_LINES_MAX: usize = 6;
/// A function to put a fault into: long enough to hide it, short enough to read.
const LINES_MIN: usize = 5;
const LINES_MAX: usize = 80;
const AROUND_LINES: usize = 15;
const WHOLE_LINES_MAX: usize = 150;

/// Whether a commit is a fix to learn debugging from: small, and its words say so, or what it does.
pub(super) fn is_fix(work: &Work) -> bool {
    let (mut files, mut changed) = (0, 0);
    for file in work.code() {
        files += 1;
        changed += file.changed_lines;
        if file.old.is_none() || file.new.is_none() || Language::of_path(&file.path).is_none() {
            return false;
        }
    }
    let is_small = (1..=FIX_FILES_MAX).contains(&files) && changed <= FIX_LINES_MAX;
    is_small && !work.code().all(FileChange::is_of_form) && (work.words.is_fix() || is_tested_correction(work))
}

/// A correction whose words do not say that it is one: code that was there is replaced, and a test comes with it that
/// was not needed before.
fn is_tested_correction(work: &Work) -> bool {
    let replaces = |file: &FileChange| {
        let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
        let (before, after) = (lines(old), lines(new));
        let replaced = |hunk: &Hunk| before[hunk.old.clone()].iter().any(|line| is_code(line) && !is_import(line));
        hunks(&before, &after).iter().any(|hunk| !hunk.new.is_empty() && replaced(hunk))
    };
    !work.words.is_constructive()
        && !work.words.is_of_form()
        && work.words.says_one_thing()
        && work.files.iter().any(FileChange::brings_tests)
        && work.code().any(replaces)
}

/// A fix as an episode: the message tells the fault, the diff corrects it.
pub(super) fn from_fix(
    desk: &mut Desk,
    work: &Work,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
    let request = request(&work.words, rng);
    let enacted = enact(desk, work, &request, diagnosis(work))?;
    Ok(enacted.map(|(document, silent)| Episode {
        kind: MinedKind::Debugging,
        form: "fix",
        document,
        silent,
        commit: work.commit.id.clone(),
        path: work.main_path().to_owned(),
        language: Language::of_path(work.main_path()).map(Language::name),
    }))
}

/// A fault as somebody tells it. A message that says how things are once it is gone tells what does not hold yet.
fn request(words: &Words, rng: &mut Rng) -> String {
    let fault = words.fault();
    let subject = fault.as_deref().unwrap_or(&words.subject);
    let told = if words.body.is_empty() { subject.to_owned() } else { format!("{subject}\n\n{}", words.body) };
    // What names the fault, or orders something, stands as it is.
    let is_order = is_imperative(words) || words.names_fault();
    match (fault.is_some(), is_order, rng.below(2)) {
        (true, _, 0) => format!("Bug: {told}\n\nFind the cause and fix it."),
        (true, _, _) => format!("This is wrong: {told}\n\nPlease fix it."),
        (false, true, 0) => format!("There is a fault to correct. {told}"),
        (false, true, _) => format!("Please debug this. {told}"),
        (false, false, 0) => format!("This should hold and does not yet:\n\n{told}\n\nFind out why and correct it."),
        (false, false, _) => format!("Something is not as it should be. What is wanted: {told}\n\nPlease debug it."),
    }
}

/// Where it goes wrong, before the first edit: the lines that the fix replaces, or the place where something lacks.
fn diagnosis(work: &Work) -> String {
    let Some(file) = work.code().max_by_key(|file| file.changed_lines) else { return String::new() };
    let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
    let (before, after) = (lines(old), lines(new));
    let hunks = hunks(&before, &after);
    let name = touched_functions(file).first().map_or_else(String::new, |name| format!(" in `{name}`"));
    let replaced =
        hunks.iter().find(|hunk| before[hunk.old.clone()].iter().any(|line| is_code(line) && !is_import(line)));
    match replaced {
        Some(hunk) if hunk.old.len() <= QUOTED_LINES_MAX => {
            let quoted: String = before[hunk.old.clone()].concat();
            let fence = Language::of_path(&file.path).map_or("", Language::name);
            let line = hunk.old.start + 1;
            format!("The fault is at `{}:{line}`{name}:\n\n```{fence}\n{}\n```", file.path, quoted.trim_end())
        }
        Some(hunk) => format!("The fault is in `{}`{name}, from line {} on.", file.path, hunk.old.start + 1),
        None => {
            let line = hunks.first().map_or(1, |hunk| hunk.old.start.max(1));
            format!("Something is missing in `{}`{name}, after line {line}.", file.path)
        }
    }
}

/// Whether a function can hold a fault that somebody could find.
pub(super) fn is_fit(function: &Function) -> bool {
    (LINES_MIN..=LINES_MAX).contains(&function.lines) && !function.is_test
}

/// A function of the present tree with a fault put into it. The faulty code is shown by the tools, never said.
pub(super) fn from_mutant(
    desk: &mut Desk,
    tree: &str,
    (path, syntax): (&str, &Syntax),
    function: &Function,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
    let Some(fault) = mutant((path, syntax), function, rng, |_| true) else { return Ok(Err("no mutant")) };
    let Some(edits) = edits(&fault.text, syntax.text) else { return Ok(Err("no unique edits")) };
    let told = told(path, function, fault.evidence.compiles, rng);
    let mut trajectory = Trajectory::of(&told);
    let commit = desk.commit.clone();
    let mut workspace = desk.workspace(tree);
    workspace.set(path, Some(fault.text.clone()));
    let all = lines(&fault.text);
    let read = if all.len() <= WHOLE_LINES_MAX {
        Action::Read { path: path.to_owned(), range: None }
    } else {
        let action =
            Action::Search { text: wanted(syntax.names(), &fault.text, &function.name), path: path.to_owned() };
        if !trajectory.step(&mut workspace, None, &action)? {
            return Ok(Err("not found again"));
        }
        let first = syntax.line_of(function.whole.start) + 1;
        let last = (syntax.line_of(function.whole.end) + 1 + AROUND_LINES).min(all.len());
        Action::Read { path: path.to_owned(), range: Some((first.saturating_sub(AROUND_LINES).max(1), last)) }
    };
    if !trajectory.step(&mut workspace, None, &read)? {
        return Ok(Err("not readable"));
    }
    if !tells(&mut trajectory, &mut workspace, path, (&fault, &read))? {
        return Ok(Err("not found again"));
    }
    let mut thought = Some(found(path, &fault));
    for edit in edits {
        let action = Action::Edit { path: path.to_owned(), edit };
        if !trajectory.step(&mut workspace, thought.take(), &action)? {
            return Ok(Err("an edit does not apply"));
        }
    }
    if workspace.text(path)?.as_deref() != Some(syntax.text) {
        return Ok(Err("the edits end elsewhere"));
    }
    let words = format!("Fixed `{}` in `{path}`: {}", function.name, fault.correction);
    let (document, silent) = trajectory.ended(&words, None);
    Ok(Ok(Episode {
        kind: MinedKind::Debugging,
        form: "mutant",
        document,
        silent,
        commit,
        path: path.to_owned(),
        language: Some(syntax.language.name()),
    }))
}

/// Whether what gives the fault away is seen: looked for where it was not read, it must be among what is found.
fn tells(
    trajectory: &mut Trajectory,
    workspace: &mut Workspace,
    path: &str,
    (fault, read): (&Mutant, &Action),
) -> Result<bool, PrepareError> {
    let Some((line, looked_for)) = &fault.evidence.elsewhere else { return Ok(true) };
    if !matches!(read, Action::Read { range: Some((first, last)), .. } if !(*first..=*last).contains(&(line + 1))) {
        return Ok(true);
    }
    let search = Action::Search { text: looked_for.clone(), path: path.to_owned() };
    let place = format!("{path}:{}: ", line + 1);
    Ok(trajectory.step(workspace, None, &search)?
        && trajectory.shown().last().is_some_and(|shown| shown.lines().any(|line| line.starts_with(&place))))
}

/// A fault as it is told. What does not compile gives no results, and where that is not known nothing is said of it.
fn told(path: &str, function: &Function, compiles: Option<bool>, rng: &mut Rng) -> String {
    let name = &function.name;
    match (compiles, rng.below(4)) {
        (Some(false), 0 | 1) => format!("`{path}` does not compile. The fault is in `{name}`. Fix it."),
        (Some(false), _) => format!("The compiler refuses `{name}` in `{path}`. Find out why and correct it."),
        (Some(true), 0) => format!("`{name}` in `{path}` gives wrong results. What is it? Fix it."),
        (_, 0 | 1) => format!("There is a bug in `{name}` (`{path}`). Please fix it."),
        (_, 2) => format!("Something in `{path}` is wrong, probably in `{name}`. Fix the code."),
        _ => format!("`{name}` in `{path}` is not as it should be. Find the fault and fix it."),
    }
}

/// The fault in words, with the line that has it and what tells.
fn found(path: &str, fault: &Mutant) -> String {
    let place = match &fault.faulty_line {
        Some(line) => format!("`{path}:{}` has `{}`.", fault.line, line.trim()),
        None => format!("Something lacks at `{path}:{}`.", fault.line),
    };
    let all = [place.as_str(), &fault.evidence.words, &fault.reason];
    all.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}
