//! The steps of a run, in words: the program is rewritten to say what it does, and then really run.
//!
//! Line by line: a binding prints its value, a condition prints itself with values in place of names, a comprehension
//! prints one line per element. Nothing is guessed, so that a trace can only be true.

use crate::kata::OWN_LIMITS;
use crate::sandbox::{Probe, evaluate_here};
use crate::source::{Sort, Token, is_own_name, tokens};

/// The steps of a call; `None` where the program has a form that this does not tell well, or the value is not
/// `expected`.
pub(crate) fn trace(program: &str, probe: &Probe, expected: &str) -> Option<Vec<String>> {
    let telling = instrumented(program)?;
    let evaluation = evaluate_here(&telling, std::slice::from_ref(probe), OWN_LIMITS);
    let answer = evaluation.answers.first()?;
    let whole = !evaluation.output.ends_with('…');
    (whole && answer.is(expected)).then(|| evaluation.output.lines().map(str::to_owned).collect())
}

/// A text that Python computes: pieces that stand as they are, and values.
struct Shown {
    /// Texts to tell first, about the parts in parentheses, as expressions like the next.
    prelude: Vec<String>,
    /// A Python expression whose value is the text.
    text: String,
    /// A single name or literal, of which there is nothing to tell but the value.
    trivial: bool,
}

fn instrumented(program: &str) -> Option<String> {
    if program.contains("class ") || program.contains("lambda") {
        return None;
    }
    let mut out = "def __bracketed(value):\n    text = repr(value)\n    return '(' + text + ')' if text[:1] == \
        '-' else text\n\n\n"
        .to_owned();
    // What the first line of a body has to say about the header above it.
    let mut pending: Vec<String> = Vec::new();
    for line in program.lines().filter(|line| !line.trim().is_empty()) {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        for statement in pending.drain(..) {
            out.push_str(&format!("{indent}{statement}\n"));
        }
        let statements = told(text, &mut pending)?;
        for statement in statements {
            out.push_str(&format!("{indent}{statement}\n"));
        }
    }
    Some(out)
}

/// The statements that replace one line.
fn told(text: &str, pending: &mut Vec<String>) -> Option<Vec<String>> {
    let own = text.to_owned();
    if let Some(header) = text.strip_suffix(':') {
        return headed(header, own, pending);
    }
    if let Some(value) = text.strip_prefix("return ") {
        return returned(value);
    }
    if matches!(text, "break" | "continue" | "pass") {
        return Some(vec![format!("print('{text}')"), own]);
    }
    if let Some((target, operator, value)) = assignment(text) {
        return assigned(target, operator, value, own);
    }
    // A call for its effect, or a store into a part: tell what the whole became.
    let base: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    Some(vec![own, format!("print('{base} = ' + repr({base}))")])
}

fn headed(header: &str, own: String, pending: &mut Vec<String>) -> Option<Vec<String>> {
    if let Some(rest) = header.strip_prefix("def ") {
        let parameters = rest.split_once('(')?.1.strip_suffix(')')?;
        if !parameters.is_empty() {
            pending.push(format!("print({})", bindings(parameters)));
        }
        return Some(vec![own]);
    }
    if let Some(rest) = header.strip_prefix("for ") {
        let (targets, _) = rest.split_once(" in ")?;
        pending.push(format!("print({})", bindings(targets)));
        return Some(vec![own]);
    }
    let condition = |prefix: &str| header.strip_prefix(prefix).map(shown);
    if let Some(shown) = condition("if ") {
        let mut statements = told_first(shown.prelude);
        let code = header.strip_prefix("if ")?;
        statements.push(format!("print({} + ' is ' + str(bool({code})))", shown.text));
        statements.push(own);
        return Some(statements);
    }
    if let Some(shown) = condition("elif ").or_else(|| condition("while ")) {
        pending.push(format!("print({} + ' is True')", shown.text));
        return Some(vec![own]);
    }
    (header == "else").then(|| vec![own])
}

fn returned(value: &str) -> Option<Vec<String>> {
    let mut statements = comprehension(value)?;
    let shown = if statements.is_empty() { Some(shown(value)) } else { None };
    let text = match shown {
        Some(shown) => {
            statements.extend(told_first(shown.prelude));
            (!shown.trivial).then_some(shown.text)
        }
        None => None,
    };
    // The text first: what it shows may change while a recursive call runs.
    if let Some(text) = &text {
        statements.push(format!("__shown = {text}"));
    }
    statements.push(format!("__value = {value}"));
    let middle = if text.is_some() { "__shown + ' = ' + " } else { "" };
    statements.push(format!("print('return ' + {middle}repr(__value))"));
    statements.push("return __value".to_owned());
    Some(statements)
}

fn assignment(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let all = tokens(text);
    let at = all.iter().position(|token| matches!(token.of(text), "=" | "+=" | "-=" | "*="))?;
    let target = text[..all[at].start].trim();
    let named = target.split(", ").all(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    let operator = all[at].of(text).strip_suffix('=').filter(|operator| !operator.is_empty());
    (named && !target.is_empty()).then(|| (target, operator, text[all[at].end..].trim()))
}

fn assigned(target: &str, operator: Option<&str>, value: &str, own: String) -> Option<Vec<String>> {
    if target.contains(", ") {
        return Some(vec![own, format!("print({})", bindings(target))]);
    }
    let mut statements = comprehension(value)?;
    if !statements.is_empty() {
        statements.extend([own, format!("print('{target} = ' + repr({target}))")]);
        return Some(statements);
    }
    let shown = shown(value);
    statements.extend(told_first(shown.prelude));
    match operator {
        Some(operator) => {
            statements.push(format!("__shown = repr({target}) + ' {operator} ' + {} + ' = '", shown.text));
        }
        None if shown.trivial => statements.push("__shown = ''".to_owned()),
        None => statements.push(format!("__shown = {} + ' = '", shown.text)),
    }
    statements.extend([own, format!("print('{target} = ' + __shown + repr({target}))")]);
    Some(statements)
}

fn told_first(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().map(|text| format!("print({text})")).collect()
}

/// `a, b` as the expression for the text `a = 1, b = 2`.
fn bindings(names: &str) -> String {
    let parts: Vec<String> = names
        .split(',')
        .map(|name| name.trim().trim_matches(['(', ')']))
        .map(|name| format!("'{name} = ' + repr({name})"))
        .collect();
    parts.join(" + ', ' + ")
}

/// Statements that tell about a comprehension in the code, one line per element; none where there is no comprehension.
fn comprehension(code: &str) -> Option<Vec<String>> {
    let all = tokens(code);
    let fors: Vec<usize> = (0..all.len()).filter(|&at| all[at].of(code) == "for").collect();
    let &[at] = fors.as_slice() else {
        return fors.is_empty().then(Vec::new);
    };
    let (open, close) = around(code, &all, at)?;
    let element = code[all[open].end..all[at].start].trim();
    let rest = &code[all[at].end..all[close].start];
    let (targets, rest) = rest.split_once(" in ")?;
    let (source, condition) = match split_at_if(rest) {
        Some((source, condition)) => (source, Some(condition)),
        None => (rest.trim(), None),
    };
    let head = format!("__shown = {} + ': '", bindings(targets));
    let mut statements = vec![format!("for {} in {source}:", targets.trim()), format!("    {head}")];
    let mut indent = "    ";
    if let Some(condition) = condition {
        let shown = shown(condition);
        statements.extend(shown.prelude.iter().map(|text| format!("    __shown += {text} + ', '")));
        statements.push(format!("    __shown += {}", shown.text));
        statements.push(format!("    if not ({condition}):"));
        statements.push("        print(__shown + ' is False')".to_owned());
        statements.push("    else:".to_owned());
        statements.push("        __shown += ' is True, '".to_owned());
        indent = "        ";
    }
    for statement in element_told(element) {
        statements.push(format!("{indent}{statement}"));
    }
    Some(statements)
}

fn element_told(element: &str) -> Vec<String> {
    if let Some((key, value)) = element.split_once(": ") {
        return vec![format!("print(__shown + repr({key}) + ': ' + repr({value}))")];
    }
    let shown = shown(element);
    let mut statements: Vec<String> = shown.prelude.iter().map(|text| format!("__shown += {text} + ', '")).collect();
    if shown.trivial {
        statements.push(format!("print(__shown + 'keep ' + repr({element}))"));
    } else {
        statements.push(format!("print(__shown + {} + ' = ' + repr({element}))", shown.text));
    }
    statements
}

/// The innermost pair of brackets around a token.
fn around(code: &str, all: &[Token], at: usize) -> Option<(usize, usize)> {
    let mut depth = 0;
    let open = (0..at).rev().find(|&index| {
        match all[index].of(code) {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" => depth -= 1,
            _ => {}
        }
        depth < 0
    })?;
    Some((open, closing(code, all, open)?))
}

fn closing(code: &str, all: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    (open..all.len()).find(|&index| {
        match all[index].of(code) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

fn split_at_if(code: &str) -> Option<(&str, &str)> {
    let (source, condition) = code.split_once(" if ")?;
    Some((source.trim(), condition.trim()))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The code with values in place of names; parts in parentheses are told about first and then shown as their value.
fn shown(code: &str) -> Shown {
    let all = tokens(code);
    let mut pieces: Vec<String> = Vec::new();
    let mut plain = String::new();
    let mut prelude = Vec::new();
    let solid: Vec<&Token> = all.iter().filter(|token| token.sort != Sort::Space).collect();
    let mut index = 0;
    while index < all.len() {
        let token = &all[index];
        let value = if let Some((inner, next)) = part(code, &all, index) {
            let part = shown(inner);
            prelude.extend(part.prelude);
            if !part.trivial {
                prelude.push(format!("{} + ' = ' + repr({inner})", part.text));
            }
            Some((inner.to_owned(), next))
        } else if is_own_name(code, token) && !code[token.end..].starts_with(['(', '[']) {
            Some((token.of(code).to_owned(), index + 1))
        } else {
            None
        };
        if let Some((expression, next)) = value {
            pieces.push(literal(&std::mem::take(&mut plain)));
            // After a sign a negative value stands in parentheses: `-(-3)`.
            let show = if pieces.last().is_some_and(|piece| piece.ends_with("-'")) { "__bracketed" } else { "repr" };
            pieces.push(format!("{show}({expression})"));
            index = next;
        } else {
            plain.push_str(token.of(code));
            index += 1;
        }
    }
    pieces.push(literal(&plain));
    pieces.retain(|piece| piece != "''");
    let text = if pieces.is_empty() { "''".to_owned() } else { pieces.join(" + ") };
    let empty_brackets = matches!(code.trim(), "[]" | "{}");
    Shown { prelude, text, trivial: solid.len() <= 1 || empty_brackets || code.parse::<i64>().is_ok() }
}

/// A part of a larger expression that is told about first: what a parenthesis groups, or a call such as `min(x, 3)`.
/// Gives its code and the index of the token after it.
fn part<'a>(code: &'a str, all: &[Token], index: usize) -> Option<(&'a str, usize)> {
    let token = &all[index];
    if token.of(code) == "(" {
        let before = all[..index].iter().rev().find(|token| token.sort != Sort::Space);
        let groups = before.is_none_or(|token| {
            matches!(token.of(code), "and" | "or" | "not" | "in")
                || token.sort == Sort::Operator && !matches!(token.of(code), ")" | "]")
        });
        let close = closing(code, all, index)?;
        let inner = &code[token.end..all[close].start];
        let is_tuple = inner.contains(", ") && !inner.contains('(');
        return (groups && !is_tuple).then_some((inner, close + 1));
    }
    let is_called = matches!(token.of(code), "min" | "max" | "len" | "abs") && code[token.end..].starts_with('(');
    let close = if is_called { closing(code, all, index + 1)? } else { return None };
    let whole = index == 0 && close + 1 == all.len();
    (!whole).then(|| (&code[token.start..all[close].end], close + 1))
}
