//! Whether both of two conditions must hold or one of them is enough, as far as the two say it: where the second reads
//! what is there only if the first holds, or where the two can never both hold, or never both fail.

use super::bound::{Sides, measured};
use super::evidence::{Evidence, is_quotable, once_more};
use super::function::Function;
use super::syntax::Syntax;

/// Of `&&` and `||`, and of `and` and `or`.
pub(super) fn of_connective(syntax: &Syntax, function: &Function, binary: usize) -> Option<Evidence> {
    let sides: Vec<usize> = syntax.named_children(binary).collect();
    let &[first, second] = sides.as_slice() else { return None };
    let operator = Sides::of(syntax, binary)?.operator;
    let is_both = matches!(operator, "&&" | "and");
    // In a chain the one before stands inside of what is on the left.
    let before = Some(first)
        .filter(|&at| syntax.is(at, syntax.names().binaries))
        .filter(|&at| Sides::of(syntax, at).is_some_and(|sides| sides.operator == operator));
    let first = before.and_then(|at| syntax.named_children(at).last()).unwrap_or(first);
    let (asked, then) = (syntax.text_of(first), syntax.text_of(second));
    let pair = || Some((Sides::of(syntax, first)?, Sides::of(syntax, second)?));
    let again = || {
        let text = syntax.text_of(binary);
        once_more(syntax, function, &syntax.nodes[binary].bytes, |line| line.contains(text))
    };
    let words = guarded(asked, then, is_both)
        .or_else(|| pair().and_then(|(one, other)| excluded(&one, &other, is_both)))
        .or_else(again)?;
    Some(Evidence::inside(words))
}

/// The second condition reads what is not there where the first fails, or, for `||`, where it holds.
fn guarded(asked: &str, then: &str, is_both: bool) -> Option<String> {
    let read = needed(asked, is_both).into_iter().find(|read| reads(then, read))?;
    if !is_quotable(asked) {
        return None;
    }
    let when = if is_both { "only where" } else { "only where not" };
    let read = read.trim_end_matches(['.', '-', '>', '[', '(']);
    Some(format!("`{read}` works {when} `{asked}`."))
}

fn reads(then: &str, read: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    then.match_indices(read).any(|(at, _)| !then[..at].ends_with(is_part))
}

/// Beginnings of what can be read only if a condition holds (`is_there`), or only if it fails.
fn needed(asked: &str, is_there: bool) -> Vec<String> {
    let (condition, is_negated) = match asked.strip_prefix('!').or_else(|| asked.strip_prefix("not ")) {
        Some(rest) => (rest, true),
        None => (asked, false),
    };
    let ends: [(&str, bool, &[&str]); 12] = [
        (".is_empty()", false, &["[0]", "[", ".first().unwrap", ".last().unwrap"]),
        (".isEmpty()", false, &[".get(", ".charAt("]),
        (".empty()", false, &["[", ".front()", ".back()"]),
        (".is_some()", true, &[".unwrap()", ".expect(", ".as_ref().unwrap"]),
        (".is_none()", false, &[".unwrap()", ".expect(", ".as_ref().unwrap"]),
        (" is not None", true, &[".", "["]),
        (" is None", false, &[".", "["]),
        (" != null", true, &[".", "["]),
        (" == null", false, &[".", "["]),
        (" != nil", true, &[".", "["]),
        (" == nil", false, &[".", "["]),
        (" != nullptr", true, &["->"]),
    ];
    for (end, has, reads) in ends {
        if let Some(name) = condition.strip_suffix(end) {
            let fits = (has != is_negated) == is_there;
            return if fits { reads.iter().map(|read| format!("{name}{read}")).collect() } else { Vec::new() };
        }
    }
    in_reach(condition, is_there != is_negated)
}

/// `at < rows.len()` lets `rows[at]` be read, `at >= rows.len()` forbids it.
fn in_reach(condition: &str, is_there: bool) -> Vec<String> {
    let operator = if is_there { " < " } else { " >= " };
    let Some((place, length)) = condition.split_once(operator) else { return Vec::new() };
    measured(length).map_or_else(Vec::new, |of| vec![format!("{of}[{place}]")])
}

/// Two questions about one thing that never both hold, or of which one always does.
fn excluded(one: &Sides, other: &Sides, is_both: bool) -> Option<String> {
    if one.left != other.left || one.right == other.right {
        return None;
    }
    let left = one.left;
    let is_fixed = |text: &str| {
        let first = text.trim_start_matches('b').chars().next().unwrap_or(' ');
        first.is_numeric() || first == '"' || first == '\'' || first.is_uppercase() || text.contains("::")
    };
    let is_below = |sides: &Sides| matches!(sides.operator, "<" | "<=");
    let is_above = |sides: &Sides| matches!(sides.operator, ">" | ">=");
    match (one.operator, other.operator, is_both) {
        ("==" | "===", "==" | "===", false) if is_fixed(one.right) && is_fixed(other.right) => {
            Some(format!("`{left}` cannot be both."))
        }
        ("!=" | "!==", "!=" | "!==", true) if is_fixed(one.right) && is_fixed(other.right) => {
            Some(format!("`{left}` always differs from one of the two."))
        }
        (_, _, false) if is_below(one) && is_above(other) => {
            Some(format!("`{left}` is never below `{}` and above `{}` at once.", one.right, other.right))
        }
        (_, _, true) if is_above(one) && is_below(other) => {
            Some(format!("`{left}` is always above `{}` or below `{}`.", one.right, other.right))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;

    #[test]
    fn two_conditions_tell_how_they_are_joined() {
        for (path, code, wanted) in [
            ("a.rs", "at < of.len() && of[at] > 1", "`of[at]` works only where `at < of.len()`."),
            ("a.rs", "ok && at < of.len() && of[at] > 1", "`of[at]` works only where `at < of.len()`."),
            ("a.rs", "at >= of.len() || of[at] > 1", "`of[at]` works only where not `at >= of.len()`."),
            ("a.rs", "!of.is_empty() && of[0] > 1", "`of[0]` works only where `!of.is_empty()`."),
            ("a.rs", "of.is_empty() && of[0] > 1", ""),
            ("a.rs", "of.is_none() || of.unwrap() > 1", "`of.unwrap()` works only where not `of.is_none()`."),
            ("a.py", "of is not None and of.width > 1", "`of` works only where `of is not None`."),
            ("a.py", "of is not None and often.width > 1", ""),
            ("a.rs", "kind == Kind::One || kind == Kind::Two", "`kind` cannot be both."),
            ("a.rs", "kind == one || kind == two", ""),
            ("a.rs", "kind != 'a' && kind != 'b'", "`kind` always differs from one of the two."),
            ("a.rs", "n < low || n > high", "`n` is never below `low` and above `high` at once."),
            ("a.rs", "n >= low && n <= high", "`n` is always above `low` or below `high`."),
            ("a.rs", "n >= low || n <= high", ""),
            ("a.rs", "one && two", ""),
        ] {
            let text = match path {
                "a.py" => format!("def f(of):\n    return {code}\n"),
                _ => format!("fn f() -> bool {{\n    {code}\n}}\n"),
            };
            let syntax = Syntax::of(path, &text).expect("it parses");
            let function = &functions(&syntax)[0];
            let is_it = |&at: &usize| syntax.is(at, syntax.names().binaries) && syntax.text_of(at) == code;
            let binary = syntax.below(function.body).find(is_it).expect(code);
            let found = of_connective(&syntax, function, binary).map_or_else(String::new, |evidence| evidence.words);
            assert_eq!(found, wanted, "{code}");
        }
    }
}
