//! Small classes with state: what they hold changes by their methods.

use super::{Family, held_out, known};
use crate::blocks::{number_change, number_condition, text_change, text_condition};
use crate::draft::{Draft, Sketch};
use crate::sandbox::Probe;

pub(super) const FAMILIES: &[Family] = &[
    known("class_counter", counter),
    known("class_account", account),
    known("class_stack", stack),
    known("class_log", log),
    held_out("class_tracker", tracker),
];

/// Six short lives of an object: built, used two to four times, asked.
fn lives(
    draft: &mut Draft,
    built: impl Fn(&mut Draft) -> String,
    used: impl Fn(&mut Draft) -> String,
    asked: &str,
) -> Vec<Probe> {
    (0..6)
        .map(|_| {
            let mut setup = vec![format!("x = {}", built(draft))];
            for _ in 0..draft.rng.range(2, 4) {
                setup.push(format!("x.{}", used(draft)));
            }
            Probe { setup, call: format!("x.{asked}") }
        })
        .collect()
}

const ADD: &[&str] = &["add", "put", "push", "record", "insert", "take_in"];
const ASK: &[&str] = &["get", "total", "result", "current", "show", "read"];

fn method(draft: &mut Draft, names: &[&'static str]) -> &'static str {
    names[draft.rng.below(names.len())]
}

fn counter(mut draft: Draft) -> Sketch {
    let class = draft.class(&["Counter", "Meter", "Score", "Tally", "Sum"]);
    let (add, ask) = (method(&mut draft, ADD), method(&mut draft, ASK));
    let start = draft.constant(0, 50);
    let change = number_change(&mut draft);
    let description = format!(
        "Write a class `{class}` that starts at {start}. `{add}(n)` adds `n` {} to it, and `{ask}()` returns it.",
        change.phrase
    );
    let program = format!(
        "class {class}:\n    def __init__(self):\n        self.value = {start}\n\n    def {add}(self, n):\n        \
         self.value += {}\n\n    def {ask}(self):\n        return self.value\n",
        change.of("n")
    );
    let made = format!("{class}()");
    let probes =
        lives(&mut draft, |_| made.clone(), |draft| format!("{add}({})", draft.int(-9, 60)), &format!("{ask}()"));
    draft.finish(class, description, program, probes)
}

fn account(mut draft: Draft) -> Sketch {
    let class = draft.class(&["Account", "Wallet", "Purse", "Budget", "Stock"]);
    let (add, ask) = (method(&mut draft, ADD), method(&mut draft, ASK));
    let spend = method(&mut draft, &["spend", "draw", "remove", "pay", "use"]);
    let fee = draft.constant(1, 12);
    let limit = draft.constant(0, 40);
    let description = format!(
        "Write a class `{class}` made with a starting amount. `{add}(n)` adds `n`. `{spend}(n)` takes away `n` \
            and a fee of \
         {fee}, but only if at least {limit} is left after that. `{ask}()` returns the amount."
    );
    let program = format!(
        "class {class}:\n    def __init__(self, amount):\n        self.amount = amount\n\n    def {add}(self, \
            n):\n        \
         self.amount += n\n\n    def {spend}(self, n):\n        rest = self.amount - n - {fee}\n        \
         if rest >= {limit}:\n            self.amount = rest\n\n    def {ask}(self):\n        return self.amount\n"
    );
    let made = class.clone();
    let probes = lives(
        &mut draft,
        |draft| format!("{made}({})", limit + draft.rng.range(0, 60)),
        |draft| format!("{}({})", draft.rng.choose(&[add, spend, spend]), draft.rng.range(1, 40)),
        &format!("{ask}()"),
    );
    draft.finish(class, description, program, probes)
}

fn stack(mut draft: Draft) -> Sketch {
    let class = draft.class(&["Stack", "Pile", "Queue", "Box", "Line"]);
    let (add, ask) = (method(&mut draft, ADD), method(&mut draft, ASK));
    let size = draft.constant(2, 6);
    let default = draft.constant(-1, 30);
    let (index, end) = draft.variant(&[("last", ("", "last")), ("first", ("0", "first"))]);
    let description = format!(
        "Write a class `{class}` that holds at most {size} items. `{add}(item)` adds an item unless it is full, and \
         `{ask}()` removes and returns the {end} item, or {default} if it is empty."
    );
    let program = format!(
        "class {class}:\n    def __init__(self):\n        self.items = []\n\n    def {add}(self, item):\n        \
         if len(self.items) < {size}:\n            self.items.append(item)\n\n    def {ask}(self):\n        \
         if not self.items:\n            return {default}\n        return self.items.pop({index})\n"
    );
    let made = format!("{class}()");
    let probes = lives(
        &mut draft,
        |_| made.clone(),
        |draft| {
            if draft.rng.chance(0.3) { format!("{ask}()") } else { format!("{add}({})", draft.rng.range(1, 99)) }
        },
        &format!("{ask}()"),
    );
    let probes = probes.into_iter().enumerate().map(|(at, probe)| overfilled(probe, add, size, at)).collect();
    draft.finish(class, description, program, probes)
}

/// Every third object is filled beyond its size, so that the limit shows.
fn overfilled(mut probe: Probe, add: &str, size: i64, at: usize) -> Probe {
    if at.is_multiple_of(3) {
        probe.setup.truncate(1);
        probe.setup.extend((0..=size).map(|item| format!("x.{add}({})", item * 3 + 1)));
    }
    probe
}

fn log(mut draft: Draft) -> Sketch {
    let class = draft.class(&["Log", "Notes", "Diary", "Record", "Journal"]);
    let (add, ask) = (method(&mut draft, ADD), method(&mut draft, ASK));
    let (condition, change) = (text_condition(&mut draft), text_change(&mut draft));
    let glue = draft.variant(&[("dash", "-"), ("comma", ", "), ("space", " "), ("plus", "+"), ("slash", "/")]);
    let description = format!(
        "Write a class `{class}`. `{add}(text)` keeps `text` {} if it {}, and `{ask}()` returns all that was \
            kept, joined \
         with '{glue}'.",
        change.phrase, condition.is
    );
    let program = format!(
        "class {class}:\n    def __init__(self):\n        self.lines = []\n\n    def {add}(self, text):\n        \
         if {}:\n            self.lines.append({})\n\n    def {ask}(self):\n        return '{glue}'.join(self.lines)\n",
        condition.of("text"),
        change.of("text")
    );
    let made = format!("{class}()");
    let probes =
        lives(&mut draft, |_| made.clone(), |draft| format!("{add}('{}')", draft.input_word()), &format!("{ask}()"));
    draft.finish(class, description, program, probes)
}

fn tracker(mut draft: Draft) -> Sketch {
    let class = draft.class(&["Tracker", "Monitor", "Watch", "Sensor", "Gauge"]);
    let (add, ask) = (method(&mut draft, ADD), method(&mut draft, ASK));
    let (condition, change) = (number_condition(&mut draft), number_change(&mut draft));
    let description = format!(
        "Write a class `{class}`. `{add}(n)` counts `n` if it {}, and otherwise remembers `n` {} as the last \
            reading, 0 at \
         first. `{ask}()` returns the tuple of the count and the last reading.",
        condition.is, change.phrase
    );
    let program = format!(
        "class {class}:\n    def __init__(self):\n        self.count = 0\n        self.last = 0\n\n    \
         def {add}(self, n):\n        if {}:\n            self.count += 1\n        else:\n            self.last \
         = {}\n\n    \
         def {ask}(self):\n        return self.count, self.last\n",
        condition.of("n"),
        change.of("n")
    );
    let made = format!("{class}()");
    let probes =
        lives(&mut draft, |_| made.clone(), |draft| format!("{add}({})", draft.int(-9, 60)), &format!("{ask}()"));
    draft.finish(class, description, program, probes)
}
