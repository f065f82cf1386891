//! Tables: counting, grouping, filtering and looking up.

use super::{Family, held_out, known};
use crate::blocks::{number_change, number_condition, text_change, text_condition, two_changes};
use crate::draft::{Draft, Sketch, calls, list, table, word_list};
use crate::names::{PEOPLE, Role};

pub(super) const FAMILIES: &[Family] = &[
    known("table_filter", filter),
    known("table_map", map),
    known("table_total", total),
    known("table_lookup", lookup),
    known("table_build", build),
    known("table_count", count),
    known("table_group", group),
    known("table_keys", keys),
    held_out("table_invert", invert),
    held_out("table_merge", merge),
];

fn entries(draft: &mut Draft) -> String {
    table(&draft.input_table(5, -10, 70))
}

fn filter(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let d = draft.parameter(Role::Table).name;
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({d})");
    let what = match draft.rng.below(2) {
        0 => format!("a dict of the entries of `{d}` with values {}, each value {}", condition.that, change.phrase),
        _ => format!("the entries of dict `{d}` whose value {}, with that value {}", condition.is, change.phrase),
    };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return {{key: {} for key, value in {d}.items() if {}}}\n",
        change.of("value"),
        condition.of("value")
    );
    let probes = calls(&mut draft, &name, entries);
    draft.finish(name, description, program, probes)
}

fn map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let d = draft.parameter(Role::Table).name;
    let (keys, values) = (text_change(&mut draft), number_change(&mut draft));
    let signature = format!("{name}({d})");
    let what = format!("a dict like `{d}` with each key {} and each value {}", keys.phrase, values.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return {{{}: {} for key, value in {d}.items()}}\n",
        keys.of("key"),
        values.of("value")
    );
    let probes = calls(&mut draft, &name, entries);
    draft.finish(name, description, program, probes)
}

fn total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let d = draft.parameter(Role::Table).name;
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({d})");
    let what = format!("the sum of the values of dict `{d}` {}, each {}", condition.that, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = 0\n    for value in {d}.values():\n        if {}:\n            total += {}\n    \
         return total\n",
        condition.of("value"),
        change.of("value")
    );
    let probes = calls(&mut draft, &name, entries);
    draft.finish(name, description, program, probes)
}

fn lookup(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let (d, key) = (draft.parameter(Role::Table).name, "key");
    let default = draft.constant(0, 60);
    let change = number_change(&mut draft);
    let signature = format!("{name}({d}, {key})");
    let what = match draft.rng.below(2) {
        0 => format!("the value of `{key}` in dict `{d}`, or {default} if it is missing, {}", change.phrase),
        _ => format!("what dict `{d}` holds for `{key}` (use {default} if there is nothing), {}", change.phrase),
    };
    let description = draft.returns(&signature, &what);
    let found = format!("{d}.get({key}, {default})");
    let program = format!("def {signature}:\n    value = {found}\n    return {}\n", change.of("value"));
    let probes = calls(&mut draft, &name, |draft| {
        let entries = draft.input_table(4, -10, 70);
        let key = if draft.rng.chance(0.6) { draft.rng.choose(&entries).0 } else { *draft.rng.choose(PEOPLE) };
        format!("{}, '{key}'", table(&entries))
    });
    draft.finish(name, description, program, probes)
}

fn build(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!(
        "a dict from each number in `{xs}` {} to that number {}",
        condition
            .that
            .replacen("that are", "that is", 1)
            .replacen("that leave ", "that leaves ", 1)
            .replace("multiples of", "a multiple of"),
        change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program =
        format!("def {signature}:\n    return {{{x}: {} for {x} in {xs} if {}}}\n", change.of(x), condition.of(x));
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(6, -15, 70)));
    draft.finish(name, description, program, probes)
}

fn count(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let condition = text_condition(&mut draft);
    let step = draft.constant(1, 9);
    let signature = format!("{name}({xs})");
    let times = if step == 1 { "how often it occurs".to_owned() } else { format!("{step} times how often it occurs") };
    let what = format!("a dict from each string in `{xs}` to {times}, counting only strings {}", condition.that);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    counts = {{}}\n    for {x} in {xs}:\n        if {}:\n            counts[{x}] = \
         counts.get({x}, 0) + {step}\n    return counts\n",
        condition.of(x)
    );
    let program = rename_clash(program, xs);
    let probes = calls(&mut draft, &name, |draft| {
        let mut words = draft.input_words(4);
        let again = draft.rng.choose(&words).clone();
        words.push(again);
        word_list(&words)
    });
    draft.finish(name, description, program, probes)
}

/// The accumulator takes another name where the parameter has its own.
fn rename_clash(program: String, parameter: &str) -> String {
    if parameter == "counts" { program.replace("counts", "result") } else { program }
}

fn group(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let change = number_change(&mut draft);
    let by = draft.variant(&[("by_remainder", 0), ("by_quotient", 1), ("by_condition", 2)]);
    let (key, words) = match by {
        0 => {
            let divisor = draft.constant(2, 12);
            (format!("{x} % {divisor}"), format!("its remainder when divided by {divisor}"))
        }
        1 => {
            let divisor = draft.constant(3, 25);
            (format!("{x} // {divisor}"), format!("its quotient when floor-divided by {divisor}"))
        }
        _ => {
            let condition = number_condition(&mut draft);
            (condition.of(x), format!("whether it {}", condition.is))
        }
    };
    let signature = format!("{name}({xs})");
    let what = format!(
        "a dict that groups the numbers in `{xs}`, each {}, in lists; the key of a number is {words}",
        change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    groups = {{}}\n    for {x} in {xs}:\n        groups.setdefault({key}, \
            []).append({})\n    \
         return groups\n",
        change.of(x)
    );
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(6, 0, 60)));
    draft.finish(name, description, program, probes)
}

fn keys(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Words);
    let d = draft.parameter(Role::Table).name;
    let condition = number_condition(&mut draft);
    let change = text_change(&mut draft);
    let signature = format!("{name}({d})");
    let what = format!("a list of the keys of dict `{d}` whose value {}, each key {}", condition.is, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return [{} for key, value in {d}.items() if {}]\n",
        change.of("key"),
        condition.of("value")
    );
    let probes = calls(&mut draft, &name, entries);
    draft.finish(name, description, program, probes)
}

fn invert(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let d = draft.parameter(Role::Table).name;
    let (values, keys) = (number_change(&mut draft), text_change(&mut draft));
    let signature = format!("{name}({d})");
    let what =
        format!("dict `{d}` turned around: each value, {}, becomes a key for its key {}", values.phrase, keys.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return {{{}: {} for key, value in {d}.items()}}\n",
        values.of("value"),
        keys.of("key")
    );
    let probes = calls(&mut draft, &name, entries);
    draft.finish(name, description, program, probes)
}

fn merge(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Table);
    let (a, b) = (draft.parameter(Role::Table).name, draft.parameter(Role::Table).name);
    let (first, second) = two_changes(&mut draft, number_change);
    let signature = format!("{name}({a}, {b})");
    let what = format!(
        "a dict with the entries of `{a}`, each value {}, then updated with the entries of `{b}`, each value {}",
        first.phrase, second.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = {{}}\n    for key, value in {a}.items():\n        result[key] = {}\n    \
         for key, value in {b}.items():\n        result[key] = {}\n    return result\n",
        first.of("value"),
        second.of("value")
    );
    let probes = calls(&mut draft, &name, |draft| {
        let (a, b) = (draft.input_table(3, -9, 60), draft.input_table(3, -9, 60));
        format!("{}, {}", table(&a), table(&b))
    });
    draft.finish(name, description, program, probes)
}
