//! The small operations that families compose: each has a phrase for the description and an expression for the program.
//! `@` stands for the operand.

use crate::draft::Draft;

/// Changes a value: `@ + 7`, "increased by 7".
#[derive(Debug, Clone)]
pub(crate) struct Change {
    kind: &'static str,
    template: String,
    pub(crate) phrase: String,
}

impl Change {
    /// The expression for an operand; one with an operator of its own is put in parentheses, always.
    pub(crate) fn of(&self, operand: &str) -> String {
        let inside_a_call = self.template.contains("(@");
        if inside_a_call || !has_operator(operand) {
            self.template.replace('@', operand)
        } else {
            self.template.replace('@', &format!("({operand})"))
        }
    }
}

/// Whether a minus sign or a space between operands stands outside all brackets and quotes.
pub(crate) fn has_operator(code: &str) -> bool {
    let mut depth = 0;
    let mut in_quotes = false;
    code.starts_with('-')
        || code.chars().any(|c| {
            match c {
                '\'' => in_quotes = !in_quotes,
                '(' | '[' if !in_quotes => depth += 1,
                ')' | ']' if !in_quotes => depth -= 1,
                _ => {}
            }
            c == ' ' && depth == 0 && !in_quotes
        })
}

/// Asks something of a value: `@ > 7`, "is greater than 7", "greater than 7".
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    template: String,
    /// After "it": "is greater than 7".
    pub(crate) is: String,
    /// After "the numbers": "greater than 7".
    pub(crate) that: String,
}

impl Condition {
    pub(crate) fn of(&self, operand: &str) -> String {
        self.template.replace('@', operand)
    }
}

/// A change of an integer.
pub(crate) fn number_change(draft: &mut Draft) -> Change {
    let kind = *draft.rng.choose(&[
        "add",
        "add",
        "subtract",
        "subtract",
        "multiply",
        "multiply",
        "square",
        "negate",
        "modulo",
        "floor_divide",
        "cap",
        "raise",
    ]);
    draft.operation(kind);
    let (template, phrases): (String, Vec<String>) = match kind {
        "add" => draft_constant(draft, 2, 60, "@ + #", &["increased by #", "raised by #"]),
        "subtract" => draft_constant(draft, 2, 60, "@ - #", &["decreased by #", "lowered by #"]),
        "multiply" => draft_constant(draft, 2, 15, "@ * #", &["multiplied by #", "scaled by #"]),
        "modulo" => draft_constant(draft, 3, 20, "@ % #", &["taken modulo #", "reduced modulo #"]),
        "floor_divide" => draft_constant(draft, 2, 12, "@ // #", &["floor-divided by #", "divided by # rounding down"]),
        "cap" => edge_constant(draft, 8, 60, "min(@, #)", &["capped at #", "limited to at most #"]),
        "raise" => edge_constant(draft, 2, 40, "max(@, #)", &["lifted to at least #", "kept at # or more"]),
        "square" => ("@ ** 2".to_owned(), vec!["squared".to_owned()]),
        _ => ("-@".to_owned(), vec!["negated".to_owned()]),
    };
    let phrase = draft.rng.choose(&phrases).clone();
    Change { kind, template, phrase }
}

fn with_constant(constant: impl std::fmt::Display, template: &str, phrases: &[&str]) -> (String, Vec<String>) {
    let put = |text: &str| text.replace('#', &constant.to_string());
    (put(template), phrases.iter().map(|phrase| put(phrase)).collect())
}

fn draft_constant(draft: &mut Draft, low: i64, high: i64, template: &str, phrases: &[&str]) -> (String, Vec<String>) {
    with_constant(draft.constant(low, high), template, phrases)
}

fn edge_constant(draft: &mut Draft, low: i64, high: i64, template: &str, phrases: &[&str]) -> (String, Vec<String>) {
    with_constant(draft.edge(low, high), template, phrases)
}

/// Two changes of different kinds, the second applied to the result of the first.
pub(crate) fn two_changes(draft: &mut Draft, one: fn(&mut Draft) -> Change) -> (Change, Change) {
    let first = one(draft);
    loop {
        let mut trial = Draft::new(draft.rng.clone(), false);
        let second = one(&mut trial);
        let clash = second.kind == first.kind;
        if clash {
            draft.rng.next_u64();
        } else {
            return (first, one(draft));
        }
    }
}

/// A question about an integer.
pub(crate) fn number_condition(draft: &mut Draft) -> Condition {
    let kind = *draft.rng.choose(&[
        "even",
        "odd",
        "greater",
        "greater",
        "less",
        "less",
        "at_least",
        "at_most",
        "divisible",
        "not_divisible",
        "positive",
        "negative",
        "between",
        "remainder",
        "unequal",
    ]);
    draft.operation(kind);
    let condition = |template: &str, is: &str, that: &str| Condition {
        template: template.to_owned(),
        is: is.to_owned(),
        that: that.to_owned(),
    };
    match kind {
        "even" => condition("@ % 2 == 0", "is even", "that are even"),
        "odd" => condition("@ % 2 == 1", "is odd", "that are odd"),
        "positive" => sign(draft, condition("@ > 0", "is positive", "that are positive")),
        "negative" => sign(draft, condition("@ < 0", "is negative", "that are negative")),
        "between" => {
            let low = draft.edge(1, 25);
            let high = draft.edge(low + 3, low + 30);
            let phrase = format!("between {low} and {high} inclusive");
            condition(&format!("{low} <= @ <= {high}"), &format!("is {phrase}"), &format!("that are {phrase}"))
        }
        "remainder" => {
            let divisor = draft.constant(3, 9);
            let rest = draft.constant(1, divisor - 1);
            let phrase = format!("remainder {rest} when divided by {divisor}");
            let code = format!("@ % {divisor} == {rest}");
            condition(&code, &format!("leaves {phrase}"), &format!("that leave {phrase}"))
        }
        "divisible" => simple(draft, (3, 12), "@ % # == 0", &["divisible by #", "a multiple of #"]),
        "not_divisible" => simple(draft, (3, 12), "@ % # != 0", &["not divisible by #", "not a multiple of #"]),
        "greater" => simple(draft, (3, 60), "@ > #", &["greater than #", "above #", "more than #"]),
        "less" => simple(draft, (3, 60), "@ < #", &["less than #", "below #", "smaller than #"]),
        "at_least" => simple(draft, (3, 60), "@ >= #", &["at least #", "# or more"]),
        "at_most" => simple(draft, (3, 60), "@ <= #", &["at most #", "# or less"]),
        _ => simple(draft, (3, 60), "@ != #", &["not equal to #", "different from #"]),
    }
}

/// A question that the integers from 1 to 9 answer differently.
pub(crate) fn small_condition(draft: &mut Draft) -> Condition {
    let kind = *draft.rng.choose(&["even", "odd", "greater", "less", "at_least", "at_most", "divisible", "unequal"]);
    draft.operation(kind);
    let parity = |rest: i64| Condition {
        template: format!("@ % 2 == {rest}"),
        is: format!("is {kind}"),
        that: format!("that are {kind}"),
    };
    match kind {
        "even" => parity(0),
        "odd" => parity(1),
        "greater" => simple(draft, (1, 4), "@ > #", &["greater than #", "above #", "more than #"]),
        "less" => simple(draft, (2, 5), "@ < #", &["less than #", "below #", "smaller than #"]),
        "at_least" => simple(draft, (2, 5), "@ >= #", &["at least #", "# or more"]),
        "at_most" => simple(draft, (1, 4), "@ <= #", &["at most #", "# or less"]),
        "divisible" => simple(draft, (2, 5), "@ % # == 0", &["divisible by #", "a multiple of #"]),
        _ => simple(draft, (1, 5), "@ != #", &["not equal to #", "different from #"]),
    }
}

fn sign(draft: &mut Draft, condition: Condition) -> Condition {
    draft.near(0);
    condition
}

fn simple(draft: &mut Draft, range: (i64, i64), template: &str, phrases: &[&str]) -> Condition {
    let constant = draft.edge(range.0, range.1);
    let (template, phrases) = with_constant(constant, template, phrases);
    let phrase = draft.rng.choose(&phrases).clone();
    let plural = phrase.replace("a multiple of", "multiples of");
    Condition { template, is: format!("is {phrase}"), that: format!("that are {plural}") }
}

/// A change of a string.
pub(crate) fn text_change(draft: &mut Draft) -> Change {
    let kind = *draft.rng.choose(&[
        "upper",
        "lower",
        "reverse",
        "first",
        "last",
        "drop_first",
        "drop_last",
        "repeat",
        "replace",
        "remove",
        "prefix",
        "suffix",
        "capitalize",
    ]);
    draft.operation(kind);
    let fixed = |template: &str, phrases: &[&str]| {
        (template.to_owned(), phrases.iter().map(|&phrase| phrase.to_owned()).collect::<Vec<String>>())
    };
    let (template, phrases) = match kind {
        "upper" => fixed("@.upper()", &["in upper case", "turned into capitals"]),
        "lower" => fixed("@.lower()", &["in lower case", "turned into small letters"]),
        "reverse" => fixed("@[::-1]", &["reversed", "written backwards"]),
        "capitalize" => fixed("@.capitalize()", &["capitalized", "with a capital first letter and the rest small"]),
        "first" => {
            draft_constant(draft, 2, 6, "@[:#]", &["cut to its first # characters", "shortened to # characters"])
        }
        "last" => draft_constant(draft, 2, 6, "@[-#:]", &["cut to its last # characters"]),
        "drop_first" => draft_constant(draft, 2, 5, "@[#:]", &["without its first # characters"]),
        "drop_last" => draft_constant(draft, 2, 5, "@[:-#]", &["without its last # characters"]),
        "repeat" => draft_constant(draft, 2, 6, "@ * #", &["repeated # times"]),
        "replace" => {
            let (from, to) = (draft.letter(), draft.letter());
            let phrase = format!("with every '{from}' replaced by '{to}'");
            (format!("@.replace('{from}', '{to}')"), vec![phrase])
        }
        "remove" => {
            let letter = draft.letter();
            (format!("@.replace('{letter}', '')"), vec![format!("without any '{letter}'")])
        }
        "prefix" => with_constant(draft.word(), "'#' + @", &["with '#' put in front", "preceded by '#'"]),
        _ => with_constant(draft.word(), "@ + '#'", &["with '#' put at the end", "followed by '#'"]),
    };
    let phrase = draft.rng.choose(&phrases).clone();
    Change { kind, template, phrase }
}

/// A question about a string.
pub(crate) fn text_condition(draft: &mut Draft) -> Condition {
    let kind =
        *draft.rng.choose(&["longer", "shorter", "length", "starts", "ends", "contains", "lacks", "even_length"]);
    draft.operation(kind);
    let made = |template: String, is: String, that: String| Condition { template, is, that };
    match kind {
        "longer" | "shorter" | "length" => {
            let size = draft.constant(2, 7);
            let (sign, word) = match kind {
                "longer" => (">", "more than"),
                "shorter" => ("<", "fewer than"),
                _ => ("==", "exactly"),
            };
            let phrase = format!("{word} {size} characters");
            made(format!("len(@) {sign} {size}"), format!("has {phrase}"), format!("that have {phrase}"))
        }
        "starts" | "ends" => {
            let letter = draft.letter();
            made(
                format!("@.{kind}with('{letter}')"),
                format!("{kind} with '{letter}'"),
                format!("that {} with '{letter}'", &kind[..kind.len() - 1]),
            )
        }
        "contains" => {
            let letter = draft.letter();
            made(format!("'{letter}' in @"), format!("contains '{letter}'"), format!("that contain '{letter}'"))
        }
        "lacks" => {
            let letter = draft.letter();
            let does = format!("contain '{letter}'");
            made(format!("'{letter}' not in @"), format!("does not {does}"), format!("that do not {does}"))
        }
        _ => made(
            "len(@) % 2 == 0".to_owned(),
            "has an even number of characters".to_owned(),
            "that have an even number of characters".to_owned(),
        ),
    }
}

/// A change of a list, of whatever elements can be ordered.
pub(crate) fn list_change(draft: &mut Draft) -> Change {
    let kind = *draft.rng.choose(&[
        "list_reverse",
        "sort",
        "sort_down",
        "list_first",
        "list_last",
        "list_drop_first",
        "list_drop_last",
        "every",
        "unique",
        "rotate",
        "list_repeat",
        "append",
    ]);
    draft.operation(kind);
    let fixed = |template: &str, phrases: &[&str]| {
        (template.to_owned(), phrases.iter().map(|&phrase| phrase.to_owned()).collect::<Vec<String>>())
    };
    let (template, phrases) = match kind {
        "list_reverse" => fixed("@[::-1]", &["reversed", "in reverse order"]),
        "sort" => fixed("sorted(@)", &["sorted in ascending order", "sorted from smallest to largest"]),
        "sort_down" => {
            fixed("sorted(@, reverse=True)", &["sorted in descending order", "sorted from largest to smallest"])
        }
        "unique" => {
            fixed("list(dict.fromkeys(@))", &["without duplicates", "with only the first of equal elements kept"])
        }
        "list_first" => draft_constant(draft, 2, 6, "@[:#]", &["cut to its first # elements"]),
        "list_last" => draft_constant(draft, 2, 6, "@[-#:]", &["cut to its last # elements"]),
        "list_drop_first" => draft_constant(draft, 2, 4, "@[#:]", &["without its first # elements"]),
        "list_drop_last" => draft_constant(draft, 2, 4, "@[:-#]", &["without its last # elements"]),
        "every" => draft_constant(draft, 2, 4, "@[::#]", &["thinned to every #th element from the first"]),
        "list_repeat" => draft_constant(draft, 2, 5, "@ * #", &["repeated # times"]),
        "append" => draft_constant(draft, 0, 99, "@ + [#]", &["with # added at the end", "followed by #"]),
        _ => draft_constant(draft, 1, 4, "@[#:] + @[:#]", &["rotated left by #"]),
    };
    let phrase = draft.rng.choose(&phrases).clone().replace("2th", "2nd").replace("3th", "3rd");
    Change { kind, template, phrase }
}
