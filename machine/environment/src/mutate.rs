//! Faults, one at a time: the slips that people make, put into a program that was right.

use numeric::Rng;

use crate::kata::Kata;
use crate::sandbox::Answer;
use crate::source::{Sort, Token, is_own_name, tokens};

/// A program with one fault, and the test that shows it.
#[derive(Debug, Clone)]
pub(crate) struct Mutant {
    pub(crate) program: String,
    /// The faulty line, counted from 1.
    pub(crate) line: usize,
    /// What is wrong, in one sentence that names the line.
    pub(crate) fault: String,
    /// The failing test and what it gave.
    pub(crate) test: usize,
    pub(crate) answer: Answer,
}

/// A faulty version that really fails a test; `None` where the program offers none (a few one-liners do not).
pub(crate) fn mutant(kata: &Kata, rng: &mut Rng) -> Option<Mutant> {
    let mut edits = edits(&kata.program, rng);
    rng.shuffle(&mut edits);
    edits.into_iter().take(8).find_map(|edit| {
        if !kata.may_become(&edit.program) {
            return None;
        }
        let (test, answer) = kata.shown_fault(&edit.program)?;
        Some(Mutant { program: edit.program, line: edit.line, fault: edit.fault, test, answer })
    })
}

struct Edit {
    program: String,
    line: usize,
    fault: String,
}

fn edits(code: &str, rng: &mut Rng) -> Vec<Edit> {
    let all = tokens(code);
    let frozen = lines_that_keep_loops_finite(code);
    let mut out = Vec::new();
    for (index, token) in all.iter().enumerate() {
        if frozen.contains(&token.line) || is_header(code, token.line) {
            continue;
        }
        if let Some(replacement) = replacement(code, &all, index, rng) {
            let program = format!("{}{replacement}{}", &code[..token.start], &code[token.end..]);
            let fault = format!("Line {} should be `{}`.", token.line, line_of(code, token.line).trim());
            out.push(Edit { program, line: token.line, fault });
        }
    }
    out.extend(swapped_returns(code));
    out.extend(early_return(code));
    out
}

pub(crate) fn line_of(code: &str, line: usize) -> &str {
    code.lines().nth(line - 1).unwrap_or("")
}

fn is_header(code: &str, line: usize) -> bool {
    let text = line_of(code, line).trim_start();
    text.starts_with("def ") || text.starts_with("class ")
}

/// A `while` line and the lines that change what it looks at: a fault there would seldom end.
fn lines_that_keep_loops_finite(code: &str) -> Vec<usize> {
    let mut frozen = Vec::new();
    let lines: Vec<&str> = code.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some(condition) = line.trim_start().strip_prefix("while ") else { continue };
        frozen.push(at + 1);
        let watched: Vec<&str> = condition.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for (below, body) in lines.iter().enumerate().skip(at + 1) {
            let target = body.trim_start().split(' ').next().unwrap_or("");
            if watched.contains(&target) {
                frozen.push(below + 1);
            }
        }
    }
    frozen
}

fn replacement(code: &str, all: &[Token], index: usize, rng: &mut Rng) -> Option<String> {
    let token = &all[index];
    match token.sort {
        Sort::Operator => wrong_operator(code, all, index, rng),
        Sort::Number => wrong_number(token.of(code), rng),
        Sort::Text => wrong_text(code, all, token, rng),
        Sort::Name => wrong_name(code, all, token, rng),
        Sort::Space | Sort::LineEnd => None,
    }
}

fn wrong_operator(code: &str, all: &[Token], index: usize, rng: &mut Rng) -> Option<String> {
    let before = all[..index].iter().rev().find(|token| token.sort != Sort::Space)?;
    let text = all[index].of(code);
    let binary = matches!(before.sort, Sort::Name | Sort::Number | Sort::Text) && before.of(code) != "return"
        || matches!(before.of(code), ")" | "]");
    let choices: &[&str] = match text {
        "+" => &["-"],
        "-" if binary => &["+"],
        "*" if binary => &["+"],
        "**" => &["*"],
        "//" => &["%"],
        "%" => &["//"],
        "<" => &["<=", ">"],
        "<=" => &["<", ">="],
        ">" => &[">=", "<"],
        ">=" => &[">", "<="],
        "==" => &["!="],
        "!=" => &["=="],
        "+=" => &["-=", "="],
        "-=" => &["+="],
        _ => return None,
    };
    Some((*rng.choose(choices)).to_owned())
}

fn wrong_number(text: &str, rng: &mut Rng) -> Option<String> {
    let value: i64 = text.parse().ok()?;
    let wrong = match rng.below(3) {
        0 => value + 1,
        1 => value - 1,
        _ if value >= 10 => value % 10 * 10 + value / 10,
        _ => value + 2,
    };
    (wrong >= 0 && wrong != value).then(|| wrong.to_string())
}

/// Another literal of the program, or a letter beside the right one.
fn wrong_text(code: &str, all: &[Token], token: &Token, rng: &mut Rng) -> Option<String> {
    let text = token.of(code);
    let others: Vec<&str> = all
        .iter()
        .filter(|other| other.sort == Sort::Text && other.of(code) != text)
        .map(|other| other.of(code))
        .collect();
    if !others.is_empty() && rng.chance(0.5) {
        return Some((*rng.choose(&others)).to_owned());
    }
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    let last = inner.chars().last().filter(char::is_ascii_lowercase)?;
    let wrong = if last == 'z' { 'y' } else { char::from(last as u8 + 1) };
    Some(format!("'{}{wrong}'", &inner[..inner.len() - 1]))
}

fn wrong_name(code: &str, all: &[Token], token: &Token, rng: &mut Rng) -> Option<String> {
    let name = token.of(code);
    let opposite = match name {
        "and" => "or",
        "or" => "and",
        "min" => "max",
        "max" => "min",
        "all" => "any",
        "any" => "all",
        "upper" => "lower",
        "lower" => "upper",
        "startswith" => "endswith",
        "endswith" => "startswith",
        "True" => "False",
        "False" => "True",
        _ => "",
    };
    if !opposite.is_empty() {
        return Some(opposite.to_owned());
    }
    let is_called = code[token.end..].starts_with('(');
    let is_bound = code[token.end..].starts_with(" =") && !code[token.end..].starts_with(" ==");
    let line_start = code[..token.start].rfind('\n').map_or(0, |end| end + 1);
    let before = &code[line_start..token.start];
    let is_loop_target = before.rfind("for ").is_some_and(|at| !before[at..].contains(" in "));
    if !is_own_name(code, token) || is_called || is_bound || is_loop_target {
        return None;
    }
    let known: Vec<&str> = all
        .iter()
        .filter(|other| is_own_name(code, other) && other.line <= token.line && other.of(code) != name)
        .filter(|other| !code[other.end..].starts_with('('))
        .map(|other| other.of(code))
        .collect();
    // A loop over the list that it fills, or over a range that grows with what it computes, would not end.
    let text = line_of(code, token.line).trim_start();
    let grows = code[token.end..].starts_with(".append(")
        || text.starts_with("for ")
            && (text.contains("range(") || known.iter().any(|name| code.contains(&format!("{name}.append("))));
    if grows {
        return None;
    }
    (!known.is_empty()).then(|| (*rng.choose(&known)).to_owned())
}

/// The first two returns with their values exchanged.
fn swapped_returns(code: &str) -> Option<Edit> {
    let mut lines: Vec<String> = code.lines().map(str::to_owned).collect();
    let returns: Vec<usize> =
        (0..lines.len()).filter(|&at| lines[at].trim_start().starts_with("return ")).take(2).collect();
    let &[first, second] = returns.as_slice() else { return None };
    let value = |line: &str| line.trim_start().to_owned();
    let indent = |line: &str| line[..line.len() - line.trim_start().len()].to_owned();
    let (upper, lower) = (value(&lines[first]), value(&lines[second]));
    (lines[first], lines[second]) =
        (format!("{}{lower}", indent(&lines[first])), format!("{}{upper}", indent(&lines[second])));
    let fault = format!("The returns on lines {} and {} are swapped.", first + 1, second + 1);
    Some(Edit { program: lines.join("\n") + "\n", line: first + 1, fault })
}

/// The last return, moved into the loop above it.
fn early_return(code: &str) -> Option<Edit> {
    let mut lines: Vec<String> = code.lines().map(str::to_owned).collect();
    let last = lines.len() - 1;
    let in_loop = lines.iter().any(|line| line.starts_with("    for "));
    if !in_loop || !lines[last].starts_with("    return ") || !lines[last - 1].starts_with("        ") {
        return None;
    }
    lines[last] = format!("    {}", lines[last]);
    let fault = format!("Line {} returns inside the loop.", last + 1);
    Some(Edit { program: lines.join("\n") + "\n", line: last + 1, fault })
}
