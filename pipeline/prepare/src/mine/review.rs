//! Review: a change, and what a reviewer should have said of it. The ground is the history itself: a later commit that
//! rewrites lines which the change brought in shows where it was wrong and what would have been right. Lines are
//! traced back from fixes to where they came from as Śliwerski, Zimmermann and Zeller (2005) do. What later commits
//! changed for any other reason was no fault when it came. Changes that nothing corrected for long are approved, at a
//! limited share, or reviewed with a fault put into them (`planted`).

use super::change::{FileChange, Work, part, work};
use super::debugging;
use super::enact::touched_functions;
use super::episode::{Episode, MinedKind, conversation};
use super::excerpt::{Excerpt, excerpt};
use super::history::{Change, Changed};
use super::lines::{Hunk, hunks, is_code, is_import, lines, unified};
use super::message::has_phrase;
use super::path::is_named_in;
use super::planted::planted;
use super::replay::is_imperative;
use super::syntax::Language;
use super::yields::Yield;
use super::{Desk, label};
use crate::error::PrepareError;
use numeric::Rng;
use std::collections::VecDeque;
use std::ops::Range;

/// A fix this many commits later still says something about a change.
const WINDOW: usize = 200;
/// A change that nothing corrected is good once this many commits came after it.
const SETTLED: usize = 30;
/// Lines of a diff that are shown, and of the fix.
pub(super) const SHOWN_LINES_MAX: usize = 120;
const FIX_LINES_MAX: usize = 24;
/// Changes that one fix is a review of.
const ORIGINS_MAX: usize = 2;
pub(super) const CONTEXT_LINES: usize = 3;

/// Reviews, each with the place among the recent commits of what it is about.
type Found = Vec<(usize, Episode)>;

/// The commits that a fix may be about, oldest first.
#[derive(Default)]
pub(super) struct Reviewer {
    recent: VecDeque<Recent>,
    /// Changes that nothing corrected, of which some are approved and some have a fault put into them.
    settled: usize,
    requests: usize,
    approvals: usize,
    mutants: usize,
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
        work: Option<&Work>,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Vec<Episode>, PrepareError> {
        let mut episodes = Vec::new();
        // Its words tell of a fault, or a test that it brings does.
        let fix = work.filter(|work| work.words.is_fix() || debugging::is_fix(work));
        if let Some(fix) = fix {
            tally.candidates += 1;
            match self.criticised(desk, changed, fix, rng)? {
                Ok(found) => {
                    // One candidate may be a review of two changes.
                    tally.candidates += found.len() - 1;
                    for (index, episode) in found {
                        self.recent[index].is_suspect = true;
                        episodes.push(episode);
                    }
                }
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
            episodes.extend(self.settled(desk, &recent, tally)?);
        }
        Ok(episodes)
    }

    /// What the end of the history leaves: changes that are settled by then.
    pub(super) fn finish(&mut self, desk: &mut Desk, tally: &mut Yield) -> Result<Vec<Episode>, PrepareError> {
        let mut episodes = Vec::new();
        while let Some(recent) = self.recent.pop_front() {
            episodes.extend(self.settled(desk, &recent, tally)?);
        }
        Ok(episodes)
    }

    /// The reviews that a fix shows to have been due, each with the place among `recent` of what it is about.
    fn criticised(
        &self,
        desk: &mut Desk,
        changed: &Changed,
        fix: &Work,
        rng: &mut Rng,
    ) -> Result<Result<Found, &'static str>, PrepareError> {
        if let Some(why) = fix.words.poor() {
            return Ok(Err(why));
        }
        let code: Vec<&FileChange> = fix.code().filter(|file| !file.is_of_form()).collect();
        // A part of what mended a fault would be offered for the whole.
        let [file] = code.as_slice() else { return Ok(Err("the fix is in no file of code, or in several")) };
        let (Some(old), Some(new)) = (&file.old, &file.new) else { return Ok(Err("the fix adds or deletes a file")) };
        if file.changed_lines > FIX_LINES_MAX || Language::of_path(&file.path).is_none() {
            return Ok(Err("the fix is too large"));
        }
        let change = changed.changes.iter().find(|change| change.path == file.path);
        let Some(id) = change.and_then(|change| change.old.clone()) else { return Ok(Err("adds lines only")) };
        let patch = Patch::of(&file.path, old, new);
        let mut why = "adds lines only";
        let mut found = Found::new();
        for hunk in &patch.hunks {
            let is_telling = |&line: &usize| is_code(patch.old[line]) && !is_import(patch.old[line]);
            let Some(line) = hunk.old.clone().find(is_telling) else { continue };
            let Some(origin) = self.origin(desk, patch.path, &id, line)? else {
                why = "older than the window";
                continue;
            };
            if found.len() == ORIGINS_MAX || found.iter().any(|&(index, _)| index == origin.0) {
                continue;
            }
            match self.review(desk, origin, fix, &patch, rng)? {
                Ok(episode) => found.push((origin.0, episode)),
                Err(reason) => why = reason,
            }
        }
        Ok(if found.is_empty() { Err(why) } else { Ok(found) })
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
        let changed = &self.recent[index].changed;
        let whole = work(desk, changed)?.ok().filter(|work| work.changed_lines() <= SHOWN_LINES_MAX);
        // Of what is too much to review at once, the file in question is reviewed.
        let is_part = whole.is_none();
        let reviewed = match whole {
            Some(work) => work,
            None => match part(desk, changed, patch.path)? {
                Ok(work) => work,
                Err(why) => return Ok(Err(why)),
            },
        };
        let Some(file) = reviewed.files.iter().find(|file| file.path == patch.path) else {
            return Ok(Err("not in the diff"));
        };
        let after = lines(file.new.as_deref().unwrap_or(""));
        let Some(faulty) = after.get(line).map(|line| line.trim()) else { return Ok(Err("not in the diff")) };
        // What later commits did to the same lines is no part of what this reviewer sees.
        if !patch.stands_on().all(|old| after.contains(&old)) {
            return Ok(Err("other commits in between"));
        }
        let diff = match is_part && file.changed_lines > SHOWN_LINES_MAX {
            true => excerpt_of(file, line).map(|excerpt| excerpt.text),
            false => Some(reviewed.files.iter().map(diff_of).collect()),
        };
        let Some(diff) = diff else { return Ok(Err("diff too long")) };
        let request = request(&reviewed, is_part.then_some(patch.path), &diff, rng);
        let mut comment = format!("`{}:{}`: `{faulty}`\n{}", patch.path, line + 1, remark(fix));
        if fix.words.explains() {
            comment.push_str(&format!("\n\n{}", fix.words.body));
        }
        let answer = format!("request changes\n\n{comment}\n\n```diff\n{}```", patch.shown());
        Ok(Ok(episode(&reviewed, "fixed_later", &request, &answer, patch.path)))
    }

    /// A change that stayed as it was: approved, or with a fault put into it. Both are drawn from the same changes, so
    /// that only what is in a diff tells which it is.
    fn settled(
        &mut self,
        desk: &mut Desk,
        recent: &Recent,
        tally: &mut Yield,
    ) -> Result<Option<Episode>, PrepareError> {
        if recent.is_suspect || recent.age < SETTLED {
            return Ok(None);
        }
        self.settled += 1;
        let rng = &mut Rng::new(desk.recipe.seed).fork(label(&recent.changed.id)).fork(SETTLED as u64);
        if rng.chance(0.5) {
            let approved = self.approved(desk, &recent.changed, tally, rng)?;
            return if approved.is_some() { Ok(approved) } else { self.flawed(desk, &recent.changed, tally, rng) };
        }
        let flawed = self.flawed(desk, &recent.changed, tally, rng)?;
        if flawed.is_some() { Ok(flawed) } else { self.approved(desk, &recent.changed, tally, rng) }
    }

    /// A change with a fault put into it, if those are not too many already.
    fn flawed(
        &mut self,
        desk: &mut Desk,
        changed: &Changed,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Option<Episode>, PrepareError> {
        tally.candidates += 1;
        if (self.mutants + 1) as f64 > desk.recipe.review_mutants_max * self.settled as f64 {
            tally.leave_out("enough mutants");
            return Ok(None);
        }
        let episode = planted(desk, changed, rng)?.map_err(|why| tally.leave_out(why)).ok();
        self.mutants += usize::from(episode.is_some());
        self.requests += usize::from(episode.is_some());
        Ok(episode)
    }

    /// A change as it was, if approvals are not too many already and there is a reason to give.
    fn approved(
        &mut self,
        desk: &mut Desk,
        changed: &Changed,
        tally: &mut Yield,
        rng: &mut Rng,
    ) -> Result<Option<Episode>, PrepareError> {
        let share = desk.recipe.approvals_max;
        if (self.approvals + 1) as f64 > share * (self.approvals + 1 + self.requests) as f64 {
            tally.candidates += 1;
            tally.leave_out("enough approvals");
            return Ok(None);
        }
        let Ok(work) = work(desk, changed)? else { return Ok(None) };
        tally.candidates += 1;
        let Some(reason) = reason(&work) else {
            tally.leave_out("no reason to give");
            return Ok(None);
        };
        let is_long = work.changed_lines() > SHOWN_LINES_MAX;
        if let Some(why) = work.words.poor().or(is_long.then_some("diff too long")) {
            tally.leave_out(why);
            return Ok(None);
        }
        let diff: String = work.files.iter().map(diff_of).collect();
        let request = request(&work, None, &diff, rng);
        self.approvals += 1;
        let path = work.main_path().to_owned();
        Ok(Some(episode(&work, "settled", &request, &format!("approve\n\n{reason}"), &path)))
    }
}

/// What a fix did to its file: all of it.
pub(super) struct Patch<'a> {
    path: &'a str,
    hunks: Vec<Hunk>,
    old: Vec<&'a str>,
    new: Vec<&'a str>,
}

impl<'a> Patch<'a> {
    /// From one text of the file to the other.
    pub(super) fn of(path: &'a str, old: &'a str, new: &'a str) -> Self {
        let (old, new) = (lines(old), lines(new));
        Self { path, hunks: hunks(&old, &new), old, new }
    }

    /// The lines that a hunk shows of the old text: what it replaces, or, where it only adds, the line above.
    fn shown_old(&self, hunk: &Hunk) -> Range<usize> {
        if hunk.old.is_empty() { hunk.old.start.saturating_sub(1)..hunk.old.start } else { hunk.old.clone() }
    }

    /// Lines that must be there for this to be what is to be done.
    fn stands_on(&self) -> impl Iterator<Item = &str> {
        self.hunks.iter().flat_map(|hunk| &self.old[self.shown_old(hunk)]).copied()
    }

    pub(super) fn shown(&self) -> String {
        let marked = |mark: char, line: &&str| format!("{mark}{}\n", line.trim_end_matches('\n'));
        let parts = self.hunks.iter().map(|hunk| {
            let mark = if hunk.old.is_empty() { ' ' } else { '-' };
            let old = self.old[self.shown_old(hunk)].iter().map(|line| marked(mark, line));
            old.chain(self.new[hunk.new.clone()].iter().map(|line| marked('+', line))).collect::<String>()
        });
        parts.collect::<Vec<_>>().join("@@\n")
    }
}

/// Where a line that no hunk brought in stood before.
fn line_before(hunks: &[Hunk], line: usize) -> usize {
    let last = hunks.iter().rfind(|hunk| hunk.new.end <= line);
    last.map_or(line, |hunk| line - hunk.new.end + hunk.old.end)
}

pub(super) fn diff_of(file: &FileChange) -> String {
    let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
    let [old_path, new_path] = [&file.old, &file.new].map(|text| if text.is_some() { file.path.as_str() } else { "" });
    unified(old_path, new_path, old, new, CONTEXT_LINES)
}

pub(super) fn excerpt_of(file: &FileChange, line: usize) -> Option<Excerpt> {
    let old_path = if file.old.is_some() { format!("a/{}", file.path) } else { "/dev/null".to_owned() };
    let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
    let Excerpt { text, shown } = excerpt(old, new, line, SHOWN_LINES_MAX, CONTEXT_LINES)?;
    Some(Excerpt { text: format!("--- {old_path}\n+++ b/{}\n{text}", file.path), shown })
}

/// The change as it is handed to a reviewer, or `of_path` the part of it that is about one file.
pub(super) fn request(work: &Work, of_path: Option<&str>, diff: &str, rng: &mut Rng) -> String {
    let mut about = if work.words.poor().is_none() { format!("{}\n\n", work.words.whole()) } else { String::new() };
    if let Some(path) = of_path {
        about.push_str(&format!("This is the part in `{path}`:\n\n"));
    }
    match rng.below(3) {
        0 => format!("Review this change.\n\n{about}```diff\n{diff}```"),
        1 => format!("{about}```diff\n{diff}```\n\nIs this change right?"),
        _ => format!("Please review before I merge:\n\n{about}```diff\n{diff}```"),
    }
}

/// What a fix says of the place that it corrects, as a reviewer would have.
fn remark(fix: &Work) -> String {
    let subject = fix.words.subject.trim_end_matches('.');
    match fix.words.fault() {
        Some(fault) => format!("{}.", fault.trim_end_matches('.')),
        None if is_imperative(&fix.words) || fix.words.names_fault() => format!("{subject}."),
        // How things are afterwards is what does not hold yet.
        None => format!("What should hold here: {}.", fix.words.said()),
    }
}

/// Why a change can be taken: only what the diff itself shows. That it keeps to what it says is said only where the
/// message names all that it touches.
fn reason(work: &Work) -> Option<String> {
    let tests: Vec<String> = work
        .files
        .iter()
        .filter_map(|file| Some(format!("`{}` in `{}`", file.new_tests().first()?, file.path)))
        .collect();
    let code: Vec<&FileChange> = work.code().collect();
    let told = work.words.whole().to_lowercase();
    let keeps = code.iter().all(|file| is_told(&told, file));
    if code.is_empty() || code.len() > 3 || !keeps && tests.is_empty() {
        return None;
    }
    let mut reasons = Vec::new();
    if keeps {
        let named: Vec<String> = code.iter().map(|file| touched(file)).collect();
        reasons.push(format!("The change keeps to what it says: it touches {}.", named.join(", ")));
    }
    if !tests.is_empty() {
        reasons.push(format!("Tests come with it: {}.", tests.join(", ")));
    }
    if work.words.explains() {
        reasons.push("The message gives the reason.".to_owned());
    }
    Some(reasons.join(" "))
}

/// Whether a message, in lower case, names a file, or every function that is touched in it.
fn is_told(told: &str, file: &FileChange) -> bool {
    let functions = touched_functions(file);
    is_named_in(&file.path, told)
        || !functions.is_empty() && functions.iter().all(|function| has_phrase(told, &function.to_lowercase()))
}

fn touched(file: &FileChange) -> String {
    match touched_functions(file).as_slice() {
        [] => format!("`{}`", file.path),
        [one] => format!("`{one}` in `{}`", file.path),
        [one, .., last] => format!("`{one}` to `{last}` in `{}`", file.path),
    }
}

pub(super) fn episode(work: &Work, form: &'static str, request: &str, answer: &str, path: &str) -> Episode {
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
    use crate::mine::change::tests::change;

    #[test]
    fn a_mend_is_shown_whole() {
        let patch = Patch::of("a.py", "a\nb\nc\nd\n", "a\nB\nc\nd\nnew\n");
        assert_eq!(patch.shown(), "-b\n+B\n@@\n d\n+new\n");
        assert_eq!(patch.stands_on().collect::<Vec<_>>(), ["b\n", "d\n"]);
    }

    #[test]
    fn a_change_keeps_to_what_it_says_where_that_names_what_it_touches() {
        let text = "fn count_all() {\n    f(1);\n}\n";
        let file = change("src/lib.rs", Some(text), &text.replace('1', "2"));
        for (told, wanted) in [
            ("`count_all` begins at two", true),
            ("changes in lib.rs", true),
            ("the lib begins at two", false),
            ("counts begin at two", false),
        ] {
            assert_eq!(is_told(told, &file), wanted, "{told}");
        }
        assert!(is_told("counting is right", &change("src/counting.rs", Some(text), "")));
    }

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
