//! Words that do not belong in some places, or in any.

use crate::Finding;
use crate::source::Source;

/// Who may speak to the person at the terminal, and read the environment. This program's own checks are a tool.
const SPEAKERS: [&str; 2] = ["cli", "xtask"];

const PRINTING: [&str; 8] =
    ["println!", "print!", "eprintln!", "eprint!", "dbg!", "io::stdout", "io::stderr", "io::stdin"];
const READING: [&str; 7] =
    ["env::var", "env::vars", "env::var_os", "env::vars_os", "env::set_var", "env::remove_var", "env::args"];
const UNFINISHED: [&str; 2] = ["todo!", "unimplemented!"];

/// Words that mark a debt without saying when it is paid.
const BARE_DEBTS: [&str; 3] = ["FIXME", "XXX", "HACK"];
const WHEN: [&str; 5] = ["when", "once", "until", "after", "because"];

pub(crate) const WIDTH_MAX: usize = 120;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let may_speak = SPEAKERS.contains(&source.package().as_str());
    let mut search = |words: &[&str], allowed_in_tests: bool, why: &str| {
        for word in words {
            for at in source.find_word(word) {
                let line = source.line_of(at);
                if !(allowed_in_tests && source.is_test(line)) {
                    findings.push(Finding { place: source.place(line), message: format!("`{word}`: {why}") });
                }
            }
        }
    };
    if !may_speak {
        search(&PRINTING, true, "only cli prints; return it, or report it through a callback");
        search(&READING, true, "only cli reads the environment; take it as a setting");
    }
    search(&UNFINISHED, false, "finish it, or refuse with an error that says what is missing");
    findings.extend(check_debts(source));
    findings.extend(check_width(source));
    findings
}

fn check_debts(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, comment) in source.comments.iter().enumerate() {
        let mut words = comment.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.find(|word| BARE_DEBTS.contains(word)) {
            let message = format!("{word}: say what is wrong and when it can be mended, as `TODO when …`");
            findings.push(Finding { place: source.place(line), message });
        }
        let next = source.comments.get(line + 1).map_or("", String::as_str);
        let says_when = |text: &str| text.split(|c: char| !c.is_alphabetic()).any(|word| WHEN.contains(&word));
        let is_debt = comment.split(|c: char| !c.is_alphanumeric()).any(|word| word == "TODO");
        if is_debt && !says_when(comment) && !says_when(next) {
            let message =
                "TODO without a reason: say when it can be done (when, once, until, after, because)".to_owned();
            findings.push(Finding { place: source.place(line), message });
        }
    }
    findings
}

fn check_width(source: &Source) -> Vec<Finding> {
    let wide = source.text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH_MAX);
    wide.map(|(line, text)| {
        let message = format!("{} characters wide, at most {WIDTH_MAX} are allowed", text.chars().count());
        Finding { place: source.place(line), message }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn only_the_program_prints() {
        let text = "fn f() { println!(\"x\"); }\n";
        assert!(found("machine/ops/src/a.rs", text)[0].contains("only cli prints"));
        assert!(found("cli/src/main.rs", text).is_empty());
        assert!(found("machine/ops/tests/a.rs", text).is_empty());
        assert!(found("machine/ops/src/a.rs", "fn f() { blueprint!(); }\n// println!\n").is_empty());
    }

    #[test]
    fn only_the_program_reads_the_environment() {
        let text = "fn f() { std::env::var(\"X\"); }\n";
        assert!(found("machine/kernels/src/a.rs", text)[0].contains("only cli reads"));
        assert!(
            found("machine/kernels/src/a.rs", "const A: &str = env!(\"X\"); fn f() { env::temp_dir(); }").is_empty()
        );
        assert!(found("machine/kernels/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n")).is_empty());
    }

    #[test]
    fn nothing_is_left_unfinished() {
        for word in UNFINISHED {
            assert_eq!(found("cli/src/main.rs", &format!("fn f() {{ {word}() }}\n")).len(), 1, "{word}");
        }
    }

    #[test]
    fn a_debt_says_when() {
        assert_eq!(found("cli/src/main.rs", "// TODO: clean up\n").len(), 1);
        assert!(found("cli/src/main.rs", "// TODO: drop this copy\n// once the format has a length.\n").is_empty());
        assert_eq!(found("cli/src/main.rs", "// FIXME when possible\n").len(), 1);
    }

    #[test]
    fn width_counts_characters() {
        assert!(found("cli/src/main.rs", &"é".repeat(WIDTH_MAX)).is_empty());
        assert_eq!(found("cli/src/main.rs", &"x".repeat(WIDTH_MAX + 1)).len(), 1);
    }
}
