//! Faults put into code, one at a time, where the syntax allows them: the slips that people make.

use super::absence::of_statement;
use super::bound::of_range;
use super::evidence::{Evidence, called, of_condition, of_operator, of_order};
use super::function::Function;
use super::number::of_number;
use super::syntax::{Language, Syntax};
use numeric::Rng;
use std::ops::Range;

/// Places looked at before a function is given up.
const TRIES: usize = 12;

/// A file with one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) text: String,
    /// The line of the fault in the faulty text, counted from 1.
    pub(super) line: usize,
    /// None where the fault is that a line is not there.
    pub(super) faulty_line: Option<String>,
    /// What is wrong with it.
    pub(super) reason: String,
    /// What was done about it.
    pub(super) correction: String,
    /// How somebody could tell.
    pub(super) evidence: Evidence,
}

/// A change of some bytes, with why it is a fault.
struct Slip {
    bytes: Range<usize>,
    replacement: String,
    reason: String,
    sort: Sort,
}

/// What has to be looked at before a slip is taken for a fault; places are nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Number(usize),
    Drop,
    /// A binary expression.
    Operator(usize),
    /// Of a conditional.
    Condition(usize),
    /// The arguments of a call, and which of them is exchanged with the next.
    Order(usize, usize),
    /// The dots of a range.
    Range(usize),
}

/// Where a fault could be put, and what would give it away there.
pub(super) struct Offer<'a> {
    /// Counted from zero.
    pub(super) line: usize,
    /// A line would be taken away.
    pub(super) is_absence: bool,
    pub(super) evidence: &'a Evidence,
}

/// A faulty version of a file whose fault is inside of a function and still parses, at a place that is `wanted`; none
/// where no place offers one.
pub(super) fn mutant(
    (path, syntax): (&str, &Syntax),
    function: &Function,
    rng: &mut Rng,
    wanted: impl Fn(&Offer) -> bool,
) -> Option<Mutant> {
    let slips = slips(syntax, function.body, rng);
    let mut told: Vec<(Slip, Evidence)> = slips
        .into_iter()
        .filter_map(|slip| evidence(syntax, function, &slip).map(|evidence| (slip, evidence)))
        .filter(|(slip, evidence)| {
            let line = syntax.line_of(slip.bytes.start);
            wanted(&Offer { line, is_absence: slip.sort == Sort::Drop, evidence })
        })
        .collect();
    rng.shuffle(&mut told);
    told.into_iter().take(TRIES).find_map(|(slip, evidence)| enacted(path, syntax, slip, evidence))
}

/// What gives a fault away, if something does.
fn evidence(syntax: &Syntax, function: &Function, slip: &Slip) -> Option<Evidence> {
    match slip.sort {
        Sort::Number(node) => of_number(syntax, function, node, &slip.replacement),
        Sort::Drop => of_statement(syntax, function, &slip.bytes),
        Sort::Operator(binary) => of_operator(syntax, function, binary),
        Sort::Condition(conditional) => of_condition(syntax, function, conditional, &syntax.text[slip.bytes.clone()]),
        Sort::Order(arguments, first) => of_order(syntax, arguments, first),
        Sort::Range(dots) => of_range(syntax, function, dots),
    }
}

fn enacted(path: &str, syntax: &Syntax, slip: Slip, evidence: Evidence) -> Option<Mutant> {
    let text = format!("{}{}{}", &syntax.text[..slip.bytes.start], slip.replacement, &syntax.text[slip.bytes.end..]);
    let faulty = Syntax::of(path, &text)?;
    // The root has an error where anything below it has.
    if faulty.nodes[0].has_error && !syntax.nodes[0].has_error || faulty.nodes.len() < 2 {
        return None;
    }
    let line = syntax.line_of(slip.bytes.start);
    let right = syntax.text.lines().nth(line)?.trim().to_owned();
    let faulty_line = text.lines().nth(line)?.to_owned();
    if slip.sort == Sort::Drop {
        let dropped = syntax.text[slip.bytes].trim().to_owned();
        let correction = format!("it lacked `{}`.", first_line(&dropped));
        return Some(Mutant { text, line: line.max(1), faulty_line: None, reason: slip.reason, correction, evidence });
    }
    let correction = format!("line {} is `{right}` now.", line + 1);
    let is_long = right.len() > 160 || faulty_line.len() > 200;
    (!is_long).then_some(Mutant {
        text,
        line: line + 1,
        faulty_line: Some(faulty_line),
        reason: slip.reason,
        correction,
        evidence,
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

fn slips(syntax: &Syntax, body: usize, rng: &mut Rng) -> Vec<Slip> {
    let names = syntax.names();
    let mut slips = Vec::new();
    for at in syntax.below(body) {
        if syntax.is(at, names.binaries) {
            slips.extend(operator(syntax, at));
        } else if syntax.is(at, names.integers) {
            slips.extend(number(syntax, at, rng));
        } else if syntax.is(at, names.arguments) {
            slips.extend(swapped(syntax, at, rng));
        } else if syntax.is(at, names.conditionals) {
            slips.extend(negated(syntax, at));
        } else if syntax.is(at, names.blocks) {
            slips.extend(dropped(syntax, at, rng));
        } else {
            slips.extend(range(syntax, at));
        }
    }
    slips
}

fn slip(syntax: &Syntax, node: usize, replacement: &str, reason: String, sort: Sort) -> Slip {
    Slip { bytes: syntax.nodes[node].bytes.clone(), replacement: replacement.to_owned(), reason, sort }
}

/// Comparisons flipped or off by one, and exchanged for or, plus for minus.
fn operator(syntax: &Syntax, binary: usize) -> Option<Slip> {
    let operator = syntax.children(binary).find(|&child| {
        !syntax.nodes[child].is_named && matches!(syntax.nodes[child].field, Some("operator" | "operators"))
    })?;
    let is = syntax.text_of(operator);
    let (wrong, reason) = match is {
        "<" => ("<=", "The bound itself belongs to the other side: the comparison must be `<`."),
        "<=" => ("<", "The bound itself must be let through: the comparison must be `<=`."),
        ">" => (">=", "The bound itself belongs to the other side: the comparison must be `>`."),
        ">=" => (">", "The bound itself must be let through: the comparison must be `>=`."),
        "==" => ("!=", "The comparison is the wrong way round: it must ask for equality."),
        "===" => ("!==", "The comparison is the wrong way round: it must ask for equality."),
        "!=" => ("==", "The comparison is the wrong way round: it must ask for a difference."),
        "!==" => ("===", "The comparison is the wrong way round: it must ask for a difference."),
        "&&" => ("||", "Both conditions must hold, not one of them."),
        "||" => ("&&", "One of the conditions is enough."),
        "and" => ("or", "Both conditions must hold, not one of them."),
        "or" => ("and", "One of the conditions is enough."),
        "-" => ("+", "The second value has to be taken away, not added."),
        "+" if is_numeric(syntax, binary) => ("-", "The second value has to be added, not taken away."),
        "*" => ("+", "The values have to be multiplied."),
        "%" => ("/", "The remainder is wanted, not the quotient."),
        "/" => ("*", "The values have to be divided."),
        _ => return None,
    };
    Some(slip(syntax, operator, wrong, reason.to_owned(), Sort::Operator(binary)))
}

/// Where a sum could be of texts, taking away would not even run.
fn is_numeric(syntax: &Syntax, binary: usize) -> bool {
    syntax.named_children(binary).any(|side| syntax.is(side, syntax.names().integers))
}

fn number(syntax: &Syntax, node: usize, rng: &mut Rng) -> Option<Slip> {
    let is = syntax.text_of(node);
    let value: i64 = is.parse().ok().filter(|_| !is_of_form(syntax, node))?;
    let wrong = match (value, rng.below(2)) {
        (0, _) => 1,
        (_, 0) => value.checked_add(1)?,
        _ => value - 1,
    };
    let near = if wrong > value { "one too many" } else { "one too few" };
    let reason = format!("`{wrong}` is {near} here: it must be `{is}`.");
    Some(slip(syntax, node, &wrong.to_string(), reason, Sort::Number(node)))
}

/// A literal in a pattern, a case or a type, or the place of a tuple: another one there would not compile, or hide what
/// stands beside it.
fn is_of_form(syntax: &Syntax, node: usize) -> bool {
    let kind = &syntax.nodes[syntax.nodes[node].parent].kind;
    ["pattern", "case", "match_arm", "field_expression", "type_arguments"].iter().any(|form| kind.contains(form))
        || kind.ends_with("type")
}

/// Functions that care nothing for the order of what they are given.
const SYMMETRIC: [&str; 16] = [
    "min",
    "max",
    "swap",
    "gcd",
    "lcm",
    "hypot",
    "eq",
    "ne",
    "equals",
    "isclose",
    "union",
    "intersection",
    "intersect",
    "distance",
    "dot",
    "assert_eq",
];

/// Parts of the names of such functions: `_mm256_and_si256`.
const COMMUTATIVE: [&str; 7] = ["and", "or", "xor", "add", "mul", "min", "max"];

/// Two neighbouring arguments exchanged.
fn swapped(syntax: &Syntax, arguments: usize, rng: &mut Rng) -> Option<Slip> {
    let all: Vec<usize> = syntax.named_children(arguments).collect();
    let called = called(syntax, arguments).to_lowercase();
    if SYMMETRIC.contains(&called.as_str()) || called.split('_').any(|part| COMMUTATIVE.contains(&part)) {
        return None;
    }
    if !(2..=6).contains(&all.len()) {
        return None;
    }
    let first = rng.below(all.len() - 1);
    let (one, other) = (all[first], all[first + 1]);
    let (one_text, other_text) = (syntax.text_of(one), syntax.text_of(other));
    let is_plain = |text: &str| !text.contains(['\n', '"', '\'', '=', '*']) && text.len() < 40;
    // Literals have a type that shows; two names may be exchanged by mistake.
    let is_name =
        |at: usize| syntax.nodes[at].kind.contains("identifier") || syntax.nodes[at].kind.contains("expression");
    let is_kin = syntax.nodes[one].kind == syntax.nodes[other].kind && is_name(one);
    if one_text == other_text || !is_plain(one_text) || !is_plain(other_text) || !is_kin {
        return None;
    }
    let bytes = syntax.nodes[one].bytes.start..syntax.nodes[other].bytes.end;
    let between = &syntax.text[syntax.nodes[one].bytes.end..syntax.nodes[other].bytes.start];
    let reason = format!("The arguments are exchanged: `{one_text}` comes before `{other_text}`.");
    let replacement = format!("{other_text}{between}{one_text}");
    Some(Slip { bytes, replacement, reason, sort: Sort::Order(arguments, first) })
}

/// A condition turned into its opposite.
fn negated(syntax: &Syntax, conditional: usize) -> Option<Slip> {
    let mut condition = syntax.child(conditional, "condition")?;
    let is_wrapped = syntax.is(condition, &["parenthesized_expression", "condition_clause"]);
    if is_wrapped {
        condition = syntax.named_children(condition).next()?;
    }
    let text = syntax.text_of(condition);
    // What binds names, and what `operator` sees to already.
    if text.contains('\n') || text.contains("let ") || text.len() > 60 || syntax.is(condition, syntax.names().binaries)
    {
        return None;
    }
    let (mark, is_python) = if syntax.language == Language::Python { ("not ", true) } else { ("!", false) };
    let reason = "The condition is the wrong way round.";
    let reason = format!("{reason} It must be `{text}`.");
    if let Some(rest) = text.strip_prefix(mark) {
        return Some(slip(syntax, condition, rest.trim_start(), reason, Sort::Condition(conditional)));
    }
    let is_simple = is_python || text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.()[]:&".contains(&byte));
    is_simple.then(|| slip(syntax, condition, &format!("{mark}{text}"), reason, Sort::Condition(conditional)))
}

/// A statement that is not there.
fn dropped(syntax: &Syntax, block: usize, rng: &mut Rng) -> Option<Slip> {
    let statements = syntax.statements(block);
    let droppable: Vec<usize> = statements
        .iter()
        .copied()
        .filter(|&at| syntax.is(at, syntax.names().droppable) && is_droppable(syntax.text_of(at)))
        // In Rust the last one is the value, without which the function would not compile.
        .filter(|&at| syntax.language != Language::Rust || syntax.text_of(at).ends_with(';'))
        .collect();
    if statements.len() < 2 || droppable.is_empty() {
        return None;
    }
    let at = *rng.choose(&droppable);
    let bytes = &syntax.nodes[at].bytes;
    let start = syntax.indented_start(bytes.start);
    let end = syntax.text[bytes.end..].find('\n').map(|end| bytes.end + end + 1)?;
    // Something else on the last line would go with it.
    if !syntax.text[bytes.end..end].trim().is_empty()
        || start == bytes.start && bytes.start > 0 && !syntax.text[..start].ends_with('\n')
    {
        return None;
    }
    let statement = first_line(syntax.text_of(at)).trim_end().to_owned();
    let reason = format!("A statement is missing here: `{statement}`.");
    Some(Slip { bytes: start..end, replacement: String::new(), reason, sort: Sort::Drop })
}

/// Short, and not a macro or a message whose absence nobody could notice; not a docstring.
fn is_droppable(text: &str) -> bool {
    let lower = text.to_lowercase();
    let silent = ["log", "print", "debug", "trace", "assert", "warn", "console.", "\"", "'", "return", "panic", "fmt."];
    text.len() <= 160 && !text.contains('\n') && !silent.iter().any(|word| lower.starts_with(word))
}

/// A range with its end, or without.
fn range(syntax: &Syntax, node: usize) -> Option<Slip> {
    if syntax.language != Language::Rust
        || syntax.nodes[node].is_named
        || !syntax.is(syntax.nodes[node].parent, &["range_expression"])
    {
        return None;
    }
    let is_inside = syntax.nodes[node].bytes.end < syntax.nodes[syntax.nodes[node].parent].bytes.end;
    match syntax.text_of(node) {
        ".." if is_inside => {
            let reason = "The end does not belong to the range: it must be `..`.";
            Some(slip(syntax, node, "..=", reason.to_owned(), Sort::Range(node)))
        }
        "..=" => {
            let reason = "The end belongs to the range: it must be `..=`.";
            Some(slip(syntax, node, "..", reason.to_owned(), Sort::Range(node)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::function::functions;
    use crate::mine::lines::edits;
    use std::collections::BTreeSet;

    const CODE: [(&str, &str); 6] = [
        ("f.rs", include_str!("../../tests/code/faults/f.rs.txt")),
        ("f.py", include_str!("../../tests/code/faults/f.py.txt")),
        ("f.ts", include_str!("../../tests/code/faults/f.ts.txt")),
        ("f.go", include_str!("../../tests/code/faults/f.go.txt")),
        ("f.cpp", include_str!("../../tests/code/faults/f.cpp.txt")),
        ("f.java", include_str!("../../tests/code/faults/f.java.txt")),
    ];

    #[test]
    fn every_language_has_every_sort_of_fault() {
        for (path, text) in CODE {
            let syntax = Syntax::of(path, text).expect(path);
            assert!(!syntax.nodes[0].has_error, "{path}");
            let all = functions(&syntax);
            let function = all.first().expect(path);
            let mut reasons = BTreeSet::new();
            for seed in 0..300 {
                let mutant = mutant((path, &syntax), function, &mut Rng::new(seed), |_| true).expect(path);
                assert_ne!(mutant.text, text);
                assert!(edits(&mutant.text, text).is_some(), "{path}: {mutant:?}");
                let before = text.lines().collect::<Vec<_>>();
                let after = mutant.text.lines().collect::<Vec<_>>();
                assert!(before.len() - after.len() <= 1, "{mutant:?}");
                if let Some(line) = &mutant.faulty_line {
                    assert_eq!(after[mutant.line - 1], line);
                    assert_ne!(before[mutant.line - 1], line);
                }
                reasons.insert(mutant.reason.split([':', '`', '.']).next().unwrap_or_default().trim().to_owned());
            }
            for wanted in [
                "The bound itself belongs to the other side",
                "Both conditions must hold, not one of them",
                "The second value has to be taken away, not added",
                "The arguments are exchanged",
                "The condition is the wrong way round",
                "A statement is missing here",
            ] {
                assert!(reasons.contains(wanted), "{path} lacks {wanted}: {reasons:?}");
            }
        }
    }

    /// The faults that many draws put into the only function of a text.
    fn drawn(path: &str, text: &str) -> BTreeSet<String> {
        let syntax = Syntax::of(path, text).expect("it parses");
        let all = functions(&syntax);
        let reason = |seed| mutant((path, &syntax), &all[0], &mut Rng::new(seed), |_| true).map(|mutant| mutant.reason);
        (0..200).filter_map(reason).collect()
    }

    #[test]
    fn what_nothing_gives_away_is_no_fault() {
        // `60` might as well be `61`, `16` stands there twice; nobody misses the call of `warm`, `best` is never set.
        let text = "fn f(a: &[f32], of: &Pair) -> f32 {\n    let mut best = 3;\n    warm(a);\n    \
                    let least = widest(16, a);\n    best = widest(16, 60, a);\n    join(best, of.1)\n}\n";
        let reasons = drawn("a.rs", text);
        let all = reasons.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(all.contains("it must be `16`") && all.contains("`best = widest(16, 60, a);`"), "{all}");
        for no in ["`60`", "`warm(a);`", "must be `1`"] {
            assert!(!all.contains(no), "{all}");
        }
        let text = "def f(a, b, c):\n    total = 0\n    total += max(a, b)\n    return join(total, b)\n\n\n\
                    def join(total, part):\n    return total\n";
        let all = drawn("a.py", text).into_iter().collect::<String>();
        assert!(all.contains("`total += max(a, b)`") && all.contains("`total` comes before `b`"), "{all}");
        assert!(!all.contains("`a` comes before `b`"), "the larger of two has no order: {all}");
    }

    #[test]
    fn what_offers_nothing_gives_nothing() {
        let text = "fn f(a: &A) -> &str {\n    &a.name\n}\n";
        let syntax = Syntax::of("a.rs", text).expect("it parses");
        let all = functions(&syntax);
        assert_eq!(mutant(("a.rs", &syntax), &all[0], &mut Rng::new(1), |_| true), None);
    }
}
