//! What tells that a statement is missing: something is made ready for it and never used. And what lets somebody write
//! it: that its names stand near.

use super::evidence::Evidence;
use super::function::Function;
use super::lines::names_in;
use super::syntax::{Language, Syntax};
use std::ops::Range;

/// Lines before and after a function that somebody reads with it.
const NEAR_LINES: usize = 12;

/// What the standard libraries call things, which nobody has to have seen.
const COMMON: [&str; 42] = [
    "push",
    "push_str",
    "push_back",
    "pop",
    "append",
    "extend",
    "insert",
    "add",
    "put",
    "set",
    "iter",
    "iter_mut",
    "into_iter",
    "for_each",
    "map",
    "filter",
    "zip",
    "clone",
    "cloned",
    "copied",
    "collect",
    "to_owned",
    "to_string",
    "into",
    "len",
    "max",
    "min",
    "sum",
    "abs",
    "join",
    "concat",
    "sort",
    "reverse",
    "clear",
    "remove",
    "retain",
    "truncate",
    "resize",
    "format",
    "Some",
    "drop",
    "self",
];

/// Nobody misses a statement, unless something is made ready for it and never used; and nobody can write it who has to
/// guess at names that stand nowhere near.
pub(super) fn of_statement(syntax: &Syntax, function: &Function, bytes: &Range<usize>) -> Option<Evidence> {
    let (own, is) = (&function.own, &syntax.text[bytes.clone()]);
    // The line end of a last statement lies behind its function.
    let after = |end: usize| &syntax.text[bytes.end..end.max(bytes.end)];
    let near = near(syntax, function);
    let rest = [&syntax.text[near.start..bytes.start], after(near.end)];
    let is_known =
        |name: &str| COMMON.contains(&name) || rest.iter().any(|text| names_in(text).any(|word| word == name));
    if !names_in(is).all(|name| name.len() < 3 || is_known(name)) {
        return None;
    }
    let (before, after) = (&syntax.text[own.start..bytes.start], after(own.end));
    // A field, or what is done with one, is made elsewhere.
    let is_own = |name: &str| {
        let mut places = is.match_indices(name).map(|(at, _)| &is[..at]);
        places.any(|before| !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.')))
    };
    let is_name = |name: &&str| *name != "self" && !name.starts_with(|c: char| c.is_ascii_digit()) && is_own(name);
    let names = names_in(is).filter(is_name);
    let words = names.map(|name| {
        let count = |text: &str| names_in(text).filter(|word| *word == name).count();
        // What is given by its name was not made there.
        let is_given = before.contains(&format!("{name}=")) && syntax.language == Language::Python;
        let is_variable = [format!("mut {name}"), format!("{name} = "), format!("{name} := ")]
            .iter()
            .any(|form| before.contains(form.as_str()));
        // Made, and named nowhere else; or made to be changed, and changed nowhere else.
        if count(before) == 1 && count(after) == 0 && changes(before, name) == 1 && !is_given {
            Some(format!("`{name}` is made before, and nothing uses it."))
        } else if names_in(is).next() == Some(name)
            && is_variable
            && changes(is, name) > 0
            && changes(before, name) == 1
            && changes(after, name) == 0
        {
            Some(format!("`{name}` is made before, and nothing else is done with it."))
        } else {
            None
        }
    });
    let words = words.flatten().next()?;
    Some(Evidence { words, elsewhere: None, compiles: Some(true) })
}

/// A function with some lines around it.
fn near(syntax: &Syntax, function: &Function) -> Range<usize> {
    let bounds = |text: &str| text.match_indices('\n').map(|(at, _)| at + 1).collect::<Vec<_>>();
    let (before, after) = (&syntax.text[..function.whole.start], &syntax.text[function.whole.end..]);
    let start = bounds(before).into_iter().rev().nth(NEAR_LINES).unwrap_or(0);
    let end = bounds(after).into_iter().nth(NEAR_LINES).map_or(syntax.text.len(), |at| function.whole.end + at);
    start..end
}

/// How often a name is made or changed in a text, or something is done to what it names: what follows it tells.
fn changes(text: &str, name: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let is_change = |rest: &str| {
        let is_equal = rest.starts_with('=') && !rest.starts_with("==") && !rest.starts_with("=>");
        let signs = ["+=", "-=", "*=", "/=", "|=", "&=", "^=", "<<=", ">>=", "++", "--", ":=", ": ", ".", "["];
        is_equal || signs.iter().any(|sign| rest.starts_with(sign))
    };
    let found = text.match_indices(name).filter(|(at, _)| {
        let (before, rest) = (&text[..*at], &text[at + name.len()..]);
        !before.ends_with(is_part) && !rest.starts_with(is_part) && is_change(rest.trim_start_matches(' '))
    });
    found.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;

    #[test]
    fn a_statement_is_missed_where_something_waits_for_it() {
        for (code, missing, wanted) in [
            ("let one = g();\n    h(one);", "h(one);", "`one` is made before, and nothing uses it."),
            ("let one = g();\n    h(one);\n    i(one);", "h(one);", ""),
            (
                "let mut all = new();\n    all.push(of);\n    all",
                "all.push(of);",
                "`all` is made before, and nothing else is done with it.",
            ),
            ("let mut all = new();\n    all.push(of);\n    all.sort();\n    h(of);", "all.push(of);", ""),
            ("let one = g();\n    unheard_of(one);\n    h(of);", "unheard_of(one);", ""),
            ("let next = g();\n    self.next.h(3);", "self.next.h(3);", ""),
            ("warm(of);\n    h(of);", "h(of);", ""),
        ] {
            let text = format!("fn f(&self, of: usize) {{\n    {code}\n}}\n\nfn h(a: usize) {{}}\n");
            let syntax = Syntax::of("a.rs", &text).expect("it parses");
            let at = text.find(missing).expect(code);
            let found = of_statement(&syntax, &functions(&syntax)[0], &(at..at + missing.len()));
            assert_eq!(found.map_or_else(String::new, |evidence| evidence.words), wanted, "{code}");
        }
        let (text, last) = ("def f(of):\n    one = g(of)\n    h(one)\n", "    h(one)\n");
        let syntax = Syntax::of("a.py", text).expect("it parses");
        let at = text.find(last).expect("it is there");
        let found = of_statement(&syntax, &functions(&syntax)[0], &(at..text.len()));
        let words = found.expect("it tells").words;
        assert_eq!(words, "`one` is made before, and nothing uses it.");
    }
}
