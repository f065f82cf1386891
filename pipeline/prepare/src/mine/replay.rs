//! Replay: a commit as a request, and the work that it was, re-enacted.

use super::Desk;
use super::change::{Work, is_document};
use super::enact::{enact, plan};
use super::episode::{Episode, MinedKind};
use super::message::Words;
use super::path::is_test;
use super::syntax::{Language, Syntax};
use crate::error::PrepareError;
use numeric::Rng;
use std::collections::BTreeSet;

/// Verbs that a request begins with as it stands.
const IMPERATIVES: [&str; 70] = [
    "add",
    "allow",
    "apply",
    "avoid",
    "bring",
    "build",
    "cache",
    "catch",
    "change",
    "check",
    "clean",
    "clear",
    "collect",
    "compute",
    "convert",
    "correct",
    "create",
    "decode",
    "define",
    "delete",
    "detect",
    "disable",
    "display",
    "document",
    "do",
    "don't",
    "drop",
    "emit",
    "enable",
    "ensure",
    "expand",
    "explain",
    "export",
    "expose",
    "extend",
    "extract",
    "fix",
    "generate",
    "handle",
    "hide",
    "ignore",
    "implement",
    "import",
    "improve",
    "include",
    "inline",
    "introduce",
    "keep",
    "let",
    "limit",
    "load",
    "log",
    "make",
    "mark",
    "move",
    "optimize",
    "parse",
    "pass",
    "prefer",
    "prevent",
    "print",
    "raise",
    "read",
    "reduce",
    "refactor",
    "reject",
    "remove",
    "rename",
    "replace",
    "report",
];
const MORE_IMPERATIVES: [&str; 31] = [
    "require", "reset", "restore", "restrict", "return", "reuse", "rewrite", "run", "save", "send", "separate", "set",
    "show", "simplify", "skip", "sort", "speed", "split", "start", "stop", "store", "support", "switch", "teach",
    "test", "treat", "try", "update", "use", "validate", "write",
];

/// Numbers in documents and remarks that a reader could still have guessed, or drawn from what is said.
const FIGURES_MAX: usize = 3;

/// A commit as an episode of tools.
pub(super) fn replay(
    desk: &mut Desk,
    work: &Work,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
    let of_form = work.files.iter().filter(|file| file.is_of_form()).count();
    if of_form * 2 > work.files.len() {
        return Ok(Err("layout and comments for the most part"));
    }
    // What a test calls was not read, and which test is meant nobody could know.
    if work.code().next().is_none() && work.files.iter().any(|file| is_test(&file.path)) {
        return Ok(Err("tests alone"));
    }
    let (figures, citations) = unknown(work);
    if figures > FIGURES_MAX {
        return Ok(Err("figures that nobody could know"));
    }
    if citations > 0 {
        return Ok(Err("citations that nobody could know"));
    }
    // What documents should say of something is in nothing that they are beside.
    if work.files.iter().all(|file| is_document(&file.path)) && work.words.body.is_empty() {
        return Ok(Err("documents alone"));
    }
    let request = request(&work.words, rng);
    let enacted = enact(desk, work, &request, plan(work))?;
    Ok(enacted.map(|(document, silent)| Episode {
        kind: MinedKind::Replay,
        form: "commit",
        document,
        silent,
        commit: work.commit.id.clone(),
        path: work.main_path().to_owned(),
        language: Language::of_path(work.main_path()).map(Language::name),
    }))
}

/// What a message asks for. A subject that tells how things are afterwards is framed as what is wanted.
fn request(words: &Words, rng: &mut Rng) -> String {
    let whole = words.whole();
    if is_imperative(words) {
        return whole;
    }
    match rng.below(3) {
        0 => format!("Please change the code so that this holds:\n\n{whole}"),
        1 => format!("This is what I want:\n\n{whole}"),
        _ => format!("Make this change: {whole}"),
    }
}

/// Whether a message asks for something as it stands.
pub(super) fn is_imperative(words: &Words) -> bool {
    let first = words.verb();
    IMPERATIVES.contains(&first.as_str()) || MORE_IMPERATIVES.contains(&first.as_str())
}

/// How many numbers and citations a change writes into documents and settings, and into the comments and texts of
/// code that is no test, that stand neither in the request nor in any file before, nor (numbers) in the code that
/// comes with them: what was measured or read elsewhere, which to learn is to learn to make up.
fn unknown(work: &Work) -> (usize, usize) {
    let whole = work.words.whole();
    let (mut known, mut cited) = (numbers(&whole), citations(&whole));
    let (mut told, mut citing) = (BTreeSet::new(), BTreeSet::new());
    for file in &work.files {
        known.extend(file.old.iter().flat_map(|old| numbers(old)));
        cited.extend(file.old.iter().flat_map(|old| citations(old)));
        let Some(new) = &file.new else { continue };
        let (said, rest) = match Syntax::of(&file.path, new) {
            Some(syntax) => parted(&syntax),
            // Settings are found by trying, as figures are.
            None => (new.clone(), String::new()),
        };
        known.extend(numbers(&rest));
        // Tests are full of examples, for which any number will do.
        if !is_test(&file.path) {
            told.extend(numbers(&said));
            citing.extend(citations(&said));
        }
    }
    (told.difference(&known).count(), citing.difference(&cited).count())
}

/// Comments and texts of code, and what else there is.
fn parted(syntax: &Syntax) -> (String, String) {
    let (mut said, mut rest, mut at) = (String::new(), String::new(), 0);
    for node in &syntax.nodes {
        let is_said = node.kind.contains("comment") || node.kind.contains("string") && !node.kind.contains("template");
        if is_said && node.bytes.start >= at {
            rest.push_str(&syntax.text[at..node.bytes.start]);
            rest.push('\n');
            said.push_str(&syntax.text[node.bytes.clone()]);
            said.push('\n');
            at = node.bytes.end;
        }
    }
    rest.push_str(&syntax.text[at..]);
    (said, rest)
}

/// Papers that a text names: `2401.01234`, `Myers (1986)`, `Zeller et al., 2005`.
fn citations(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let mut found = BTreeSet::new();
    for (index, word) in words.iter().enumerate() {
        let number = bare(word);
        let number = number.rsplit(':').next().unwrap_or_default();
        let digits = |text: &str, lengths: &[usize]| {
            lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if number.split_once('.').is_some_and(|(month, count)| digits(month, &[4]) && digits(count, &[5])) {
            found.insert(number.to_owned());
        }
        let is_year = digits(number, &[4]) && (number.starts_with("19") || number.starts_with("20"));
        let Some(before) = index.checked_sub(1).map(|before| words[before]).filter(|_| is_year) else { continue };
        let name = bare(before);
        let is_name = name.chars().count() >= 3 && name.starts_with(char::is_uppercase);
        // In brackets, after a comma or after what stands for the other authors: other years are dates.
        let is_cited = (word.starts_with('(') || before.ends_with(',')) && is_name || name == "al";
        if is_cited {
            found.insert(format!("{name} {number}"));
        }
    }
    found
}

/// Numbers of two digits or more, with what parts their digits.
pub(super) fn numbers(text: &str) -> BTreeSet<String> {
    let parts =
        text.split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).map(|part| part.trim_matches(['.', ',']));
    parts.filter(|part| part.len() >= 2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::change::FileChange;
    use crate::mine::git::Commit;
    use crate::mine::message::words;

    #[test]
    fn a_request_reads_as_one() {
        let mut rng = Rng::new(1);
        assert_eq!(request(&words("feat: add a cache for tokens"), &mut rng), "Add a cache for tokens");
        assert_eq!(request(&words("parser: skip empty lines"), &mut rng), "parser: skip empty lines");
        let framed = request(&words("Long prompts show a bar"), &mut rng);
        assert!(framed.ends_with("Long prompts show a bar") && framed.len() > 30, "{framed}");
    }

    #[test]
    fn papers_are_known() {
        for (text, wanted) in [
            ("as Myers (1986) does", "Myers 1986"),
            ("(Mockus and Votta, 2000)", "Votta 2000"),
            ("Zeller et al. 2005 trace lines", "al 2005"),
            ("see arXiv:2401.01234.", "2401.01234"),
            ("since March 2024, 1024 rows in 3.14159 s", ""),
        ] {
            assert_eq!(citations(text).into_iter().collect::<Vec<_>>().join(" "), wanted, "{text}");
        }
    }

    fn work(path: &str, old: &str, new: &str) -> Work {
        let change = FileChange {
            path: path.to_owned(),
            old: Some(old.to_owned()),
            new: Some(new.to_owned()),
            changed_lines: 2,
        };
        Work {
            commit: Commit::default(),
            tree: String::new(),
            words: words("Rows in blocks of 48"),
            files: vec![change],
        }
    }

    #[test]
    fn what_was_measured_elsewhere_is_not_known() {
        let code = "const ROWS: usize = 64;\n";
        for (path, new, wanted) in [
            ("a.rs", "// 412 ms of 12.5 s, 480 rows, 33 %\n", (4, 0)),
            ("a.rs", "// 48 rows of 64, as Myers (1986) has it\n", (1, 1)),
            ("a.rs", "const WIDTH: usize = 4096;\n// 4096 is a page\n", (0, 0)),
            ("a.rs", "const NAME: &str = \"12 of 55\";\n", (2, 0)),
            ("tests/a.rs", "const NAME: &str = \"12 of 55\";\n", (0, 0)),
            ("a.md", "12 of 55\n", (2, 0)),
            ("a.toml", "steps = 150_000\nrate = 1.5e-3\n", (3, 0)),
        ] {
            assert_eq!(unknown(&work(path, code, &format!("{code}{new}"))), wanted, "{path}: {new}");
        }
    }
}
