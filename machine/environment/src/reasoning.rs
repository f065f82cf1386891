//! A program and a call become the value that it returns, with the steps that lead there.

use numeric::Rng;
use text::chat::Document;

use crate::kata::{Kata, Test};
use crate::sandbox::Sandbox;
use crate::split::Split;
use crate::task::{Exercise, Prompt, Verdict, ask, conversation, fenced};
use crate::trace::trace;

#[derive(Debug)]
pub(crate) struct Reasoning {
    kata: Kata,
    request: String,
    steps: String,
    expected: String,
}

const STEPS_MAX: usize = 24;
const STEPS_BYTES_MAX: usize = 700;

impl Reasoning {
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        loop {
            let kata = Kata::draw(split, rng);
            let Some((test, steps)) = explained(&kata) else { continue };
            let (call, code) = (&test.probe.call, fenced(&kata.program));
            let request = match rng.below(3) {
                0 => format!("What does `{call}` return?\n\n{code}"),
                1 => format!("{code}\n\nWhat is the value of `{call}`?"),
                _ => format!("Given this program:\n\n{code}\n\nWhat does `{call}` give?"),
            };
            let expected = test.expected.clone();
            return Self { request, steps: steps.join("\n"), expected, kata };
        }
    }

    fn answer(&self) -> String {
        format!("It returns `{}`.", self.expected)
    }
}

/// The shortest call whose steps fit.
fn explained(kata: &Kata) -> Option<(&Test, Vec<String>)> {
    let mut plain: Vec<&Test> = kata.tests.iter().filter(|test| test.probe.setup.is_empty()).collect();
    let is_empty = |test: &Test| matches!(test.expected.as_str(), "[]" | "''" | "{}");
    plain.sort_by_key(|test| (is_empty(test), test.probe.call.len()));
    plain.into_iter().take(2).find_map(|test| {
        let steps = trace(&kata.program, &test.probe, &test.expected)?;
        let bytes: usize = steps.iter().map(|step| step.len() + 1).sum();
        (steps.len() <= STEPS_MAX && bytes <= STEPS_BYTES_MAX).then_some((test, steps))
    })
}

impl Exercise for Reasoning {
    fn prompt(&self) -> Prompt {
        ask(&self.request)
    }

    fn demonstration(&self) -> Document {
        conversation(&self.request, Some(&self.steps), &self.answer())
    }

    fn judge(&self, _sandbox: &Sandbox, answer: &str) -> Verdict {
        let answer = answer.trim();
        // The value stands in the last pair of backticks; without any, the last line is taken.
        let quoted = answer.rsplit('`').nth(1);
        let given = quoted.unwrap_or_else(|| answer.lines().last().unwrap_or("").trim_end_matches('.')).trim();
        let passed = given == self.expected;
        let detail =
            if passed { "the value is right".to_owned() } else { format!("`{given}`, expected `{}`", self.expected) };
        Verdict { passed, exact: answer == self.answer(), detail }
    }

    fn katas(&self) -> &[Kata] {
        std::slice::from_ref(&self.kata)
    }
}
