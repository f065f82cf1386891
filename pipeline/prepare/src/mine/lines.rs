//! Differences between two texts, line by line: hunks, unified diffs, and the edits that turn one into the other.

use std::collections::HashMap;
use std::ops::Range;

/// Differences beyond this are one replacement: nobody reads them as anything else, and memory grows with the square.
const DISTANCE_MAX: usize = 1_000;
/// Changes that are nearer to each other than this become one edit.
const EDIT_GAP_LINES: usize = 2;

/// Lines `old` of the one text became lines `new` of the other; what is between hunks is the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    pub(super) old: Range<usize>,
    pub(super) new: Range<usize>,
}

impl Hunk {
    /// The lines of a new text of `count` lines that a diff with so many lines of context shows because of this hunk.
    pub(super) fn shown(&self, context: usize, count: usize) -> Range<usize> {
        self.new.start.saturating_sub(context)..(self.new.end + context).min(count)
    }
}

/// One replacement in a text that contains `old` exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) old: String,
    pub(super) new: String,
}

/// Lines with their ends.
pub(super) fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// The shortest way from one text to the other (Myers 1986, the greedy form), as hunks in order.
pub(super) fn hunks<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Hunk> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let same_end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - same_end, new.len() - same_end);
    if start == old_end || start == new_end {
        let whole = Hunk { old: start..old_end, new: start..new_end };
        return match whole.old.is_empty() && whole.new.is_empty() {
            true => Vec::new(),
            false => slid(vec![whole], old, new),
        };
    }
    // Numbers compare faster than lines.
    let mut numbers: HashMap<&'a str, u32> = HashMap::new();
    let mut number = |line: &&'a str| -> u32 {
        let next = numbers.len() as u32;
        *numbers.entry(line).or_insert(next)
    };
    let old_numbers: Vec<u32> = old[start..old_end].iter().map(&mut number).collect();
    let new_numbers: Vec<u32> = new[start..new_end].iter().map(&mut number).collect();
    let Some(mut steps) = steps(&old_numbers, &new_numbers) else {
        return vec![Hunk { old: start..old_end, new: start..new_end }];
    };
    steps.reverse();
    slid(joined(&steps, start), old, new)
}

/// Where lines were only added, or only removed, the same difference can often be told some lines further up or down.
/// A person sees whole functions come and go, not the end of one with the beginning of the next.
fn slid(mut hunks: Vec<Hunk>, old: &[&str], new: &[&str]) -> Vec<Hunk> {
    for at in 0..hunks.len() {
        // A line stays between two of them, or they would be one.
        let above = at.checked_sub(1).map_or((0, 0), |before| (hunks[before].old.end + 1, hunks[before].new.end + 1));
        let below = hunks.get(at + 1).map_or((old.len(), new.len()), |next| (next.old.start - 1, next.new.start - 1));
        let hunk = &hunks[at];
        let (block, all, room) = match (hunk.old.is_empty(), hunk.new.is_empty()) {
            (true, false) => (&hunk.new, new, (above.1, below.1)),
            (false, true) => (&hunk.old, old, (above.0, below.0)),
            _ => continue,
        };
        let by = best_place(block, all, room) - block.start as isize;
        let moved = |range: &Range<usize>| range.start.wrapping_add_signed(by)..range.end.wrapping_add_signed(by);
        hunks[at] = Hunk { old: moved(&hunk.old), new: moved(&hunk.new) };
    }
    hunks
}

/// Where a block of lines would begin best, of all the places between `room` where it could as well: the lowest of
/// those with the least indentation that begin with no closing bracket, after no attribute and no comment.
fn best_place(block: &Range<usize>, all: &[&str], (first, last): (usize, usize)) -> isize {
    let length = block.len();
    let mut top = block.start;
    while top > first && all[top - 1] == all[top + length - 1] {
        top -= 1;
    }
    let mut bottom = block.start;
    while bottom + length < last && all[bottom] == all[bottom + length] {
        bottom += 1;
    }
    let cost = |start: usize| {
        let head = all[start..start + length].iter().find(|line| !line.trim().is_empty()).copied().unwrap_or_default();
        let text = head.trim_start();
        let is_closing = text.starts_with(['}', ')', ']']) || text.trim_end() == "end" || text.starts_with("*/");
        let before = start.checked_sub(1).map_or("", |before| all[before].trim_start());
        let is_torn = ["#[", "@", "//", "/*", "* "].iter().any(|mark| before.starts_with(mark));
        (is_closing || is_torn, head.len() - text.len())
    };
    (top..=bottom).rev().min_by_key(|&start| cost(start)).unwrap_or(block.start) as isize
}

/// One line removed or added, before line `old` of the old text and line `new` of the new.
#[derive(Clone, Copy)]
enum Step {
    Remove { old: usize, new: usize },
    Add { old: usize, new: usize },
}

/// The steps from the end to the start; none where the texts are too far apart.
fn steps(old: &[u32], new: &[u32]) -> Option<Vec<Step>> {
    let (n, m) = (old.len() as isize, new.len() as isize);
    let most = (old.len() + new.len()).min(DISTANCE_MAX);
    // reached[offset + k] is how far down the old text the diagonal k has come.
    let offset = most as isize + 1;
    let mut reached = vec![0isize; 2 * most + 3];
    let mut trace: Vec<Vec<isize>> = Vec::new();
    for d in 0..=most as isize {
        trace.push(reached[(offset - d - 1) as usize..=(offset + d + 1) as usize].to_vec());
        for k in (-d..=d).step_by(2) {
            let at = |k: isize| reached[(offset + k) as usize];
            let mut x = if k == -d || (k != d && at(k - 1) < at(k + 1)) { at(k + 1) } else { at(k - 1) + 1 };
            while x < n && x - k < m && old[x as usize] == new[(x - k) as usize] {
                x += 1;
            }
            reached[(offset + k) as usize] = x;
            if x >= n && x - k >= m {
                return Some(walked_back(&trace, n, m));
            }
        }
    }
    None
}

fn walked_back(trace: &[Vec<isize>], n: isize, m: isize) -> Vec<Step> {
    let (mut x, mut y) = (n, m);
    let mut steps = Vec::new();
    for d in (1..trace.len() as isize).rev() {
        // The round's copy begins at diagonal -d - 1.
        let at = |k: isize| trace[d as usize][(k + d + 1) as usize];
        let k = x - y;
        let is_addition = k == -d || (k != d && at(k - 1) < at(k + 1));
        let before = if is_addition { k + 1 } else { k - 1 };
        let (old, new) = (at(before), at(before) - before);
        let step = (old as usize, new as usize);
        steps.push(match is_addition {
            true => Step::Add { old: step.0, new: step.1 },
            false => Step::Remove { old: step.0, new: step.1 },
        });
        (x, y) = (old, new);
    }
    steps
}

fn joined(steps: &[Step], start: usize) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    for step in steps {
        let (old, new, removed, added) = match *step {
            Step::Remove { old, new } => (old + start, new + start, 1, 0),
            Step::Add { old, new } => (old + start, new + start, 0, 1),
        };
        match hunks.last_mut() {
            Some(last) if last.old.end == old && last.new.end == new => {
                last.old.end += removed;
                last.new.end += added;
            }
            _ => hunks.push(Hunk { old: old..old + removed, new: new..new + added }),
        }
    }
    hunks
}

/// Whether a line says something to a machine: not a lone bracket, and not a comment of its own.
pub(super) fn is_code(line: &str) -> bool {
    let text = line.trim_start();
    let is_comment = ["//", "/*", "* ", "# ", "--"].iter().any(|mark| text.starts_with(mark));
    !is_comment && text.chars().filter(|c| c.is_alphanumeric()).count() >= 3
}

/// A line that only brings names in: it changes because something else does.
pub(super) fn is_import(line: &str) -> bool {
    let text = line.trim_start();
    ["use ", "pub use ", "import ", "from ", "#include", "mod ", "pub mod ", "package "]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Names and numbers of a text, in order.
pub(super) fn names_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Lines removed and added.
pub(super) fn changed_lines(hunks: &[Hunk]) -> usize {
    hunks.iter().map(|hunk| hunk.old.len() + hunk.new.len()).sum()
}

/// A unified diff, with its two file lines; `old_path` or `new_path` is empty where there is no such file.
pub(super) fn unified(old_path: &str, new_path: &str, old: &str, new: &str, context: usize) -> String {
    let (old_lines, new_lines) = (lines(old), lines(new));
    let named =
        |side: &str, path: &str| if path.is_empty() { "/dev/null".to_owned() } else { format!("{side}/{path}") };
    let mut out = format!("--- {}\n+++ {}\n", named("a", old_path), named("b", new_path));
    out.push_str(&hunks_shown(&old_lines, &new_lines, &hunks(&old_lines, &new_lines), context));
    out
}

/// Hunks as a unified diff shows them, without file lines.
pub(super) fn hunks_shown(old: &[&str], new: &[&str], hunks: &[Hunk], context: usize) -> String {
    let mut out = String::new();
    for group in groups(hunks, 2 * context) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let before = context.min(first.old.start);
        let after = context.min(old.len() - last.old.end);
        let (old_start, old_end) = (first.old.start - before, last.old.end + after);
        let (new_start, new_end) = (first.new.start - before, last.new.end + after);
        let side = |start: usize, end: usize| match end - start {
            0 => format!("{start},0"),
            1 => format!("{}", start + 1),
            count => format!("{},{count}", start + 1),
        };
        out.push_str(&format!("@@ -{} +{} @@\n", side(old_start, old_end), side(new_start, new_end)));
        let mut at = old_start;
        for hunk in group {
            old[at..hunk.old.start].iter().for_each(|line| push_line(&mut out, ' ', line));
            old[hunk.old.clone()].iter().for_each(|line| push_line(&mut out, '-', line));
            new[hunk.new.clone()].iter().for_each(|line| push_line(&mut out, '+', line));
            at = hunk.old.end;
        }
        old[at..old_end].iter().for_each(|line| push_line(&mut out, ' ', line));
    }
    out
}

fn push_line(out: &mut String, mark: char, line: &str) {
    out.push(mark);
    out.push_str(line);
    if !line.ends_with('\n') {
        out.push_str("\n\\ No newline at end of file\n");
    }
}

/// Hunks with at most so many lines between them belong together.
fn groups(hunks: &[Hunk], gap: usize) -> Vec<&[Hunk]> {
    hunks.chunk_by(|before, after| after.old.start - before.old.end <= gap).collect()
}

/// The edits that turn `old` into `new` one after the other, each with as much around it as makes it unique. None
/// where no such edits exist, which the caller counts; what is returned has been applied and compared.
pub(super) fn edits(old: &str, new: &str) -> Option<Vec<Edit>> {
    let (old_lines, new_lines) = (lines(old), lines(new));
    let all = hunks(&old_lines, &new_lines);
    let mut current = old.to_owned();
    let mut edits = Vec::new();
    for group in groups(&all, EDIT_GAP_LINES) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        // Everything above is as in the new text already.
        let rest = lines(&current).len() - first.new.start - (last.old.end - first.old.start);
        let edit = edit(&current, first.new.start, rest, &new_lines[first.new.start..last.new.end])?;
        current = applied(&current, &edit)?;
        edits.push(edit);
    }
    (current == new).then_some(edits)
}

/// Replaces all but the first `above` and the last `below` lines by `wanted`, as one edit.
fn edit(current: &str, above: usize, below: usize, wanted: &[&str]) -> Option<Edit> {
    let all = lines(current);
    let (from, to) = (above, all.len() - below);
    let (mut start, mut end) = (from, to);
    let mut grows_up = true;
    loop {
        let old = all[start..end].concat();
        let new = format!("{}{}{}", all[start..from].concat(), wanted.concat(), all[to..end].concat());
        let edit = without_last_newline(old, new);
        // An anchor of blank lines, or of a lone bracket, may be unique today and is no place that a person would name.
        if edit.old.bytes().filter(u8::is_ascii_alphanumeric).count() >= 3 && current.matches(&edit.old).count() == 1 {
            return Some(edit);
        }
        if start == 0 && end == all.len() {
            // The whole file is its own anchor, if it holds anything.
            return (!edit.old.is_empty() && current.matches(&edit.old).count() == 1).then_some(edit);
        }
        if (grows_up && start > 0) || end == all.len() {
            start -= 1;
        } else {
            end += 1;
        }
        grows_up = !grows_up;
    }
}

/// Both sides end at the same line end, which needs not be said.
fn without_last_newline(mut old: String, mut new: String) -> Edit {
    if old.ends_with('\n') && new.ends_with('\n') && old.len() > 1 && new.len() > 1 {
        old.pop();
        new.pop();
    }
    Edit { old, new }
}

/// What the edit tool makes of a text; none where it would refuse.
pub(super) fn applied(text: &str, edit: &Edit) -> Option<String> {
    let is_unique = !edit.old.is_empty() && text.matches(&edit.old).count() == 1;
    is_unique.then(|| text.replacen(&edit.old, &edit.new, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    /// A text of few different lines, so that they repeat.
    fn text(rng: &mut Rng, lines: usize, with_end: bool) -> String {
        let all = ["}", "", "    x += 1;", "fn a() {", "fn b() {", "    return;", "let y = 2;", "ü"];
        let mut text: String = (0..lines).map(|_| format!("{}\n", rng.choose(&all))).collect();
        if !with_end {
            text.pop();
        }
        text
    }

    fn changed(rng: &mut Rng, text: &str) -> String {
        let mut all: Vec<String> = lines(text).into_iter().map(str::to_owned).collect();
        for step in 0..1 + rng.below(5) {
            let at = rng.below(all.len() + 1);
            match rng.below(3) {
                0 if at < all.len() => drop(all.remove(at)),
                1 if at < all.len() => all[at] = format!("changed {step}\n"),
                _ => all.insert(at, "inserted\n".to_owned()),
            }
        }
        all.concat()
    }

    #[test]
    fn hunks_lead_from_one_text_to_the_other() {
        let mut rng = Rng::new(5);
        for round in 0..400 {
            let length = rng.below(30);
            let old = text(&mut rng, length, round % 3 > 0);
            let new = if round % 2 == 0 { changed(&mut rng, &old) } else { text(&mut rng, 12, true) };
            let (a, b) = (lines(&old), lines(&new));
            let (mut out, mut at) = (String::new(), 0);
            for hunk in hunks(&a, &b) {
                assert!(hunk.old.start >= at && !(hunk.old.is_empty() && hunk.new.is_empty()));
                out.push_str(&a[at..hunk.old.start].concat());
                out.push_str(&b[hunk.new.clone()].concat());
                at = hunk.old.end;
            }
            out.push_str(&a[at..].concat());
            assert_eq!(out, new);
        }
    }

    #[test]
    fn hunks_are_the_shortest() {
        let old = ["a", "b", "c", "a", "b", "b", "a"];
        let new = ["c", "b", "a", "b", "a", "c"];
        // The example of Myers' article: five steps.
        assert_eq!(changed_lines(&hunks(&old, &new)), 5);
        let far: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        let other: Vec<String> = (0..3000).map(|i| format!("x{i}")).collect();
        let [far, other] = [&far, &other].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(hunks(&far, &other), [Hunk { old: 0..3000, new: 0..3000 }]);
    }

    #[test]
    fn whole_functions_come_and_go() {
        let function = |name: &str| format!("#[test]\nfn {name}() {{\n    run();\n}}\n");
        let two = format!("{}\n{}", function("a"), function("c"));
        let three = format!("{}\n{}\n{}", function("a"), function("b"), function("c"));
        let (few, many) = (lines(&two), lines(&three));
        let added = hunks(&few, &many);
        let [hunk] = added.as_slice() else { panic!("{added:?}") };
        assert_eq!(many[hunk.new.clone()].concat(), format!("{}\n", function("b")));
        let removed = hunks(&many, &few);
        assert_eq!((&removed[0].old, &removed[0].new), (&hunk.new, &hunk.old));
        // At the end of a file, too, and at its start.
        let (one, both) = (function("a"), format!("{}\n{}", function("a"), function("b")));
        assert_eq!(hunks(&lines(&one), &lines(&both)), [Hunk { old: 4..4, new: 4..9 }]);
        assert_eq!(hunks(&["x\n"], &["x\n", "x\n"]).len(), 1);
    }

    #[test]
    fn edits_are_unique_and_end_at_the_new_text() {
        let mut rng = Rng::new(9);
        let mut found = 0;
        for round in 0..600 {
            let length = 1 + rng.below(40);
            let old = text(&mut rng, length, round % 4 > 0);
            let new = changed(&mut rng, &old);
            let Some(edits) = edits(&old, &new) else { continue };
            found += 1;
            let mut current = old.clone();
            for edit in &edits {
                assert_eq!(current.matches(&edit.old).count(), 1, "{edit:?} in {current:?}");
                current = current.replacen(&edit.old, &edit.new, 1);
            }
            assert_eq!(current, new);
        }
        assert!(found > 500, "only {found} of 600 were possible");
        assert_eq!(edits("", "new\n"), None, "an empty file has no anchor");
    }

    #[test]
    fn a_diff_looks_as_git_writes_it() {
        let old: String = (1..=20).map(|i| format!("line {i}\n")).collect();
        let new = old.replace("line 3\n", "line three\nand a half\n").replace("line 20\n", "line 20");
        let wanted = "--- a/x\n+++ b/x\n@@ -1,6 +1,7 @@\n line 1\n line 2\n-line 3\n+line three\n+and a half\n \
                      line 4\n line 5\n line 6\n@@ -17,4 +18,4 @@\n line 17\n line 18\n line 19\n-line 20\n+line 20\n\
                      \\ No newline at end of file\n";
        assert_eq!(unified("x", "x", &old, &new, 3), wanted);
        assert_eq!(unified("", "n", "", "a\n", 3), "--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+a\n");
    }
}
