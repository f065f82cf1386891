//! A kata with its answers known: drawn until it belongs to the wanted split and is worth asking.

use std::sync::LazyLock;
use std::time::Duration;

use numeric::Rng;
use serde::{Deserialize, Serialize};

use crate::draft::{Draft, Sketch};
use crate::families::{Family, families};
use crate::sandbox::{Answer, Evaluation, Limits, Probe, Sandbox, evaluate_here};
use crate::split::{Split, split_of};
use crate::task::Verdict;

/// A hidden test: what is asked of a program, and what the reference answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    #[serde(flatten)]
    pub probe: Probe,
    pub expected: String,
}

impl Test {
    /// As a line that a person would write: statements before the call, then the comparison.
    pub(crate) fn assertion(&self) -> Vec<String> {
        let mut lines = self.probe.setup.clone();
        lines.push(format!("assert {} == {}", self.probe.call, self.expected));
        lines
    }

    /// The call in words: `f(3)`, or the statements that lead to it.
    pub(crate) fn shown(&self) -> String {
        let mut lines = self.probe.setup.clone();
        lines.push(self.probe.call.clone());
        lines.join("; ")
    }
}

/// A small programming task with its reference.
#[derive(Debug, Clone)]
pub(crate) struct Kata {
    pub(crate) family: &'static str,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) summary: String,
    pub(crate) program: String,
    pub(crate) tests: Vec<Test>,
    pub(crate) split: Split,
    pub(crate) operations: Vec<&'static str>,
}

/// Our own programs stop by themselves; the limit is there for mutants, and long, so that a busy machine changes
/// nothing.
pub(crate) const OWN_LIMITS: Limits =
    Limits { duration: Duration::from_secs(2), memory_bytes: 64 << 20, recursion_depth: 200, output_bytes: 16 << 10 };

static KNOWN: LazyLock<Vec<&'static Family>> = LazyLock::new(|| families(false));
static UNSEEN: LazyLock<Vec<&'static Family>> = LazyLock::new(|| families(true));

const DESCRIPTION_WORDS_MAX: usize = 60;
const EXPECTED_BYTES_MAX: usize = 110;

impl Kata {
    /// A kata of the split, from the generator alone.
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        let pool = if split == Split::UnseenFamilies { &*UNSEEN } else { &*KNOWN };
        let family = *rng.choose(pool);
        Self::draw_from(family, split, rng)
    }

    pub(crate) fn draw_from(family: &'static Family, split: Split, rng: &mut Rng) -> Self {
        for attempt in 0..5000 {
            let draft = Draft::new(rng.fork(attempt), split.uses_reserved_names());
            let sketch = (family.build)(draft);
            let belongs = family.held_out || split_of(&sketch.operations, &sketch.program) == split;
            if belongs && let Some(kata) = Self::checked(family.name, split, sketch) {
                rng.next_u64();
                return kata;
            }
        }
        panic!("family {} has next to no katas in the split {}", family.name, split.name());
    }

    /// Runs the reference; a kata whose answers are long, all alike, or an exception is not worth asking.
    fn checked(family: &'static str, split: Split, sketch: Sketch) -> Option<Self> {
        let Sketch { name, description, summary, program, probes, operations } = sketch;
        if description.split_whitespace().count() > DESCRIPTION_WORDS_MAX || probes.len() < 4 {
            return None;
        }
        let evaluation = evaluate_here(&program, &probes, OWN_LIMITS);
        assert!(evaluation.failure.is_none(), "{family}: the reference fails: {:?}\n{program}", evaluation.failure);
        let mut tests = Vec::with_capacity(probes.len());
        for (probe, answer) in probes.into_iter().zip(evaluation.answers) {
            match answer {
                Answer::Value(expected) if expected.len() <= EXPECTED_BYTES_MAX => tests.push(Test { probe, expected }),
                Answer::Value(_) => return None,
                Answer::Raised(error) => panic!("{family}: the reference raises {error} on {}\n{program}", probe.call),
            }
        }
        let mut distinct: Vec<&str> = tests.iter().map(|test| test.expected.as_str()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let is_truth = distinct.iter().all(|value| matches!(*value, "True" | "False"));
        let enough = if is_truth { 2 } else { 3 };
        (distinct.len() >= enough).then_some(Self {
            family,
            name,
            description,
            summary,
            program,
            tests,
            split,
            operations,
        })
    }

    /// Whether a variation of the program may stand in the same split: a mutant seen in training must not happen to be
    /// what a test asks for.
    pub(crate) fn may_become(&self, program: &str) -> bool {
        self.split != Split::Train || split_of(&self.operations, program) == Split::Train
    }

    pub(crate) fn probes(&self) -> Vec<Probe> {
        self.tests.iter().map(|test| test.probe.clone()).collect()
    }

    /// Runs somebody's program against the hidden tests.
    pub(crate) fn judge(&self, sandbox: &Sandbox, program: &str) -> Verdict {
        let evaluation = sandbox.evaluate(program, &self.probes());
        let fault = first_fault(&self.tests, &evaluation);
        let exact = program.trim() == self.program.trim();
        match fault {
            None => Verdict { passed: true, exact, detail: format!("all {} tests pass", self.tests.len()) },
            Some(detail) => Verdict { passed: false, exact, detail },
        }
    }

    /// The first test that a program of our own making fails, with what it gave instead; `None` if it passes, or if it
    /// fails in a way that is no good to show (it does not parse, or does not end).
    pub(crate) fn shown_fault(&self, program: &str) -> Option<(usize, Answer)> {
        let evaluation = evaluate_here(program, &self.probes(), OWN_LIMITS);
        if evaluation.failure.is_some() {
            return None;
        }
        let wrong = |(test, answer): (&Test, &Answer)| !answer.is(&test.expected);
        let index = self.tests.iter().zip(&evaluation.answers).position(wrong)?;
        Some((index, evaluation.answers[index].clone()))
    }

    /// Whether a program of our own making passes all tests.
    pub(crate) fn accepts(&self, program: &str) -> bool {
        first_fault(&self.tests, &evaluate_here(program, &self.probes(), OWN_LIMITS)).is_none()
    }

    /// The description, half of the time with an example or two.
    pub(crate) fn request(&self, rng: &mut Rng) -> String {
        let mut text = self.description.clone();
        let short = |test: &&Test| test.probe.setup.is_empty() && test.probe.call.len() + test.expected.len() < 70;
        let examples = [0, 0, 1, 2][rng.below(4)];
        for (index, test) in self.tests.iter().filter(short).take(examples).enumerate() {
            let opening = if index == 0 { "For example" } else { "And" };
            text.push_str(&format!(" {opening}, `{}` returns `{}`.", test.probe.call, test.expected));
        }
        text.replace(" And, ", " And ")
    }
}

fn first_fault(tests: &[Test], evaluation: &Evaluation) -> Option<String> {
    if let Some(failure) = &evaluation.failure {
        return Some(failure.clone());
    }
    for (test, answer) in tests.iter().zip(&evaluation.answers) {
        if !answer.is(&test.expected) {
            return Some(format!("`{}` {}, expected {}", test.shown(), answer.describe(), test.expected));
        }
    }
    None
}
