//! Files in memory, and the five tools that act on them.

use serde_json::{Value, json};
use text::chat::{ToolCall, ToolDefinition};

use crate::kata::Test;
use crate::sandbox::{Answer, Evaluation, Probe, Sandbox};

/// A few files, and the hidden tests that decide whether the work is done.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Path and text, in the order of listing.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) checks: Vec<Check>,
    /// Names that must be gone from every file.
    pub(crate) absent: Vec<String>,
}

/// What a module must do in the end.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// The module's path.
    pub(crate) path: String,
    pub(crate) tests: Vec<Test>,
}

/// The tools, as briefly as they can be told: they are repeated in every conversation.
pub fn tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, description: &str, arguments: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            arguments.iter().map(|argument| ((*argument).to_owned(), json!({"type": "string"}))).collect();
        let parameters = json!({"type": "object", "properties": properties, "required": arguments});
        ToolDefinition { name: name.to_owned(), description: description.to_owned(), parameters }
    };
    vec![
        tool("list_files", "List the files.", &[]),
        tool("read_file", "Show a file.", &["path"]),
        tool("search", "Find lines that contain a text.", &["text"]),
        tool("edit", "Replace old by new in a file; an empty old appends.", &["path", "old", "new"]),
        tool("run_tests", "Run the tests.", &[]),
    ]
}

const SEARCH_LINES_MAX: usize = 20;
const FILE_BYTES_MAX: usize = 20_000;

impl Repository {
    pub fn files(&self) -> &[(String, String)] {
        &self.files
    }

    /// Runs one tool. What goes wrong is told in the result, for the model to act on.
    pub fn call(&mut self, sandbox: &Sandbox, call: &ToolCall) -> String {
        let result = match call.name.as_str() {
            "list_files" => Ok(self.paths()),
            "read_file" => self.read(call),
            "search" => self.search(call),
            "edit" => self.edit(call),
            "run_tests" => Ok(self.run_tests(sandbox)),
            other => Err(format!("no tool {other}; the tools are list_files, read_file, search, edit, run_tests")),
        };
        result.unwrap_or_else(|error| format!("error: {error}"))
    }

    /// Whether the hidden tests pass on the files as they are now.
    pub fn solved(&self, sandbox: &Sandbox) -> bool {
        let gone = self.absent.iter().all(|name| self.files.iter().all(|(_, text)| !contains_word(text, name)));
        gone && self.checks.iter().all(|check| {
            let probes: Vec<Probe> = check.tests.iter().map(|test| test.probe.clone()).collect();
            let Ok(program) = self.bundle(&check.path) else { return false };
            let evaluation = sandbox.evaluate(&program, &probes);
            evaluation.answers.len() == check.tests.len()
                && check.tests.iter().zip(&evaluation.answers).all(|(test, answer)| answer.is(&test.expected))
        })
    }

    fn paths(&self) -> String {
        self.files.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn find(&self, path: &str) -> Result<usize, String> {
        self.files
            .iter()
            .position(|(known, _)| known == path)
            .ok_or_else(|| format!("no file {path}; the files are {}", self.paths().replace('\n', ", ")))
    }

    fn read(&self, call: &ToolCall) -> Result<String, String> {
        let at = self.find(argument(call, "path")?)?;
        Ok(self.files[at].1.trim_end().to_owned())
    }

    fn search(&self, call: &ToolCall) -> Result<String, String> {
        let wanted = argument(call, "text")?;
        if wanted.is_empty() {
            return Err("search needs a text that is not empty".to_owned());
        }
        let mut found = Vec::new();
        for (path, text) in &self.files {
            for (index, line) in text.lines().enumerate().filter(|(_, line)| line.contains(wanted)) {
                found.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
        if found.len() > SEARCH_LINES_MAX {
            let more = found.len() - SEARCH_LINES_MAX;
            found.truncate(SEARCH_LINES_MAX);
            found.push(format!("and {more} more"));
        }
        Ok(if found.is_empty() { "no line contains it".to_owned() } else { found.join("\n") })
    }

    fn edit(&mut self, call: &ToolCall) -> Result<String, String> {
        let (path, old, new) = (argument(call, "path")?, argument(call, "old")?, argument(call, "new")?);
        let at = self.find(path)?;
        let text = &mut self.files[at].1;
        if text.len() + new.len() > FILE_BYTES_MAX {
            return Err(format!("{path} would grow beyond {FILE_BYTES_MAX} bytes"));
        }
        if old.is_empty() {
            *text = format!("{}\n\n\n{}\n", text.trim_end(), new.trim_end()).trim_start().to_owned();
            return Ok("ok".to_owned());
        }
        match text.matches(old).count() {
            0 => Err(format!("{path} does not contain the old text")),
            1 => {
                *text = text.replacen(old, new, 1);
                Ok("ok".to_owned())
            }
            many => Err(format!("{path} contains the old text {many} times; give more of it")),
        }
    }

    fn run_tests(&self, sandbox: &Sandbox) -> String {
        let mut report = Vec::new();
        let (mut passed, mut failed) = (0, 0);
        let is_test = |path: &str| path.starts_with("test_") && path.ends_with(".py");
        for (path, text) in self.files.iter().filter(|(path, _)| is_test(path)) {
            let cases = cases(text);
            let evaluation = match self.bundle(path) {
                Ok(program) => {
                    let probes: Vec<Probe> = cases.iter().flat_map(|case| case.probes()).collect();
                    sandbox.evaluate(&program, &probes)
                }
                Err(error) => Evaluation::failed(error),
            };
            if let Some(failure) = &evaluation.failure {
                report.push(format!("FAIL {}", self.located(sandbox, path, failure)));
                failed += count_tests(text).max(1);
                continue;
            }
            let (good, bad) = judged(&cases, &evaluation.answers, &mut report);
            passed += good;
            failed += bad;
        }
        report.push(match (failed, passed) {
            (0, 0) => "no tests found".to_owned(),
            (0, _) => format!("{passed} passed"),
            _ => format!("{failed} failed, {passed} passed"),
        });
        report.join("\n")
    }

    /// A failure with the file it stems from: a module that does not even load by itself is named first.
    fn located(&self, sandbox: &Sandbox, test_path: &str, failure: &str) -> String {
        for (path, text) in self.files.iter().filter(|(path, _)| path.ends_with(".py")) {
            if let Some(own) = sandbox.evaluate(&without_imports(text), &[]).failure
                && own.contains("SyntaxError")
            {
                return format!("{path}: {own}");
            }
        }
        format!("{test_path}: {failure}")
    }

    /// One program from a module and the modules of this repository that it imports: the interpreter knows no files.
    fn bundle(&self, path: &str) -> Result<String, String> {
        let mut program = String::new();
        self.add_module(path, &mut Vec::new(), &mut program)?;
        Ok(program)
    }

    fn add_module(&self, path: &str, done: &mut Vec<String>, program: &mut String) -> Result<(), String> {
        if done.iter().any(|known| known == path) {
            return Ok(());
        }
        done.push(path.to_owned());
        let text = &self.files[self.find(path)?].1;
        for line in text.lines() {
            let Some((module, names)) = import(line) else { continue };
            let source = format!("{module}.py");
            let Ok(at) = self.find(&source) else {
                return Err(format!("ModuleNotFoundError: No module named '{module}'"));
            };
            for name in names {
                if !defines(&self.files[at].1, name) {
                    return Err(format!("ImportError: cannot import name '{name}' from '{module}'"));
                }
            }
            self.add_module(&source, done, program)?;
        }
        program.push_str(&without_imports(text));
        program.push('\n');
        Ok(())
    }
}

fn argument<'a>(call: &'a ToolCall, name: &str) -> Result<&'a str, String> {
    let value = call.arguments.get(name).and_then(Value::as_str);
    value.ok_or_else(|| format!("{} needs the argument {name}, a string", call.name))
}

/// `from module import a, b`.
fn import(line: &str) -> Option<(&str, Vec<&str>)> {
    let (module, names) = line.strip_prefix("from ")?.split_once(" import ")?;
    Some((module.trim(), names.split(',').map(str::trim).collect()))
}

/// Import lines become empty, so that line numbers stay.
fn without_imports(text: &str) -> String {
    text.lines().map(|line| if import(line).is_some() { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

fn defines(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        ["def ", "class "].iter().any(|word| line.strip_prefix(word).is_some_and(|rest| starts_with_word(rest, name)))
            || starts_with_word(line, name) && line.contains(" = ")
    })
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn contains_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// One assertion of a test function.
struct Case {
    test: String,
    setup: Vec<String>,
    left: String,
    right: String,
}

impl Case {
    fn probes(&self) -> [Probe; 2] {
        let probe = |call: &String| Probe { setup: self.setup.clone(), call: call.clone() };
        [probe(&self.left), probe(&self.right)]
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut test = String::new();
    let mut setup: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("def ") {
            test = rest.split('(').next().unwrap_or("").to_owned();
            setup.clear();
        } else if let Some(asserted) = line.trim_start().strip_prefix("assert ") {
            let (left, right) = asserted.rsplit_once(" == ").map_or_else(
                || (format!("bool({asserted})"), "True".to_owned()),
                |(left, right)| (left.to_owned(), right.to_owned()),
            );
            cases.push(Case { test: test.clone(), setup: setup.clone(), left, right });
        } else if line.starts_with("    ") {
            setup.push(line.trim().to_owned());
        }
    }
    cases.retain(|case| case.test.starts_with("test_"));
    cases
}

fn count_tests(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("def test_")).count()
}

/// Counts tests that pass and fail; the first wrong assertion of each failing test goes into the report.
fn judged(cases: &[Case], answers: &[Answer], report: &mut Vec<String>) -> (usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    for (index, case) in cases.iter().enumerate() {
        if index > 0 && cases[index - 1].test == case.test {
            continue;
        }
        let own = (index..cases.len()).take_while(|&at| cases[at].test == case.test);
        let wrong = own.into_iter().find(|&at| answers[2 * at] != answers[2 * at + 1]);
        match wrong {
            None => passed += 1,
            Some(at) => {
                failed += 1;
                let expected = match &answers[2 * at + 1] {
                    Answer::Value(value) => value.clone(),
                    Answer::Raised(error) => error.clone(),
                };
                let call = &cases[at].left;
                report.push(format!("FAIL {}: {call} {}, expected {expected}", case.test, answers[2 * at].describe()));
            }
        }
    }
    (passed, failed)
}
