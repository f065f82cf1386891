//! Loops that count, build sequences, walk digits and rows, and functions that call themselves.

use super::{Family, held_out, known};
use crate::blocks::{number_change, number_condition, small_condition};
use crate::draft::{Draft, Sketch, calls, list};
use crate::names::Role;

pub(super) const FAMILIES: &[Family] = &[
    known("range_total", range_total),
    known("range_list", range_list),
    known("range_words", range_words),
    known("sequence", sequence),
    known("steps_until", steps_until),
    known("digit_total", digit_total),
    known("digit_build", digit_build),
    known("rows_total", rows_total),
    known("rows_map", rows_map),
    known("recursive_total", recursive_total),
    known("recursive_sequence", recursive_sequence),
    known("pairs_count", pairs_count),
    held_out("alternating_total", alternating_total),
    held_out("recursive_steps", recursive_steps),
];

fn small(draft: &mut Draft) -> String {
    draft.int(0, 25).to_string()
}

fn range_total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let start = draft.constant(0, 5);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({n})");
    let what = format!("the sum of the integers from {start} to `{n}` {}, each {}", condition.that, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = 0\n    for i in range({start}, {n} + 1):\n        if \
            {}:\n            total += {}\n    \
         return total\n",
        condition.of("i"),
        change.of("i")
    );
    let probes = calls(&mut draft, &name, |draft| draft.int(0, 45).to_string());
    draft.finish(name, description, program, probes)
}

fn range_list(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let n = draft.parameter(Role::Number).name;
    let start = draft.constant(0, 15);
    let step = draft.constant(2, 9);
    let change = number_change(&mut draft);
    let signature = format!("{name}({n})");
    let what = format!(
        "a list of every integer from {start} up to but not including `{n}` in steps of {step}, each {}",
        change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for i in range({start}, {n}, {step})]\n", change.of("i"));
    let probes = calls(&mut draft, &name, |draft| draft.int(10, 60).to_string());
    draft.finish(name, description, program, probes)
}

fn range_words(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Words);
    let n = draft.parameter(Role::Number).name;
    let condition = small_condition(&mut draft);
    let (yes, no) = (draft.word(), draft.word());
    let signature = format!("{name}({n})");
    let what = match draft.rng.below(2) {
        0 => format!(
            "a list for the integers from 1 to `{n}` with '{yes}' for those {} and '{no}' for the others",
            condition.that
        ),
        _ => format!("a list with, for each i from 1 to `{n}`, '{yes}' if i {} and '{no}' otherwise", condition.is),
    };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = []\n    for i in range(1, {n} + 1):\n        if {}:\n            \
         result.append('{yes}')\n        else:\n            result.append('{no}')\n    return result\n",
        condition.of("i")
    );
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(2, 9).to_string());
    draft.finish(name, description, program, probes)
}

fn sequence(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let n = draft.parameter(Role::Number).name;
    let start = draft.constant(0, 30);
    let change = number_change(&mut draft);
    let signature = format!("{name}({n})");
    let what =
        format!("a list of `{n}` numbers that starts with {start}, where each next one is the last {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = []\n    current = {start}\n    for i in range({n}):\n        \
         result.append(current)\n        current = {}\n    return result\n",
        change.of("current")
    );
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(0, 6).to_string());
    draft.finish(name, description, program, probes)
}

fn steps_until(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let limit = draft.edge(2, 40);
    let by = draft.variant(&[("subtract", "-"), ("floor_divide", "//")]);
    let constant = if by == "-" { draft.constant(2, 15) } else { draft.constant(2, 6) };
    let signature = format!("{name}({n})");
    let how = if by == "-" {
        format!("{constant} can be subtracted from `{n}`")
    } else {
        format!("`{n}` can be floor-divided by {constant}")
    };
    let while_above = draft.say(&["while it is above", "as long as it is greater than"]);
    let what = format!("how many times {how} {while_above} {limit}");
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    count = 0\n    while {n} > {limit}:\n        {n} {by}= {constant}\n        count \
            += 1\n    \
         return count\n"
    );
    let probes = calls(&mut draft, &name, |draft| draft.int(0, 150).to_string());
    draft.finish(name, description, program, probes)
}

fn digit_total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let start = draft.constant(0, 12);
    let (words, code) = digit_condition(&mut draft);
    let (step, thing) = draft.variant(&[("sum", ("int(digit)", "the sum")), ("count", ("1", "the number"))]);
    let signature = format!("{name}({n})");
    let what = format!("{thing} of the digits of `{n}` {words}, plus {start}");
    let what = if start == 0 { what.replace(", plus 0", "") } else { what };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = {start}\n    for digit in str({n}):\n        if \
            {code}:\n            total += {step}\n    \
         return total\n"
    );
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(10, 99_999).to_string());
    draft.finish(name, description, program, probes)
}

fn digit_condition(draft: &mut Draft) -> (String, String) {
    let kind = draft.variant(&[("above", 0), ("below", 1), ("equal", 2), ("unequal", 3), ("even", 4), ("odd", 5)]);
    if kind == 4 {
        return ("that are even".to_owned(), "int(digit) % 2 == 0".to_owned());
    }
    if kind == 5 {
        return ("that are odd".to_owned(), "int(digit) % 2 == 1".to_owned());
    }
    let (words, sign) = [("greater than", ">"), ("less than", "<"), ("equal to", "=="), ("different from", "!=")][kind];
    let digit = draft.constant(1, 8);
    (format!("that are {words} {digit}"), format!("int(digit) {sign} {digit}"))
}

fn digit_build(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let (words, code) = digit_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({n})");
    let what = format!("a list of the digits of `{n}` {words}, each as a number {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let program =
        format!("def {signature}:\n    return [{} for digit in str({n}) if {code}]\n", change.of("int(digit)"));
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(10, 99_999).to_string());
    draft.finish(name, description, program, probes)
}

fn rows(draft: &mut Draft) -> String {
    let count = draft.rng.range(1, 3);
    let rows: Vec<String> = (0..count).map(|_| list(&draft.ints(3, -9, 60))).collect();
    format!("[{}]", rows.join(", "))
}

fn rows_total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let rows_name = *draft.rng.choose(&["rows", "grid", "matrix", "lists"]);
    let signature = format!("{name}({rows_name})");
    let what =
        format!("the sum of all numbers in the lists of `{rows_name}` {}, each {}", condition.that, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = 0\n    for row in {rows_name}:\n        for value in row:\n            \
         if {}:\n                total += {}\n    return total\n",
        condition.of("value"),
        change.of("value")
    );
    let probes = calls(&mut draft, &name, rows);
    draft.finish(name, description, program, probes)
}

fn rows_map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let (code, words) = draft.variant(&[
        ("row_sum", ("sum(row)", "sum")),
        ("row_max", ("max(row)", "largest number")),
        ("row_min", ("min(row)", "smallest number")),
        ("row_length", ("len(row)", "length")),
        ("row_first", ("row[0]", "first number")),
        ("row_last", ("row[-1]", "last number")),
    ]);
    let change = number_change(&mut draft);
    let rows_name = *draft.rng.choose(&["rows", "grid", "matrix", "lists"]);
    let signature = format!("{name}({rows_name})");
    let what = format!("a list with the {words} of each list in `{rows_name}`, {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for row in {rows_name}]\n", change.of(code));
    let probes = calls(&mut draft, &name, rows);
    draft.finish(name, description, program, probes)
}

fn recursive_total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let base = draft.constant(0, 20);
    let change = number_change(&mut draft);
    let step = draft.constant(1, 4);
    let signature = format!("{name}({n})");
    let what = format!(
        "{base} if `{n}` is 0 or less, and otherwise `{n}` {} plus the result for `{n} - {step}`, by recursion",
        change.phrase
    );
    let description = draft.returns(&signature, &what);
    let first = change.of(n);
    let first = if crate::blocks::has_operator(&first) { format!("({first})") } else { first };
    let program = format!(
        "def {signature}:\n    if {n} <= 0:\n        return {base}\n    return {first} + {name}({n} - {step})\n"
    );
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(-1, 12).to_string());
    draft.finish(name, description, program, probes)
}

fn recursive_sequence(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let (first, second) = (draft.constant(0, 9), draft.constant(1, 9));
    let factor = draft.constant(2, 5);
    let sign = draft.variant(&[("plus", "+"), ("minus", "-")]);
    let signature = format!("{name}({n})");
    let word = if sign == "+" { "plus" } else { "minus" };
    let what = format!(
        "element `{n}` of a sequence: element 0 is {first}, element 1 is {second}, and every other is the one \
            before it \
         {word} {factor} times the one before that"
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {n} == 0:\n        return {first}\n    if {n} == 1:\n        return {second}\n    \
         return {name}({n} - 1) {sign} {factor} * {name}({n} - 2)\n"
    );
    let probes = calls(&mut draft, &name, |draft| draft.rng.range(0, 7).to_string());
    draft.finish(name, description, program, probes)
}

fn pairs_count(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let xs = draft.parameter(Role::Numbers).name;
    let (code, words) = draft.variant(&[("pair_sum", ("a + b", "sum")), ("pair_product", ("a * b", "product"))]);
    let condition = number_condition(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!(
        "how many pairs of numbers in `{xs}`, taken at different positions, have a {words} that {}",
        condition.is
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    count = 0\n    for i, a in enumerate({xs}):\n        for b in {xs}[i + \
            1:]:\n            \
         if {}:\n                count += 1\n    return count\n",
        condition.of(&format!("({code})"))
    );
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(5, -9, 30)));
    draft.finish(name, description, program, probes)
}

fn alternating_total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let change = number_change(&mut draft);
    let step = draft.constant(2, 4);
    let signature = format!("{name}({xs})");
    let what = format!(
        "the sum of the numbers in `{xs}`, where those at positions divisible by {step} (from 0) are {} first",
        change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = 0\n    for i, {x} in enumerate({xs}):\n        if i % {step} == 0:\n            \
         total += {}\n        else:\n            total += {x}\n    return total\n",
        change.of(x)
    );
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(6, -15, 50)));
    draft.finish(name, description, program, probes)
}

fn recursive_steps(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let limit = draft.edge(3, 25);
    let condition = number_condition(&mut draft);
    let (divisor, step) = (draft.constant(2, 3), draft.constant(1, 5));
    let signature = format!("{name}({n})");
    let what = format!(
        "`{n}` if it is less than {limit}; otherwise, by recursion, the result for `{n} // {divisor}` if `{n}` \
            {} and for \
         `{n} - {step}` if not",
        condition.is
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {n} < {limit}:\n        return {n}\n    if {}:\n        return {name}({n} // \
            {divisor})\n    \
         return {name}({n} - {step})\n",
        condition.of(n)
    );
    let probes = calls(&mut draft, &name, small_or_large);
    draft.finish(name, description, program, probes)
}

fn small_or_large(draft: &mut Draft) -> String {
    if draft.rng.chance(0.3) { small(draft) } else { draft.int(20, 120).to_string() }
}
