//! One Rust file, split into what the compiler reads and what people read, line for line.
//!
//! Not a parser: a scanner that knows comments, strings, characters and lifetimes apart, so that the checks never take
//! a word in a comment or a string for code. `code` has the same bytes at the same places, with all else blanked.

use std::path::{Path, PathBuf};

pub(crate) struct Source {
    /// Relative to the root, with forward slashes in messages.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// The text with comments and the insides of strings blanked out.
    pub(crate) code: String,
    /// The comments' words, by line.
    pub(crate) comments: Vec<String>,
    /// Lines inside `#[cfg(test)]` items.
    test_lines: Vec<bool>,
}

pub(crate) struct Function {
    pub(crate) name: String,
    /// From the line of its name to that of its closing brace.
    pub(crate) n_lines: usize,
}

impl Source {
    pub(crate) fn new(path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        let text = text.into();
        let (code, comment) = split(text.as_bytes());
        let comments = comment.lines().map(|line| line.trim().to_owned()).collect();
        let mut source = Self { path: path.as_ref().to_owned(), text, code, comments, test_lines: Vec::new() };
        source.test_lines = source.find_test_lines();
        source
    }

    /// The crate's folder name: the second component under machine/ and pipeline/, the first elsewhere.
    pub(crate) fn package(&self) -> String {
        let mut parts = self.path.iter().map(|part| part.to_string_lossy());
        let first = parts.next().unwrap_or_default();
        match &*first {
            "machine" | "pipeline" => parts.next().unwrap_or_default().into_owned(),
            _ => first.into_owned(),
        }
    }

    /// Whether a line, counted from zero as all lines in here, only runs in tests: in a test program, a tests module,
    /// or under `#[cfg(test)]`.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        let folder = self.path.iter().any(|part| part == "tests" || part == "benches" || part == "examples");
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let file = stem == "tests" || stem.ends_with("_tests");
        folder || file || self.test_lines.get(line).copied().unwrap_or(false)
    }

    pub(crate) fn place(&self, line: usize) -> String {
        format!("{}:{}", self.path.display(), line + 1)
    }

    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.code.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Where `word` stands in the code as a word of its own. A word may hold `::` or end in `!`.
    pub(crate) fn find_word<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        self.code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
            let before = at.checked_sub(1).map(|before| bytes[before]);
            let after = bytes.get(at + word.len()).copied();
            let open_end = word.ends_with('!') || word.ends_with(':');
            !before.is_some_and(is_word) && (open_end || !after.is_some_and(is_word))
        })
    }

    /// Every function that has a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for at in self.find_word("fn") {
            let rest = &self.code[at + 2..];
            let name: String = rest.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
            // A type such as `fn(u32)` has no name.
            if name.is_empty() || !rest.starts_with(char::is_whitespace) {
                continue;
            }
            let Some(open) = self.body_after(at) else { continue };
            let Some(close) = self.matching(open) else { continue };
            let first_line = self.line_of(at);
            functions.push(Function { name, n_lines: self.line_of(close) - first_line + 1 });
        }
        functions
    }

    /// The brace that opens the item after `at`, unless a semicolon ends it first.
    fn body_after(&self, at: usize) -> Option<usize> {
        let mut depth = 0i32;
        for (offset, byte) in self.code.bytes().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b'{' if depth == 0 => return Some(offset),
                b';' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The bracket that closes the one at `open`.
    fn matching(&self, open: usize) -> Option<usize> {
        let mut depth = 0i32;
        for (offset, byte) in self.code.bytes().enumerate().skip(open) {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(offset);
            }
        }
        None
    }

    fn find_test_lines(&self) -> Vec<bool> {
        let mut lines = vec![false; self.text.lines().count()];
        for (at, _) in self.code.match_indices("#[cfg(") {
            let Some(end) = self.matching(at + 1) else { continue };
            let condition = &self.code[at..end];
            let names_test = condition.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test");
            if !names_test || condition.contains("not(") {
                continue;
            }
            let Some(close) = self.body_after(end + 1).and_then(|open| self.matching(open)) else { continue };
            lines[self.line_of(at)..=self.line_of(close)].fill(true);
        }
        lines
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What the scanner is inside of, with where it ends.
fn span_at(bytes: &[u8], at: usize) -> Option<(Kind, usize)> {
    let rest = &bytes[at..];
    let begins_word = at == 0 || !is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => Some((Kind::Comment, at + line_length(rest))),
        [b'/', b'*', ..] => Some((Kind::Comment, at + block_comment_length(rest))),
        [b'"', ..] => Some((Kind::Literal, at + string_length(rest))),
        [b'b' | b'c', b'"', ..] if begins_word => Some((Kind::Literal, at + 1 + string_length(&rest[1..]))),
        [b'r', ..] if begins_word => raw_string_length(&rest[1..]).map(|n| (Kind::Literal, at + 1 + n)),
        [b'b' | b'c', b'r', ..] if begins_word => raw_string_length(&rest[2..]).map(|n| (Kind::Literal, at + 2 + n)),
        [b'\'', ..] => character_length(rest).map(|n| (Kind::Literal, at + n)),
        _ => None,
    }
}

#[derive(PartialEq)]
enum Kind {
    Comment,
    Literal,
}

/// The code and the comments, each with everything else blanked and every line end kept.
fn split(bytes: &[u8]) -> (String, String) {
    let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
    let mut code = Vec::with_capacity(bytes.len());
    let mut comment = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let Some((kind, end)) = span_at(bytes, at) else {
            code.push(bytes[at]);
            comment.push(blank(&bytes[at]));
            at += 1;
            continue;
        };
        let span = &bytes[at..end.min(bytes.len())];
        code.extend(span.iter().map(blank));
        match kind {
            Kind::Comment => comment.extend_from_slice(span),
            Kind::Literal => comment.extend(span.iter().map(blank)),
        }
        at += span.len();
    }
    (String::from_utf8_lossy(&code).into_owned(), String::from_utf8_lossy(&comment).into_owned())
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// From the hashes on; `None` for a raw identifier.
fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let n_hashes = rest.iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(n_hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(n_hashes + 1, b'#');
    let inside = &rest[n_hashes + 1..];
    let length = inside.windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| n_hashes + 1 + length + end.len()))
}

/// `None` for a lifetime.
fn character_length(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&byte| byte == b'\'')?;
        return Some(end + 4);
    }
    let width = match *rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("cli/src/main.rs", text).code
    }

    #[test]
    fn strings_comments_and_characters_are_not_code() {
        for hidden in [
            "// unsafe",
            "/* unsafe /* unsafe */ unsafe */",
            r#""a \" unsafe""#,
            r##"r#"a " unsafe"#"##,
            r#"b"unsafe""#,
            "r\"unsafe\"",
            "\"two\nlines unsafe\"",
        ] {
            let text = format!("let a = {hidden}; let b = 'x';\n");
            let code = code(&text);
            assert!(!code.contains("unsafe"), "{text}: {code}");
            assert_eq!(code.len(), text.len());
            if !hidden.starts_with("//") {
                assert!(code.contains("; let b ="), "{text}: {code}");
            }
        }
    }

    #[test]
    fn lifetimes_and_odd_characters_do_not_open_strings() {
        for text in ["fn f<'a>(x: &'a str) { END }", "let c = '\"'; END", "'\\''; END", "'\\u{1F600}'; END", "'é'; END"]
        {
            assert!(code(text).contains("END"), "{text}: {}", code(text));
        }
        assert!(code("let r#type = 1; END").contains("END"));
    }

    #[test]
    fn comments_keep_their_lines() {
        let source = Source::new("x.rs", "let a = 1; // SAFETY: fine\n\"// not this\";\n/* two\nlines */\n");
        assert_eq!(source.comments, ["// SAFETY: fine", "", "/* two", "lines */"]);
    }

    #[test]
    fn functions_are_measured_with_their_signature() {
        let two = "fn two(\n  a: [u8; 4],\n) -> u8\nwhere\n  u8: Copy,\n{\n  '}';\n  a[0]\n}\n";
        let text = format!("fn one() {{}}\n{two}trait T {{ fn none(&self); }}\ntype F = fn(u8);\n");
        let found: Vec<_> = Source::new("x.rs", text).functions().into_iter().map(|f| (f.name, f.n_lines)).collect();
        assert_eq!(found, [("one".to_owned(), 1), ("two".to_owned(), 9)]);
    }

    #[test]
    fn test_code_is_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n#[cfg(not(test))]\nfn c() {\n}\n";
        let source = Source::new("machine/ops/src/lib.rs", text);
        let marks: Vec<bool> = (0..8).map(|line| source.is_test(line)).collect();
        assert_eq!(marks, [false, true, true, true, true, false, false, false]);
        assert!(Source::new("machine/ops/src/linear/tests.rs", text).is_test(0));
        assert!(Source::new("machine/ops/tests/all.rs", text).is_test(0));
        assert_eq!(source.package(), "ops");
        assert_eq!(Source::new("cli/src/main.rs", "").package(), "cli");
    }
}
