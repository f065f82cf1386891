//! A diff becomes a verdict: `approve`, or `request changes` with the faulty line named.

use numeric::Rng;
use text::chat::Document;

use crate::debugging::faulty;
use crate::kata::Kata;
use crate::mutate::mutant;
use crate::sandbox::Sandbox;
use crate::source::{is_own_name, tokens};
use crate::split::Split;
use crate::task::{Exercise, Prompt, Verdict, ask, conversation};

#[derive(Debug)]
pub(crate) struct Review {
    kata: Kata,
    request: String,
    verdict: &'static str,
    remark: String,
    /// The line that a request for changes must name; none where the change is good.
    faulty_line: Option<usize>,
}

struct Change {
    before: String,
    after: String,
    remark: String,
    faulty_line: Option<usize>,
}

impl Review {
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        let (kata, change) = loop {
            let (kata, mutant) = faulty(split, rng);
            let change = match rng.below(8) {
                0..=2 => Some(breaks(&kata, &kata.program.clone(), mutant)),
                3 => other_fault(&kata, &mutant.program, rng),
                4 | 5 => Some(Change {
                    before: mutant.program,
                    after: kata.program.clone(),
                    remark: format!("The change corrects line {}.", mutant.line),
                    faulty_line: None,
                }),
                _ => refactored(&kata, rng),
            };
            if let Some(change) = change {
                break (kata, change);
            }
        };
        let diff = unified(&change.before, &change.after);
        let request = match rng.below(2) {
            0 => format!("Review this change.\n\nThe task: {}\n\n```diff\n{diff}```", kata.description),
            _ => format!("{}\n\nIs this change right?\n\n```diff\n{diff}```", kata.description),
        };
        let verdict = if change.faulty_line.is_some() { "request changes" } else { "approve" };
        Self { kata, request, verdict, remark: change.remark, faulty_line: change.faulty_line }
    }
}

fn breaks(kata: &Kata, before: &str, mutant: crate::mutate::Mutant) -> Change {
    debug_assert!(!kata.accepts(&mutant.program));
    Change { before: before.to_owned(), after: mutant.program, remark: mutant.fault, faulty_line: Some(mutant.line) }
}

/// From one fault to another: the change helps nobody.
fn other_fault(kata: &Kata, before: &str, rng: &mut Rng) -> Option<Change> {
    let second = mutant(kata, rng)?;
    (second.program != before).then(|| breaks(kata, before, second))
}

/// A change of form only, run to be sure.
fn refactored(kata: &Kata, rng: &mut Rng) -> Option<Change> {
    let before = kata.program.clone();
    let (after, remark) = match rng.below(3) {
        0 => (renamed(&before, rng)?, "The change only renames a variable."),
        1 => (with_named_result(&before)?, "The change only names the result."),
        _ => (with_comment(&before), "The change only adds a comment."),
    };
    let change = Change { before, after, remark: remark.to_owned(), faulty_line: None };
    kata.accepts(&change.after).then_some(change)
}

fn renamed(code: &str, rng: &mut Rng) -> Option<String> {
    let all = tokens(code);
    let locals: Vec<&str> = all
        .iter()
        .filter(|token| is_own_name(code, token) && token.line > 1 && !code[token.end..].starts_with('('))
        .map(|token| token.of(code))
        .collect();
    if locals.is_empty() || code.contains("f'") || code.contains("self") {
        return None;
    }
    let old = *rng.choose(&locals);
    let new = *rng.choose(&["result", "current", "thing", "entry", "data", "given"]);
    if all.iter().any(|token| token.of(code) == new) {
        return None;
    }
    let pieces =
        all.iter().map(|token| if is_own_name(code, token) && token.of(code) == old { new } else { token.of(code) });
    Some(pieces.collect())
}

fn with_named_result(code: &str) -> Option<String> {
    let at = code.rfind("    return ")?;
    let value = code[at + "    return ".len()..].trim_end();
    let indent = &code[code[..at].rfind('\n').map_or(0, |end| end + 1)..at];
    if value.contains('\n') || value.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    Some(format!("{}    answer = {value}\n{indent}    return answer\n", &code[..at]))
}

fn with_comment(code: &str) -> String {
    let end = code.find('\n').map_or(code.len(), |end| end + 1);
    let indent = code[end..].len() - code[end..].trim_start().len();
    format!("{}{}# Kept short on purpose.\n{}", &code[..end], &code[end..end + indent], &code[end..])
}

/// A diff of one hunk that shows the whole program.
pub(crate) fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // common[i][j] is the length of the longest common subsequence of old[i..] and new[j..].
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let mut out = format!("@@ -1,{} +1,{} @@\n", old.len(), new.len());
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push_str(&format!(" {}\n", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            out.push_str(&format!("-{}\n", old[i]));
            i += 1;
        } else {
            out.push_str(&format!("+{}\n", new[j]));
            j += 1;
        }
    }
    out
}

impl Exercise for Review {
    fn prompt(&self) -> Prompt {
        ask(&self.request)
    }

    fn demonstration(&self) -> Document {
        conversation(&self.request, None, &format!("{}\n{}", self.verdict, self.remark))
    }

    fn judge(&self, _sandbox: &Sandbox, answer: &str) -> Verdict {
        let answer = answer.trim();
        let given = answer.lines().next().unwrap_or("").trim_matches(|c: char| !c.is_alphabetic()).to_lowercase();
        let exact = answer == format!("{}\n{}", self.verdict, self.remark);
        if given != self.verdict {
            return Verdict::failed(format!("the verdict is `{}`, expected `{}`", given, self.verdict));
        }
        match self.faulty_line {
            Some(line) if !names_line(answer, line) => {
                Verdict { passed: false, exact, detail: format!("the fault is on line {line}, which is not named") }
            }
            _ => Verdict { passed: true, exact, detail: format!("the verdict is `{}`", self.verdict) },
        }
    }

    fn katas(&self) -> &[Kata] {
        std::slice::from_ref(&self.kata)
    }
}

/// Whether the answer says "line N" or "lines M and N", and not the number alone.
fn names_line(answer: &str, line: usize) -> bool {
    let lower = answer.to_lowercase();
    let Some(at) = lower.find("line") else { return false };
    let rest = lower[at + 4..].trim_start_matches('s');
    let end = rest.find('`').unwrap_or(rest.len()).min(rest.find('.').unwrap_or(rest.len()));
    rest[..end].split(|c: char| !c.is_ascii_digit()).any(|number| number.parse() == Ok(line))
}
