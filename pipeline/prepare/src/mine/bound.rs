//! On which side of a bound the bound itself is, as far as code says it: by its name, by a place that is read, by a
//! second comparison of the same two, in words. A comparison with its bound on the other side is as good to look at, so
//! that nothing less than that gives it away.

use super::evidence::{Evidence, is_quotable, once_more};
use super::function::Function;
use super::lines::names_in;
use super::message::has_phrase;
use super::syntax::Syntax;

/// What a comparison or a sum is made of, as texts.
pub(super) struct Sides<'a> {
    pub(super) left: &'a str,
    pub(super) operator: &'a str,
    pub(super) right: &'a str,
}

impl<'a> Sides<'a> {
    /// None for a chain of more than two.
    pub(super) fn of(syntax: &Syntax<'a>, binary: usize) -> Option<Self> {
        let sides: Vec<usize> = syntax.named_children(binary).collect();
        let &[left, right] = sides.as_slice() else { return None };
        let operator = &syntax.text[syntax.nodes[left].bytes.end..syntax.nodes[right].bytes.start];
        let (left, right) = (syntax.text_of(left), syntax.text_of(right));
        Some(Self { left, operator: operator.trim(), right })
    }

    /// The same, said from the other side.
    fn turned(&self) -> Self {
        let operator = match self.operator {
            "<" => ">",
            "<=" => ">=",
            ">" => "<",
            ">=" => "<=",
            other => other,
        };
        Self { left: self.right, operator, right: self.left }
    }

    /// Whether the bound on the right is the first that is too much, or the first that is enough: `<` and `>=` part at
    /// the same place.
    pub(super) fn parts_before(&self) -> bool {
        matches!(self.operator, "<" | ">=")
    }
}

/// Names of bounds that are the most, or the least, of what is let through.
const MOST: [&str; 4] = ["max", "maximum", "most", "limit"];
const LEAST: [&str; 3] = ["min", "minimum", "least"];
/// Words before a bound that tell where `<` and `>=` part, and where `>` and `<=` do.
const PARTED_BEFORE: [&str; 6] = ["at least", "below", "less than", "fewer than", "under", "shorter than"];
const PARTED_AFTER: [&str; 8] =
    ["at most", "up to", "more than", "above", "over", "beyond", "longer than", "larger than"];

/// Of `<`, `<=`, `>` and `>=`.
pub(super) fn of_comparison(syntax: &Syntax, function: &Function, binary: usize) -> Option<Evidence> {
    let sides = Sides::of(syntax, binary)?;
    let own = &syntax.text[function.own.clone()];
    // Of the largest so far, or of the least, it does not matter which of two equal ones it is.
    let keeps = |one: &str, other: &str| {
        let forms = [format!("{one} = {other}"), format!("{one} = Some({other}"), format!("? {one} : {other}")];
        forms.iter().any(|form| own.contains(form.as_str()))
    };
    if keeps(sides.left, sides.right) || keeps(sides.right, sides.left) {
        return None;
    }
    let words = [&sides, &sides.turned()].into_iter().find_map(|sides| {
        by_name(sides)
            .or_else(|| by_place(sides, own))
            .or_else(|| by_count(sides, own))
            .or_else(|| by_nothing(sides, own))
            .or_else(|| in_words(syntax, function, sides.right, sides.parts_before()))
    });
    let words = words.or_else(|| by_other(syntax, function, binary, &sides));
    words.or_else(|| parallel(syntax, function, binary, &sides)).map(Evidence::inside)
}

/// The name of a bound that is a plain name or a path.
fn last_name(bound: &str) -> Option<&str> {
    let is_plain = bound.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'));
    names_in(bound).last().filter(|name| is_plain && name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

fn is_called(bound: &str, names: &[&str]) -> bool {
    last_name(bound).is_some_and(|name| name.to_lowercase().split('_').any(|part| names.contains(&part)))
}

fn by_name(Sides { left, operator, right }: &Sides) -> Option<String> {
    // Whether a limit is set at all says nothing of what it lets through.
    if left.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match *operator {
        ">" | "<=" if is_called(right, &MOST) => {
            Some(format!("`{right}` is by its name the most that is let through."))
        }
        "<" | ">=" if is_called(right, &LEAST) => {
            Some(format!("`{right}` is by its name the least that is let through."))
        }
        _ => None,
    }
}

/// What has a text for its length: `rows.len()` → `rows`.
pub(super) fn measured(length: &str) -> Option<&str> {
    let ends = [".len()", ".length()", ".length", ".size()"];
    let of = ends.iter().find_map(|end| length.strip_suffix(end));
    let of = of.or_else(|| length.strip_prefix("len(")?.strip_suffix(')'))?;
    let is_path = of.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '[' | ']'));
    (is_path && !of.is_empty()).then_some(of)
}

/// Whether an expression is a place of the sequence that has this length.
pub(super) fn is_place_by(syntax: &Syntax, expression: usize, length: &str) -> bool {
    let outer = syntax.nodes[expression].parent;
    let is_index = syntax.is(outer, &["index_expression", "subscript", "subscript_expression"]);
    let sequence = syntax.named_children(outer).next().filter(|_| is_index);
    sequence.is_some_and(|at| measured(length) == Some(syntax.text_of(at)))
}

/// How a place of a sequence is read in a text, if it is.
fn reading(own: &str, sequence: &str, place: &str) -> Option<String> {
    let forms = [("[", "]"), (".get(", ")"), (".charAt(", ")"), (".at(", ")")];
    let forms = forms.map(|(open, close)| format!("{sequence}{open}{place}{close}"));
    let boundary = |at: usize| !own[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.'));
    forms.into_iter().find(|form| own.match_indices(form.as_str()).any(|(at, _)| boundary(at)))
}

/// `at < rows.len()` where `rows[at]` is read, and `at <= rows.len()` where `rows[..at]` is.
fn by_place(sides: &Sides, own: &str) -> Option<String> {
    let (place, length) = (sides.left, sides.right);
    let sequence = measured(length)?;
    if sides.parts_before() {
        let read = reading(own, sequence, place)?;
        return Some(format!("`{read}` is read, and the last place is one before `{length}`."));
    }
    let slices = [format!("{sequence}[..{place}]"), format!("{sequence}[:{place}]")];
    let taken = slices.iter().find(|slice| own.contains(slice.as_str()))?;
    Some(format!("`{taken}` may be all of `{sequence}`."))
}

/// `parts.len() < 2` where `parts[1]` is read.
pub(super) fn by_count(sides: &Sides, own: &str) -> Option<String> {
    let sequence = measured(sides.left)?;
    let count: usize = sides.right.parse().ok()?;
    let last = if sides.parts_before() { count.checked_sub(1)? } else { count };
    let read = reading(own, sequence, &last.to_string())?;
    let is_last = (last + 1..last + 4).all(|place| reading(own, sequence, &place.to_string()).is_none());
    is_last.then(|| format!("`{read}` is the last place that is read, for which it takes {} of them.", last + 1))
}

/// `rows.len() > 0`, which as `>=` would always hold, and `n > 0` before something is divided by `n`.
fn by_nothing(Sides { left, operator, right }: &Sides, own: &str) -> Option<String> {
    let is_count = measured(left).is_some() || left.ends_with(".count()");
    match (*operator, *right) {
        (">", "0") if is_count => Some(format!("`{left}` is never below 0, so that this always holds.")),
        ("<=", "0") if is_count => Some(format!("`{left}` is never below 0, so that this never holds.")),
        (">", "0" | "0.0") => divided(own, left),
        _ => None,
    }
}

/// Whether a text divides by something.
pub(super) fn divided(own: &str, by: &str) -> Option<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '(' | '[');
    let mut places = ["/ ", "% "].iter().flat_map(|operator| {
        let form = format!("{operator}{by}");
        // Two strokes begin a comment.
        let found = own.match_indices(&form).filter(|(at, _)| !own[..*at].ends_with('/'));
        found.map(|(at, _)| &own[at + form.len()..]).collect::<Vec<_>>()
    });
    places.any(|rest| !rest.starts_with(is_part)).then(|| format!("Something is divided by `{by}`."))
}

/// A comment or a message of the function that says it: `at most {limit}`.
pub(super) fn in_words(syntax: &Syntax, function: &Function, bound: &str, parts_before: bool) -> Option<String> {
    let name = last_name(bound).or_else(|| bound.parse::<u64>().is_ok().then_some(bound))?.to_lowercase();
    let phrases: &[&str] = if parts_before { &PARTED_BEFORE } else { &PARTED_AFTER };
    let says = |line: &str| {
        let lower = line.to_lowercase();
        let mut marks =
            phrases.iter().flat_map(|phrase| ["", "`", "{", "${", "%("].map(|mark| format!("{phrase} {mark}{name}")));
        marks.find(|said| has_phrase(&lower, said))
    };
    let first = syntax.line_of(function.whole.start);
    let lines = syntax.text[function.whole.clone()].lines().enumerate();
    let (at, said) = lines.filter_map(|(at, line)| Some((first + at, says(line)?))).next()?;
    Some(format!("Line {} says “{}”.", at + 1, said.replace(['`', '{', '$'], "")))
}

/// A second comparison of the same two that leaves the bound to this one, or to the other side.
fn by_other(syntax: &Syntax, function: &Function, binary: usize, sides: &Sides) -> Option<String> {
    let others = syntax.below(function.body).filter(|&at| at != binary && syntax.is(at, syntax.names().binaries));
    let mut found = None;
    for at in others {
        let Some(other) = Sides::of(syntax, at) else { continue };
        let other = if other.left == sides.right { other.turned() } else { other };
        if (other.left, other.right) != (sides.left, sides.right) {
            continue;
        }
        let is_equality = matches!(other.operator, "==" | "===");
        if !is_equality && !matches!(other.operator, "<" | "<=" | ">" | ">=") {
            continue;
        }
        // One that parts them elsewhere says that both have their place.
        if !is_equality && other.parts_before() != sides.parts_before() {
            return None;
        }
        // Where a branch asks for equality, the strict comparison is the one that leaves it something.
        let is_telling = !is_equality || matches!(sides.operator, "<" | ">");
        let (line, text) = (syntax.line_of(syntax.nodes[at].bytes.start), syntax.text_of(at));
        if is_telling
            && found.is_none()
            && is_quotable(text)
            && line != syntax.line_of(syntax.nodes[binary].bytes.start)
        {
            found = Some(format!("Line {} has `{text}`.", line + 1));
        }
    }
    found
}

/// The same operator before the same value on another line, where that value has a name to speak of.
pub(super) fn parallel(syntax: &Syntax, function: &Function, binary: usize, sides: &Sides) -> Option<String> {
    if !names_in(sides.right).any(|name| name.len() >= 4) {
        return None;
    }
    let parallel = format!(" {} {}", sides.operator, sides.right);
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '(' | '[');
    let has = |line: &str| line.split_once(&parallel).is_some_and(|(_, rest)| !rest.starts_with(is_part));
    once_more(syntax, function, &syntax.nodes[binary].bytes, has)
}

/// Of a range of Rust with its end or without, by the node of its dots.
pub(super) fn of_range(syntax: &Syntax, function: &Function, dots: usize) -> Option<Evidence> {
    let range = syntax.nodes[dots].parent;
    let side = |is_wanted: &dyn Fn(usize) -> bool| syntax.named_children(range).find(|&at| is_wanted(at));
    let start = side(&|at| at < dots).map_or("", |at| syntax.text_of(at));
    let end = syntax.text_of(side(&|at| at > dots)?);
    let around = syntax.nodes[range].parent;
    let is_loop = syntax.is(around, &["for_expression"]);
    let sequence = syntax.is(around, &["index_expression"]).then(|| syntax.named_children(around).next()).flatten();
    let own = &syntax.text[function.own.clone()];
    let words = match syntax.text_of(dots) {
        ".." => {
            let variable = is_loop.then(|| syntax.named_children(around).next()).flatten();
            let read =
                variable.zip(measured(end)).and_then(|(variable, of)| reading(own, of, syntax.text_of(variable)));
            let by_read = read.map(|read| format!("`{read}` is read, and the last place is one before `{end}`."));
            let by_slice = || slice_ends(syntax, function, (dots, sequence?), end);
            by_read.or_else(by_slice).or_else(|| one_more(start, end))
        }
        _ if start == "1" && is_count(end) => Some(format!("`1..{end}` is one fewer than `{end}`.")),
        _ if start.starts_with(['\'', 'b']) && end.ends_with('\'') => {
            Some(format!("Without its end `{end}` is left out."))
        }
        _ if is_called(end, &MOST) => Some(format!("`{end}` is by its name the most that is let through.")),
        _ => in_words(syntax, function, end, false),
    }?;
    // Elsewhere the type of the other range may not fit.
    let compiles = (is_loop || sequence.is_some()).then_some(true);
    Some(Evidence { compiles, ..Evidence::inside(words) })
}

/// `rows[..at]` where `rows[at..]` is what comes next, or where the length is the end.
fn slice_ends(syntax: &Syntax, function: &Function, (dots, sequence): (usize, usize), end: &str) -> Option<String> {
    let of = syntax.text_of(sequence);
    if measured(end) == Some(of) {
        return Some(format!("The last place is one before `{end}`."));
    }
    let rest = format!("{of}[{end}..");
    if let Some(line) = once_more(syntax, function, &syntax.nodes[dots].bytes, |line| line.contains(&rest)) {
        return Some(line);
    }
    let line = syntax.text.lines().nth(syntax.line_of(syntax.nodes[dots].bytes.start))?;
    line.contains(&rest).then(|| format!("Beside it stands `{rest}`."))
}

/// A range from nothing to a count, or from a place to so many after it, with its end is one more.
fn one_more(start: &str, end: &str) -> Option<String> {
    if start == "0" && is_count(end) {
        return Some(format!("`0..={end}` is one more than `{end}`."));
    }
    let width = end.strip_prefix(start)?.strip_prefix(" + ").filter(|_| !start.is_empty())?;
    Some(format!("`{start}..={end}` is one more than `{width}`."))
}

/// Whether a text is how many there are: a length, or a name in the plural.
fn is_count(text: &str) -> bool {
    let counts = ["n", "count", "len", "length", "size", "total"];
    let is_plural = |name: &str| name.len() > 3 && name.ends_with('s') && !name.ends_with("ss");
    measured(text).is_some()
        || last_name(text).is_some_and(|name| {
            let last = name.rsplit('_').next().unwrap_or_default().to_lowercase();
            counts.contains(&last.as_str()) || is_plural(&last)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;

    /// What is said of the first node of a text that is `what`, or begins with it.
    fn said(text: &str, what: &str, of: fn(&Syntax, &Function, usize) -> Option<Evidence>) -> String {
        let path = if text.starts_with("fn") || text.starts_with("///") { "a.rs" } else { "a.c" };
        let syntax = Syntax::of(path, text).expect("it parses");
        let function = &functions(&syntax)[0];
        let at = syntax.below(function.body).find(|&at| syntax.text_of(at) == what).expect(what);
        of(&syntax, function, at).map_or_else(String::new, |evidence| evidence.words)
    }

    #[test]
    fn a_comparison_tells_where_its_bound_belongs() {
        for (code, what, wanted) in [
            ("n > ROWS_MAX", "", "`ROWS_MAX` is by its name the most that is let through."),
            ("ROWS_MAX < n", "", "`ROWS_MAX` is by its name the most that is let through."),
            ("n < ROWS_MAX", "", ""),
            ("ROWS_MAX > 0", "", ""),
            ("n > of.max(1)", "", ""),
            (
                "n < of.len() && of[n] > 1",
                "n < of.len()",
                "`of[n]` is read, and the last place is one before `of.len()`.",
            ),
            (
                "n >= of.len() || of[n] > 1",
                "n >= of.len()",
                "`of[n]` is read, and the last place is one before `of.len()`.",
            ),
            ("n < of.len() && other[n] > 1", "n < of.len()", ""),
            ("n <= of.len() && of[..n].is_empty()", "n <= of.len()", "`of[..n]` may be all of `of`."),
            (
                "of.len() < 2 || of[1] > 1",
                "of.len() < 2",
                "`of[1]` is the last place that is read, for which it takes 2 of them.",
            ),
            ("of.len() < 3 || of[1] > 1", "of.len() < 3", ""),
            ("of.len() > 0", "", "`of.len()` is never below 0, so that this always holds."),
            ("n > 0 && 100 / n > 7", "n > 0", "Something is divided by `n`."),
            ("n > 7", "", ""),
            ("n > 9", "", "Line 1 says “at most 9”."),
            ("n >= 9", "", ""),
        ] {
            let text =
                format!("/// True for at most 9 of them.\nfn f(n: usize, of: &[u8]) -> bool {{\n    {code}\n}}\n");
            assert_eq!(said(&text, if what.is_empty() { code } else { what }, of_comparison), wanted, "{code}");
        }
    }

    #[test]
    fn a_second_comparison_of_the_same_two_tells() {
        for (other, wanted) in [
            ("a >= b", "Line 5 has `a >= b`."),
            ("b <= a", "Line 5 has `b <= a`."),
            ("a == b", "Line 5 has `a == b`."),
            ("a > b", ""),
            ("a < c", ""),
        ] {
            let text = format!(
                "fn f(a: u8, b: u8) {{\n    if a < b {{\n        g();\n    }}\n    \
                 if {other} {{\n        h();\n    }}\n}}\n"
            );
            assert_eq!(said(&text, "a < b", of_comparison), wanted, "{other}");
        }
        let largest = "fn f(of: &[u8]) {\n    for a in of {\n        if a > limit {\n            \
                       limit = a;\n        }\n    }\n}\n";
        assert_eq!(said(largest, "a > limit", of_comparison), "", "of two equal ones either is the largest");
        let lesser = "int f(int a, int limit) {\n    return a > limit ? limit : a;\n}\n";
        assert_eq!(said(lesser, "a > limit", of_comparison), "", "and the least");
    }

    #[test]
    fn a_range_tells_whether_its_end_belongs() {
        for (code, dots, wanted) in [
            (
                "for i in 0..of.len() { g(of[i]); }",
                "..",
                "`of[i]` is read, and the last place is one before `of.len()`.",
            ),
            ("for i in 0..rows { g(i); }", "..", "`0..=rows` is one more than `rows`."),
            ("for i in first..last { g(i); }", "..", ""),
            ("g(&of[at..at + width]);", "..", "`at..=at + width` is one more than `width`."),
            ("g(&of[..at], &of[at..]);", "..", "Beside it stands `of[at..`."),
            ("g(&of[1..of.len()]);", "..", "The last place is one before `of.len()`."),
            ("g(&of[..at]);", "..", ""),
            ("for i in 1..=rows { g(i); }", "..=", "`1..rows` is one fewer than `rows`."),
            ("for i in 2..=last { g(i); }", "..=", ""),
            ("for i in 'a'..='z' { g(i); }", "..=", "Without its end `'z'` is left out."),
            ("for i in least..=rows_max { g(i); }", "..=", "`rows_max` is by its name the most that is let through."),
        ] {
            let text = format!("fn f() {{\n    {code}\n}}\n");
            assert_eq!(said(&text, dots, of_range), wanted, "{code}");
        }
    }
}
