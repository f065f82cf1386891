//! How long functions and files may be, and the list of those that are longer, which may only shrink.

use crate::Finding;
use crate::source::Source;
use std::collections::BTreeMap;

pub(crate) const FUNCTION_LINES_MAX: usize = 60;
pub(crate) const FILE_LINES_MAX: usize = 500;
pub(crate) const EXCEPTIONS: &str = "tidy-exceptions.txt";

/// What is measured: a path, or a path and a function in it.
pub(crate) type Measures = BTreeMap<String, usize>;

/// Everything over its limit.
pub(crate) fn measure(sources: &[Source]) -> Measures {
    let mut over = Measures::new();
    for source in sources {
        let path = source.path.display().to_string();
        for function in source.functions() {
            if function.n_lines > FUNCTION_LINES_MAX {
                let longest = over.entry(format!("{path}:{}", function.name)).or_default();
                *longest = function.n_lines.max(*longest);
            }
        }
        let n_lines = source.text.lines().count();
        if n_lines > FILE_LINES_MAX {
            over.insert(path, n_lines);
        }
    }
    over
}

/// Reads the list: a name and a number a line, `#` begins a comment.
pub(crate) fn read_exceptions(text: &str) -> Result<Measures, Finding> {
    let mut exceptions = Measures::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = line.rsplit_once(' ').and_then(|(name, lines)| Some((name.trim(), lines.parse().ok()?)));
        let Some((name, lines)) = entry else {
            let message = format!("wanted `path[:function] lines`, found {line:?}");
            return Err(Finding { place: format!("{EXCEPTIONS}:{number}"), message });
        };
        exceptions.insert(name.to_owned(), lines);
    }
    Ok(exceptions)
}

/// Holds what is against what is listed. An entry larger than the truth fails too: that is the ratchet.
pub(crate) fn compare(over: &Measures, exceptions: &Measures) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, &lines) in over {
        let limit = if name.contains(".rs:") { FUNCTION_LINES_MAX } else { FILE_LINES_MAX };
        let message = match exceptions.get(name) {
            None => format!("{lines} lines, at most {limit} are allowed: split it"),
            Some(&listed) if lines > listed => {
                format!("{lines} lines, and {EXCEPTIONS} allows {listed}: it may only shrink")
            }
            Some(&listed) if lines < listed => {
                format!("{lines} lines, and {EXCEPTIONS} still allows {listed}: run `cargo xtask tidy --shrink`")
            }
            Some(_) => continue,
        };
        findings.push(Finding { place: name.clone(), message });
    }
    for name in exceptions.keys().filter(|name| !over.contains_key(*name)) {
        let message = format!("no longer too long, and still in {EXCEPTIONS}: run `cargo xtask tidy --shrink`");
        findings.push(Finding { place: name.clone(), message });
    }
    findings
}

/// The list after shrinking: every number at most what it was, entries no longer needed gone, nothing new.
pub(crate) fn shrink(text: &str, over: &Measures) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let bare = line.split('#').next().unwrap_or_default().trim();
        match bare.rsplit_once(' ') {
            None => kept.push_str(line),
            Some((name, listed)) => match (over.get(name.trim()), listed.parse::<usize>()) {
                (Some(&lines), Ok(listed)) => kept.push_str(&format!("{} {}", name.trim(), lines.min(listed))),
                (None, _) => continue,
                (Some(_), Err(_)) => kept.push_str(line),
            },
        }
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(n_lines: usize) -> Source {
        Source::new("cli/src/main.rs", format!("fn long() {{\n{}}}\n", "    step();\n".repeat(n_lines - 2)))
    }

    fn messages(over: &Measures, listed: &str) -> Vec<String> {
        let exceptions = read_exceptions(listed).expect("a sound list");
        compare(over, &exceptions).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn the_limits_are_exact() {
        assert!(measure(&[long(FUNCTION_LINES_MAX)]).is_empty());
        assert_eq!(measure(&[long(FUNCTION_LINES_MAX + 1)])["cli/src/main.rs:long"], FUNCTION_LINES_MAX + 1);
        let file = |n_lines| [Source::new("a.rs", "//! x\n".repeat(n_lines))];
        assert!(measure(&file(FILE_LINES_MAX)).is_empty());
        assert_eq!(measure(&file(FILE_LINES_MAX + 1))["a.rs"], FILE_LINES_MAX + 1);
    }

    #[test]
    fn the_ratchet_turns_one_way() {
        let over = measure(&[long(70)]);
        assert!(messages(&over, "")[0].contains("split it"));
        assert!(messages(&over, "cli/src/main.rs:long 69")[0].contains("may only shrink"));
        assert!(messages(&over, "cli/src/main.rs:long 71")[0].contains("still allows 71"));
        assert!(messages(&over, "# why\ncli/src/main.rs:long 70 # being split").is_empty());
        assert!(messages(&Measures::new(), "gone.rs 900")[0].contains("no longer"));
        assert!(read_exceptions("a.rs many").is_err());
    }

    #[test]
    fn shrinking_never_adds_or_raises() {
        let over = Measures::from([("a.rs".to_owned(), 600), ("b.rs".to_owned(), 800), ("new.rs".to_owned(), 700)]);
        assert_eq!(shrink("# head\na.rs 650\nb.rs 700\ngone.rs 900\n", &over), "# head\na.rs 600\nb.rs 700\n");
    }
}
