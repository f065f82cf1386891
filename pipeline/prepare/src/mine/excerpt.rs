//! The part of a long difference that is around one line: what somebody is shown who cannot be shown all of it.

use super::lines::{Hunk, hunks, hunks_shown, lines};
use std::ops::Range;

/// Lines around the one in question that are looked through for a blank one to begin at.
const BEGINNING_LINES: usize = 12;

/// What is shown of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// As a unified diff has it, without file lines.
    pub(super) text: String,
    /// The lines of the new text that are in it, counted from zero.
    pub(super) shown: Range<usize>,
}

/// The hunk of a difference that brings in line `line` (from zero) of the new text, as a unified diff shows it without
/// file lines. Of a hunk with more than `lines_max` lines only what is around the line, cut where the text has a gap if
/// there is one near. None where no hunk brings the line in, or where so much was replaced that the part would not show
/// by what.
pub(super) fn excerpt(old: &str, new: &str, line: usize, lines_max: usize, context: usize) -> Option<Excerpt> {
    let (before, after) = (lines(old), lines(new));
    let all = hunks(&before, &after);
    let hunk = all.iter().find(|hunk| hunk.new.contains(&line))?;
    if hunk.old.len() + hunk.new.len() <= lines_max {
        let text = hunks_shown(&before, &after, std::slice::from_ref(hunk), context);
        return Some(Excerpt { text, shown: hunk.shown(context, after.len()) });
    }
    let room = lines_max.checked_sub(hunk.old.len()).filter(|&room| room * 2 >= lines_max)?;
    let part = around(&after, hunk, line, room);
    // A removal is shown where it happens: at the start of what came in its place.
    let removed = if part.start == hunk.new.start { hunk.old.clone() } else { hunk.old.end..hunk.old.end };
    let side = |range: &Range<usize>| match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        count => format!("{},{count}", range.start + 1),
    };
    let mut out = format!("@@ -{} +{} @@\n", side(&removed), side(&part));
    let marked = |mark: char, line: &&str| format!("{mark}{}\n", line.trim_end_matches('\n'));
    before[removed].iter().for_each(|line| out.push_str(&marked('-', line)));
    after[part.clone()].iter().for_each(|line| out.push_str(&marked('+', line)));
    Some(Excerpt { text: out, shown: part })
}

/// At most `room` new lines of a hunk, with `line` among them.
fn around(after: &[&str], hunk: &Hunk, line: usize, room: usize) -> Range<usize> {
    let start = line.saturating_sub(room / 2).max(hunk.new.start);
    let is_gap = |&at: &usize| at == hunk.new.start || after[at - 1].trim().is_empty();
    let start = (start..line.min(start + BEGINNING_LINES)).find(is_gap).unwrap_or(start);
    let end = (start + room).min(hunk.new.end);
    let gap = (line + 1..end).rev().take(BEGINNING_LINES).find(|&at| after[at].trim().is_empty());
    start..if end == hunk.new.end { end } else { gap.unwrap_or(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(count: usize) -> String {
        (0..count).map(|at| format!("fn f{at}() {{\n    g({at});\n}}\n\n")).collect()
    }

    #[test]
    fn a_new_file_is_cut_around_the_line() {
        let new = functions(50);
        let line = new.lines().position(|line| line.contains("g(25)")).expect("it is there");
        let Excerpt { text: shown, shown: range } = excerpt("", &new, line, 40, 3).expect("it is brought in");
        let (head, rest) = shown.split_once('\n').expect("a head");
        assert!(rest.lines().count() <= 40 && rest.contains("+    g(25);\n"), "{shown}");
        assert!(rest.starts_with("+fn f") && rest.ends_with("+}\n"), "whole functions: {shown}");
        let all: Vec<&str> = rest.lines().map(|line| &line[1..]).collect();
        assert_eq!(new.lines().collect::<Vec<_>>()[range], all);
        let first: usize = head.split(['+', ',']).nth(2).and_then(|text| text.parse().ok()).expect(head);
        assert_eq!(Some(&rest[1..rest.find('\n').expect("a line")]), new.lines().nth(first - 1));
        assert!(head.contains(&format!(",{} @@", rest.lines().count())), "{head}");
    }

    #[test]
    fn a_short_hunk_is_shown_with_what_is_around_it() {
        let old = functions(9);
        let new = old.replace("g(4)", "h(4)").replace("g(8)", "h(8)");
        let line = new.lines().position(|line| line.contains("h(4)")).expect("it is there");
        let shown = excerpt(&old, &new, line, 40, 2).expect("it is brought in");
        assert_eq!(shown.text, "@@ -16,5 +16,5 @@\n \n fn f4() {\n-    g(4);\n+    h(4);\n }\n \n");
        assert_eq!(shown.shown, 15..20);
        assert_eq!(excerpt(&old, &new, 0, 40, 2), None, "that line was there before");
    }

    #[test]
    fn what_replaces_too_much_is_not_shown() {
        let old = functions(30).replace("g(", "old(").replace("fn f", "fn o").replace("}\n\n", "};\n\n");
        let new: String =
            functions(30).lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
        assert_eq!(excerpt(&old.replace("\n\n", "\n"), &new, 40, 40, 3), None);
    }
}
