//! Folds comment lines that are too wide, which stable rustfmt leaves alone. Code and strings are for their authors.

use crate::source::Source;
use crate::words::WIDTH_MAX;

/// The text with its comments folded; the same text if none is too wide.
pub(crate) fn wrap(source: &Source) -> String {
    let mut lines: Vec<String> = source.text.lines().map(str::to_owned).collect();
    // Only lines that the scanner saw as comments: a string may hold what looks like one.
    let mut is_comment: Vec<bool> = source.comments.iter().map(|comment| comment.starts_with("//")).collect();
    is_comment.resize(lines.len(), false);
    let mut in_fence = false;
    let mut at = 0;
    while at < lines.len() {
        if let Some((prefix, words)) = parts(&lines[at]).filter(|_| is_comment[at]) {
            in_fence ^= words.starts_with("```");
            if !in_fence && lines[at].chars().count() > WIDTH_MAX && !words.starts_with('|') {
                let (prefix, words) = (prefix.to_owned(), words.to_owned());
                fold(&mut lines, &mut is_comment, at, &prefix, &words);
            }
        } else {
            in_fence = false;
        }
        at += 1;
    }
    let mut text = lines.join("\n");
    if source.text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// A comment line's indentation with its marker, and its words.
fn parts(line: &str) -> Option<(&str, &str)> {
    let indentation = line.len() - line.trim_start().len();
    let marker = ["///", "//!", "//"].into_iter().find(|marker| line[indentation..].starts_with(marker))?;
    Some(line.split_at(indentation + marker.len())).map(|(prefix, words)| (prefix, words.trim()))
}

/// Moves what is over the width to the next line, if that goes on with the same paragraph, else to a new one.
fn fold(lines: &mut Vec<String>, is_comment: &mut Vec<bool>, at: usize, prefix: &str, words: &str) {
    let hanging = if words.starts_with("- ") || words.starts_with("* ") { "  " } else { "" };
    let indent = lines[at][prefix.len()..].len() - lines[at][prefix.len()..].trim_start().len();
    let lead = " ".repeat(indent.max(1));
    let room = WIDTH_MAX.saturating_sub(prefix.chars().count() + lead.len());
    let end = words.char_indices().nth(room).map_or(words.len(), |(end, _)| end);
    let Some(space) = words[..end].rfind(' ').filter(|&space| !words[..space].trim().is_empty()) else { return };
    let (kept, over) = (words[..space].trim_end(), words[space..].trim_start());
    lines[at] = format!("{prefix}{lead}{kept}");
    let same = lines
        .get(at + 1)
        .and_then(|next| parts(next))
        .filter(|(next, words)| *next == prefix && is_comment[at + 1] && !words.is_empty() && !begins_item(words));
    match same {
        Some((_, next)) => lines[at + 1] = format!("{prefix}{lead}{hanging}{over} {next}"),
        None => {
            lines.insert(at + 1, format!("{prefix}{lead}{hanging}{over}"));
            is_comment.insert(at + 1, true);
        }
    }
}

/// Lists, tables, headings and fences begin anew; a paragraph goes on.
fn begins_item(words: &str) -> bool {
    let numbered = words.split_once(['.', ')']).is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    numbered || ["- ", "* ", "#", "|", "```", ">", "SAFETY", "TODO"].iter().any(|mark| words.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str) -> String {
        wrap(&Source::new("a.rs", text))
    }

    #[test]
    fn what_is_over_flows_on() {
        let long = format!("{}end", "word ".repeat(24));
        let text = format!("//! {long}\n//! of it.\n//!\n//! Another.\n");
        let found = wrapped(&text);
        assert!(found.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{found}");
        assert!(found.contains("//! word end of it.\n//!\n//! Another.\n"), "{found}");
        assert_eq!(wrapped(&found), found);
    }

    #[test]
    fn items_begin_anew() {
        let long = format!("- {}end", "word ".repeat(24));
        let found = wrapped(&format!("    /// {long}\n    /// - next\nfn f() {{}}\n"));
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines.len(), 4, "{found}");
        assert!(lines[1].starts_with("    ///   word") && lines[1].ends_with("word end"), "{found}");
        assert_eq!(lines[2], "    /// - next");
    }

    #[test]
    fn code_strings_and_fences_stay() {
        let wide = "x ".repeat(80);
        for text in [
            format!("let a = \"\n// {wide}\n\";\n"),
            format!("/// ```\n/// {wide}\n/// ```\n"),
            format!("let a = {wide};\n"),
            format!("// {}\n", "x".repeat(150)),
        ] {
            assert_eq!(wrapped(&text), text);
        }
    }
}
