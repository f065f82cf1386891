//! Just enough of Python's surface to change, hide and compare parts of the small programs of this world.

/// What a piece of source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    Number,
    Text,
    Operator,
    Space,
    LineEnd,
}

/// A piece of source: `code[start..end]`, on a line counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) sort: Sort,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn of<'a>(&self, code: &'a str) -> &'a str {
        &code[self.start..self.end]
    }
}

const OPERATORS: &[&str] =
    &["**", "//", "<=", ">=", "==", "!=", "+=", "-=", "*=", "->", ":=", "+", "-", "*", "/", "%", "<", ">", "="];

/// Every byte of the code belongs to exactly one token.
pub(crate) fn tokens(code: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut line = 1;
    while let Some(first) = code[start..].chars().next() {
        let rest = &code[start..];
        let run = |keep: &dyn Fn(char) -> bool| rest.find(|c| !keep(c)).unwrap_or(rest.len());
        let (sort, length) = match first {
            '\n' => (Sort::LineEnd, 1),
            ' ' => (Sort::Space, run(&|c| c == ' ')),
            '#' => (Sort::Space, run(&|c| c != '\n')),
            '\'' | '"' => (Sort::Text, text_length(rest, first)),
            'f' if rest.starts_with("f'") => (Sort::Text, 1 + text_length(&rest[1..], '\'')),
            c if c.is_alphabetic() || c == '_' => (Sort::Name, run(&|c| c.is_alphanumeric() || c == '_')),
            c if c.is_ascii_digit() => (Sort::Number, run(&|c| c.is_alphanumeric() || c == '.')),
            c => {
                let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
                (Sort::Operator, operator.map_or(c.len_utf8(), |operator| operator.len()))
            }
        };
        out.push(Token { sort, start, end: start + length, line });
        line += usize::from(sort == Sort::LineEnd);
        start += length;
    }
    out
}

/// Length of a string literal on one line, with its quotes.
fn text_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

pub(crate) const KEYWORDS: &[&str] = &[
    "def", "return", "for", "in", "if", "elif", "else", "while", "not", "and", "or", "class", "True", "False", "None",
    "break", "continue", "pass", "lambda", "is", "import", "from", "assert",
];

pub(crate) const BUILTINS: &[&str] = &[
    "len",
    "range",
    "min",
    "max",
    "sum",
    "sorted",
    "list",
    "dict",
    "str",
    "int",
    "abs",
    "enumerate",
    "zip",
    "all",
    "any",
    "reverse",
    "default",
    "set",
    "isinstance",
    "reversed",
    "ord",
    "chr",
    "self",
    "key",
];

/// Whether a token is a name that the program chose: no keyword, builtin or attribute.
pub(crate) fn is_own_name(code: &str, token: &Token) -> bool {
    let name = token.of(code);
    token.sort == Sort::Name
        && !KEYWORDS.contains(&name)
        && !BUILTINS.contains(&name)
        && !code[..token.start].ends_with('.')
}

/// The program with its own names numbered in order of appearance and its spaces dropped: what two programs that
/// differ in names only have in common.
pub(crate) fn without_names(code: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut out = String::with_capacity(code.len());
    for token in tokens(code) {
        if is_own_name(code, &token) {
            let name = token.of(code);
            let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            out.push_str(&format!("@{index}"));
        } else if token.sort != Sort::Space {
            out.push_str(token.of(code));
            out.push(' ');
        }
    }
    out
}

/// The code inside the first fence of an answer (preferring one marked as Python), or the whole answer.
pub(crate) fn extract_code(answer: &str) -> &str {
    for opening in ["```python\n", "```py\n", "```\n"] {
        if let Some(at) = answer.find(opening) {
            let body = &answer[at + opening.len()..];
            return body.find("```").map_or(body, |end| &body[..end]);
        }
    }
    answer
}
