//! Replay: a commit as a request, and the work that it was, re-enacted.

use super::Desk;
use super::change::Work;
use super::enact::{enact, plan};
use super::episode::{Episode, MinedKind};
use super::message::Words;
use super::syntax::Language;
use crate::error::PrepareError;
use numeric::Rng;

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

/// A commit as an episode of tools.
pub(super) fn replay(
    desk: &mut Desk,
    work: &Work,
    rng: &mut Rng,
) -> Result<Result<Episode, &'static str>, PrepareError> {
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
    let after_scope = words.subject.rsplit_once(": ").map_or(words.subject.as_str(), |(_, rest)| rest);
    let first = after_scope.split(' ').next().unwrap_or_default().to_lowercase();
    if IMPERATIVES.contains(&first.as_str()) || MORE_IMPERATIVES.contains(&first.as_str()) {
        return whole;
    }
    match rng.below(3) {
        0 => format!("Please change the code so that this holds:\n\n{whole}"),
        1 => format!("This is what I want:\n\n{whole}"),
        _ => format!("Make this change: {whole}"),
    }
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
