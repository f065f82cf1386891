//! Strings and lists of words in; strings, words and counts out.

use super::{Family, held_out, known};
use crate::blocks::{number_change, number_condition, text_change, text_condition, two_changes};
use crate::draft::{Draft, Sketch, calls, list, quoted, word_list};
use crate::names::Role;

pub(super) const FAMILIES: &[Family] = &[
    known("text_change", change),
    known("text_two_changes", changes_in_order),
    known("text_branch", branch),
    known("text_check", check),
    known("text_count", count),
    known("text_keep", keep),
    known("words_filter", filter),
    known("words_map", map),
    known("words_join", join),
    known("words_count", count_words),
    known("sentence_map", sentence),
    known("text_label", label),
    known("numbers_join", join_numbers),
    known("text_pad", pad),
    held_out("words_initials", initials),
    held_out("words_longest", longest),
];

fn text(draft: &mut Draft) -> String {
    quoted(&draft.input_text())
}

fn words(draft: &mut Draft) -> String {
    word_list(&draft.input_words(6))
}

fn change(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let change = text_change(&mut draft);
    let signature = format!("{name}({s})");
    let description = draft.returns(&signature, &format!("`{s}` {}", change.phrase));
    let program = format!("def {signature}:\n    return {}\n", change.of(s));
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn changes_in_order(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let (first, second) = two_changes(&mut draft, text_change);
    let signature = format!("{name}({s})");
    let what = format!("`{s}` first {} and then {}", first.phrase, second.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return {}\n", second.of(&first.of(s)));
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn branch(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let condition = text_condition(&mut draft);
    let (yes, no) = two_changes(&mut draft, text_change);
    let signature = format!("{name}({s})");
    let what = format!("`{s}` {} if it {}, and `{s}` {} otherwise", yes.phrase, condition.is, no.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    if {}:\n        return {}\n    return {}\n",
        condition.of(s),
        yes.of(s),
        no.of(s)
    );
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn check(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let first = text_condition(&mut draft);
    let word = draft.variant(&[("and", "and"), ("or", "or")]);
    let second = loop {
        let second = text_condition(&mut Draft::new(draft.rng.clone(), false));
        if second.of("x") != first.of("x") {
            break text_condition(&mut draft);
        }
        draft.rng.next_u64();
    };
    let signature = format!("{name}({s})");
    let description = draft.returns(&signature, &format!("whether `{s}` {} {word} {}", first.is, second.is));
    let program = format!("def {signature}:\n    return {} {word} {}\n", first.of(s), second.of(s));
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

/// A set of characters: how it is said, and the test for membership.
fn characters(draft: &mut Draft, element: &str) -> (String, String) {
    let kind = draft.variant(&[("letters", 0), ("vowels", 1), ("digits", 2), ("two_letters", 3), ("three_letters", 4)]);
    let mut letters = String::new();
    match kind {
        0 => letters.push(draft.letter()),
        1 => return ("vowels".to_owned(), format!("{element} in 'aeiou'")),
        2 => return ("digits".to_owned(), format!("{element}.isdigit()")),
        _ => {
            while letters.len() + 1 < kind as usize {
                let letter = draft.letter();
                if !letters.contains(letter) {
                    letters.push(letter);
                }
            }
        }
    }
    if let [only] = letters.as_bytes() {
        let letter = char::from(*only);
        return (format!("letters '{letter}'"), format!("{element} == '{letter}'"));
    }
    (format!("characters from '{letters}'"), format!("{element} in '{letters}'"))
}

fn count(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Text);
    let (s, c) = (p.name, p.element);
    let (set, test) = characters(&mut draft, c);
    let step = draft.constant(1, 9);
    let signature = format!("{name}({s})");
    let what = if step == 1 {
        format!("the number of {set} in `{s}`")
    } else {
        format!("{step} times the number of {set} in `{s}`")
    };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    count = 0\n    for {c} in {s}:\n        if {test}:\n            count += {step}\n    \
         return count\n"
    );
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn keep(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let p = draft.parameter(Role::Text);
    let (s, c) = (p.name, p.element);
    let keeps = draft.variant(&[("keep", true), ("drop", false)]);
    let (set, test) = characters(&mut draft, c);
    let separator = draft.variant(&[("none", ""), ("dash", "-"), ("dot", "."), ("plus", "+"), ("space", " ")]);
    let signature = format!("{name}({s})");
    let mut what = if keeps { format!("only the {set} of `{s}`") } else { format!("`{s}` without the {set}") };
    if !separator.is_empty() {
        what = format!("{what}, joined with '{separator}'");
    }
    let description = draft.returns(&signature, &what);
    let test = if keeps { test } else { negated(&test) };
    let program = format!("def {signature}:\n    return '{separator}'.join({c} for {c} in {s} if {test})\n");
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn negated(test: &str) -> String {
    if test.contains(" == ") {
        test.replace(" == ", " != ")
    } else if test.contains(" in ") {
        test.replace(" in ", " not in ")
    } else {
        format!("not {test}")
    }
}

fn filter(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Words);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let condition = text_condition(&mut draft);
    let change = text_change(&mut draft);
    let signature = format!("{name}({xs})");
    let what = format!("a list of the strings in `{xs}` {}, each {}", condition.that, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for {x} in {xs} if {}]\n", change.of(x), condition.of(x));
    let probes = calls(&mut draft, &name, words);
    draft.finish(name, description, program, probes)
}

fn map(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Words);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let (first, second) = two_changes(&mut draft, text_change);
    let signature = format!("{name}({xs})");
    let what = format!("a list of every string in `{xs}` first {} and then {}", first.phrase, second.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return [{} for {x} in {xs}]\n", second.of(&first.of(x)));
    let probes = calls(&mut draft, &name, words);
    draft.finish(name, description, program, probes)
}

fn separator(draft: &mut Draft) -> &'static str {
    draft.variant(&[("dash", "-"), ("comma", ", "), ("space", " "), ("plus", "+"), ("slash", "/"), ("bar", " | ")])
}

fn join(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let condition = text_condition(&mut draft);
    let glue = separator(&mut draft);
    let signature = format!("{name}({xs})");
    let what = match draft.rng.below(2) {
        0 => format!("the strings in `{xs}` {}, joined with '{glue}'", condition.that),
        _ => format!("one string: the strings of `{xs}` {}, with '{glue}' between them", condition.that),
    };
    let description = draft.returns(&signature, &what);
    let program = format!("def {signature}:\n    return '{glue}'.join({x} for {x} in {xs} if {})\n", condition.of(x));
    let probes = calls(&mut draft, &name, words);
    draft.finish(name, description, program, probes)
}

fn count_words(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Number);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let condition = text_condition(&mut draft);
    let (step, thing) = draft.variant(&[("count", ("1", "the number")), ("length", ("len({})", "the total length"))]);
    let start = draft.constant(0, 20);
    let signature = format!("{name}({xs})");
    let what = format!("{start} plus {thing} of the strings in `{xs}` {}", condition.that);
    let what = if start == 0 { what.replacen("0 plus ", "", 1) } else { what };
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    total = {start}\n    for {x} in {xs}:\n        if {}:\n            total += {}\n    \
         return total\n",
        condition.of(x),
        step.replace("{}", x)
    );
    let probes = calls(&mut draft, &name, words);
    draft.finish(name, description, program, probes)
}

fn sentence(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let change = text_change(&mut draft);
    let glue = separator(&mut draft);
    let signature = format!("{name}({s})");
    let what = format!("the words of `{s}`, each {}, joined with '{glue}'", change.phrase);
    let description = draft.returns(&signature, &what);
    let local = if s == "word" { "part" } else { "word" };
    let program =
        format!("def {signature}:\n    return '{glue}'.join({} for {local} in {s}.split())\n", change.of(local));
    let probes = calls(&mut draft, &name, |draft| quoted(&draft.input_words(4).join(" ")));
    draft.finish(name, description, program, probes)
}

fn label(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let (s, n) = (draft.parameter(Role::Text).name, draft.parameter(Role::Number).name);
    let (text, number) = (text_change(&mut draft), number_change(&mut draft));
    let glue = draft.variant(&[("colon", ": "), ("dash", "-"), ("equals", "="), ("arrow", " -> "), ("hash", "#")]);
    let signature = format!("{name}({s}, {n})");
    let what = format!("`{s}` {}, then '{glue}', then `{n}` {}, as one string", text.phrase, number.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    left = {}\n    right = {}\n    return f'{{left}}{glue}{{right}}'\n",
        text.of(s),
        number.of(n)
    );
    let probes = calls(&mut draft, &name, |draft| format!("{}, {}", text_input(draft), draft.int(-9, 60)));
    draft.finish(name, description, program, probes)
}

fn text_input(draft: &mut Draft) -> String {
    quoted(&draft.input_text())
}

fn join_numbers(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let p = draft.parameter(Role::Numbers);
    let (xs, x) = (p.name, p.element);
    let condition = number_condition(&mut draft);
    let change = number_change(&mut draft);
    let glue = separator(&mut draft);
    let signature = format!("{name}({xs})");
    let what =
        format!("the numbers in `{xs}` {}, each {}, as a string joined with '{glue}'", condition.that, change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    return '{glue}'.join(str({}) for {x} in {xs} if {})\n",
        change.of(x),
        condition.of(x)
    );
    let probes = calls(&mut draft, &name, |draft| list(&draft.ints(6, -15, 70)));
    draft.finish(name, description, program, probes)
}

fn pad(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let change = text_change(&mut draft);
    let fill = draft.variant(&[("dot", "."), ("star", "*"), ("zero", "0"), ("dash", "-"), ("hash", "#")]);
    let (code, side) = draft.variant(&[("left", ("'#' + result", "left")), ("right", ("result + '#'", "right"))]);
    let width = draft.constant(5, 14);
    let signature = format!("{name}({s})");
    let what =
        format!("`{s}` {} and then filled with '{fill}' on the {side} to at least {width} characters", change.phrase);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    result = {}\n    while len(result) < {width}:\n        result = {}\n    return result\n",
        change.of(s),
        code.replace('#', fill)
    );
    let probes = calls(&mut draft, &name, text);
    draft.finish(name, description, program, probes)
}

fn initials(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let s = draft.parameter(Role::Text).name;
    let change = text_change(&mut draft);
    let glue = separator(&mut draft);
    let size = draft.constant(1, 3);
    let signature = format!("{name}({s})");
    let plural = if size == 1 { "first letter".to_owned() } else { format!("first {size} letters") };
    let what = format!("the {plural} of each word of `{s}`, joined with '{glue}', with the result {}", change.phrase);
    let description = draft.returns(&signature, &what);
    let local = if s == "word" { "part" } else { "word" };
    let program = format!(
        "def {signature}:\n    result = '{glue}'.join({local}[:{size}] for {local} in {s}.split())\n    return {}\n",
        change.of("result")
    );
    let probes = calls(&mut draft, &name, |draft| quoted(&draft.input_words(4).join(" ")));
    draft.finish(name, description, program, probes)
}

fn longest(mut draft: Draft) -> Sketch {
    let name = draft.function(Role::Text);
    let p = draft.parameter(Role::Words);
    let (xs, x) = (p.name, p.element);
    let condition = text_condition(&mut draft);
    let default = draft.word();
    let (sign, word) = draft.variant(&[("longest", (">", "longest")), ("shortest", ("<", "shortest"))]);
    let signature = format!("{name}({xs})");
    let what =
        format!("the first {word} of the strings in `{xs}` {}, or '{default}' if there are none", condition.that);
    let description = draft.returns(&signature, &what);
    let program = format!(
        "def {signature}:\n    best = ''\n    for {x} in {xs}:\n        if {} and (best == '' or len({x}) \
            {sign} len(best)):\n            \
         best = {x}\n    return best or '{default}'\n",
        condition.of(x)
    );
    let probes = calls(&mut draft, &name, words);
    draft.finish(name, description, program, probes)
}
