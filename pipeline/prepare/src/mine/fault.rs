//! Which commits correct a fault, as far as their words tell: what most work on defects in histories goes by since
//! Mockus and Votta (2000) and Śliwerski, Zimmermann and Zeller (2005). Few say "fix" in every repository, and in some
//! none does, so what bodies say counts as well; where the words are silent, `debugging` and `review` ask the diff.

use super::message::{Words, capitalised, has_phrase};

/// Words that tell of a fault, wherever they stand in a subject.
const FAULTS: [&str; 33] = [
    "buggy",
    "defect",
    "crash",
    "crashes",
    "crashed",
    "panic",
    "panics",
    "regression",
    "wrong",
    "wrongly",
    "incorrect",
    "incorrectly",
    "mistake",
    "mistakenly",
    "broken",
    "leak",
    "leaks",
    "leaked",
    "race",
    "deadlock",
    "overflow",
    "overflows",
    "underflow",
    "segfault",
    "off-by-one",
    "hang",
    "hangs",
    "corrupt",
    "corrupts",
    "corrupted",
    "misses",
    "forgot",
    "forgotten",
];
/// Verbs that tell of one where they are what the subject does. Elsewhere they are nouns, or about other fixes: `what a
/// fix shows has a name`.
const MENDING: [&str; 14] = [
    "fix",
    "fixes",
    "fixed",
    "bugfix",
    "hotfix",
    "mend",
    "mends",
    "mended",
    "repair",
    "repairs",
    "repaired",
    "correct",
    "corrects",
    "corrected",
];
/// What tells of one in a body; single words would be too many there.
const FAULT_PHRASES: [&str; 30] = [
    "was wrong",
    "were wrong",
    "is wrong",
    "wrongly",
    "a bug",
    "the bug",
    "crashed",
    "panicked",
    "regression",
    "is broken",
    "was broken",
    "were broken",
    "broke",
    "by mistake",
    "a mistake",
    "off by one",
    "leaked",
    "deadlock",
    "infinite loop",
    "out of bounds",
    "incorrect",
    "incorrectly",
    "corrupted",
    "was lost",
    "were lost",
    "never ended",
    "used to fail",
    "did not work",
    "no longer fails",
    "race condition",
];
/// Words after which a fix is one of form, not of what a program does.
const FORMS: [&str; 33] = [
    "typo",
    "typos",
    "lint",
    "lints",
    "clippy",
    "flake8",
    "format",
    "formatting",
    "style",
    "spelling",
    "grammar",
    "comment",
    "comments",
    "doc",
    "docs",
    "documentation",
    "docstring",
    "readme",
    "changelog",
    "warning",
    "warnings",
    "ci",
    "build",
    "indentation",
    "whitespace",
    "link",
    "links",
    "width",
    "imports",
    "rustfmt",
    "eslint",
    "prettier",
    "pylint",
];
/// Sorts of conventional messages that correct nothing, whatever their bodies say.
const OTHER_SORTS: [&str; 13] =
    ["feat", "feature", "docs", "doc", "style", "refactor", "perf", "test", "tests", "build", "ci", "chore", "revert"];
/// Verbs of subjects that bring something new, or that move what is there.
const CONSTRUCTIVE: [&str; 30] = [
    "add",
    "allow",
    "build",
    "bump",
    "create",
    "display",
    "document",
    "enable",
    "export",
    "expose",
    "extend",
    "extract",
    "generate",
    "implement",
    "import",
    "introduce",
    "log",
    "move",
    "print",
    "refactor",
    "rename",
    "reorganize",
    "show",
    "split",
    "support",
    "switch",
    "test",
    "update",
    "upgrade",
    "write",
];

/// Fewer words are a heading.
const SENTENCE_WORDS_MIN: usize = 5;

impl Words {
    /// Whether this tells of a fault that was corrected.
    pub(super) fn is_fix(&self) -> bool {
        if self.is_of_form() {
            return false;
        }
        let is_sort = self.sort.as_deref().is_some_and(|sort| ["fix", "bugfix", "hotfix"].contains(&sort));
        if is_sort || self.fixes || self.names_fault() {
            return true;
        }
        let body = self.body.to_lowercase();
        !self.is_constructive() && FAULT_PHRASES.iter().any(|phrase| has_phrase(&body, phrase))
    }

    /// Whether the subject has a word for a fault, or says that it mends something.
    pub(super) fn names_fault(&self) -> bool {
        subject_words(&self.subject).iter().any(|word| FAULTS.contains(&word.as_str())) || self.mends()
    }

    /// Whether mending is what the subject does: the verb that a clause of it begins with, or what is said of a thing.
    fn mends(&self) -> bool {
        let is_mending = |word: Option<&String>| word.is_some_and(|word| MENDING.contains(&word.as_str()));
        let lower = self.subject.to_lowercase().replace(" and ", ",");
        lower.split([',', ';', ':']).any(|clause| {
            let words: Vec<String> = subject_words(clause).into_iter().filter(|word| !word.is_empty()).collect();
            let is_passive = |pair: &[String]| {
                ["is", "are", "was", "were", "gets", "get"].contains(&pair[0].as_str())
                    && pair[1].ends_with("ed")
                    && is_mending(pair.get(1))
            };
            is_mending(words.first()) || words.windows(2).any(is_passive)
        })
    }

    /// Whether the subject is about how something looks or is described.
    pub(super) fn is_of_form(&self) -> bool {
        subject_words(&self.subject).iter().any(|word| FORMS.contains(&word.as_str()))
    }

    /// Whether this says of itself that it brings or moves something, rather than to put something right.
    pub(super) fn is_constructive(&self) -> bool {
        let is_other = self.sort.as_deref().is_some_and(|sort| OTHER_SORTS.contains(&sort));
        is_other || CONSTRUCTIVE.contains(&self.verb().as_str())
    }

    /// The first word of what a subject says, after the name of a part: `parser: skip empty lines` → `skip`.
    pub(super) fn verb(&self) -> String {
        self.said().split(' ').next().unwrap_or_default().to_lowercase()
    }

    /// What a subject says, without the name of a part before it.
    pub(super) fn said(&self) -> &str {
        self.subject.rsplit_once(": ").map_or(self.subject.as_str(), |(_, rest)| rest)
    }

    /// Whether the subject is a sentence about one thing, so that a diff can be held against it.
    pub(super) fn says_one_thing(&self) -> bool {
        !self.subject.contains("; ") && self.said().split_whitespace().count() >= SENTENCE_WORDS_MIN
    }

    /// The message as the fault that it corrects: `Fix panic on an empty list` → `Panic on an empty list`. None where
    /// it says how things are afterwards, or what to do.
    pub(super) fn fault(&self) -> Option<String> {
        let lower = self.subject.to_ascii_lowercase();
        let starts =
            ["fixes a bug where ", "fix a bug where ", "fix bug where ", "fixed ", "fixes ", "fix: ", "fix ", "mend "];
        let start = starts.iter().find(|start| lower.starts_with(*start))?;
        let rest = &self.subject[start.len()..];
        let rest = ["a ", "an ", "the "].iter().find_map(|article| rest.strip_prefix(article)).unwrap_or(rest);
        Some(capitalised(rest))
    }
}

fn subject_words(subject: &str) -> Vec<String> {
    subject.to_lowercase().split(|c: char| !c.is_alphanumeric() && c != '-').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use crate::mine::message::words;

    #[test]
    fn a_fix_of_form_is_none() {
        for fix in [
            "Fix overflow in the tokenizer",
            "fix: count tokens once",
            "Prevent crash on empty files",
            "The count of tokens is mended",
            "Count tokens once\n\nThe sum was wrong where a word stood twice.",
            "Count tokens once\n\nFixes: 1a2b3c4d5e6f (\"Count tokens\")",
            "Count tokens once\n\nFixes #12",
        ] {
            assert!(words(fix).is_fix(), "{fix}");
        }
        for other in [
            "Fix typo in tokenizer",
            "fix: clippy lints",
            "Add prefix search",
            "Fix CI",
            "Add a cache for tokens\n\nWithout one a bug in the disk would be seen late.",
            "feat: a cache for tokens\n\nThe old one was broken by design.",
        ] {
            assert!(!words(other).is_fix(), "{other}");
        }
    }

    #[test]
    fn a_fix_is_what_a_subject_does() {
        for (subject, wanted) in [
            ("Mining: what a fix shows has a name", false),
            ("A bug report says which system", false),
            ("Costs of a mend are counted", false),
            ("The correct order of lines", false),
            ("parser: fixes empty lines", true),
            ("Counts begin at one, and fix the sums", true),
            ("The counts are corrected", true),
            ("Mend the sums", true),
            ("A page that is empty makes it crash", true),
        ] {
            assert_eq!(words(subject).names_fault(), wanted, "{subject}");
        }
    }

    #[test]
    fn a_fault_is_told_only_where_the_message_tells_it() {
        assert_eq!(words("Fix a panic on an empty list").fault().as_deref(), Some("Panic on an empty list"));
        assert_eq!(words("Count tokens once").fault(), None);
        assert!(words("parser: skip lines that are empty").says_one_thing());
        assert!(!words("Help of plan train").says_one_thing());
        assert!(!words("Lines are counted from one; the help of train").says_one_thing());
        assert!(words("parser: add a cache of lines").is_constructive());
        assert!(!words("parser: skip lines without words").is_constructive());
    }
}
