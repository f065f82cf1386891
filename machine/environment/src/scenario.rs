//! The errands of a replay: a small repository, a request, and the calls that do the work.

use numeric::Rng;
use text::chat::ToolCall;

use crate::kata::{Kata, Test};
use crate::mutate::{Mutant, line_of};
use crate::replay::{call, check};
use crate::repository::Repository;
use crate::sandbox::{Answer, evaluate_here};
use crate::source::{Sort, tokens};
use crate::split::Split;

/// A repository and what is to be done with it.
pub(crate) struct Plan {
    /// The first one is what the errand is about.
    pub(crate) katas: Vec<Kata>,
    pub(crate) repository: Repository,
    pub(crate) request: String,
    /// A remark, often empty, and the call that follows it.
    pub(crate) steps: Vec<(String, ToolCall)>,
    pub(crate) closing: String,
}

const MODULES: &[&str] = &[
    "shop", "report", "orders", "stats", "labels", "parser", "rules", "board", "tables", "metrics", "billing",
    "archive", "league", "garden", "kitchen", "travel",
];

const PROGRAM_LINES_MAX: usize = 9;

fn is_small(kata: &Kata) -> bool {
    kata.program.lines().count() <= PROGRAM_LINES_MAX
        && kata.program.starts_with("def ")
        && kata.tests.iter().all(|test| test.probe.setup.is_empty() && test.assertion()[0].len() < 90)
}

/// A small kata whose name is not taken.
fn small(split: Split, rng: &mut Rng, taken: &[&Kata]) -> Kata {
    loop {
        let kata = Kata::draw(split, rng);
        if is_small(&kata) && taken.iter().all(|other| other.name != kata.name) {
            return kata;
        }
    }
}

fn modules(rng: &mut Rng) -> (&'static str, &'static str) {
    let first = *rng.choose(MODULES);
    loop {
        let second = *rng.choose(MODULES);
        if second != first {
            return (first, second);
        }
    }
}

/// A function as it stands in a module: what it is for, then the code.
fn documented(kata: &Kata, program: &str) -> String {
    format!("# {}\n{program}", kata.summary)
}

fn module(parts: &[String]) -> String {
    parts.join("\n\n")
}

/// A test file with two or three assertions for each function; `first` says which test of the first kata must be among
/// them.
fn test_file(module: &str, katas: &[&Kata], first: usize, rng: &mut Rng) -> String {
    let names: Vec<&str> = katas.iter().map(|kata| kata.name.as_str()).collect();
    let mut text = format!("from {module} import {}\n", names.join(", "));
    for (index, kata) in katas.iter().enumerate() {
        text.push_str(&format!("\n\ndef test_{}():\n", kata.name));
        let start = if index == 0 { first } else { rng.below(kata.tests.len()) };
        for offset in 0..2 {
            let test = &kata.tests[(start + offset) % kata.tests.len()];
            text.push_str(&format!("    {}\n", test.assertion()[0]));
        }
    }
    text
}

fn repository(mut files: Vec<(String, String)>, checks: Vec<crate::repository::Check>) -> Repository {
    files.sort();
    Repository { files, checks, absent: Vec::new() }
}

fn step(remark: &str, call: ToolCall) -> (String, ToolCall) {
    (remark.to_owned(), call)
}

/// The smallest run of whole lines around the difference that stands only once in the file.
fn minimal_edit(file: &str, before: &str, after: &str) -> Option<(String, String)> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let same_end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let same_end = same_end.min(old.len() - start).min(new.len() - start);
    loop {
        let (from, to) = (old[start..old.len() - same_end].join("\n"), new[start..new.len() - same_end].join("\n"));
        // The first line goes without its indentation, which both texts share.
        let shared = |text: &str| text.len() - text.trim_start().len();
        let cut = shared(&from).min(shared(&to));
        let (from, to) = (from[cut..].to_owned(), to[cut..].to_owned());
        if file.matches(&from).count() == 1 {
            return Some((from, to));
        }
        start = start.checked_sub(1)?;
    }
}

/// The tests fail: find the fault and correct it.
pub(crate) fn fix(split: Split, kata: Kata, mutant: Mutant, rng: &mut Rng) -> Option<Plan> {
    if !is_small(&kata) {
        return None;
    }
    let other = small(split, rng, &[&kata]);
    let (name, second) = modules(rng);
    let path = format!("{name}.py");
    let broken = documented(&kata, &mutant.program);
    let together = rng.chance(0.5);
    let mut files = Vec::new();
    let text = if together {
        let mut parts = vec![broken, documented(&other, &other.program)];
        rng.shuffle(&mut parts);
        files.push((format!("test_{name}.py"), test_file(name, &[&kata, &other], mutant.test, rng)));
        module(&parts)
    } else {
        files.push((format!("{second}.py"), documented(&other, &other.program)));
        files.push((format!("test_{name}.py"), test_file(name, &[&kata], mutant.test, rng)));
        files.push((format!("test_{second}.py"), test_file(second, &[&other], 0, rng)));
        broken
    };
    let (old, new) = minimal_edit(&text, &mutant.program, &kata.program)?;
    files.push((path.clone(), text));
    let other_path = if together { path.clone() } else { format!("{second}.py") };
    let checks = vec![check(&path, &[&kata]), check(&other_path, &[&other])];

    let request = match rng.below(4) {
        0 => "The tests fail. Find the fault and fix it.".to_owned(),
        1 => "A test fails. Fix the code, not the test.".to_owned(),
        2 => format!("`{}` is broken. Please fix it.", kata.name),
        _ => "Make the tests pass.".to_owned(),
    };
    let mut steps = vec![step("", call("run_tests", &[]))];
    if !together {
        steps.push(step(
            &format!("`{}` is wrong. Where is it?", kata.name),
            call("search", &[("text", &format!("def {}", kata.name))]),
        ));
    }
    let remark = if together { format!("`{}` is wrong.", kata.name) } else { String::new() };
    steps.push(step(&remark, call("read_file", &[("path", &path)])));
    let wrong = line_of(&mutant.program, mutant.line).trim().to_owned();
    let remark = format!("`{wrong}` is the fault.");
    steps.push(step(&remark, call("edit", &[("path", &path), ("old", &old), ("new", &new)])));
    steps.push(step("", call("run_tests", &[])));
    let closing = format!("Fixed `{}` in {path}: it had `{wrong}`. All tests pass.", kata.name);
    Some(Plan { katas: vec![kata, other], repository: repository(files, checks), request, steps, closing })
}

/// A module with one function, its tests, and a second function to be added.
struct Addition {
    kata: Kata,
    other: Kata,
    name: &'static str,
    path: String,
    files: Vec<(String, String)>,
}

fn addition(split: Split, rng: &mut Rng) -> Addition {
    let kata = small(split, rng, &[]);
    let other = small(split, rng, &[&kata]);
    let (name, _) = modules(rng);
    let path = format!("{name}.py");
    // Half of the time the new function's tests are there already, and fail.
    let tested: Vec<&Kata> = if rng.chance(0.5) { vec![&kata, &other] } else { vec![&other] };
    let tests = test_file(name, &tested, 0, rng);
    let files = vec![(path.clone(), documented(&other, &other.program)), (format!("test_{name}.py"), tests)];
    Addition { kata, other, name, path, files }
}

impl Addition {
    fn steps(&self) -> Vec<(String, ToolCall)> {
        let new = documented(&self.kata, &self.kata.program);
        let edit = call("edit", &[("path", &self.path), ("old", ""), ("new", new.trim_end())]);
        vec![
            step("", call("read_file", &[("path", &self.path)])),
            step(&format!("I add `{}` at the end.", self.kata.name), edit),
            step("", call("run_tests", &[])),
        ]
    }

    fn plan(self, request: String, steps: Vec<(String, ToolCall)>) -> Plan {
        let checks = vec![check(&self.path, &[&self.kata, &self.other])];
        let closing = format!("Added `{}` to {}. All tests pass.", self.kata.name, self.path);
        Plan { katas: vec![self.kata, self.other], repository: repository(self.files, checks), request, steps, closing }
    }
}

pub(crate) fn add(split: Split, rng: &mut Rng) -> Option<Plan> {
    let addition = addition(split, rng);
    let (path, description) = (&addition.path, &addition.kata.description);
    let request = match rng.below(3) {
        0 => format!("Add a function to {path}. {description}"),
        1 => format!("In {path} a function is missing. {description}"),
        _ => format!("{description} Put it into {path}."),
    };
    let steps = addition.steps();
    Some(addition.plan(request, steps))
}

pub(crate) fn follow_notes(split: Split, rng: &mut Rng) -> Option<Plan> {
    let mut addition = addition(split, rng);
    let notes = format!("# To do\n\nFor {}: {}\n", addition.path, addition.kata.description);
    addition.files.push(("notes.md".to_owned(), notes));
    let request = match rng.below(3) {
        0 => "Do what notes.md asks for.",
        1 => "There is something to do in notes.md. Please do it.",
        _ => "See the notes and do the open item.",
    };
    let mut steps = vec![step("", call("list_files", &[])), step("", call("read_file", &[("path", "notes.md")]))];
    steps.extend(addition.steps());
    debug_assert!(addition.path.starts_with(addition.name));
    Some(addition.plan(request.to_owned(), steps))
}

/// One function calls another that lives elsewhere and gets a new name.
pub(crate) fn rename(split: Split, rng: &mut Rng) -> Option<Plan> {
    let kata = small(split, rng, &[]);
    let old_name = kata.name.clone();
    let new_name = small(split, rng, &[&kata]).name;
    let user = small(split, rng, &[&kata]).name;
    if user == new_name
        || kata.description.matches('`').count() < 2
        || kata.tests[0].probe.call.matches('(').count() != 1
    {
        return None;
    }
    let (home, away) = modules(rng);
    let signature = kata.program.lines().next()?.strip_prefix("def ")?.strip_suffix(':')?.to_owned();
    let parameters = signature.strip_prefix(&old_name)?.to_owned();
    let (path, other_path) = (format!("{home}.py"), format!("{away}.py"));
    let caller =
        format!("from {home} import {old_name}\n\n\ndef {user}{parameters}:\n    return [{old_name}{parameters}]\n");
    let wrapped = |test: &Test, name: &str| Test {
        probe: crate::sandbox::Probe { setup: Vec::new(), call: test.probe.call.replacen(&old_name, name, 1) },
        expected: test.expected.clone(),
    };
    let mut away_kata = kata.clone();
    away_kata.name.clone_from(&user);
    away_kata.tests = kata
        .tests
        .iter()
        .map(|test| wrapped(test, &user))
        .map(|test| Test { expected: format!("[{}]", test.expected), ..test })
        .collect();
    let mut renamed = kata.clone();
    renamed.name.clone_from(&new_name);
    renamed.program = kata.program.replace(&old_name, &new_name);
    renamed.description = kata.description.replace(&old_name, &new_name);
    renamed.tests = kata.tests.iter().map(|test| wrapped(test, &new_name)).collect();
    let files = vec![
        (path.clone(), documented(&kata, &kata.program)),
        (other_path.clone(), caller),
        (format!("test_{away}.py"), test_file(away, &[&away_kata], 0, rng)),
    ];
    let mut repository = repository(files, vec![check(&path, &[&renamed]), check(&other_path, &[&away_kata])]);
    repository.absent.push(old_name.clone());
    let request = match rng.below(3) {
        0 => format!("Rename `{old_name}` to `{new_name}` everywhere."),
        1 => format!("`{old_name}` should be called `{new_name}`. Change all uses."),
        _ => format!("Please rename the function `{old_name}` to `{new_name}`."),
    };
    let edit = |path: &str, old: &str| {
        let new = old.replace(&old_name, &new_name);
        step("", call("edit", &[("path", path), ("old", old), ("new", &new)]))
    };
    let steps = vec![
        step("", call("search", &[("text", &old_name)])),
        edit(&path, &format!("def {old_name}(")),
        edit(&other_path, &format!("import {old_name}")),
        edit(&other_path, &format!("[{old_name}(")),
        step("", call("run_tests", &[])),
    ];
    let closing = format!("Renamed `{old_name}` to `{new_name}` in {path} and {other_path}. All tests pass.");
    Some(Plan { katas: vec![renamed], repository, request, steps, closing })
}

/// A number in a function is to be another one.
pub(crate) fn change_constant(split: Split, rng: &mut Rng) -> Option<Plan> {
    let kata = small(split, rng, &[]);
    let other = small(split, rng, &[&kata]);
    let code = &kata.program;
    let numbers: Vec<_> = tokens(code)
        .into_iter()
        .filter(|token| token.sort == Sort::Number && token.of(code).len() > 1 && kata.summary.contains(token.of(code)))
        .collect();
    let token = *numbers.first()?;
    let old_number = token.of(code).to_owned();
    if code.matches(&old_number).count() != 1 || kata.summary.matches(&old_number).count() != 1 {
        return None;
    }
    let new_number = (old_number.parse::<i64>().ok()? + rng.range(1, 9)).to_string();
    let mut wanted = kata.clone();
    wanted.program = format!("{}{new_number}{}", &code[..token.start], &code[token.end..]);
    if !kata.may_become(&wanted.program) {
        return None;
    }
    wanted.summary = kata.summary.replace(&old_number, &new_number);
    let evaluation = evaluate_here(&wanted.program, &kata.probes(), crate::kata::OWN_LIMITS);
    for (test, answer) in wanted.tests.iter_mut().zip(evaluation.answers) {
        let Answer::Value(value) = answer else { return None };
        test.expected = value;
    }
    let first = wanted.tests.iter().zip(&kata.tests).position(|(new, old)| new.expected != old.expected)?;

    let (name, second) = modules(rng);
    let (path, other_path) = (format!("{name}.py"), format!("{second}.py"));
    let text = documented(&kata, &kata.program);
    let (old, new) = minimal_edit(&text, &kata.program, &wanted.program)?;
    let (old_words, new_words) = (format!("# {}", kata.summary), format!("# {}", wanted.summary));
    let files = vec![
        (path.clone(), text),
        (other_path.clone(), documented(&other, &other.program)),
        (format!("test_{name}.py"), test_file(name, &[&wanted], first, rng)),
    ];
    let checks = vec![check(&path, &[&wanted]), check(&other_path, &[&other])];
    let request = match rng.below(3) {
        0 => format!("`{}` should use {new_number} instead of {old_number}.", kata.name),
        1 => format!("Change the {old_number} in `{}` to {new_number}.", kata.name),
        _ => format!("The {old_number} in `{}` is out of date: make it {new_number}.", kata.name),
    };
    let steps = vec![
        step("", call("search", &[("text", &format!("def {}", kata.name))])),
        step("", call("read_file", &[("path", &path)])),
        step("", call("edit", &[("path", &path), ("old", &old), ("new", &new)])),
        step("The comment too.", call("edit", &[("path", &path), ("old", &old_words), ("new", &new_words)])),
        step("", call("run_tests", &[])),
    ];
    let closing = format!("`{}` in {path} now uses {new_number}. All tests pass.", kata.name);
    Some(Plan { katas: vec![wanted, other], repository: repository(files, checks), request, steps, closing })
}
