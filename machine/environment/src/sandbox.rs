//! Where Python that nobody vouches for runs: Monty under limits of time, memory, depth and output.
//!
//! Monty has no files and no network, and it stops loops, deep recursion and single huge values by itself. What it
//! cannot stop alone is memory that grows by many small steps: the interpreter counts bytes only under an allocator of
//! its own. Programs of a model therefore run in worker processes that the kernel limits and that may die without
//! harm; reference programs, which we wrote, run in this process.

use std::path::PathBuf;
use std::time::Duration;

use monty::MontyRun;
use monty_types::{CompileOptions, ExcType, MontyException, MontyObject, PrintWriter, ResourceLimits, ResourceTracker};
use serde::{Deserialize, Serialize};

use crate::worker::Pool;

/// What a program may use. One evaluation, with all its probes, shares one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub duration: Duration,
    pub memory_bytes: usize,
    pub recursion_depth: usize,
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { duration: Duration::from_secs(1), memory_bytes: 256 << 20, recursion_depth: 200, output_bytes: 16 << 10 }
    }
}

/// A question put to a program: statements to run first, then the expression whose value is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Probe {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    pub call: String,
}

/// What came back: the value as `repr` writes it, or the exception.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Value(String),
    Raised(String),
}

impl Answer {
    pub fn is(&self, expected_repr: &str) -> bool {
        matches!(self, Answer::Value(value) if value == expected_repr)
    }

    /// In words that a test report can use: `returned 3`, `raised KeyError: 'a'`.
    pub fn describe(&self) -> String {
        match self {
            Answer::Value(value) => format!("returned {value}"),
            Answer::Raised(error) => format!("raised {error}"),
        }
    }
}

/// The result of one program with its probes. Where `failure` is set no probe has an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    pub answers: Vec<Answer>,
    pub output: String,
    pub failure: Option<String>,
}

impl Evaluation {
    pub(crate) fn failed(failure: impl Into<String>) -> Self {
        Self { failure: Some(failure.into()), ..Self::default() }
    }
}

/// Runs programs. Cheap to share between threads: workers are taken from a pool and put back.
#[derive(Debug)]
pub struct Sandbox {
    limits: Limits,
    pool: Option<Pool>,
}

impl Sandbox {
    /// For programs that we wrote and for tests: fast, but a program that eats all memory takes this process with it.
    pub fn in_process() -> Self {
        Self { limits: Limits::default(), pool: None }
    }

    /// For anybody's program: `command` with `args` must end in [`crate::worker::serve`] on its standard streams.
    pub fn with_worker(command: PathBuf, args: Vec<String>) -> Self {
        Self { limits: Limits::default(), pool: Some(Pool::new(command, args)) }
    }

    pub fn limited(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs `program`, then each probe in its scope. Never fails: what went wrong is part of the answer.
    pub fn evaluate(&self, program: &str, probes: &[Probe]) -> Evaluation {
        match &self.pool {
            None => evaluate_here(program, probes, self.limits),
            Some(pool) => pool.evaluate(program, probes, self.limits),
        }
    }
}

/// The longest value that is carried back whole; a model's own test output is cut after this.
const ANSWER_BYTES_MAX: usize = 4096;

pub(crate) fn evaluate_here(program: &str, probes: &[Probe], limits: Limits) -> Evaluation {
    let mut output = String::new();
    let result = run(&harness(program, probes), limits, &mut output);
    let mut evaluation = match result {
        Ok(MontyObject::List(items)) => collect(&items),
        Ok(_) => Evaluation::failed("the program replaced the test harness"),
        Err(error) => Evaluation::failed(explain(&error, limits)),
    };
    if evaluation.failure.is_none() && evaluation.answers.len() != probes.len() {
        evaluation = Evaluation::failed("the program replaced the test harness");
    }
    evaluation.output = cut(output, limits.output_bytes);
    evaluation
}

fn run(code: &str, limits: Limits, output: &mut String) -> Result<MontyObject, MontyException> {
    let tracker = ResourceLimits::default()
        .max_duration(limits.duration)
        .max_memory(limits.memory_bytes)
        .max_recursion_depth(limits.recursion_depth);
    let compiled = MontyRun::new(code.to_owned(), "program.py", Vec::new(), CompileOptions::default())?;
    compiled.run(Vec::new(), ResourceTracker::new(tracker), PrintWriter::collect_string(output))
}

/// The program first, so that line numbers in its errors are its own; each probe is a function, so that it cannot see
/// what another left behind.
fn harness(program: &str, probes: &[Probe]) -> String {
    let mut code = String::with_capacity(program.len() + 400);
    code.push_str(program.trim_end());
    code.push('\n');
    for (index, probe) in probes.iter().enumerate() {
        code.push_str(&format!("def __probe_{index}():\n"));
        for line in &probe.setup {
            code.push_str(&format!("    {line}\n"));
        }
        code.push_str(&format!("    return {}\n", probe.call));
    }
    let names: Vec<String> = (0..probes.len()).map(|index| format!("__probe_{index}")).collect();
    code.push_str(&format!("__answers = []\nfor __probe in [{}]:\n", names.join(", ")));
    code.push_str("    try:\n        __answers.append((True, repr(__probe())))\n");
    code.push_str("    except Exception as __error:\n");
    code.push_str("        __answers.append((False, type(__error).__name__ + ': ' + str(__error)))\n__answers\n");
    code
}

fn collect(items: &[MontyObject]) -> Evaluation {
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let MontyObject::Tuple(pair) = item else {
            return Evaluation::failed("the program replaced the test harness");
        };
        match pair.as_slice() {
            [MontyObject::Bool(true), MontyObject::String(value)] => {
                answers.push(Answer::Value(cut(value.clone(), ANSWER_BYTES_MAX)));
            }
            [MontyObject::Bool(false), MontyObject::String(error)] => {
                answers.push(Answer::Raised(cut(error.clone(), ANSWER_BYTES_MAX)));
            }
            _ => return Evaluation::failed("the program replaced the test harness"),
        }
    }
    Evaluation { answers, ..Evaluation::default() }
}

/// One line that a reader, or a model, can act on. Times are named as limits, so that a report does not change from
/// run to run.
fn explain(error: &MontyException, limits: Limits) -> String {
    match error.exc_type() {
        ExcType::TimeoutError => format!("timed out after {} ms", limits.duration.as_millis()),
        ExcType::MemoryError => format!("needed more than {} MiB of memory", limits.memory_bytes >> 20),
        ExcType::SyntaxError => match error.traceback().last() {
            Some(frame) => format!("line {}: {}", frame.start.line, error.summary()),
            None => error.summary(),
        },
        _ => cut(error.summary(), ANSWER_BYTES_MAX),
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
