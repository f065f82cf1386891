//! Review of changes with a fault put into them: into a line that the change itself brings in, where what the reviewer
//! is shown gives it away. The fault is certain, because it was put there; that nothing corrected the change as it was
//! is why there should be no other.

use super::Desk;
use super::change::{FileChange, Work, part, work};
use super::debugging::is_fit;
use super::episode::Episode;
use super::function::{Function, functions};
use super::history::{Change, Changed};
use super::lines::{Hunk, hunks, lines};
use super::mutant::{Mutant, mutant};
use super::path::is_test;
use super::review::{CONTEXT_LINES, Patch, SHOWN_LINES_MAX, diff_of, episode, excerpt_of, request};
use super::syntax::{Language, Syntax};
use crate::error::PrepareError;
use numeric::Rng;
use std::ops::Range;

/// Files of a large change that are looked at, one by one.
const PARTS_MAX: usize = 4;
const NO_CODE: &str = "no code in a language that is known";
const NO_PLACE: &str = "no fault that the diff gives away";

/// A file of a change with a fault in it.
struct Flawed {
    file: FileChange,
    mutant: Mutant,
    diff: String,
}

/// A review of a change with a fault in it, or why it has no place for one. Of what is too much to review at once one
/// file is reviewed.
pub(super) fn planted(
    desk: &mut Desk,
    changed: &Changed,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
    let whole = work(desk, changed)?;
    if let Some(work) = whole.as_ref().ok().filter(|work| work.changed_lines() <= SHOWN_LINES_MAX) {
        let mut files: Vec<&FileChange> = work.code().filter(|file| Language::of_path(&file.path).is_some()).collect();
        rng.shuffle(&mut files);
        let flawed = files.iter().find_map(|file| flawed(file, rng));
        let why = if files.is_empty() { NO_CODE } else { NO_PLACE };
        return Ok(flawed.map(|flawed| review(work, &flawed, false, rng)).ok_or(why));
    }
    let is_code =
        |change: &&Change| change.new.is_some() && Language::of_path(&change.path).is_some() && !is_test(&change.path);
    let mut changes: Vec<&Change> = changed.changes.iter().filter(is_code).collect();
    rng.shuffle(&mut changes);
    let mut why = NO_CODE;
    for change in changes.into_iter().take(PARTS_MAX) {
        match part(desk, changed, &change.path)? {
            Ok(work) => match flawed(&work.files[0], rng) {
                Some(flawed) => return Ok(Ok(review(&work, &flawed, true, rng))),
                None => why = NO_PLACE,
            },
            Err(other) => why = other,
        }
    }
    Ok(Err(why))
}

/// A file with a fault in one of the functions that its change wrote or rewrote.
fn flawed(file: &FileChange, rng: &mut Rng) -> Option<Flawed> {
    let (old, right) = (file.old.as_deref().unwrap_or(""), file.new.as_deref()?);
    let syntax = Syntax::of(&file.path, right)?;
    let diff = Difference::of(old, right);
    let mut functions: Vec<(Function, Range<usize>)> = functions(&syntax)
        .into_iter()
        .map(|function| {
            let lines = syntax.line_of(function.whole.start)..syntax.line_of(function.whole.end) + 1;
            (function, lines)
        })
        .filter(|(function, lines)| is_fit(function) && lines.clone().all(|line| diff.shows(line)))
        .collect();
    rng.shuffle(&mut functions);
    functions.into_iter().find_map(|(function, lines)| {
        // Nobody sees a line that is not there, nor does a review stand in for the compiler.
        let mutant = mutant((&file.path, &syntax), &function, rng, |offer| {
            diff.brings(offer.line)
                && !offer.is_absence
                && offer.evidence.compiles != Some(false)
                && !offer.evidence.words.is_empty()
                && offer.evidence.elsewhere.as_ref().is_none_or(|&(line, _)| diff.shows(line))
        })?;
        shown(file, mutant, &lines)
    })
}

/// The change with the fault as a reviewer sees it, if the fault is among what it brings in, and all that gives it away
/// is seen as well.
fn shown(file: &FileChange, mutant: Mutant, function: &Range<usize>) -> Option<Flawed> {
    let old = file.old.as_deref().unwrap_or("");
    let file = FileChange { new: Some(mutant.text.clone()), ..file.clone() };
    let difference = Difference::of(old, &mutant.text);
    // With the fault a line may be what it was before the change.
    if !difference.brings(mutant.line - 1) {
        return None;
    }
    if file.changed_lines <= SHOWN_LINES_MAX {
        return Some(Flawed { diff: diff_of(&file), file, mutant });
    }
    let excerpt = excerpt_of(&file, mutant.line - 1)?;
    let elsewhere = mutant.evidence.elsewhere.as_ref().map(|&(line, _)| line);
    let is_seen = function.clone().chain(elsewhere).all(|line| excerpt.shown.contains(&line));
    is_seen.then_some(Flawed { diff: excerpt.text, file, mutant })
}

fn review(work: &Work, flawed: &Flawed, is_part: bool, rng: &mut Rng) -> Episode {
    let Flawed { file, mutant, diff } = flawed;
    let shown = |one: &FileChange| if one.path == file.path { diff.clone() } else { diff_of(one) };
    let diff: String = work.files.iter().map(shown).collect();
    let request = request(work, is_part.then_some(file.path.as_str()), &diff, rng);
    let faulty = mutant.faulty_line.as_deref().unwrap_or_default().trim();
    let of = work.files.iter().find(|one| one.path == file.path).and_then(|one| one.new.as_deref());
    let patch = Patch::of(&file.path, &mutant.text, of.unwrap_or_default());
    let answer = format!(
        "request changes\n\n`{}:{}`: `{faulty}`\n{} {}\n\n```diff\n{}```",
        file.path,
        mutant.line,
        mutant.evidence.words,
        mutant.reason,
        patch.shown(),
    );
    episode(work, "mutant", &request, &answer, &file.path)
}

/// What a change did to a file, as far as a diff shows it.
struct Difference {
    hunks: Vec<Hunk>,
    /// Lines of the new text.
    count: usize,
}

impl Difference {
    fn of(old: &str, new: &str) -> Self {
        let (old, new) = (lines(old), lines(new));
        Self { hunks: hunks(&old, &new), count: new.len() }
    }

    fn brings(&self, line: usize) -> bool {
        self.hunks.iter().any(|hunk| hunk.new.contains(&line))
    }

    fn shows(&self, line: usize) -> bool {
        self.hunks.iter().any(|hunk| hunk.shown(CONTEXT_LINES, self.count).contains(&line))
    }
}
