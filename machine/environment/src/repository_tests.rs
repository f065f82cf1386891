//! The tools tell what went wrong in a way that can be acted on.

use serde_json::{Map, Value};
use text::chat::ToolCall;

use crate::{Repository, Sandbox};

fn repository() -> Repository {
    let files = [
        ("orders.py", "from shop import price\n\n\ndef total(n):\n    return price(n) + 1\n"),
        ("shop.py", "def price(n):\n    return n * 2\n"),
        (
            "test_orders.py",
            "from orders import total\n\n\ndef test_total():\n    assert total(2) == 5\n    assert total(0) == 1\n",
        ),
    ];
    let files = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
    Repository { files, checks: Vec::new(), absent: vec!["price".to_owned()] }
}

fn run(repository: &mut Repository, name: &str, arguments: &[(&str, &str)]) -> String {
    let arguments: Map<String, Value> =
        arguments.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    repository.call(&Sandbox::in_process(), &ToolCall { name: name.to_owned(), arguments })
}

#[test]
fn tools_answer() {
    let mut files = repository();
    assert_eq!(run(&mut files, "list_files", &[]), "orders.py\nshop.py\ntest_orders.py");
    assert_eq!(run(&mut files, "read_file", &[("path", "shop.py")]), "def price(n):\n    return n * 2");
    assert_eq!(
        run(&mut files, "search", &[("text", "return")]),
        "orders.py:5: return price(n) + 1\nshop.py:2: return n * 2"
    );
    assert_eq!(run(&mut files, "search", &[("text", "nowhere")]), "no line contains it");
    assert_eq!(run(&mut files, "run_tests", &[]), "1 passed");
    assert_eq!(run(&mut files, "edit", &[("path", "shop.py"), ("old", "n * 2"), ("new", "n * 3")]), "ok");
    assert_eq!(
        run(&mut files, "run_tests", &[]),
        "FAIL test_total: total(2) returned 7, expected 5\n1 failed, 0 passed"
    );
}

#[test]
fn errors_say_what_to_do() {
    let mut files = repository();
    let answers = [
        (run(&mut files, "delete", &[]), "error: no tool delete; the tools are"),
        (run(&mut files, "read_file", &[]), "error: read_file needs the argument path"),
        (run(&mut files, "read_file", &[("path", "a.py")]), "error: no file a.py; the files are orders.py, shop.py"),
        (
            run(&mut files, "edit", &[("path", "shop.py"), ("old", "zzz"), ("new", "")]),
            "error: shop.py does not contain",
        ),
        (
            run(&mut files, "edit", &[("path", "shop.py"), ("old", "n"), ("new", "m")]),
            "error: shop.py contains the old text",
        ),
    ];
    for (given, expected) in answers {
        assert!(given.starts_with(expected), "{given}");
    }
}

#[test]
fn broken_files_are_named() {
    let mut files = repository();
    run(&mut files, "edit", &[("path", "shop.py"), ("old", "price(n)"), ("new", "price(n")]);
    let report = run(&mut files, "run_tests", &[]);
    assert!(report.starts_with("FAIL shop.py: line 2: SyntaxError"), "{report}");

    let mut files = repository();
    run(&mut files, "edit", &[("path", "shop.py"), ("old", "price"), ("new", "cost")]);
    let report = run(&mut files, "run_tests", &[]);
    assert!(report.contains("ImportError: cannot import name 'price' from 'shop'"), "{report}");
}

#[test]
fn names_that_must_go_are_looked_for_everywhere() {
    let mut files = repository();
    assert!(!files.solved(&Sandbox::in_process()));
    run(&mut files, "edit", &[("path", "shop.py"), ("old", "price"), ("new", "cost")]);
    run(&mut files, "edit", &[("path", "orders.py"), ("old", "import price"), ("new", "import cost")]);
    assert!(!files.solved(&Sandbox::in_process()));
    run(&mut files, "edit", &[("path", "orders.py"), ("old", "price(n)"), ("new", "cost(n)")]);
    assert!(files.solved(&Sandbox::in_process()));
    assert_eq!(run(&mut files, "run_tests", &[]), "1 passed");
}
