//! The desk at which a family writes a kata: draws names and constants, notes operations, makes inputs that probe
//! edges.

use numeric::Rng;

use crate::names::{self, PEOPLE, Parameter, Role, WORDS, capitalised};
use crate::sandbox::Probe;

/// A kata before its expected answers are known.
#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    /// The function or class that is asked for.
    pub(crate) name: String,
    pub(crate) description: String,
    /// What the program is for in one sentence, as a comment above it would say.
    pub(crate) summary: String,
    pub(crate) program: String,
    pub(crate) probes: Vec<Probe>,
    /// What the program does, in order and without constants.
    pub(crate) operations: Vec<&'static str>,
}

pub(crate) struct Draft {
    pub(crate) rng: Rng,
    reserved: bool,
    operations: Vec<&'static str>,
    /// Values at which the behaviour changes; inputs are drawn near them, so that an off-by-one is seen.
    edges: Vec<i64>,
    /// Letters that matter to the behaviour; text inputs are drawn to contain them.
    letters: Vec<char>,
    taken: Vec<&'static str>,
    summary: String,
}

impl Draft {
    pub(crate) fn new(rng: Rng, reserved: bool) -> Self {
        Self {
            rng,
            reserved,
            operations: Vec::new(),
            edges: Vec::new(),
            letters: Vec::new(),
            taken: Vec::new(),
            summary: String::new(),
        }
    }

    pub(crate) fn function(&mut self, returns: Role) -> String {
        names::function(&mut self.rng, returns, self.reserved)
    }

    pub(crate) fn class(&mut self, nouns: &[&str]) -> String {
        names::class(&mut self.rng, nouns, self.reserved)
    }

    /// A parameter that this kata has not used yet.
    pub(crate) fn parameter(&mut self, role: Role) -> Parameter {
        loop {
            let parameter = names::parameter(&mut self.rng, role, self.reserved);
            if !self.taken.contains(&parameter.name) && !self.taken.contains(&parameter.element) {
                self.taken.push(parameter.name);
                return parameter;
            }
        }
    }

    /// Notes a choice that changes what the program does.
    pub(crate) fn operation(&mut self, kind: &'static str) {
        self.operations.push(kind);
    }

    /// A constant of the program.
    pub(crate) fn constant(&mut self, low: i64, high: i64) -> i64 {
        self.rng.range(low, high)
    }

    /// A constant at which the behaviour changes.
    pub(crate) fn edge(&mut self, low: i64, high: i64) -> i64 {
        let value = self.constant(low, high);
        self.edges.push(value);
        value
    }

    pub(crate) fn near(&mut self, edge: i64) {
        self.edges.push(edge);
    }

    /// A word of the program (a label, a key).
    pub(crate) fn word(&mut self) -> &'static str {
        if self.rng.chance(0.4) {
            return names::invented(&mut self.rng, self.reserved);
        }
        WORDS[self.rng.below(WORDS.len())]
    }

    /// A letter that the program looks for, present in many inputs.
    pub(crate) fn letter(&mut self) -> char {
        let letter =
            *self.rng.choose(&['a', 'b', 'c', 'd', 'e', 'g', 'i', 'l', 'm', 'n', 'o', 'p', 'r', 's', 't', 'u', 'w']);
        self.letters.push(letter);
        letter
    }

    /// One of several choices that differ in what the program does; the first field names it.
    pub(crate) fn variant<T: Copy>(&mut self, choices: &[(&'static str, T)]) -> T {
        let &(kind, value) = self.rng.choose(choices);
        self.operation(kind);
        value
    }

    /// One of several wordings of the same thing.
    pub(crate) fn say(&mut self, wordings: &[&str]) -> String {
        (*self.rng.choose(wordings)).to_owned()
    }

    /// The whole description from a noun phrase: what the function returns.
    pub(crate) fn returns(&mut self, signature: &str, what: &str) -> String {
        self.summary = format!("Returns {what}.");
        match self.rng.below(6) {
            0 => format!("Write a function `{signature}` that returns {what}."),
            1 => format!("Implement `{signature}`. It returns {what}."),
            2 => format!("Define `{signature}` so that it returns {what}."),
            3 => format!("Create a function `{signature}` returning {what}."),
            4 => format!("`{signature}` should return {what}."),
            _ => format!("Write `{signature}`, which returns {what}."),
        }
    }

    pub(crate) fn finish(self, name: String, description: String, program: String, probes: Vec<Probe>) -> Sketch {
        let summary = if self.summary.is_empty() { description.clone() } else { self.summary };
        Sketch { name, description, summary, program, probes, operations: self.operations }
    }

    pub(crate) fn int(&mut self, low: i64, high: i64) -> i64 {
        if !self.edges.is_empty() && self.rng.chance(0.5) {
            let near = *self.rng.choose(&self.edges) + self.rng.range(-1, 1);
            if (low..=high).contains(&near) {
                return near;
            }
        }
        self.rng.range(low, high)
    }

    pub(crate) fn ints(&mut self, length_max: usize, low: i64, high: i64) -> Vec<i64> {
        let length = self.rng.range(2, length_max as i64) as usize;
        (0..length).map(|_| self.int(low, high)).collect()
    }

    pub(crate) fn input_word(&mut self) -> String {
        let word = if self.rng.chance(0.2) { names::invented(&mut self.rng, false) } else { *self.rng.choose(WORDS) };
        if !self.letters.is_empty() && self.rng.chance(0.5) {
            let letter = *self.rng.choose(&self.letters);
            let others: Vec<&&str> = WORDS.iter().filter(|word| word.contains(letter)).collect();
            if !others.is_empty() {
                return (**self.rng.choose(&others)).to_owned();
            }
        }
        word.to_owned()
    }

    /// A word, sometimes with a capital, a digit or a second word.
    pub(crate) fn input_text(&mut self) -> String {
        let word = self.input_word();
        match self.rng.below(6) {
            0 => capitalised(&word),
            1 => format!("{word}{}", self.rng.range(1, 99)),
            2 => format!("{word} {}", self.input_word()),
            3 => word.to_uppercase(),
            _ => word,
        }
    }

    pub(crate) fn input_words(&mut self, length_max: usize) -> Vec<String> {
        let length = self.rng.range(2, length_max as i64) as usize;
        (0..length).map(|_| self.input_word()).collect()
    }

    pub(crate) fn input_table(&mut self, length_max: usize, low: i64, high: i64) -> Vec<(&'static str, i64)> {
        let length = self.rng.range(2, length_max as i64) as usize;
        let mut people = PEOPLE.to_vec();
        self.rng.shuffle(&mut people);
        people.truncate(length);
        people.into_iter().map(|person| (person, self.int(low, high))).collect()
    }
}

/// Six calls; the closure writes the arguments of one.
pub(crate) fn calls(draft: &mut Draft, name: &str, mut arguments: impl FnMut(&mut Draft) -> String) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for _ in 0..24 {
        let probe = Probe { setup: Vec::new(), call: format!("{name}({})", arguments(draft)) };
        if !probes.contains(&probe) {
            probes.push(probe);
        }
        if probes.len() == 6 {
            break;
        }
    }
    probes
}

pub(crate) fn list(values: &[i64]) -> String {
    format!("[{}]", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{text}'")
}

pub(crate) fn word_list(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "))
}

pub(crate) fn table(entries: &[(&str, i64)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("'{key}': {value}")).collect();
    format!("{{{}}}", entries.join(", "))
}
