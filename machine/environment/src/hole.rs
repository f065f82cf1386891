//! A program with a hole: an expression, the rest of a line, a line, or a block is to be filled in.

use numeric::Rng;
use text::chat::Document;

use crate::kata::Kata;
use crate::sandbox::Sandbox;
use crate::source::{Sort, tokens};
use crate::split::Split;
use crate::task::{Exercise, Prompt, Verdict};

#[derive(Debug)]
pub(crate) struct FillInTheMiddle {
    kata: Kata,
    prefix: String,
    middle: String,
    suffix: String,
}

impl FillInTheMiddle {
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        let kata = Kata::draw(split, rng);
        // What the program is for stands above it, as in a file: without it a constant in the hole could not be known.
        let code = format!("# {}\n{}", kata.summary, kata.program);
        let body = code.find('\n').map_or(0, |end| end + 1);
        let (start, end) = match rng.below(4) {
            0 => expression(&code, body, rng),
            1 => rest_of_line(&code, body, rng),
            2 => lines(&code, body, 1, rng),
            _ => lines(&code, body, 12, rng),
        };
        let (prefix, middle, suffix) = (code[..start].to_owned(), code[start..end].to_owned(), code[end..].to_owned());
        Self { kata, prefix, middle, suffix }
    }
}

/// The byte ranges of the lines after the header, without indentation and line end.
fn body_lines(code: &str, body: usize) -> Vec<(usize, usize)> {
    let mut at = body;
    let mut out = Vec::new();
    for line in code[body..].split_inclusive('\n') {
        let text = line.trim();
        if at > body && !text.is_empty() {
            let start = at + (line.len() - line.trim_start().len());
            out.push((start, start + text.len()));
        }
        at += line.len();
    }
    out
}

/// One to five neighbouring tokens of a line.
fn expression(code: &str, body: usize, rng: &mut Rng) -> (usize, usize) {
    let &(start, end) = rng.choose(&body_lines(code, body));
    let solid: Vec<_> = tokens(code)
        .into_iter()
        .filter(|token| token.start >= start && token.end <= end && token.sort != Sort::Space)
        .collect();
    let first = rng.below(solid.len());
    let last = (first + rng.below(5)).min(solid.len() - 1);
    (solid[first].start, solid[last].end)
}

/// From a token inside a line to the line's end: what an editor asks for most.
fn rest_of_line(code: &str, body: usize, rng: &mut Rng) -> (usize, usize) {
    let &(start, end) = rng.choose(&body_lines(code, body));
    let starts: Vec<usize> = tokens(code)
        .into_iter()
        .filter(|token| token.start >= start && token.end <= end && token.sort != Sort::Space)
        .map(|token| token.start)
        .collect();
    (*rng.choose(&starts), end)
}

/// Whole lines; the indentation of the first stays in the prefix.
fn lines(code: &str, body: usize, lines_max: usize, rng: &mut Rng) -> (usize, usize) {
    let all = body_lines(code, body);
    let first = rng.below(all.len());
    let last = if lines_max == 1 { first } else { first + rng.below(all.len() - first) };
    (all[first].0, all[last].1)
}

impl Exercise for FillInTheMiddle {
    fn prompt(&self) -> Prompt {
        Prompt::FillInTheMiddle { prefix: self.prefix.clone(), suffix: self.suffix.clone() }
    }

    fn demonstration(&self) -> Document {
        Document::FillInTheMiddle {
            prefix: self.prefix.clone(),
            middle: self.middle.clone(),
            suffix: self.suffix.clone(),
        }
    }

    fn judge(&self, sandbox: &Sandbox, answer: &str) -> Verdict {
        let program = format!("{}{answer}{}", self.prefix, self.suffix);
        let mut verdict = self.kata.judge(sandbox, &program);
        verdict.exact = answer.trim_end() == self.middle;
        verdict
    }

    fn katas(&self) -> &[Kata] {
        std::slice::from_ref(&self.kata)
    }
}
