//! Lists of integers in; lists, totals and positions out.

use super::{Family, held_out, known};
use crate::blocks::{list_change, number_change, number_condition, two_changes};
use crate::draft::{Draft, Sketch, calls, list};
use crate::names::Role;

pub(super) const FAMILIES: &[Family] = &[
    known("list_filter", filter),
    known("list_map", map),
    known("list_filter_map", filter_map),
    known("list_total", total),
    known("list_total_map", total_map),
    known("list_extreme", extreme),
    known("list_reshape", reshape),
    known("list_two_reshapes", two_reshapes),
    known("list_first_match", first_match),
    known("list_all_any", all_any),
    known("list_positions", positions),
    known("list_conditional_map", conditional_map),
    known("list_running", running),
    known("list_pairwise", pairwise),
    known("list_neighbours", neighbours),
    held_out("list_partition", partition),
    held_out("list_until", until),
];

fn numbers(draft: &mut Draft) -> String {
    list(&draft.ints(7, -15, 70))
}

/// The noun for the elements of a parameter: its own name in the plural, or "numbers".
fn filter(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let signature = format!("{name}({xs})");
    let noun = draft.say(&["numbers", "elements"]);
    let what = match draft.rng.below(2) {
        0 => format!("a list of the {noun} of `{xs}` {}", condition.that),
        _ => format!("only the {noun} in `{xs}` {}", condition.that),
    };
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{x} for {x} in {xs} if {}]\n", condition.of(x));
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let (first, second) = two_changes(&mut draft, number_change);
    let signature = format!("{name}({xs})");
    let noun = draft.say(&["number", "element"]);
    let what = format!("a list of every {noun} in `{xs}` first {} and then {}", first.phrase, second.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for {x} in {xs}]\n", second.of(&first.of(x)));
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn filter_map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = match draft.rng.below(2) {
        0 => format!("the numbers in `{xs}` {}, each {}", condition.that, change.phrase),
        _ => format!("a list with each number of `{xs}` {} {}", condition.that, change.phrase),
    };
    let what = if what.starts_with("a list") {
        format!("a list of the elements of `{xs}` {}, each one {}", condition.that, change.phrase)
    } else {
        what
    };
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for {x} in {xs} if {}]\n", change.of(x), condition.of(x));
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn total(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let counts = draft.variant(&[("sum", false), ("count", true)]);
    let signature = format!("{name}({xs})");
    let (what, variable, step) = if counts {
        (draft.say(&["the number of elements in `@`", "the count of the numbers in `@`"]), "count", "1".to_owned())
    } else {
        (draft.say(&["the sum of the numbers in `@`", "the total of the elements of `@`"]), "total", x.to_owned())
    };
    let what = format!("{} {}", what.replace('@', xs), condition.that);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    {variable} = 0\n    for {x} in {xs}:\n        if {}:\n            {variable} += \
            {step}\n    \
         return {variable}\n",
        condition.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn total_map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let start = draft.constant(0, 30);
    let signature = format!("{name}({xs})");
    let what = format!(
        "{start} plus the sum of the numbers in `{xs}` {}, each {} before it is added",
        condition.that, change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = {start}\n    for {x} in {xs}:\n        if {}:\n            total += {}\n    \
         return total\n",
        condition.of(x),
        change.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn extreme(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let (function, word) = draft.variant(&[("largest", ("max", "largest")), ("smallest", ("min", "smallest"))]);
    let condition = number_condition(&mut draft);
    let default = draft.constant(-1, 20);
    let signature = format!("{name}({xs})");
    let none = draft.say(&["if there is none", "if there are no such numbers"]);
    let what = format!("the {word} of the numbers in `{xs}` {}, or {default} {none}", condition.that);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return {function}([{x} for {x} in {xs} if {}], default={default})\n",
        condition.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn reshape(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let xs = draft.parameter(Role::Numbers).name;
    let change = list_change(&mut draft);
    let signature = format!("{name}({xs})");
    let description = draft.returns(&signature, &format!("the list `{xs}` {}", change.phrase));
    let program = format!("def {signature}:\n    return {}\n", change.of(xs));
    let probes = calls(&mut draft, &name, repetitive);
    draft.finish(name, description, program, probes)
}

fn two_reshapes(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let xs = draft.parameter(Role::Numbers).name;
    let (first, second) = two_changes(&mut draft, list_change);
    let signature = format!("{name}({xs})");
    let what = format!("the list `{xs}` first {} and then {}", first.phrase, second.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    result = {}\n    return {}\n", first.of(xs), second.of("result"));
    let probes = calls(&mut draft, &name, repetitive);
    draft.finish(name, description, program, probes)
}

/// Numbers from a narrow range, so that some are equal.
fn repetitive(draft: &mut Draft) -> String {
    let high = draft.rng.range(5, 40);
    list(&draft.ints(8, 0, high))
}

fn first_match(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let default = draft.constant(-1, 25);
    let gives_index = draft.variant(&[("index", true), ("value", false)]);
    let signature = format!("{name}({xs})");
    let (thing, header, result) = if gives_index {
        ("the index of the first number", format!("for i, {x} in enumerate({xs}):"), "i")
    } else {
        ("the first number", format!("for {x} in {xs}:"), x)
    };
    let what = match draft.rng.below(2) {
        0 => format!("{thing} in `{xs}` that {}, or {default} if there is none", condition.is),
        _ => format!("{thing} in `{xs}` that {}, and {default} when no number does", condition.is),
    };
    let what = what.replace("no number does", "there is no such number");
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    {header}\n        if {}:\n            return {result}\n    return {default}\n",
        condition.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn all_any(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let (function, words) = draft.variant(&[("all", ("all", "every number")), ("any", ("any", "at least one number"))]);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!("whether {words} in `{xs}`, once {}, {}", change.phrase, condition.is);
    let description = draft.returns(&signature, &what);
    let changed = change.of(x);
    let operand = if changed.contains(' ') && !changed.ends_with(')') { format!("({changed})") } else { changed };
    let program = format!("def {signature}:\n    return {function}({} for {x} in {xs})\n", condition.of(&operand));
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(3, -15, 70)));
    draft.finish(name, description, program, probes)
}

fn positions(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let start = draft.constant(0, 9);
    let signature = format!("{name}({xs})");
    let what = if start == 0 {
        format!("a list of the positions of the numbers in `{xs}` {}, counted from 0", condition.that)
    } else {
        format!("the positions, counted from {start}, of the numbers in `{xs}` {}", condition.that)
    };
    let description = draft.returns(&signature, &what);
    let source = if start == 0 { format!("enumerate({xs})") } else { format!("enumerate({xs}, {start})") };
    let program = format!("def {signature}:\n    return [i for i, {x} in {source} if {}]\n", condition.of(x));
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn conditional_map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let (yes, no) = two_changes(&mut draft, number_change);
    let signature = format!("{name}({xs})");
    let what = format!(
        "a list of the numbers in `{xs}`, where those {} are {} and the others are {}",
        condition.that, yes.phrase, no.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = []\n    for {x} in {xs}:\n        if \
            {}:\n            result.append({})\n        \
         else:\n            result.append({})\n    return result\n",
        condition.of(x),
        yes.of(x),
        no.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn running(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let change = number_change(&mut draft);
    let start = draft.constant(0, 40);
    let signature = format!("{name}({xs})");
    let what = format!("the running totals of `{xs}`, starting from {start}, with each number {} first", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = {start}\n    result = []\n    for {x} in {xs}:\n        total += {}\n        \
         result.append(total)\n    return result\n",
        change.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn pairwise(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let (left, right) = (draft.parameter(Role::Numbers), draft.parameter(Role::Numbers));
    let change = number_change(&mut draft);
    let (code, words) = draft.variant(&[
        ("sums", ("a + b", "sums")),
        ("differences", ("a - b", "differences")),
        ("products", ("a * b", "products")),
        ("maxima", ("max(a, b)", "maxima")),
        ("minima", ("min(a, b)", "minima")),
    ]);
    let (xs, ys) = (left.name, right.name);
    let signature = format!("{name}({xs}, {ys})");
    let what = format!("the element-wise {words} of `{xs}` and `{ys}`, each {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for a, b in zip({xs}, {ys})]\n", change.of(code));
    let probes = calls(&mut draft, &name, |draft| {
        let xs = draft.ints(5, -9, 40);
        let ys: Vec<i64> = xs.iter().map(|_| draft.int(-9, 40)).collect();
        format!("{}, {}", list(&xs), list(&ys))
    });
    draft.finish(name, description, program, probes)
}

fn neighbours(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let xs = draft.parameter(Role::Numbers).name;
    let (code, words) = draft.variant(&[
        ("rise", ("{xs}[i] - {xs}[i - 1] > {k}", "is more than {k} above the one before it")),
        ("fall", ("{xs}[i - 1] - {xs}[i] > {k}", "is more than {k} below the one before it")),
        ("pair_sum", ("{xs}[i] + {xs}[i - 1] > {k}", "makes more than {k} with the one before it")),
        ("pair_gap", ("abs({xs}[i] - {xs}[i - 1]) > {k}", "differs by more than {k} from the one before it")),
    ]);
    let k = draft.constant(2, 80);
    let put = |text: &str| text.replace("{xs}", xs).replace("{k}", &k.to_string());
    let signature = format!("{name}({xs})");
    let what = format!("how many times a number in `{xs}` {}", put(words));
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    count = 0\n    for i in range(1, len({xs})):\n        if {}:\n            count \
            += 1\n    \
         return count\n",
        put(code)
    );
    let probes = calls(&mut draft, &name, |draft| {
        let high = k + draft.rng.range(5, 40);
        list(&draft.ints(7, 0, high))
    });
    draft.finish(name, description, program, probes)
}

fn partition(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!(
        "two lists: the numbers of `{xs}` {}, and the other numbers, each of these {}",
        condition.that, change.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    first = []\n    second = []\n    for {x} in {xs}:\n        if {}:\n            \
         first.append({x})\n        else:\n            second.append({})\n    return first, second\n",
        condition.of(x),
        change.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}

fn until(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Numbers);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!(
        "the numbers of `{xs}`, each {}, up to but not including the first one that {}",
        change.phrase, condition.is
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = []\n    for {x} in {xs}:\n        if {}:\n            break\n        \
         result.append({})\n    return result\n",
        condition.of(x),
        change.of(x)
    );
    let probes = calls(&mut draft, &name, numbers);
    draft.finish(name, description, program, probes)
}
