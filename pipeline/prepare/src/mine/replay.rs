//! Replay: a commit as a request, and the work that it was, re-enacted.

use super::Desk;
use super::change::{FileChange, Work, is_document};
use super::enact::{enact, plan};
use super::episode::{Episode, MinedKind};
use super::message::Words;
use super::syntax::Language;
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

/// Numbers in documents that a reader could still have guessed, or drawn from what is said.
const FIGURES_MAX: usize = 3;

/// A commit as an episode of tools.
pub(super) fn replay(
    desk: &mut Desk,
    work: &Work,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
    if work.files.iter().all(FileChange::is_of_form) {
        return Ok(Err("layout and comments only"));
    }
    if figures(work) > FIGURES_MAX {
        return Ok(Err("figures that nobody could know"));
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

/// How many numbers a change writes into documents that stand neither in the request nor in any file before, nor in the
/// code that comes with them: what was measured elsewhere, which to learn is to learn to make up.
fn figures(work: &Work) -> usize {
    let mut known = numbers(&work.words.whole());
    for file in &work.files {
        known.extend(file.old.iter().flat_map(|old| numbers(old)));
        known.extend(file.new.iter().filter(|_| !is_document(&file.path)).flat_map(|new| numbers(new)));
    }
    let told = work.files.iter().filter(|file| is_document(&file.path)).filter_map(|file| file.new.as_ref());
    told.flat_map(|new| numbers(new)).collect::<BTreeSet<_>>().difference(&known).count()
}

/// Numbers of two digits or more, with what parts their digits.
fn numbers(text: &str) -> BTreeSet<String> {
    let parts =
        text.split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).map(|part| part.trim_matches(['.', ',']));
    parts.filter(|part| part.len() >= 2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mine::message::words;

    #[test]
    fn a_request_reads_as_one() {
        let mut rng = Rng::new(1);
        assert_eq!(request(&words("feat: add a cache for tokens"), &mut rng), "Add a cache for tokens");
        assert_eq!(request(&words("parser: skip empty lines"), &mut rng), "parser: skip empty lines");
        let framed = request(&words("Long prompts show a bar"), &mut rng);
        assert!(framed.ends_with("Long prompts show a bar") && framed.len() > 30, "{framed}");
    }
}
