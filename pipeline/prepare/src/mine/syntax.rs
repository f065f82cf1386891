//! Source code as a tree, whatever the language: one flat list of nodes, and a table of what each grammar calls things.
//!
//! The grammars are those of tree-sitter. JavaScript is read by that of TSX and C by that of C++, which contain them;
//! where code is the older language after all, the nodes around what does not parse are left out like any error.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use tree_sitter::{ParseOptions, ParseState, Parser, Tree};

/// A language whose code can be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Language {
    Rust,
    Python,
    JavaScript,
    TypeScript,
    Go,
    C,
    Cpp,
    Java,
}

/// Nodes of one file beyond this are a table, not a program.
const NODES_MAX: usize = 400_000;
/// The parser pauses every hundred of its operations; a file that takes more of them is made to.
const PAUSES_MAX: usize = 1_000_000;

/// What a grammar calls the things that are looked for.
pub(super) struct Names {
    pub(super) functions: &'static [&'static str],
    pub(super) blocks: &'static [&'static str],
    pub(super) arguments: &'static [&'static str],
    pub(super) calls: &'static [&'static str],
    /// Other expressions worth a hole.
    pub(super) expressions: &'static [&'static str],
    pub(super) binaries: &'static [&'static str],
    pub(super) integers: &'static [&'static str],
    pub(super) conditionals: &'static [&'static str],
    /// Statements that can be dropped and leave a program.
    pub(super) droppable: &'static [&'static str],
    /// What stands before the name of a function.
    pub(super) definition: &'static str,
    /// How a fenced block of it is marked.
    pub(super) fence: &'static str,
}

const RUST: Names = Names {
    functions: &["function_item"],
    blocks: &["block"],
    arguments: &["arguments"],
    calls: &["call_expression", "macro_invocation"],
    expressions: &["match_expression", "if_expression", "closure_expression", "index_expression", "struct_expression"],
    binaries: &["binary_expression"],
    integers: &["integer_literal"],
    conditionals: &["if_expression", "while_expression"],
    droppable: &["expression_statement"],
    definition: "fn ",
    fence: "rust",
};

const PYTHON: Names = Names {
    functions: &["function_definition"],
    blocks: &["block"],
    arguments: &["argument_list"],
    calls: &["call"],
    expressions: &[
        "subscript",
        "conditional_expression",
        "list_comprehension",
        "dictionary_comprehension",
        "generator_expression",
        "lambda",
        "dictionary",
        "list",
    ],
    binaries: &["binary_operator", "comparison_operator", "boolean_operator"],
    integers: &["integer"],
    conditionals: &["if_statement", "elif_clause", "while_statement"],
    droppable: &["expression_statement"],
    definition: "def ",
    fence: "python",
};

const TYPESCRIPT: Names = Names {
    functions: &[
        "function_declaration",
        "method_definition",
        "function_expression",
        "arrow_function",
        "generator_function_declaration",
    ],
    blocks: &["statement_block"],
    arguments: &["arguments"],
    calls: &["call_expression", "new_expression"],
    expressions: &[
        "ternary_expression",
        "await_expression",
        "subscript_expression",
        "object",
        "array",
        "template_string",
    ],
    binaries: &["binary_expression"],
    integers: &["number"],
    conditionals: &["if_statement", "while_statement"],
    droppable: &["expression_statement"],
    definition: "",
    fence: "typescript",
};

const GO: Names = Names {
    functions: &["function_declaration", "method_declaration"],
    blocks: &["block"],
    arguments: &["argument_list"],
    calls: &["call_expression"],
    expressions: &[
        "composite_literal",
        "index_expression",
        "slice_expression",
        "func_literal",
        "type_assertion_expression",
    ],
    binaries: &["binary_expression"],
    integers: &["int_literal"],
    conditionals: &["if_statement", "for_statement"],
    droppable: &["expression_statement", "assignment_statement", "inc_statement", "dec_statement", "defer_statement"],
    definition: "func ",
    fence: "go",
};

const CPP: Names = Names {
    functions: &["function_definition"],
    blocks: &["compound_statement"],
    arguments: &["argument_list"],
    calls: &["call_expression"],
    expressions: &[
        "conditional_expression",
        "subscript_expression",
        "initializer_list",
        "lambda_expression",
        "cast_expression",
    ],
    binaries: &["binary_expression"],
    integers: &["number_literal"],
    conditionals: &["if_statement", "while_statement"],
    droppable: &["expression_statement"],
    definition: "",
    fence: "cpp",
};

const JAVA: Names = Names {
    functions: &["method_declaration", "constructor_declaration"],
    blocks: &["block", "constructor_body"],
    arguments: &["argument_list"],
    calls: &["method_invocation", "object_creation_expression"],
    expressions: &["ternary_expression", "array_access", "lambda_expression", "cast_expression"],
    binaries: &["binary_expression"],
    integers: &["decimal_integer_literal"],
    conditionals: &["if_statement", "while_statement"],
    droppable: &["expression_statement"],
    definition: "",
    fence: "java",
};

impl Language {
    /// The language of a file by its name.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Some(match super::path::extension_of(path).as_str() {
            "rs" => Self::Rust,
            "py" | "pyi" => Self::Python,
            "js" | "jsx" | "mjs" | "cjs" => Self::JavaScript,
            "ts" | "tsx" | "mts" | "cts" => Self::TypeScript,
            "go" => Self::Go,
            "c" | "h" => Self::C,
            "cc" | "cpp" | "cxx" | "hpp" | "hh" | "hxx" => Self::Cpp,
            "java" => Self::Java,
            _ => return None,
        })
    }

    /// The name that a line of data and a fenced block give it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::C => "c",
            _ => self.names().fence,
        }
    }

    pub(super) fn names(self) -> &'static Names {
        match self {
            Self::Rust => &RUST,
            Self::Python => &PYTHON,
            Self::JavaScript | Self::TypeScript => &TYPESCRIPT,
            Self::Go => &GO,
            Self::C | Self::Cpp => &CPP,
            Self::Java => &JAVA,
        }
    }

    fn grammar(self, path: &str) -> tree_sitter::Language {
        match self {
            Self::Rust => tree_sitter_rust::LANGUAGE.into(),
            Self::Python => tree_sitter_python::LANGUAGE.into(),
            // Plain TypeScript has casts that look like markup; everything else may have markup.
            Self::TypeScript if !path.ends_with('x') => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
            Self::JavaScript | Self::TypeScript => tree_sitter_typescript::LANGUAGE_TSX.into(),
            Self::Go => tree_sitter_go::LANGUAGE.into(),
            Self::C | Self::Cpp => tree_sitter_cpp::LANGUAGE.into(),
            Self::Java => tree_sitter_java::LANGUAGE.into(),
        }
    }
}

/// The fields that are asked for; all six grammars agree on them.
const FIELDS: [&str; 6] = ["name", "body", "condition", "operator", "operators", "declarator"];

/// What somebody looks for who wants to see a function.
pub(super) fn wanted(names: &Names, text: &str, function: &str) -> String {
    let forms = [format!("{}{function}", names.definition), format!("{function}(")];
    forms
        .into_iter()
        .find(|form| form != function && text.contains(form.as_str()))
        .unwrap_or_else(|| function.to_owned())
}

/// A node of the tree. `end_index` is where its descendants end in the list: the next node that is not one of them.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// By the grammar's name, which all nodes of a kind share.
    pub(super) kind: Rc<str>,
    pub(super) field: Option<&'static str>,
    pub(super) bytes: Range<usize>,
    pub(super) parent: usize,
    pub(super) end_index: usize,
    pub(super) is_named: bool,
    pub(super) has_error: bool,
}

/// A file taken apart: nodes in the order in which they begin, the root first.
pub(super) struct Syntax<'a> {
    pub(super) text: &'a str,
    pub(super) language: Language,
    pub(super) nodes: Vec<Node>,
}

impl<'a> Syntax<'a> {
    /// None where the language is not known or nothing could be made of the text.
    pub(super) fn of(path: &str, text: &'a str) -> Option<Self> {
        let language = Language::of_path(path)?;
        let mut parser = Parser::new();
        let grammar = language.grammar(path);
        parser.set_language(&grammar).expect("the grammars are of versions that this parser reads");
        // Counted in the parser's own steps, not in time: the same file gives the same tree on a slow machine.
        let mut pauses = 0;
        let mut watch = |_: &ParseState| {
            pauses += 1;
            if pauses > PAUSES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = ParseOptions::new().progress_callback(&mut watch);
        let bytes = text.as_bytes();
        let tree = parser.parse_with_options(&mut |at, _| bytes.get(at..).unwrap_or_default(), None, Some(options))?;
        Some(Self { text, language, nodes: flattened(&tree)? })
    }

    pub(super) fn names(&self) -> &'static Names {
        self.language.names()
    }

    pub(super) fn text_of(&self, node: usize) -> &'a str {
        &self.text[self.nodes[node].bytes.clone()]
    }

    /// The children of a node, in order.
    pub(super) fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let end = self.nodes[node].end_index;
        let mut next = node + 1;
        std::iter::from_fn(move || {
            let child = (next < end).then_some(next)?;
            next = self.nodes[child].end_index;
            Some(child)
        })
    }

    pub(super) fn named_children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.children(node).filter(|&child| self.nodes[child].is_named && !self.is_comment(child))
    }

    /// The statements of a block; some grammars put them into a list of their own.
    pub(super) fn statements(&self, block: usize) -> Vec<usize> {
        let children: Vec<usize> = self.named_children(block).collect();
        match children.as_slice() {
            &[list] if self.is(list, &["statement_list"]) => self.named_children(list).collect(),
            _ => children,
        }
    }

    pub(super) fn child(&self, node: usize, field: &str) -> Option<usize> {
        self.children(node).find(|&child| self.nodes[child].field == Some(field))
    }

    /// A node and everything below it.
    pub(super) fn below(&self, node: usize) -> Range<usize> {
        node..self.nodes[node].end_index
    }

    pub(super) fn is(&self, node: usize, kinds: &[&str]) -> bool {
        kinds.contains(&&*self.nodes[node].kind)
    }

    pub(super) fn is_comment(&self, node: usize) -> bool {
        self.nodes[node].kind.contains("comment")
    }

    /// The code, with line ends in the place of its comments.
    pub(super) fn without_comments(&self) -> String {
        let (mut out, mut at, mut index) = (String::with_capacity(self.text.len()), 0, 0);
        while index < self.nodes.len() {
            if !self.is_comment(index) {
                index += 1;
                continue;
            }
            let bytes = &self.nodes[index].bytes;
            out.push_str(self.text.get(at..bytes.start).unwrap_or_default());
            // Some grammars take the line end into a comment.
            out.push('\n');
            at = bytes.end.max(at);
            index = self.nodes[index].end_index;
        }
        out.push_str(&self.text[at..]);
        out
    }

    /// The code without comments and, where it means nothing, without white space.
    pub(super) fn bare(&self) -> String {
        let out = self.without_comments();
        match self.language {
            Language::Python => {
                let lines = out.lines().map(str::trim_end).filter(|line| !line.is_empty());
                lines.collect::<Vec<_>>().join("\n")
            }
            // What a formatter puts at the end of a list that it breaks into lines says nothing, nor does a backslash
            // that lets a text go on in the next line.
            _ => [",)", ",]", ",}"]
                .into_iter()
                .fold(out.replace("\\\n", "").split_whitespace().collect(), |code: String, end| {
                    code.replace(end, &end[1..])
                }),
        }
    }

    /// The line of a byte, counted from zero.
    pub(super) fn line_of(&self, byte: usize) -> usize {
        self.text.as_bytes()[..byte].iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The innermost function around a byte.
    pub(super) fn function_at(&self, byte: usize) -> Option<usize> {
        let functions = self.names().functions;
        let around = |node: &Node| node.bytes.contains(&byte);
        (0..self.nodes.len()).rev().find(|&at| self.is(at, functions) && around(&self.nodes[at]))
    }

    /// What a function is called; none for one without a name.
    pub(super) fn name_of(&self, function: usize) -> Option<&'a str> {
        if let Some(name) = self.child(function, "name") {
            return Some(self.text_of(name));
        }
        // A function that is a value has the name of what it is given to.
        let parent = self.nodes[function].parent;
        if self.is(parent, &["variable_declarator", "public_field_definition"]) {
            return self.child(parent, "name").map(|name| self.text_of(name));
        }
        // C keeps the name inside of declarators: of pointers, of references, of the function itself.
        let mut at = self.child(function, "declarator")?;
        while let Some(inner) = self.child(at, "declarator") {
            at = inner;
        }
        let is_name = self.is(at, &["identifier", "field_identifier", "qualified_identifier", "destructor_name"]);
        is_name.then(|| self.text_of(at))
    }

    /// The start of the line that a node begins on.
    pub(super) fn line_start(&self, node: usize) -> usize {
        self.text[..self.nodes[node].bytes.start].rfind('\n').map_or(0, |end| end + 1)
    }

    /// The start of the line that a byte is on, if only white space stands before it there.
    pub(super) fn indented_start(&self, byte: usize) -> usize {
        let line = self.text[..byte].rfind('\n').map_or(0, |end| end + 1);
        if self.text[line..byte].trim().is_empty() { line } else { byte }
    }
}

fn flattened(tree: &Tree) -> Option<Vec<Node>> {
    let mut cursor = tree.walk();
    let mut kinds: HashMap<u16, Rc<str>> = HashMap::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut parents: Vec<usize> = Vec::new();
    loop {
        let node = cursor.node();
        if nodes.len() >= NODES_MAX {
            return None;
        }
        let at = nodes.len();
        nodes.push(Node {
            kind: kinds.entry(node.kind_id()).or_insert_with(|| node.kind().into()).clone(),
            field: cursor.field_name().and_then(|name| FIELDS.into_iter().find(|known| *known == name)),
            bytes: node.start_byte()..node.end_byte(),
            parent: parents.last().copied().unwrap_or(0),
            end_index: at + 1,
            is_named: node.is_named(),
            has_error: node.has_error(),
        });
        if cursor.goto_first_child() {
            parents.push(at);
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return Some(nodes);
            }
            let parent = parents.pop().expect("each descent pushed one");
            nodes[parent].end_index = nodes.len();
        }
    }
}
