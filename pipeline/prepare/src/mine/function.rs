//! Functions as people write them: what is said above or at the top, the signature, the body, and the remarks inside.

use super::lines::is_code;
use super::syntax::{Language, Syntax};
use std::collections::BTreeSet;
use std::ops::Range;

/// One function of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// From the first line of its documentation or attributes to its end, whole lines.
    pub(super) whole: Range<usize>,
    /// From its own first line (attributes left out) to its end.
    pub(super) own: Range<usize>,
    /// The node of its body.
    pub(super) body: usize,
    pub(super) documentation: Option<Documentation>,
    /// What is remarked inside the body, in order.
    pub(super) remarks: Vec<Remark>,
    pub(super) lines: usize,
    /// It stands in a module of tests.
    pub(super) is_test: bool,
}

/// A comment inside a body, or several on neighbouring lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remark {
    /// Whole lines, where nothing else stands on them.
    pub(super) bytes: Range<usize>,
    /// On one line.
    pub(super) text: String,
    /// The line of code that it stands above, or none where it stands above none.
    pub(super) code: Option<String>,
}

/// What is said about a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Documentation {
    pub(super) bytes: Range<usize>,
    /// Without marks and indentation.
    pub(super) text: String,
}

/// Every function with a name and a body that parses.
pub(super) fn functions(syntax: &Syntax) -> Vec<Function> {
    let names = syntax.names();
    let is_function = |&at: &usize| syntax.is(at, names.functions) && !syntax.nodes[at].has_error;
    (0..syntax.nodes.len()).filter(is_function).filter_map(|at| function(syntax, at)).collect()
}

/// The tests of a file by their names: what a runner takes for a test, and not the functions that help one.
pub(super) fn tests(syntax: &Syntax) -> BTreeSet<String> {
    let named = functions(syntax).into_iter().filter_map(|function| {
        let head = syntax.text[function.whole.start..syntax.nodes[function.body].bytes.start].trim();
        let is_marked = |line: &str| line.starts_with("#[") && line.contains("test") && !line.contains("cfg(");
        match syntax.language {
            Language::Rust => head.lines().any(|line| is_marked(line.trim())).then_some(function.name),
            Language::Python => function.name.starts_with("test").then_some(function.name),
            Language::Go => function.name.starts_with("Test").then_some(function.name),
            Language::Java => {
                ["@Test", "@ParameterizedTest"].iter().any(|mark| head.contains(mark)).then_some(function.name)
            }
            // A macro's name is the same for all of them; what it is given tells them apart.
            Language::C | Language::Cpp => {
                ["TEST", "test_"].iter().any(|start| function.name.starts_with(start)).then(|| head.to_owned())
            }
            Language::JavaScript | Language::TypeScript => None,
        }
    });
    named.chain(called_tests(syntax)).collect()
}

/// Tests that are calls: `it("counts from one", …)`.
fn called_tests(syntax: &Syntax) -> Vec<String> {
    if !matches!(syntax.language, Language::JavaScript | Language::TypeScript) {
        return Vec::new();
    }
    let calls = (0..syntax.nodes.len()).filter(|&at| syntax.is(at, syntax.names().calls));
    let named = calls.filter_map(|at| {
        let (called, given) = syntax.text_of(at).split_once('(')?;
        ["it", "test"].contains(&called).then(|| given.split([',', '\n']).next().unwrap_or_default().to_owned())
    });
    named.collect()
}

fn function(syntax: &Syntax, node: usize) -> Option<Function> {
    let name = syntax.name_of(node)?.to_owned();
    let body = syntax.child(node, "body")?;
    if !syntax.is(body, syntax.names().blocks) {
        return None;
    }
    // A function that is a value is written with what it is given to.
    let named = around(syntax, node, &["variable_declarator", "lexical_declaration", "public_field_definition"]);
    // Decorators, exports and templates begin before it.
    let outer = around(syntax, named, &["decorated_definition", "export_statement", "template_declaration"]);
    let end = syntax.nodes[outer].bytes.end;
    let own = syntax.indented_start(syntax.nodes[named].bytes.start)..end;
    let above = above(syntax, outer);
    let start = above.first().map_or(syntax.nodes[outer].bytes.start, |&first| syntax.nodes[first].bytes.start);
    let whole = syntax.indented_start(start)..end;
    let documentation = docstring(syntax, body).or_else(|| documentation(syntax, &above));
    let lines = syntax.text[own.clone()].lines().count();
    let remarks = remarks(syntax, node, body);
    let is_test = is_in_tests(syntax, node) || name.to_lowercase().contains("test");
    Some(Function { name, whole, own, body, documentation, remarks, lines, is_test })
}

fn is_in_tests(syntax: &Syntax, node: usize) -> bool {
    let mut at = node;
    while at > 0 {
        at = syntax.nodes[at].parent;
        let is_module = syntax.is(at, &["mod_item"]);
        if is_module && syntax.name_of(at).is_some_and(|name| name.starts_with("test")) {
            return true;
        }
    }
    false
}

/// The outermost of the nodes of these kinds that stand directly around a node, or itself.
fn around(syntax: &Syntax, node: usize, kinds: &[&str]) -> usize {
    let mut outer = node;
    while outer > 0 && syntax.is(syntax.nodes[outer].parent, kinds) {
        outer = syntax.nodes[outer].parent;
    }
    outer
}

/// Comments and attributes directly above a node, from the top down.
fn above(syntax: &Syntax, node: usize) -> Vec<usize> {
    let parent = syntax.nodes[node].parent;
    let mut found: Vec<usize> = Vec::new();
    for sibling in syntax.children(parent).take_while(|&sibling| sibling < node) {
        let belongs = syntax.is_comment(sibling) || syntax.is(sibling, &["attribute_item"]);
        let last_end = found.last().map(|&last| syntax.nodes[last].bytes.end);
        // A blank line between them parts them.
        let gap = last_end.map_or("", |end| &syntax.text[end..syntax.nodes[sibling].bytes.start.max(end)]);
        if !belongs {
            found.clear();
            continue;
        }
        // Some grammars take the line end into a comment.
        let line_ends = gap.matches('\n').count() + usize::from(last_end.is_some_and(|end| ends_line(syntax, end)));
        if line_ends > 1 {
            found.clear();
        }
        // What stands after code on its line belongs to that code.
        let start = syntax.nodes[sibling].bytes.start;
        if syntax.is_comment(sibling) && syntax.indented_start(start) == start && !begins_line(syntax, start) {
            continue;
        }
        found.push(sibling);
    }
    let touches = found.last().is_some_and(|&last| {
        let end = syntax.nodes[last].bytes.end;
        let gap = &syntax.text[end..syntax.nodes[node].bytes.start.max(end)];
        gap.matches('\n').count() + usize::from(ends_line(syntax, end)) <= 1
    });
    if touches { found } else { Vec::new() }
}

fn ends_line(syntax: &Syntax, end: usize) -> bool {
    syntax.text[..end].ends_with('\n')
}

fn begins_line(syntax: &Syntax, start: usize) -> bool {
    start == 0 || syntax.text[..start].ends_with('\n')
}

/// What a comment above a function says, if it is about the function: by its mark where the language has one.
fn documentation(syntax: &Syntax, above: &[usize]) -> Option<Documentation> {
    let marks: &[&str] = match syntax.language {
        Language::Rust => &["///", "/**"],
        Language::Python => return None,
        Language::Java | Language::JavaScript | Language::TypeScript => &["/**"],
        Language::Go => &["//"],
        Language::C | Language::Cpp => &["//", "/*"],
    };
    let comments: Vec<usize> = above.iter().copied().filter(|&at| syntax.is_comment(at)).collect();
    let is_marked = |&&at: &&usize| marks.iter().any(|mark| syntax.text_of(at).starts_with(mark));
    let (first, last) = (comments.iter().find(is_marked)?, comments.iter().rfind(is_marked)?);
    let bytes = syntax.nodes[*first].bytes.start..syntax.nodes[*last].bytes.end;
    let text = words_of_comment(&syntax.text[bytes.clone()]);
    (!text.is_empty()).then_some(Documentation { bytes, text })
}

/// The text that a Python function begins with.
fn docstring(syntax: &Syntax, body: usize) -> Option<Documentation> {
    if syntax.language != Language::Python {
        return None;
    }
    let first = syntax.named_children(body).next()?;
    // A bare string, or one wrapped in a statement.
    let string = syntax.below(first).take(2).find(|&at| syntax.is(at, &["string"]))?;
    if syntax.nodes[string].bytes != syntax.nodes[first].bytes {
        return None;
    }
    let raw = syntax.text_of(string).trim_start_matches(['r', 'R', 'u', 'U']);
    let inner = ["\"\"\"", "'''"].iter().find_map(|quote| raw.strip_prefix(quote)?.strip_suffix(quote))?;
    let text = dedented(inner);
    (!text.is_empty()).then(|| Documentation { bytes: syntax.nodes[string].bytes.clone(), text })
}

/// Without the indentation that all lines but the first share.
fn dedented(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let shared = text.lines().skip(1).filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    let lines = text.lines().enumerate().map(|(index, line)| match index {
        0 => line.trim(),
        _ => line.get(shared.min(line.len())..).unwrap_or_default().trim_end(),
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// A comment without its marks.
pub(super) fn words_of_comment(comment: &str) -> String {
    let lines = comment.lines().map(|line| {
        let mut line = line.trim();
        for mark in ["/**", "/*!", "/*", "///", "//!", "//", "#", "*"] {
            if let Some(rest) = line.strip_prefix(mark).filter(|_| line != "*/") {
                line = rest;
                break;
            }
        }
        let line = line.strip_suffix("*/").unwrap_or(line);
        line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Comments inside a body that are sentences; those on neighbouring lines are one.
fn remarks(syntax: &Syntax, function: usize, body: usize) -> Vec<Remark> {
    let mut found: Vec<(usize, Remark)> = Vec::new();
    // In Python the body begins with its first statement, and what is remarked before that stands beside it.
    let is_python = syntax.language == Language::Python;
    let before = syntax.children(function).take_while(|&at| at < body).filter(|_| is_python);
    for at in before.chain(syntax.below(body)).filter(|&at| syntax.is_comment(at)) {
        // Parts of a comment that the grammar names too are not comments of their own.
        if syntax.is_comment(syntax.nodes[at].parent) {
            continue;
        }
        let text = words_of_comment(syntax.text_of(at)).replace('\n', " ");
        let bytes = &syntax.nodes[at].bytes;
        let start = syntax.indented_start(bytes.start);
        let is_alone = begins_line(syntax, start);
        let end = bytes.end - usize::from(ends_line(syntax, bytes.end));
        let line = syntax.line_of(bytes.start);
        match found.last_mut() {
            Some((last, remark)) if *last + 1 == line && is_alone && begins_line(syntax, remark.bytes.start) => {
                remark.text.push(' ');
                remark.text.push_str(&text);
                remark.bytes.end = end;
                *last = syntax.line_of(end);
            }
            _ => found.push((syntax.line_of(end), Remark { bytes: start..end, text, code: None })),
        }
    }
    let remarks = found.into_iter().map(|(_, remark)| remark).filter(|remark| is_sentence(&remark.text));
    remarks.map(|remark| Remark { code: code_below(syntax, &remark.bytes), ..remark }).collect()
}

/// The line after a comment that has its lines to itself, if there is code on it.
fn code_below(syntax: &Syntax, bytes: &Range<usize>) -> Option<String> {
    if !begins_line(syntax, bytes.start) {
        return None;
    }
    let line = syntax.text[bytes.end..].strip_prefix('\n')?.lines().next()?.trim();
    is_code(line).then(|| line.to_owned())
}

/// Words, not code that was put out of use, not a mark for a tool, not a note to oneself.
pub(super) fn is_sentence(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphabetic() || *c == ' ').count();
    let lower = text.to_lowercase();
    let marks =
        ["todo", "fixme", "xxx", "hack", "noqa", "eslint", "type:", "pylint", "nolint", "safety:", "spdx", "copyright"];
    text.split_whitespace().count() >= 3
        && letters * 10 >= text.chars().count() * 7
        && !text.ends_with([';', '{', '}', '('])
        && !marks.iter().any(|mark| lower.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_a_test_is_none() {
        for (path, text, wanted) in [
            (
                "a.rs",
                "/// Says why.\n#[test]\nfn counts() {\n    one();\n}\n\n\
                 #[cfg(test)]\nfn test_folder() {}\n\nfn help() {}\n",
                "counts",
            ),
            ("a.py", "def folder(x):\n    return x\n\n\ndef test_counts():\n    assert folder(1)\n", "test_counts"),
            ("a.go", "package a\n\nfunc TestOne(t *T) {\n\tf()\n}\n\nfunc help() {\n\tf()\n}\n", "TestOne"),
            ("A.java", "class A {\n  @Test\n  void one() { f(); }\n  void help() { f(); }\n}\n", "one"),
            ("a.ts", "function help() { f(); }\nit(\"counts\", () => { help(); });\n", "\"counts\""),
            ("a.cpp", "int help() { return 1; }\n", ""),
        ] {
            let syntax = Syntax::of(path, text).expect(path);
            let found = tests(&syntax);
            assert_eq!(found.into_iter().collect::<Vec<_>>().join(" "), wanted, "{path}");
        }
    }
}
