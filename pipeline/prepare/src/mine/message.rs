//! Commit messages as what people would ask for: without prefixes, trailers and numbers that mean nothing elsewhere.

/// A cleaned message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Words {
    /// One line, without a point at its end.
    pub(super) subject: String,
    /// Paragraphs, each on one line; lists and code keep their lines.
    pub(super) body: String,
    /// The type that a conventional message begins with: `fix`, `feat`.
    pub(super) sort: Option<String>,
    /// A trailer names what this fixes: `Fixes: 1a2b3c4`, `Fixes #12`.
    pub(super) fixes: bool,
}

const SORTS: [&str; 15] = [
    "feat", "feature", "fix", "bugfix", "hotfix", "docs", "doc", "style", "refactor", "perf", "test", "tests", "build",
    "ci", "chore",
];

/// Lines that begin so (in any case) are for tools and archives.
const TRAILERS: [&str; 37] = [
    "signed-off-by:",
    "co-authored-by:",
    "co-developed-by:",
    "reviewed-by:",
    "acked-by:",
    "tested-by:",
    "reported-by:",
    "suggested-by:",
    "requested-by:",
    "approved-by:",
    "helped-by:",
    "based-on-patch-by:",
    "change-id:",
    "cc:",
    "link:",
    "fixes:",
    "closes:",
    "refs:",
    "ref:",
    "see:",
    "bug:",
    "issue:",
    "jira:",
    "pr-url:",
    "pull-request:",
    "reviewed-on:",
    "git-svn-id:",
    "differential revision:",
    "piperorigin-revid:",
    "gitorigin-revid:",
    "message-id:",
    "discussion:",
    "backpatch-through:",
    "author:",
    "commit-queue:",
    "(cherry picked from",
    "this reverts commit",
];

/// Subjects that ask for nothing in particular, as they stand or as beginnings.
const POOR_STARTS: [&str; 40] = [
    "wip",
    "initial commit",
    "first commit",
    "initial import",
    "update readme",
    "readme",
    "bump",
    "release",
    "version",
    "prepare release",
    "prepare for release",
    "fix typo",
    "typo",
    "fix lint",
    "lint",
    "format",
    "fmt",
    "rustfmt",
    "run black",
    "cleanup",
    "clean up",
    "cleanups",
    "merge",
    "revert",
    "update dependencies",
    "update deps",
    "upgrade dependencies",
    "minor",
    "misc",
    "tmp",
    "temp",
    "address review",
    "address comments",
    "review comments",
    "apply suggestions",
    "fixup!",
    "squash!",
    "amend!",
    "update changelog",
    "changelog",
];
/// Words and phrases of subjects about how code looks: nobody could ask for that without pointing at it.
const LOOKS: [&str; 22] = [
    "lint",
    "lints",
    "linter",
    "linting",
    "clippy",
    "rustfmt",
    "flake8",
    "pylint",
    "ruff",
    "eslint",
    "prettier",
    "gofmt",
    "formatting",
    "reformat",
    "reformatted",
    "typo",
    "typos",
    "within the width",
    "the width of lines",
    "line width",
    "line length",
    "too wide",
];
/// Ends of what a subject says where it puts back what was there.
const RESTORED: [&str; 3] = ["as it was", "as they were", "as before"];
const WORDS_MIN: usize = 3;
const SUBJECT_CHARACTERS_MIN: usize = 12;
const SUBJECT_CHARACTERS_MAX: usize = 200;
const BODY_CHARACTERS_MAX: usize = 2_000;

/// Words that give a reason.
pub(super) const REASONS: [&str; 18] = [
    "because",
    "since",
    "so that",
    "otherwise",
    "therefore",
    "in order to",
    "to avoid",
    "to prevent",
    "instead of",
    "would",
    "which means",
    "this is why",
    "the reason",
    "due to",
    "caused",
    "led to",
    "leads to",
    "rather than",
];

/// Takes a message apart.
pub(super) fn words(message: &str) -> Words {
    let text = message.replace("\r\n", "\n");
    let mut lines = text.lines().map(str::trim_end).skip_while(|line| line.trim().is_empty());
    let (subject, sort) = subject(lines.next().unwrap_or_default());
    let fixes = text.lines().any(is_fixing);
    let kept = lines.filter(|line| !is_trailer(line)).map(without_references);
    let body = cut(&paragraphs(kept), BODY_CHARACTERS_MAX);
    Words { subject, body, sort, fixes }
}

impl Words {
    /// Subject and body as one text.
    pub(super) fn whole(&self) -> String {
        if self.body.is_empty() { self.subject.clone() } else { format!("{}\n\n{}", self.subject, self.body) }
    }

    /// Why nobody could work from this, if so.
    pub(super) fn poor(&self) -> Option<&'static str> {
        let (lower, said) = (self.subject.to_lowercase(), self.said().to_lowercase());
        let restores = |clause: &str| RESTORED.iter().any(|end| clause.trim_end().ends_with(end));
        if LOOKS.iter().any(|phrase| has_phrase(&lower, phrase)) || lower.split([':', ';', ',']).any(restores) {
            return Some("about how code looks");
        }
        let begins = |start: &str| {
            [&lower, &said]
                .iter()
                .filter_map(|text| text.strip_prefix(start))
                .any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-'))
        };
        let n_words = self.subject.split_whitespace().count();
        let characters = self.subject.chars().count();
        let is_short = n_words < WORDS_MIN || characters < SUBJECT_CHARACTERS_MIN;
        if POOR_STARTS.iter().any(|start| begins(start)) || (is_short && self.body.is_empty()) {
            return Some("poor message");
        }
        (characters > SUBJECT_CHARACTERS_MAX).then_some("poor message")
    }

    /// Whether the body says why, in sentences.
    pub(super) fn explains(&self) -> bool {
        let lower = self.body.to_lowercase();
        let is_list = self.body.lines().filter(|line| is_listed(line)).count() * 2 > self.body.lines().count();
        self.body.len() >= 100 && !is_list && REASONS.iter().any(|reason| has_phrase(&lower, reason))
    }

    /// Names that could be looked for in code: in backticks, with underscores or inner capitals, or called.
    pub(super) fn names(&self) -> Vec<String> {
        let whole = self.whole();
        let mut names: Vec<String> = Vec::new();
        let mut push = |name: &str| {
            if name.len() >= 4 && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        };
        for (index, part) in whole.split('`').enumerate() {
            for word in part.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(') {
                let name = word.split('(').next().unwrap_or_default();
                let inner = name.trim_matches('_');
                let has_capitals = inner.chars().skip(1).any(char::is_uppercase)
                    && inner.chars().any(char::is_lowercase)
                    && inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                if index % 2 == 1 || inner.contains('_') || has_capitals || is_called(word) {
                    push(name);
                }
            }
        }
        names
    }
}

/// `next(` of `next()`; a bracket of a sentence stands before its word.
fn is_called(word: &str) -> bool {
    word.ends_with('(') && !word.starts_with('(')
}

pub(super) fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn subject(line: &str) -> (String, Option<String>) {
    let mut text = without_references(
        line.trim().trim_start_matches(|c: char| !c.is_ascii() && !c.is_alphanumeric() || c.is_whitespace()),
    );
    // `:bug: Subject`, `[parser] Subject`, `ABC-123: Subject`
    if let Some((start, rest)) = text.strip_prefix(':').and_then(|rest| rest.split_once(": "))
        && !start.contains(' ')
    {
        text = rest.trim().to_owned();
    }
    if let Some((start, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && start.len() <= 24
    {
        text = rest.trim_start_matches([':', ' ', '-']).to_owned();
    }
    let mut sort = None;
    if let Some((start, rest)) = text.split_once(':') {
        let word = start.split('(').next().unwrap_or_default().trim_end_matches('!').to_lowercase();
        let is_whole = !start.contains(' ') && (word.len() == start.trim_end_matches('!').len() || start.contains(')'));
        if is_whole && SORTS.contains(&word.as_str()) {
            text = rest.trim().to_owned();
            sort = Some(word);
        } else if is_ticket(start) {
            text = rest.trim().to_owned();
        }
    }
    let text = text.trim().trim_end_matches('.').trim().to_owned();
    // What was in the middle stands at the start now; a name that stood there all the time is written as it is.
    let is_cut = !line.trim().starts_with(text.as_str());
    (if is_cut { capitalised(&text) } else { text }, sort)
}

/// The first letter large, unless the word is a name with more to it.
pub(super) fn capitalised(text: &str) -> String {
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let is_word = first_word.chars().all(|c| c.is_alphabetic() || c == '-' || c == ',');
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if is_word && !first_word.chars().skip(1).any(char::is_uppercase) => {
            first.to_uppercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

/// `ABC-123`
fn is_ticket(word: &str) -> bool {
    let Some((letters, digits)) = word.split_once('-') else { return false };
    let are = |text: &str, is: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|byte| is(&byte));
    are(letters, u8::is_ascii_uppercase) && are(digits, u8::is_ascii_digit)
}

fn is_trailer(line: &str) -> bool {
    let lower = line.trim_start().to_lowercase();
    let closes =
        ["close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "refs", "part of", "see"];
    let is_closing = closes.iter().any(|word| {
        let rest = lower.strip_prefix(word).map(|rest| rest.trim_start_matches([':', ' ']));
        rest.is_some_and(|rest| rest.starts_with('#') || rest.starts_with("http") || rest.starts_with("gh-"))
    });
    let is_link = lower.starts_with("http") && !lower.contains(' ');
    is_closing || is_link || TRAILERS.iter().any(|trailer| lower.starts_with(trailer))
}

fn is_fixing(line: &str) -> bool {
    let lower = line.trim_start().to_lowercase();
    ["fixes:", "fixes #", "fixes http", "fixed #", "fix #", "bug:"].iter().any(|start| lower.starts_with(start))
}

/// Without `(#12)`, ` #12` and issues' addresses: numbers of a tracker that nobody sees.
fn without_references(line: &str) -> String {
    let words = line.split(' ').filter(|word| {
        let bare = word.trim_matches(|c: char| "()[],.;:".contains(c));
        let number = bare.strip_prefix('#').or_else(|| bare.strip_prefix("GH-")).unwrap_or("x");
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let is_address = bare.starts_with("http")
            && ["/issues/", "/pull/", "/merge_requests/", "/browse/", "/commit/"]
                .iter()
                .any(|part| bare.contains(part));
        !is_number && !is_address
    });
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn is_listed(line: &str) -> bool {
    let text = line.trim_start();
    text.starts_with(['-', '*', '+', '|', '#', '>'])
        || text.starts_with(|c: char| c.is_ascii_digit())
        || line.starts_with(' ')
}

/// Wrapped lines become one line a paragraph; lists, tables, quotes and code stay as they are.
fn paragraphs(lines: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    let mut is_code = false;
    for line in lines {
        let is_fence = line.trim_start().starts_with("```");
        let last = out.rsplit('\n').next().unwrap_or_default();
        let goes_on = !is_code && !is_fence && !line.is_empty() && !last.is_empty() && !last.starts_with("```");
        // What follows an item of a list with an indent still belongs to it.
        let continues_item = is_listed(last) && line.starts_with("  ") && !is_listed(line.trim_start());
        if goes_on && (continues_item || (!is_listed(&line) && !last.starts_with("    "))) {
            out.push(' ');
            out.push_str(line.trim_start());
        } else {
            out.push('\n');
            out.push_str(&line);
        }
        is_code ^= is_fence;
    }
    let mut text = out.trim().to_owned();
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

/// At most so many characters, ending with a paragraph or a line.
fn cut(text: &str, characters_max: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(characters_max) else { return text.to_owned() };
    let start = &text[..end];
    let at = start.rfind("\n\n").or_else(|| start.rfind('\n')).or_else(|| start.rfind(". ").map(|at| at + 1));
    start[..at.unwrap_or(end)].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_trailers_and_numbers_go() {
        let message = "fix(parser)!: handle empty input (#123)\n\nThe parser panicked on an empty file, because\n\
                       the first token was taken for granted.\n\n- one item\n  that goes on\n- another\n\n\
                       Fixes #99\nCloses: https://example.com/o/r/issues/4\nSigned-off-by: A B <a@b.c>\n\
                       Co-Authored-By: C <c@d.e>\n";
        let words = words(message);
        assert_eq!(words.subject, "Handle empty input");
        assert_eq!(words.sort.as_deref(), Some("fix"));
        let wanted = "The parser panicked on an empty file, because the first token was taken for granted.\n\n\
                      - one item that goes on\n- another";
        assert_eq!(words.body, wanted);
        assert!(words.fixes && words.is_fix() && words.explains() && words.poor().is_none());
    }

    #[test]
    fn subjects_keep_what_they_say() {
        for (line, wanted) in [
            ("ABC-123: add a cache for tokens.", "Add a cache for tokens"),
            ("[core] Add a cache", "Add a cache"),
            (":bug: Fix the cache of tokens", "Fix the cache of tokens"),
            ("🐛 fix the cache", "Fix the cache"),
            ("kernels: attention in larger tiles", "kernels: attention in larger tiles"),
            ("lateen train --help says more", "lateen train --help says more"),
            ("README: products with 4-bit weights", "README: products with 4-bit weights"),
            ("tokenUsage is shown in the footer", "tokenUsage is shown in the footer"),
            ("Use `foo` for GH-12 and #13 alike", "Use `foo` for and alike"),
        ] {
            assert_eq!(words(line).subject, wanted, "{line}");
        }
    }

    #[test]
    fn poor_messages_are_known() {
        for poor in ["wip", "Bump serde from 1 to 2", "v1.2", "update", "fixup! x y z", "", "core: WIP of a new reader"]
        {
            assert_eq!(words(poor).poor(), Some("poor message"), "{poor:?}");
        }
        for looks in [
            "Fix typo in README",
            "Clippy is content with models out of files",
            "Lints of the data tests and of reading",
            "Within the width",
            "The test as it was: its split is on the way",
        ] {
            assert_eq!(words(looks).poor(), Some("about how code looks"), "{looks:?}");
        }
        for good in
            ["Formatted numbers are read again", "Bumped heads no longer count twice", "Queues as they were measured"]
        {
            assert!(words(good).poor().is_none(), "{good:?}");
        }
    }

    #[test]
    fn names_are_found() {
        let words = words("Rename `parse` and read_all, TokenStream::next() too, but not this");
        assert_eq!(words.names(), ["parse", "read_all", "TokenStream", "next"]);
    }
}
