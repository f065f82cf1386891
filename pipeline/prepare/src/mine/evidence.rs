//! What gives a fault in a function away to somebody who sees the file it is in: a parallel place, the names of
//! parameters, what the two ways of a condition do. A fault that nothing gives away could only be guessed.

use super::bound::{Sides, is_place_by, of_comparison, parallel};
use super::connective::of_connective;
use super::function::Function;
use super::lines::names_in;
use super::message::has_phrase;
use super::syntax::{Language, Syntax, wanted};
use std::ops::Range;

/// Calls and lines that are quoted.
const QUOTED_CHARACTERS_MAX: usize = 100;
/// Beginnings of statements that leave a function, a loop or a block.
const LEAVING: [&str; 11] =
    ["return", "continue", "break", "raise", "throw", "panic!", "bail!", "Err(", "None", "Ok(None)", "exit("];

/// Why a place is wrong, as far as the file shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// In sentences; empty where the place itself is all that there is to see.
    pub(super) words: String,
    /// The line (from zero) of what the words tell, and what finds it, if it may lie outside of the function.
    pub(super) elsewhere: Option<(usize, String)>,
    /// Whether faulty code compiles; none where the file does not show it.
    pub(super) compiles: Option<bool>,
}

impl Evidence {
    /// Inside of the function, by a fault that compiles.
    pub(super) fn inside(words: String) -> Self {
        Self { words, elsewhere: None, compiles: Some(true) }
    }
}

/// Of a binary expression, by its operator.
pub(super) fn of_operator(syntax: &Syntax, function: &Function, binary: usize) -> Option<Evidence> {
    let sides = Sides::of(syntax, binary)?;
    match sides.operator {
        "<" | "<=" | ">" | ">=" => of_comparison(syntax, function, binary),
        "&&" | "||" | "and" | "or" => of_connective(syntax, function, binary),
        "==" | "===" | "!=" | "!==" => of_equality(syntax, function, binary, &sides),
        _ => of_sum(syntax, function, binary, &sides).map(Evidence::inside),
    }
}

/// Of a question for equality: what comes of its two ways, or what is looked for.
fn of_equality(syntax: &Syntax, function: &Function, binary: usize, sides: &Sides) -> Option<Evidence> {
    let is_equal = sides.operator.starts_with('=');
    let mut outer = syntax.nodes[binary].parent;
    if syntax.is(outer, &["parenthesized_expression", "condition_clause"]) {
        outer = syntax.nodes[outer].parent;
    }
    if syntax.is(outer, syntax.names().conditionals) {
        return of_ways(syntax, function, outer, syntax.text_of(binary), Some(is_equal));
    }
    // What a closure says that a search is given.
    let arguments = syntax.nodes[outer].parent;
    let is_search = syntax.is(outer, &["closure_expression", "arrow_function"])
        && syntax.is(arguments, syntax.names().arguments)
        && ["find", "position", "rposition", "rfind", "findIndex"].contains(&called(syntax, arguments));
    (is_search && is_equal).then(|| {
        Evidence::inside(format!("As it stands, the first other one is found, whatever `{}` is.", sides.right))
    })
}

/// Pairs of names of which the first is further on.
const SPANS: [(&str, &str); 7] = [
    ("end", "start"),
    ("stop", "start"),
    ("last", "first"),
    ("high", "low"),
    ("upper", "lower"),
    ("right", "left"),
    ("to", "from"),
];

/// Of sums and products: the same once more, a place beyond the last, what lies between two places, a mean.
fn of_sum(syntax: &Syntax, function: &Function, binary: usize, sides: &Sides) -> Option<String> {
    let Sides { left, operator, right } = *sides;
    let text = syntax.text_of(binary);
    let line = syntax.line_of(syntax.nodes[binary].bytes.start);
    let is_named = names_in(text).any(|name| name.len() >= 3 && !name.starts_with(|c: char| c.is_ascii_digit()));
    let same = |at: usize| {
        at != binary && syntax.is(at, syntax.names().binaries) && syntax.text_of(at) == text && is_quotable(text)
    };
    if let Some(at) = syntax.below(function.body).find(|&at| is_named && same(at)) {
        let other = syntax.line_of(syntax.nodes[at].bytes.start);
        let place = if other == line { "Beside it".to_owned() } else { format!("On line {}", other + 1) };
        return Some(format!("{place} stands `{text}`."));
    }
    let is_last =
        |text: &str, name: &str| names_in(text).last().is_some_and(|word| word.rsplit('_').next() == Some(name));
    if operator == "-" {
        if is_place_by(syntax, binary, left) {
            return Some(format!("There is no place beyond `{left}`."));
        }
        if SPANS.iter().any(|&(end, start)| is_last(left, end) && is_last(right, start)) {
            return Some(format!("What lies between `{right}` and `{left}` is their difference."));
        }
    }
    let shown = syntax.text.lines().nth(line).unwrap_or_default();
    let is_mean = names_in(shown).flat_map(|name| name.split('_')).any(|part| ["mean", "average"].contains(&part));
    if operator == "/" && is_mean && names_in(left).any(|name| ["sum", "total"].contains(&name)) {
        return Some("A mean is a sum by a count.".to_owned());
    }
    parallel(syntax, function, binary, sides)
}

/// A line of the function, other than that of `bytes`, of which something holds: quoted.
pub(super) fn once_more(
    syntax: &Syntax,
    function: &Function,
    bytes: &Range<usize>,
    holds: impl Fn(&str) -> bool,
) -> Option<String> {
    let own = syntax.line_of(bytes.start);
    let first = syntax.line_of(function.own.start);
    let mut lines = syntax.text[function.own.clone()].lines().enumerate().map(|(at, line)| (first + at, line.trim()));
    let (at, line) = lines.find(|&(at, line)| at != own && holds(line) && is_quotable(line))?;
    Some(format!("Line {} has `{line}`.", at + 1))
}

pub(super) fn is_quotable(text: &str) -> bool {
    !text.contains(['\n', '`']) && text.chars().count() <= QUOTED_CHARACTERS_MAX
}

/// The name of what is called with some arguments.
pub(super) fn called<'a>(syntax: &Syntax<'a>, arguments: usize) -> &'a str {
    names_in(&syntax.text[..syntax.nodes[arguments].bytes.start]).last().unwrap_or_default()
}

/// Whether a file has the methods of the type that a call names, if it names one.
fn is_at_home(syntax: &Syntax, qualified: &str) -> bool {
    let Some((path, _)) = qualified.rsplit_once("::") else { return true };
    let of_type = path.rsplit("::").next().unwrap_or_default();
    let is_type = of_type != "Self" && of_type.starts_with(char::is_uppercase);
    !is_type || syntax.text.contains(&format!("impl {of_type}")) || syntax.text.contains(&format!("> {of_type}"))
}

/// The name of what is called, with that of its type, or of what it is done to, where those are named: two types may
/// both have a `new` or a `fill`.
fn qualified<'a>(syntax: &Syntax<'a>, arguments: usize) -> &'a str {
    let before = &syntax.text[..syntax.nodes[arguments].bytes.start];
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.');
    let whole = &before[before.trim_end_matches(is_part).len()..];
    let (receiver, _) = whole.rsplit_once('.').unwrap_or_default();
    &whole[receiver.rfind('.').map_or(0, |at| at + 1)..]
}

/// Of the order of two neighbouring arguments, the first of them at `first`: the names of the parameters, or another
/// call of the same function with one of them at its place.
pub(super) fn of_order(syntax: &Syntax, arguments: usize, first: usize) -> Option<Evidence> {
    let given: Vec<&str> = syntax.named_children(arguments).map(|at| syntax.text_of(at)).collect();
    let parameters = parameters(syntax, called(syntax, arguments))
        .filter(|(_, all)| all.len() == given.len() && is_at_home(syntax, qualified(syntax, arguments)));
    let compiles = match (&parameters, syntax.language) {
        (_, Language::Python | Language::JavaScript) => Some(true),
        (Some((_, all)), _) => is_of_one_type(&all[first].1, &all[first + 1].1),
        (None, _) => None,
    };
    let by_name = parameters.and_then(|(line, all)| by_parameters(syntax, arguments, (first, &given), (line, &all)));
    let (words, elsewhere) = by_name.or_else(|| by_call(syntax, arguments, (first, &given)))?;
    Some(Evidence { words, elsewhere: Some(elsewhere), compiles })
}

/// Words, and the line that they are about with what finds it.
type Told = (String, (usize, String));

fn by_parameters(
    syntax: &Syntax,
    arguments: usize,
    (first, given): (usize, &[&str]),
    (line, all): (usize, &[(String, String)]),
) -> Option<Told> {
    let name = called(syntax, arguments);
    let [one, other] = [first, first + 1].map(|at| names_in(given[at]).last().unwrap_or_default());
    let (one_name, other_name) = (all[first].0.as_str(), all[first + 1].0.as_str());
    // `of_rows` is told by `rows`, too.
    let is = |word: &str, name: &str| word == name || word.strip_suffix(name).is_some_and(|rest| rest.ends_with('_'));
    let told = is(one, one_name) || is(other, other_name);
    let against = is(one, other_name) || is(other, one_name);
    let shown = syntax.text.lines().nth(line).unwrap_or_default();
    // What another type calls by the same name takes other things.
    let qualified = qualified(syntax, arguments);
    let is_of_other = qualified.contains('.') && !qualified.starts_with("self.");
    let both = is(one, one_name) && is(other, other_name);
    let told = if is_of_other { both } else { told } && !one_name.is_empty() && !other_name.is_empty();
    let is_shown = has_phrase(shown, name) && has_phrase(shown, one_name) && has_phrase(shown, other_name);
    (told && !against && is_shown).then(|| {
        let words = format!("`{name}` (line {}) takes `{one_name}` before `{other_name}`.", line + 1);
        (words, (line, wanted(syntax.names(), syntax.text, name)))
    })
}

fn by_call(syntax: &Syntax, arguments: usize, (first, given): (usize, &[&str])) -> Option<Told> {
    let name = called(syntax, arguments);
    let own = syntax.line_of(syntax.nodes[arguments].bytes.start);
    let mut told = None;
    for at in (0..syntax.nodes.len()).filter(|&at| at != arguments && syntax.is(at, syntax.names().arguments)) {
        let other = qualified(syntax, at);
        if other != qualified(syntax, arguments) || other.starts_with('.') {
            continue;
        }
        let all: Vec<&str> = syntax.named_children(at).map(|at| syntax.text_of(at)).collect();
        if all.len() != given.len() {
            continue;
        }
        let (one, other) = (all[first], all[first + 1]);
        // A call the other way round says that both are right.
        if one == given[first + 1] || other == given[first] {
            return None;
        }
        let line = syntax.line_of(syntax.nodes[at].bytes.start);
        let call = format!("{name}{}", syntax.text_of(at));
        if (one == given[first] || other == given[first + 1]) && line != own && is_quotable(&call) && told.is_none() {
            told = Some((format!("Line {} calls `{call}`.", line + 1), (line, format!("{name}("))));
        }
    }
    told
}

/// Where the only function of a name begins to be defined (a line, from zero), and its parameters with their types.
fn parameters(syntax: &Syntax, name: &str) -> Option<(usize, Vec<(String, String)>)> {
    let functions = syntax.names().functions;
    let mut named = (0..syntax.nodes.len()).filter(|&at| syntax.is(at, functions) && syntax.name_of(at) == Some(name));
    let (function, None) = (named.next()?, named.next()) else { return None };
    // The receiver of a method of Go stands before its name.
    let after = syntax.child(function, "name").map_or(0, |name| syntax.nodes[name].bytes.end);
    let is_list = |&at: &usize| {
        syntax.is(at, &["parameters", "formal_parameters", "parameter_list"]) && syntax.nodes[at].bytes.start >= after
    };
    let list = syntax.below(function).find(is_list)?;
    let all: Vec<&str> = syntax
        .named_children(list)
        .filter(|&at| !syntax.is(at, &["self_parameter"]))
        .map(|at| syntax.text_of(at))
        .filter(|text| !["self", "cls"].contains(text))
        .collect();
    let line = syntax.line_of(syntax.nodes[list].bytes.start);
    Some((line, all.into_iter().map(|text| parameter(syntax.language, text)).collect()))
}

/// The name and the type of a parameter; the type is empty where it is not said.
fn parameter(language: Language, text: &str) -> (String, String) {
    let text = text.split('=').next().unwrap_or_default().trim();
    let (name, of_type) = match (text.split_once(':'), language) {
        (Some((name, of_type)), Language::Rust | Language::Python | Language::TypeScript) => (name, of_type),
        (_, Language::Go) => text.split_once(' ').unwrap_or((text, "")),
        (_, Language::C | Language::Cpp | Language::Java) => {
            let at = text.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
            (&text[at..], &text[..at])
        }
        _ => (text, ""),
    };
    // A pattern has several names, and is called by none.
    let name = names_in(name).last().filter(|_| !name.contains(['(', '[', '{'])).unwrap_or_default();
    (name.to_owned(), of_type.split_whitespace().collect())
}

/// None where a type is not said, or may stand for several.
fn is_of_one_type(one: &str, other: &str) -> Option<bool> {
    let is_known = |of_type: &str| {
        !of_type.is_empty()
            && !of_type.contains("impl")
            && !names_in(of_type).any(|word| word.len() == 1 || word == "any" || word == "auto" || word == "Object")
    };
    (is_known(one) && is_known(other)).then_some(one == other)
}

/// Of the sense of a condition: what its two ways do. Where both do things of one sort, none. `right` is the condition
/// as it should be.
pub(super) fn of_condition(syntax: &Syntax, function: &Function, conditional: usize, right: &str) -> Option<Evidence> {
    // Chances fall either way.
    if ["rng", "random", "chance"].iter().any(|word| right.contains(word)) {
        return None;
    }
    of_ways(syntax, function, conditional, right, None)
}

/// What the two ways of a conditional do. `is_equal` says of a comparison whether it asks for equality: what comes of
/// it then comes of one case, or of every other.
fn of_ways(
    syntax: &Syntax,
    function: &Function,
    conditional: usize,
    right: &str,
    is_equal: Option<bool>,
) -> Option<Evidence> {
    let body = syntax.children(conditional).find(|&at| syntax.is(at, syntax.names().blocks))?;
    let end = syntax.nodes[body].bytes.end;
    let other = &syntax.text[end..syntax.nodes[conditional].bytes.end.max(end)];
    let is_loop = syntax.nodes[conditional].kind.contains("while") || syntax.nodes[conditional].kind.contains("for");
    // Without another way the function goes on.
    let rest = if other.trim().is_empty() { &syntax.text[end..function.own.end.max(end)] } else { other };
    let body = syntax.text_of(body);
    if let Some(words) = of_emptiness(right, body, rest) {
        return Some(Evidence::inside(words));
    }
    let (line, is_first) = match (leaving(body), leaving(other)) {
        (Some(line), None) => (line, true),
        (None, Some(line)) => (line, false),
        _ => return None,
    };
    let case = match is_equal {
        Some(is_equal) if is_equal == is_first => "every case but one",
        _ if is_first => "the one case that has to go on",
        _ => "the one case that has something to do",
    };
    (!is_loop).then(|| Evidence::inside(format!("As it stands, `{line}` is what comes of {case}.")))
}

/// What a condition asks to be there or not, where only one of its ways uses it: `!rows.is_empty()` before `rows[0]`.
fn of_emptiness(right: &str, body: &str, rest: &str) -> Option<String> {
    let (positive, is_negated) = match right.strip_prefix('!').or_else(|| right.strip_prefix("not ")) {
        Some(positive) => (positive, true),
        None => (right, false),
    };
    let ends = [
        (".is_empty()", false),
        (".isEmpty()", false),
        (".empty()", false),
        (".is_none()", false),
        (".is_err()", false),
        (".is_some()", true),
        (".is_ok()", true),
    ];
    let (base, is_there) = ends.iter().find_map(|&(end, is_there)| Some((positive.strip_suffix(end)?, is_there)))?;
    let base = base.strip_suffix(".trim()").unwrap_or(base);
    let name = names_in(base).last().filter(|_| !base.ends_with(')'))?;
    let (with, without) = if is_there != is_negated { (body, rest) } else { (rest, body) };
    (has_phrase(with, name) && !has_phrase(without, name))
        .then(|| format!("`{name}` is used only where, as it stands, there is none."))
}

/// The line with which a block leaves, if that is how it ends.
fn leaving(block: &str) -> Option<&str> {
    let is_words = |line: &&str| line.chars().any(char::is_alphanumeric);
    let last = block.lines().map(|line| line.trim().trim_matches(['{', '}', ' '])).rfind(is_words)?;
    let last = last.trim().trim_start_matches("else {").trim();
    (LEAVING.iter().any(|start| last.starts_with(start)) && is_quotable(last)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;

    /// What shows of the order of the first two arguments of the first call of `name`, and whether the fault compiles.
    fn order(path: &str, text: &str, name: &str) -> Option<(String, Option<bool>)> {
        let syntax = Syntax::of(path, text).expect(path);
        let at = (0..syntax.nodes.len())
            .find(|&at| syntax.is(at, syntax.names().arguments) && called(&syntax, at) == name)
            .expect("a call");
        of_order(&syntax, at, 0).map(|evidence| (evidence.words, evidence.compiles))
    }

    #[test]
    fn an_order_is_told_by_names_or_by_another_call() {
        let caller = "fn f(rows: usize, q: &Q) {\n    take(rows, q.width);\n}\n";
        for (more, wanted) in [
            ("", None),
            (
                "fn take(rows: usize, width: usize) {}\n",
                Some(("`take` (line 4) takes `rows` before `width`.", Some(true))),
            ),
            (
                "fn take(rows: u8, width: usize) {}\n",
                Some(("`take` (line 4) takes `rows` before `width`.", Some(false))),
            ),
            ("fn take(a: usize, b: usize) {}\n", None),
            ("fn take(width: usize, rows: usize) {}\n", None),
            ("fn g() {\n    take(rows, 4);\n}\n", Some(("Line 5 calls `take(rows, 4)`.", None))),
            ("fn g() {\n    take(rows, 4);\n    take(4, rows);\n}\n", None),
            ("fn g() {\n    Other::take(rows, 4);\n}\n", None),
            ("fn g() {\n    self.other.take(rows, 4);\n}\n", None),
            ("fn take([a, rows]: [usize; 2], width: usize) {}\n", None),
        ] {
            let wanted = wanted.map(|(words, compiles)| (words.to_owned(), compiles));
            assert_eq!(order("a.rs", &format!("{caller}{more}"), "take"), wanted, "{more}");
        }
        // The other type's method is not known to take what this one's does.
        let method = "impl A {\n    fn f(&self, rows: usize, q: &Q) {\n        CALL(rows, q.size);\n    }\n\n    \
                      fn take(&self, rows: usize, width: usize) {}\n}\n";
        for (call, is_told) in [("self.take", true), ("self.other.take", false), ("A::take", true), ("B::take", false)]
        {
            assert_eq!(order("a.rs", &method.replace("CALL", call), "take").is_some(), is_told, "{call}");
        }
        let python = "def f(rows, width):\n    take(rows, width)\n\n\ndef take(rows, width):\n    pass\n";
        let told = "`take` (line 5) takes `rows` before `width`.".to_owned();
        assert_eq!(order("a.py", python, "take"), Some((told, Some(true))));
        let go = "package a\n\nfunc f(rows int) {\n\ttake(rows, 2)\n}\n\nfunc (r R) take(rows int, width string) {}\n";
        let told = "`take` (line 7) takes `rows` before `width`.".to_owned();
        assert_eq!(order("a.go", go, "take"), Some((told, Some(false))));
    }

    #[test]
    fn a_condition_shows_where_its_ways_differ() {
        for (right, code, wanted) in [
            ("ok", "if ok { one(); } else { two(); }", false),
            ("ok", "if ok { one(); }", false),
            ("ok", "if ok { return None; }", true),
            ("ok", "if ok { one(); } else { return None; }", true),
            ("rng.chance(p)", "if rng.chance(p) { return None; }", false),
            ("!rows.is_empty()", "if !rows.is_empty() { one(rows); }", true),
            ("rows.is_empty()", "if rows.is_empty() { one(); } else { two(rows); }", true),
            ("rows.is_empty()", "if rows.is_empty() { one(); } else { two(); }", false),
        ] {
            let text = format!("fn f() {{\n    {code}\n    more();\n}}\n");
            let syntax = Syntax::of("a.rs", &text).expect("it parses");
            let conditional =
                (0..syntax.nodes.len()).find(|&at| syntax.is(at, &["if_expression"])).expect("a condition");
            let found = of_condition(&syntax, &functions(&syntax)[0], conditional, right);
            assert_eq!(found.is_some(), wanted, "{code}: {found:?}");
        }
    }

    #[test]
    fn sums_and_equalities_need_something_that_tells() {
        for (code, what, wanted) in [
            ("let a = rows * width;\n    g(rows * width);", "rows * width", "On line 3 stands `rows * width`."),
            ("g(rows * width, rows * width);", "rows * width", "Beside it stands `rows * width`."),
            ("g(rows * width);", "rows * width", ""),
            ("g(of[of.len() - 1]);", "of.len() - 1", "There is no place beyond `of.len()`."),
            ("g(end - start);", "end - start", "What lies between `start` and `end` is their difference."),
            ("let mean = sum / count;", "sum / count", "A mean is a sum by a count."),
            ("let share = sum / count;", "sum / count", ""),
            (
                "if a != b {\n        return 1;\n    }",
                "a != b",
                "As it stands, `return 1;` is what comes of the one case that has to go on.",
            ),
            (
                "if a == b {\n        return 1;\n    }",
                "a == b",
                "As it stands, `return 1;` is what comes of every case but one.",
            ),
            ("if a == b {\n        g();\n    }", "a == b", ""),
            (
                "of.iter().find(|a| a.id == id);",
                "a.id == id",
                "As it stands, the first other one is found, whatever `id` is.",
            ),
            ("of.iter().any(|a| a.id == id);", "a.id == id", ""),
        ] {
            let text = format!("fn f() {{\n    {code}\n    more();\n}}\n");
            let syntax = Syntax::of("a.rs", &text).expect("it parses");
            let function = &functions(&syntax)[0];
            let is_it = |&at: &usize| syntax.is(at, syntax.names().binaries) && syntax.text_of(at) == what;
            let binary = syntax.below(function.body).find(is_it).expect(code);
            let found = of_operator(&syntax, function, binary).map_or_else(String::new, |evidence| evidence.words);
            assert_eq!(found, wanted, "{code}");
        }
    }
}
