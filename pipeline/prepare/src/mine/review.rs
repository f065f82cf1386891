//! Review: a change, and what a reviewer should have said of it. The ground is the history itself: a later fix that
//! rewrites lines which the change brought in shows where it was wrong and what would have been right. Changes that
//! nothing corrected for long are approved, at a limited share.

use super::Desk;
use super::change::{Work, work};
use super::enact::touched_functions;
use super::episode::{Episode, MinedKind, conversation};
use super::history::{Change, Changed};
use super::lines::{Hunk, hunks, lines, unified};
use super::path::is_test;
use super::syntax::Language;
use super::yields::Yield;
use crate::error::PrepareError;
use numeric::Rng;
use std::collections::VecDeque;

/// A fix this many commits later still says something about a change.
const WINDOW: usize = 200;
/// A change that nothing corrected is good once this many commits came after it.
const SETTLED: usize = 30;
/// Lines of a diff that are shown, and of the fix.
const SHOWN_LINES_MAX: usize = 120;
const FIX_LINES_MAX: usize = 24;
const CONTEXT_LINES: usize = 3;

/// The commits that a fix may be about, oldest first.
#[derive(Default)]
pub(super) struct Reviewer {
    recent: VecDeque<Recent>,
    requests: usize,
    approvals: usize,
}

struct Recent {
    changed: Changed,
    /// Commits that came after it.
    age: usize,
    /// A fix touched what it touched.
    is_suspect: bool,
}

impl Reviewer {
    /// Takes note of a commit, and gives the reviews that it makes possible.
    pub(super) fn observe(
        &mut self,
        desk: &mut Desk,
        changed: &Changed,
        fix: Option<&Work>,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Vec<Episode>, PrepareError> {
        let mut episodes = Vec::new();
        if let Some(fix) = fix {
            tally.candidates += 1;
            match self.criticised(desk, changed, fix, rng)? {
                Ok(episode) => episodes.push(episode),
                Err(why) => tally.leave_out(why),
            }
            let touches = |recent: &Recent| {
                recent.changed.changes.iter().any(|one| changed.changes.iter().any(|other| one.path == other.path))
            };
            self.recent.iter_mut().filter(|recent| touches(recent)).for_each(|recent| recent.is_suspect = true);
        }
        self.requests += episodes.len();
        self.recent.iter_mut().for_each(|recent| recent.age += 1);
        if changed.changes.len() == changed.files {
            self.recent.push_back(Recent { changed: changed.clone(), age: 0, is_suspect: fix.is_some() });
        }
        while self.recent.front().is_some_and(|recent| recent.age >= WINDOW) {
            let recent = self.recent.pop_front().expect("it was seen");
            episodes.extend(self.approved(desk, &recent, tally, rng)?);
        }
        Ok(episodes)
    }

    /// What the end of the history leaves: changes that are settled by then.
    pub(super) fn finish(
        &mut self,
        desk: &mut Desk,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Vec<Episode>, PrepareError> {
        let mut episodes = Vec::new();
        while let Some(recent) = self.recent.pop_front() {
            episodes.extend(self.approved(desk, &recent, tally, rng)?);
        }
        Ok(episodes)
    }

    /// The review that a fix shows to have been due.
    fn criticised(
        &self,
        desk: &mut Desk,
        changed: &Changed,
        fix: &Work,
        rng: &mut Rng,
    ) -> Result<Result<Episode, &'static str>, PrepareError> {
        if fix.words.poor().is_some() {
            return Ok(Err("poor message"));
        }
        let mut why = "adds lines only";
        for file in fix.code() {
            let (Some(old), Some(new)) = (&file.old, &file.new) else { continue };
            let (old, new) = (lines(old), lines(new));
            if file.changed_lines > FIX_LINES_MAX || Language::of_path(&file.path).is_none() {
                why = "the fix is too large";
                continue;
            }
            let id =
                changed.changes.iter().find(|change| change.path == file.path).and_then(|change| change.old.clone());
            for hunk in hunks(&old, &new).iter().filter(|hunk| !hunk.old.is_empty()) {
                let is_code = |line: &str| line.chars().filter(|c| c.is_alphanumeric()).count() >= 3;
                let Some(line) = hunk.old.clone().find(|&line| is_code(old[line])) else { continue };
                let Some(origin) = id.as_ref().map(|id| self.origin(desk, &file.path, id, line)).transpose()?.flatten()
                else {
                    why = "older than the window";
                    continue;
                };
                let patch = Patch { path: &file.path, old: &old[hunk.old.clone()], new: &new[hunk.new.clone()] };
                match self.review(desk, origin, fix, &patch, rng)? {
                    Ok(episode) => return Ok(Ok(episode)),
                    Err(reason) => why = reason,
                }
            }
        }
        Ok(Err(why))
    }

    /// The recent change that brought a line in, and the line's number (from zero) after it. Followed backwards through
    /// the file's versions, each of which is told by its object: where branches part, the trail ends.
    fn origin(
        &self,
        desk: &mut Desk,
        path: &str,
        id: &str,
        line: usize,
    ) -> Result<Option<(usize, usize)>, PrepareError> {
        let (mut id, mut line) = (id.to_owned(), line);
        for (index, recent) in self.recent.iter().enumerate().rev() {
            let is_it = |change: &&Change| change.path == path && change.new.as_deref() == Some(id.as_str());
            let Some(change) = recent.changed.changes.iter().find(is_it) else { continue };
            let Some(old_id) = &change.old else { return Ok(Some((index, line))) };
            let bytes_max = desk.recipe.file_bytes_max;
            let old = desk.cleaning.text(&mut desk.repository, old_id, bytes_max)?;
            let new = desk.cleaning.text(&mut desk.repository, &id, bytes_max)?;
            let (Ok(old), Ok(new)) = (old, new) else { return Ok(None) };
            let hunks = hunks(&lines(&old), &lines(&new));
            if hunks.iter().any(|hunk| hunk.new.contains(&line)) {
                return Ok(Some((index, line)));
            }
            line = line_before(&hunks, line);
            id.clone_from(old_id);
        }
        Ok(None)
    }

    fn review(
        &self,
        desk: &mut Desk,
        (index, line): (usize, usize),
        fix: &Work,
        patch: &Patch,
        rng: &mut Rng,
    ) -> Result<Result<Episode, &'static str>, PrepareError> {
        let reviewed = match work(desk, &self.recent[index].changed)? {
            Ok(reviewed) => reviewed,
            Err(why) => return Ok(Err(why)),
        };
        let Some(file) = reviewed.files.iter().find(|file| file.path == patch.path) else {
            return Ok(Err("not in the diff"));
        };
        let after = lines(file.new.as_deref().unwrap_or(""));
        let Some(faulty) = after.get(line).map(|line| line.trim()) else { return Ok(Err("not in the diff")) };
        // What later commits did to the same lines is no part of what this reviewer sees.
        if !patch.old.iter().all(|old| after.contains(old)) {
            return Ok(Err("other commits in between"));
        }
        let Some(request) = request(&reviewed, Some(patch.path), rng) else { return Ok(Err("diff too long")) };
        let mut comment =
            format!("`{}:{}`: `{faulty}`\n{}.", patch.path, line + 1, fix.words.fault().trim_end_matches('.'));
        if fix.words.explains() {
            comment.push_str(&format!("\n\n{}", fix.words.body));
        }
        let answer = format!("request changes\n\n{comment}\n\n```diff\n{}```", patch.shown());
        Ok(Ok(episode(&reviewed, "fixed_later", &request, &answer, patch.path)))
    }

    /// A change that stayed as it was, if approvals are not too many already and there is a reason to give.
    fn approved(
        &mut self,
        desk: &mut Desk,
        recent: &Recent,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Option<Episode>, PrepareError> {
        if recent.is_suspect || recent.age < SETTLED {
            return Ok(None);
        }
        let share = desk.recipe.approvals_max;
        if (self.approvals + 1) as f64 > share * (self.approvals + 1 + self.requests) as f64 {
            tally.candidates += 1;
            tally.leave_out("enough approvals");
            return Ok(None);
        }
        let Ok(work) = work(desk, &recent.changed)? else { return Ok(None) };
        tally.candidates += 1;
        let Some(reason) = reason(&work) else {
            tally.leave_out("no reason to give");
            return Ok(None);
        };
        let Some(request) = request(&work, None, rng) else {
            tally.leave_out("diff too long");
            return Ok(None);
        };
        self.approvals += 1;
        let path = work.main_path().to_owned();
        Ok(Some(episode(&work, "settled", &request, &format!("approve\n\n{reason}"), &path)))
    }
}

/// One replacement of a fix.
struct Patch<'a> {
    path: &'a str,
    old: &'a [&'a str],
    new: &'a [&'a str],
}

impl Patch<'_> {
    fn shown(&self) -> String {
        let marked = |mark: char, line: &&str| format!("{mark}{}\n", line.trim_end_matches('\n'));
        self.old.iter().map(|line| marked('-', line)).chain(self.new.iter().map(|line| marked('+', line))).collect()
    }
}

/// Where a line that no hunk brought in stood before.
fn line_before(hunks: &[Hunk], line: usize) -> usize {
    let last = hunks.iter().rfind(|hunk| hunk.new.end <= line);
    last.map_or(line, |hunk| line - hunk.new.end + hunk.old.end)
}

/// The change as it is handed to a reviewer; `about` must be shown, the rest where there is room.
fn request(work: &Work, about: Option<&str>, rng: &mut Rng) -> Option<String> {
    let is_short = work.changed_lines() <= SHOWN_LINES_MAX;
    let files: Vec<_> = work.files.iter().filter(|file| is_short || about == Some(file.path.as_str())).collect();
    let changed: usize = files.iter().map(|file| file.changed_lines).sum();
    if files.is_empty() || changed > SHOWN_LINES_MAX || work.words.poor().is_some() {
        return None;
    }
    let diff: String = files
        .iter()
        .map(|file| {
            let old_path = if file.old.is_some() { file.path.as_str() } else { "" };
            let new_path = if file.new.is_some() { file.path.as_str() } else { "" };
            let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
            unified(old_path, new_path, old, new, CONTEXT_LINES)
        })
        .collect();
    let message = work.words.whole();
    Some(match rng.below(3) {
        0 => format!("Review this change.\n\n{message}\n\n```diff\n{diff}```"),
        1 => format!("{message}\n\nIs this change right?\n\n```diff\n{diff}```"),
        _ => format!("Please review before I merge:\n\n{message}\n\n```diff\n{diff}```"),
    })
}

/// Why a change can be taken: only what the diff itself shows.
fn reason(work: &Work) -> Option<String> {
    let tests: Vec<String> = work
        .files
        .iter()
        .filter(|file| is_test(&file.path) && file.new.is_some())
        .map(|file| format!("`{}`", file.path))
        .collect();
    let code: Vec<String> = work
        .code()
        .map(|file| match touched_functions(file).as_slice() {
            [] => format!("`{}`", file.path),
            [one] => format!("`{one}` in `{}`", file.path),
            [one, .., last] => format!("`{one}` to `{last}` in `{}`", file.path),
        })
        .collect();
    if code.is_empty() || code.len() > 3 || (tests.is_empty() && !work.words.explains()) {
        return None;
    }
    let mut reason = format!("The change keeps to what it says: it touches {}.", code.join(", "));
    if !tests.is_empty() {
        reason.push_str(&format!(" Tests come with it, in {}.", tests.join(", ")));
    }
    if work.words.explains() {
        reason.push_str(" The message gives the reason.");
    }
    Some(reason)
}

fn episode(work: &Work, form: &'static str, request: &str, answer: &str, path: &str) -> Episode {
    Episode {
        kind: MinedKind::Review,
        form,
        document: conversation(request, None, answer),
        silent: Vec::new(),
        commit: work.commit.id.clone(),
        path: path.to_owned(),
        language: Language::of_path(path).map(Language::name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_followed_back_through_changes() {
        let old = "a\nb\nc\nd\ne\n";
        let new = "x\na\nb\nC1\nC2\nC3\ne\n";
        let (before, after) = (lines(old), lines(new));
        let hunks = hunks(&before, &after);
        for (line, text) in after.iter().enumerate() {
            if hunks.iter().any(|hunk| hunk.new.contains(&line)) {
                assert!(text.starts_with(['x', 'C']), "{text}");
            } else {
                assert_eq!(before[line_before(&hunks, line)], *text);
            }
        }
    }
}
