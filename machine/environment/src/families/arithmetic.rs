//! Integers in, an integer or a truth value or a label out.

use super::{Family, held_out, known};
use crate::blocks::{has_operator, number_change, number_condition, two_changes};
use crate::draft::{Draft, Sketch, calls};
use crate::names::Role;

pub(super) const FAMILIES: &[Family] = &[
    known("number_change", one_change),
    known("number_two_changes", changes_in_order),
    known("number_branch", branch),
    known("number_check", check),
    known("number_bands", bands),
    known("number_combine", combine),
    known("number_pick", pick),
    known("price_rule", price_rule),
    held_out("number_middle_branch", middle_branch),
];

fn number(draft: &mut Draft) -> String {
    draft.int(-20, 80).to_string()
}

fn one_change(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let change = number_change(&mut draft);
    let signature = format!("{name}({n})");
    let what = format!("`{n}` {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return {}\n", change.of(n));
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}

fn changes_in_order(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let (first, second) = two_changes(&mut draft, number_change);
    let signature = format!("{name}({n})");
    let link = draft.say(&["and then", "then"]);
    let what = format!("`{n}` first {} {link} {}", first.phrase, second.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return {}\n", second.of(&first.of(n)));
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}

fn branch(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let condition = number_condition(&mut draft);
    let (yes, no) = two_changes(&mut draft, number_change);
    let signature = format!("{name}({n})");
    let (is, then, otherwise) = (&condition.is, &yes.phrase, &no.phrase);
    let what = match draft.rng.below(2) {
        0 => format!("`{n}` {then} if `{n}` {is}, and `{n}` {otherwise} otherwise"),
        _ => format!("`{n}` {then} when it {is}, else `{n}` {otherwise}"),
    };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {}:\n        return {}\n    return {}\n",
        condition.of(n),
        yes.of(n),
        no.of(n)
    );
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}

fn check(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let first = number_condition(&mut draft);
    let word = draft.variant(&[("and", "and"), ("or", "or")]);
    let second = loop {
        let second = number_condition(&mut Draft::new(draft.rng.clone(), false));
        if second.of("x") != first.of("x") {
            break number_condition(&mut draft);
        }
        draft.rng.next_u64();
    };
    let signature = format!("{name}({n})");
    let description = draft.returns(&signature, &format!("whether `{n}` {} {word} {}", first.is, second.is));
    let program = format!("def {signature}:\n    return {} {word} {}\n", first.of(n), second.of(n));
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}

fn bands(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let n = draft.parameter(Role::Number).name;
    let low = draft.edge(5, 30);
    let high = draft.edge(low + 5, low + 40);
    let (first, second, third) = (draft.word(), draft.word(), draft.word());
    let signature = format!("{name}({n})");
    let what = match draft.rng.below(2) {
        0 => format!("'{first}' if `{n}` is below {low}, '{second}' if it is below {high}, and '{third}' otherwise"),
        _ => format!("'{first}' when `{n}` is less than {low}, else '{second}' when less than {high}, else '{third}'"),
    };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {n} < {low}:\n        return '{first}'\n    elif {n} < {high}:\n        \
         return '{second}'\n    return '{third}'\n"
    );
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}

fn combine(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let (a, b) = (draft.parameter(Role::Number).name, draft.parameter(Role::Number).name);
    let (left, right) = (number_change(&mut draft), number_change(&mut draft));
    let (code, words) = draft.variant(&[
        ("sum", ("{} + {}", "the sum of {} and {}")),
        ("difference", ("{} - {}", "{}, minus {}")),
        ("product", ("{} * {}", "the product of {} and {}")),
        ("largest", ("max({}, {})", "the larger of {} and {}")),
        ("smallest", ("min({}, {})", "the smaller of {} and {}")),
    ]);
    let put = |pattern: &str, x: &str, y: &str| pattern.replacen("{}", x, 1).replacen("{}", y, 1);
    let call = code.contains('(');
    let wrap = |part: String| if call || !has_operator(&part) { part } else { format!("({part})") };
    let expression = put(code, &wrap(left.of(a)), &wrap(right.of(b)));
    let signature = format!("{name}({a}, {b})");
    let what = put(words, &format!("`{a}` {}", left.phrase), &format!("`{b}` {}", right.phrase));
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return {expression}\n");
    let probes = calls(&mut draft, &name, |draft| format!("{}, {}", number(draft), number(draft)));
    draft.finish(name, description, program, probes)
}

fn pick(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let (a, b) = (draft.parameter(Role::Number).name, draft.parameter(Role::Number).name);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let signature = format!("{name}({a}, {b})");
    let what = format!("`{b}` {} if `{a}` {}, and `{b}` unchanged otherwise", change.phrase, condition.is);
    let description = draft.returns(&signature, &what);
    let program =
        format!("def {signature}:\n    if {}:\n        return {}\n    return {b}\n", condition.of(a), change.of(b));
    let probes = calls(&mut draft, &name, |draft| format!("{}, {}", number(draft), number(draft)));
    draft.finish(name, description, program, probes)
}

fn price_rule(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let unit = draft.constant(2, 20);
    let limit = draft.edge(3, 40);
    let extra = draft.constant(1, 15);
    let (sign, word) = draft.variant(&[("surcharge", ("+", "plus")), ("discount", ("-", "minus"))]);
    let signature = format!("{name}({n})");
    let per = draft.say(&["unit", "piece", "item"]);
    let what = format!("the price of `{n}` {per}s at {unit} each, {word} {extra} if there are more than {limit}");
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = {n} * {unit}\n    if {n} > {limit}:\n        total {sign}= \
            {extra}\n    return total\n"
    );
    let probes = calls(&mut draft, &name, |draft| draft.int(0, 60).to_string());
    draft.finish(name, description, program, probes)
}

fn middle_branch(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let n = draft.parameter(Role::Number).name;
    let first = number_condition(&mut draft);
    let (yes, no) = two_changes(&mut draft, number_change);
    let low = draft.edge(-15, -3);
    let signature = format!("{name}({n})");
    let what = format!(
        "0 if `{n}` is less than {low}, `{n}` {} if it {}, and `{n}` {} otherwise",
        yes.phrase, first.is, no.phrase
    );
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {n} < {low}:\n        return 0\n    elif {}:\n        return {}\n    return {}\n",
        first.of(n),
        yes.of(n),
        no.of(n)
    );
    let probes = calls(&mut draft, &name, number);
    draft.finish(name, description, program, probes)
}
