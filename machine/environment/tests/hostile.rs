//! Programs that mean harm, or would do it by accident: each ends in time, and the next program is answered as before.
//! The test has its own main, because it is also the worker process that it tests.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use environment::{Answer, Limits, Probe, Sandbox};

const SERVE: &str = "--serve-sandbox";

const TESTS: &[(&str, fn())] = &[
    ("hostile_programs_end_in_time_and_harm_nobody", hostile_programs_end_in_time_and_harm_nobody),
    ("deep_source_does_not_overflow_the_stack", deep_source_does_not_overflow_the_stack),
    ("one_bad_probe_does_not_spoil_the_others", one_bad_probe_does_not_spoil_the_others),
    ("a_program_cannot_forge_its_answers", a_program_cannot_forge_its_answers),
    ("a_missing_worker_is_named", a_missing_worker_is_named),
    ("threads_share_a_sandbox", threads_share_a_sandbox),
    ("workers_are_fast", workers_are_fast),
];

/// Understands as much of the test runners' arguments as they need: `--list`, `--ignored`, and names.
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    if has(SERVE) {
        environment::worker::serve(std::io::stdin(), std::io::stdout()).expect("the parent reads");
    } else if has("--list") {
        for (name, _) in TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
    } else {
        let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
        for (name, test) in TESTS {
            if names.is_empty() || names.iter().any(|wanted| name.contains(wanted.as_str())) {
                test();
                println!("test {name} ... ok");
            }
        }
    }
}

fn sandbox() -> Sandbox {
    let worker = std::env::current_exe().expect("a running program has a path");
    Sandbox::with_worker(worker, vec![SERVE.to_owned()]).limited(Limits {
        duration: Duration::from_millis(300),
        memory_bytes: 64 << 20,
        ..Limits::default()
    })
}

fn probe(call: &str) -> Probe {
    Probe { setup: Vec::new(), call: call.to_owned() }
}

const HOSTILE: &[(&str, &str)] = &[
    ("an endless loop", "while True:\n    pass"),
    (
        "a loop that catches everything",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
    ),
    ("a huge list", "x = [0] * 10 ** 9"),
    ("a list that doubles", "x = [0]\nwhile True:\n    x = x + x"),
    ("a list of growing strings", "x = []\nwhile True:\n    x.append('abc' * 10000 + str(len(x)))"),
    ("a huge power", "x = 10 ** 10 ** 8"),
    ("a huge shift", "x = 1 << 10 ** 10"),
    ("a huge string", "x = 'a' * 10 ** 10"),
    ("a huge format", "x = f'{1:>1000000000}'"),
    ("a huge join", "x = ','.join(['a' * 10 ** 6] * 10 ** 5)"),
    ("deep recursion", "def f(n):\n    return f(n + 1)\nf(0)"),
    ("recursion in repr", "class A:\n    def __repr__(self):\n        return repr(self)\nrepr(A())"),
    ("deep nesting of values", "x = []\nfor i in range(10 ** 6):\n    x = [x]\nraise ValueError(x)"),
    ("a slow pattern", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')\nx = 1 / 0"),
    ("endless output", "while True:\n    print('x' * 1000)"),
    ("a slow sum", "sum(range(10 ** 12))"),
    ("reading a file", "open('/etc/passwd').read()"),
    ("listing a folder", "import os\nos.listdir('/')"),
    ("the environment", "import os\nx = os.environ['HOME']"),
    ("a process", "import subprocess"),
    ("a socket", "import socket"),
    ("an exit", "raise SystemExit(0)"),
    ("nonsense", "def f(:\n"),
];

fn hostile_programs_end_in_time_and_harm_nobody() {
    let sandbox = sandbox();
    for (what, program) in HOSTILE {
        let start = Instant::now();
        let evaluation = sandbox.evaluate(program, &[probe("1 + 1")]);
        assert!(start.elapsed() < Duration::from_secs(3), "{what} took {:?}", start.elapsed());
        assert!(evaluation.failure.is_some(), "{what} was not stopped: {evaluation:?}");
        let after = sandbox.evaluate("def f(x):\n    return x + 1\n", &[probe("f(1)")]);
        assert_eq!(after.answers, [Answer::Value("2".to_owned())], "after {what}");
    }
}

fn deep_source_does_not_overflow_the_stack() {
    let sandbox = sandbox();
    for program in
        ["(".repeat(50_000), format!("x = {}1", "-".repeat(100_000)), format!("x = 1{}", " + 1".repeat(100_000))]
    {
        assert!(sandbox.evaluate(&program, &[]).failure.is_some());
    }
    assert_eq!(sandbox.evaluate("", &[probe("2")]).answers, [Answer::Value("2".to_owned())]);
}

fn one_bad_probe_does_not_spoil_the_others() {
    let evaluation =
        sandbox().evaluate("def f(x):\n    return 6 // x\n", &[probe("f(2)"), probe("f(0)"), probe("g(1)")]);
    assert_eq!(evaluation.failure, None);
    assert_eq!(evaluation.answers[0], Answer::Value("3".to_owned()));
    assert!(matches!(&evaluation.answers[1], Answer::Raised(error) if error.starts_with("ZeroDivisionError")));
    assert!(matches!(&evaluation.answers[2], Answer::Raised(error) if error.starts_with("NameError")));
}

fn a_program_cannot_forge_its_answers() {
    let forged = "__answers = [(True, '2')]\ndef repr(x):\n    return '2'\n";
    let evaluation = sandbox().evaluate(forged, &[probe("3")]);
    assert!(evaluation.answers.len() <= 1, "{evaluation:?}");
    let ended = sandbox().evaluate("def f(x):\n    return 1\n'''", &[probe("f(1)")]);
    assert!(ended.failure.is_some());
}

fn a_missing_worker_is_named() {
    let sandbox = Sandbox::with_worker(PathBuf::from("/nowhere/worker"), Vec::new());
    let failure = sandbox.evaluate("", &[]).failure.unwrap_or_default();
    assert!(failure.contains("/nowhere/worker"), "{failure}");
}

fn threads_share_a_sandbox() {
    let sandbox = sandbox();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for step in 0..50 {
                    let evaluation = sandbox.evaluate("", &[probe(&format!("{thread} * 100 + {step}"))]);
                    assert_eq!(evaluation.answers, [Answer::Value((thread * 100 + step).to_string())]);
                }
            });
        }
    });
}

/// Half of the speed that training asks for, so that a busy machine does not fail it.
fn workers_are_fast() {
    let sandbox = sandbox();
    let probes: Vec<Probe> = (0..6).map(|n| probe(&format!("f({n})"))).collect();
    let start = Instant::now();
    for _ in 0..100 {
        let program = "def f(n):\n    total = 0\n    for i in range(n):\n        total += i\n    return total\n";
        assert_eq!(sandbox.evaluate(program, &probes).answers.len(), 6);
    }
    assert!(start.elapsed() < Duration::from_millis(400), "100 programs took {:?}", start.elapsed());
}
