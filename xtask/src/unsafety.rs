//! `unsafe` only where it is needed, and never without a sentence that says why it holds.

use crate::Finding;
use crate::source::Source;

/// Kernels for the instruction sets, formats for the memory map, numeric for casts.
const ALLOWED: [&str; 3] = ["kernels", "formats", "numeric"];

/// How far above its `unsafe` the sentence may begin.
const LINES_ABOVE_MAX: usize = 6;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in source.find_word("unsafe") {
        let rest = source.code[at + "unsafe".len()..].trim_start();
        let line = source.line_of(at);
        let finding = |message: &str| Finding { place: source.place(line), message: message.to_owned() };
        if !ALLOWED.contains(&source.package().as_str()) {
            findings.push(finding("`unsafe` is allowed in kernels, formats and numeric only"));
        } else if !is_function_type(rest) && !is_explained(source, line, is_function(rest)) {
            findings.push(finding(
                "`unsafe` without its reason: wanted `// SAFETY: …` in the six lines above, or `# Safety` in the \
                 function's documentation, or `//! SAFETY: …` at the head of a kernel's file",
            ));
        }
    }
    findings
}

/// `unsafe fn(…)` names a type and promises nothing.
fn is_function_type(rest: &str) -> bool {
    let rest = match rest.strip_prefix("extern") {
        Some(after) => after.trim_start(),
        None => rest,
    };
    rest.strip_prefix("fn").is_some_and(|after| after.trim_start().starts_with(['(', '<']))
}

fn is_function(rest: &str) -> bool {
    rest.starts_with("fn") || rest.starts_with("extern")
}

fn is_explained(source: &Source, line: usize, is_function: bool) -> bool {
    let first = line.saturating_sub(LINES_ABOVE_MAX);
    let near = source.comments.get(first..=line).unwrap_or_default();
    near.iter().any(|comment| comment.contains("SAFETY:"))
        || (is_function && documented(source, line))
        || module_note(source)
}

/// A `# Safety` section in the comment and attribute lines directly above a function.
fn documented(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().collect();
    let above = (0..line).rev().take_while(|&i| {
        let is_comment = source.comments[i].starts_with("//") && code[i].trim().is_empty();
        is_comment || code[i].trim_start().starts_with("#[")
    });
    above.into_iter().any(|i| source.comments[i].contains("# Safety"))
}

/// A file of kernels for one instruction set may say once, at its head, what all of its `unsafe` rests on.
fn module_note(source: &Source) -> bool {
    let mut head = source.comments.iter().take_while(|comment| comment.starts_with("//!"));
    source.package() == "kernels" && head.any(|comment| comment.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn only_three_crates_may() {
        let text = "// SAFETY: sound.\nunsafe { f() }\n";
        assert_eq!(found("machine/kernels/src/a.rs", text), 0);
        assert_eq!(found("machine/ops/src/a.rs", text), 1);
        assert_eq!(found("cli/src/main.rs", "// unsafe is a word here\nlet a = \"unsafe\";"), 0);
    }

    #[test]
    fn the_reason_stands_near() {
        let kernel = "machine/kernels/src/gemv/avx2.rs";
        assert_eq!(found(kernel, "unsafe { f() }\n"), 1);
        assert_eq!(found(kernel, "let x = unsafe { f() }; // SAFETY: same line\n"), 0);
        assert_eq!(found(kernel, &format!("// SAFETY: near.\n{}unsafe {{ f() }}\n", "\n".repeat(5))), 0);
        assert_eq!(found(kernel, &format!("// SAFETY: far.\n{}unsafe {{ f() }}\n", "\n".repeat(6))), 1);
        assert_eq!(found(kernel, "// safe, honestly\nunsafe impl Send for A {}\n"), 1);
    }

    #[test]
    fn functions_may_say_it_in_their_documentation() {
        let kernel = "machine/kernels/src/gemv/avx2.rs";
        let documented = format!("/// # Safety\n{}#[inline]\nunsafe fn f() {{}}\n", "/// More.\n".repeat(9));
        assert_eq!(found(kernel, &documented), 0);
        assert_eq!(found(kernel, &documented.replace("# Safety", "Safely")), 1);
        assert_eq!(found(kernel, "type F = unsafe fn(u8);\ntype G = unsafe extern \"C\" fn(u8);\n"), 0);
    }

    #[test]
    fn a_module_of_one_instruction_set_may_say_it_once() {
        let text = "//! AVX2.\n//! SAFETY: the table calls these only where AVX2 is.\n\n\n\n\n\n\n\n\nunsafe { f() }\n";
        assert_eq!(found("machine/kernels/src/gemv/avx2.rs", text), 0);
        assert_eq!(found("machine/kernels/src/gemv/avx2.rs", &text.replace("//! SAFETY", "//! Safe")), 1);
        assert_eq!(found("machine/formats/src/tensor.rs", text), 1);
    }
}
