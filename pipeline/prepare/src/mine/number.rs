//! What tells that a number is one too many or one too few: that it stands there once more in the same place of an
//! expression, that a count begins at nothing, that something would change nothing. Any other might be any other.

use super::bound::{Sides, by_count, divided, in_words, is_place_by};
use super::evidence::{Evidence, called, is_quotable, once_more};
use super::function::Function;
use super::lines::names_in;
use super::syntax::Syntax;

/// Names that are asked for a value where there is none: any number will do there.
const DEFAULTS: [&str; 7] = ["map_or", "unwrap_or", "or_insert", "getattr", "setdefault", "getOrDefault", "value_or"];
/// A longer number is not met twice by chance.
const CHOSEN_DIGITS: usize = 3;

/// Of a number that `wrong` would stand in the place of.
pub(super) fn of_number(syntax: &Syntax, function: &Function, node: usize, wrong: &str) -> Option<Evidence> {
    let parent = syntax.nodes[node].parent;
    if syntax.is(parent, syntax.names().arguments) && DEFAULTS.contains(&called(syntax, parent)) {
        return None;
    }
    let words = of_side(syntax, function, node)
        .or_else(|| begins_at_nothing(syntax, function, node))
        .or_else(|| leaves_first_out(syntax, function, node))
        .or_else(|| changes_nothing(syntax, node, wrong))
        .or_else(|| again(syntax, function, node))?;
    Some(Evidence::inside(words))
}

/// As a side of a comparison or a difference: what is read, divided or said.
fn of_side(syntax: &Syntax, function: &Function, node: usize) -> Option<String> {
    let parent = syntax.nodes[node].parent;
    let sides = Sides::of(syntax, parent).filter(|_| syntax.is(parent, syntax.names().binaries))?;
    let (is, own) = (syntax.text_of(node), &syntax.text[function.own.clone()]);
    if sides.right != is {
        return None;
    }
    match sides.operator {
        "<" | "<=" | ">" | ">=" => by_count(&sides, own)
            .or_else(|| in_words(syntax, function, is, sides.parts_before()))
            .or_else(|| (is == "0" && sides.operator == ">").then(|| divided(own, sides.left))?),
        "==" | "!=" | "===" | "!==" if is == "0" => divided(own, sides.left),
        // The last place.
        "-" if is == "1" => {
            is_place_by(syntax, parent, sides.left).then(|| format!("The last place is one before `{}`.", sides.left))
        }
        _ => None,
    }
}

/// A variable that is counted up from nothing.
fn begins_at_nothing(syntax: &Syntax, function: &Function, node: usize) -> Option<String> {
    let before = &syntax.text[syntax.line_start(node)..syntax.nodes[node].bytes.start];
    let name = before.trim_end().strip_suffix('=').map(|left| left.trim_end_matches(':').trim_end())?;
    let name = names_in(name).last().filter(|name| name.len() > 1 && name.starts_with(char::is_alphabetic))?;
    let rest = syntax.text.get(syntax.nodes[node].bytes.end..function.own.end)?;
    let is_counted = [format!("{name} += "), format!("{name}++")].iter().any(|form| has_start(rest, form));
    (syntax.text_of(node) == "0" && is_counted)
        .then(|| format!("`{name}` is added to, and nothing has been counted where it begins."))
}

fn has_start(text: &str, form: &str) -> bool {
    text.match_indices(form)
        .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.')))
}

/// A loop from the first on, where nothing else sees to the first.
fn leaves_first_out(syntax: &Syntax, function: &Function, node: usize) -> Option<String> {
    let (range, is) = (syntax.nodes[node].parent, syntax.text_of(node));
    let around = syntax.nodes[range].parent;
    let is_loop = syntax.is(range, &["range_expression"]) && syntax.is(around, &["for_expression"]);
    let is_start = syntax.named_children(range).next() == Some(node) && syntax.named_children(range).count() == 2;
    let own = &syntax.text[function.own.clone()];
    let sees = ["[0]", "first", " - 1"].iter().any(|form| own.contains(form));
    let variable = syntax.named_children(around).next().map(|at| syntax.text_of(at))?;
    (is == "0" && is_loop && is_start && !sees && variable != "_")
        .then(|| format!("From 1 on, `{variable}` leaves out the first, which nothing else sees to."))
}

/// `at += 0`, and sums with nothing.
fn changes_nothing(syntax: &Syntax, node: usize, wrong: &str) -> Option<String> {
    let before = syntax.text[..syntax.nodes[node].bytes.start].trim_end();
    let operator = ["+=", "-=", "+", "-"].into_iter().find(|operator| before.ends_with(operator))?;
    let left = before[..before.len() - operator.len()].trim_end();
    // A sign is no sum.
    let is_sum = left.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ')' | ']'));
    (wrong == "0" && is_sum).then(|| format!("`{operator} 0` changes nothing."))
}

/// The same number once more: a long one anywhere on another line, others after the same name.
fn again(syntax: &Syntax, function: &Function, node: usize) -> Option<String> {
    let (is, bytes) = (syntax.text_of(node), &syntax.nodes[node].bytes);
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    let has = |line: &str, form: &str| {
        line.match_indices(form)
            .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + form.len()..].starts_with(is_part))
    };
    if is.len() >= CHOSEN_DIGITS {
        return once_more(syntax, function, bytes, |line| has(line, is));
    }
    let before = &syntax.text[syntax.line_start(node)..bytes.start];
    let name = names_in(before).last().filter(|name| name.len() >= 3 && !name.starts_with(char::is_numeric))?;
    let role = &before[before.rfind(name)?..];
    // Other places of one sequence are read as well.
    let is_place = role.ends_with('[') && !role.ends_with("![");
    if is_place || role == name || role.contains(',') || !is_quotable(role) {
        return None;
    }
    let form = format!("{role}{is}");
    once_more(syntax, function, bytes, |line| has(line, &form))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;

    #[test]
    fn a_number_needs_something_that_tells() {
        for (code, wrong, wanted) in [
            ("let a = g(37);", "36", ""),
            ("let a = g(371);\n    h(371);", "370", "Line 3 has `h(371);`."),
            ("let a = chunks(16);\n    g(16);", "15", ""),
            ("let a = chunks(16);\n    chunks(16);", "15", "Line 3 has `chunks(16);`."),
            ("let a = rows[0];\n    g(rows[0]);", "1", ""),
            ("let a = b.map_or(1, g);\n    b.map_or(1, g);", "0", ""),
            (
                "let mut rows = 0;\n    rows += width;",
                "1",
                "`rows` is added to, and nothing has been counted where it begins.",
            ),
            ("let mut rows = 0;\n    rows = width;", "1", ""),
            ("at += 1;", "0", "`+= 0` changes nothing."),
            ("at += 1;", "2", ""),
            ("let a = -1;", "0", ""),
            (
                "for i in 0..rows {\n        g(i);\n    }",
                "1",
                "From 1 on, `i` leaves out the first, which nothing else sees to.",
            ),
            ("for i in 0..rows {\n        g(i, of[0]);\n    }", "1", ""),
            ("if n == 0 {\n        return a / n;\n    }", "1", "Something is divided by `n`."),
            ("if n == 0 {\n        return a / m;\n    }", "1", ""),
            ("g(of[of.len() - 1]);", "2", "The last place is one before `of.len()`."),
            (
                "if of.len() < 2 {\n        return of[1];\n    }",
                "1",
                "`of[1]` is the last place that is read, for which it takes 2 of them.",
            ),
        ] {
            let text = format!("fn f() {{\n    {code}\n    more();\n}}\n");
            let syntax = Syntax::of("a.rs", &text).expect("it parses");
            let function = &functions(&syntax)[0];
            let number = syntax.below(function.body).find(|&at| syntax.is(at, &["integer_literal"])).expect(code);
            let found = of_number(&syntax, function, number, wrong).map_or_else(String::new, |evidence| evidence.words);
            assert_eq!(found, wanted, "{code}");
        }
    }
}
