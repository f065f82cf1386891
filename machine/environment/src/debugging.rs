//! A program and a test that it fails become a program that passes.

use numeric::Rng;
use text::chat::Document;

use crate::kata::Kata;
use crate::mutate::{Mutant, mutant};
use crate::sandbox::Sandbox;
use crate::source::extract_code;
use crate::split::Split;
use crate::task::{Exercise, Prompt, Verdict, ask, conversation, fenced};

#[derive(Debug)]
pub(crate) struct Debugging {
    kata: Kata,
    request: String,
    answer: String,
}

/// A kata of the split together with a fault in it.
pub(crate) fn faulty(split: Split, rng: &mut Rng) -> (Kata, Mutant) {
    loop {
        let kata = Kata::draw(split, rng);
        if let Some(mutant) = mutant(&kata, rng) {
            return (kata, mutant);
        }
    }
}

impl Debugging {
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        let (kata, mutant) = faulty(split, rng);
        let (task, code) = (&kata.description, fenced(&mutant.program));
        let test = &kata.tests[mutant.test];
        let result = format!("`{}` {}, expected {}", test.shown(), mutant.answer.describe(), test.expected);
        let request = match rng.below(3) {
            0 => format!("Find and fix the bug.\n\n{code}\n\nThe task: {task}\nA test fails: {result}."),
            1 => format!("{task}\n\nThis attempt is wrong:\n\n{code}\n\n{result}. Fix it."),
            _ => format!("Fix this program.\n\n{code}\n\nIt was meant to do this: {task}\nFailing test: {result}."),
        };
        let answer = format!("{}\n\n{}", mutant.fault, fenced(&kata.program));
        Self { kata, request, answer }
    }
}

impl Exercise for Debugging {
    fn prompt(&self) -> Prompt {
        ask(&self.request)
    }

    fn demonstration(&self) -> Document {
        conversation(&self.request, None, &self.answer)
    }

    fn judge(&self, sandbox: &Sandbox, answer: &str) -> Verdict {
        self.kata.judge(sandbox, extract_code(answer))
    }

    fn katas(&self) -> &[Kata] {
        std::slice::from_ref(&self.kata)
    }
}
