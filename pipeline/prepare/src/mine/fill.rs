//! Fill-in-the-middle: holes where the syntax has joints, and some where it has none, as a cursor may stand anywhere.

use super::Desk;
use super::episode::{Episode, MinedKind};
use super::function::functions;
use super::syntax::Syntax;
use numeric::Rng;
use std::collections::BTreeSet;
use std::ops::Range;
use text::Document;

/// One hole for so many lines of a file, and at most so many for a file.
const LINES_A_HOLE: usize = 40;
const HOLES_MAX: usize = 12;
/// A place drawn may be too small, too large, or taken.
const TRIES_A_HOLE: usize = 8;
const MIDDLE_BYTES_MIN: usize = 4;
const MIDDLE_BYTES_MAX: usize = 2_000;
const WORDS_MIN: usize = 2;
/// What is shown on either side, cut at lines.
const PREFIX_BYTES_MAX: usize = 6_000;
const SUFFIX_BYTES_MAX: usize = 3_000;

/// What a hole is, and how often it is wanted beside the others.
const FORMS: [(&str, f64); 6] =
    [("body", 2.0), ("block", 2.0), ("statement", 2.0), ("expression", 2.0), ("arguments", 1.0), ("random", 1.0)];

/// The holes of a file, no two of them alike.
pub(super) fn holes(desk: &Desk, path: &str, syntax: &Syntax, rng: &mut Rng) -> Vec<Episode> {
    let spans = spans(syntax);
    let wanted = (syntax.text.lines().count() / LINES_A_HOLE + 1).min(HOLES_MAX);
    let total: f64 = FORMS.iter().map(|(_, weight)| weight).sum();
    let mut episodes = Vec::new();
    let mut taken = BTreeSet::new();
    for _ in 0..TRIES_A_HOLE * wanted {
        let mut left = rng.uniform() * total;
        let form = FORMS.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        let (form, _) = *form.unwrap_or(&FORMS[0]);
        let span = match form {
            "random" => random(syntax.text, rng),
            _ => {
                let of_form: Vec<&Range<usize>> =
                    spans.iter().filter(|(name, _)| *name == form).map(|(_, span)| span).collect();
                (!of_form.is_empty()).then(|| (*rng.choose(&of_form)).clone())
            }
        };
        let Some(span) = span.filter(|span| is_worth_it(&syntax.text[span.clone()])) else { continue };
        if taken.insert((span.start, span.end)) {
            episodes.push(episode(desk, path, syntax, form, span));
        }
        if episodes.len() == wanted {
            break;
        }
    }
    episodes
}

fn is_worth_it(middle: &str) -> bool {
    let letters = middle.chars().filter(|c| c.is_alphanumeric()).count();
    // One word alone, `break;` or a literal, is a token or two: nothing that would have to be thought out.
    let words = middle.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count();
    (MIDDLE_BYTES_MIN..=MIDDLE_BYTES_MAX).contains(&middle.len()) && letters >= 3 && words >= WORDS_MIN
}

/// Every place where the syntax has a joint.
fn spans(syntax: &Syntax) -> Vec<(&'static str, Range<usize>)> {
    let names = syntax.names();
    let mut spans = Vec::new();
    let bodies: Vec<usize> = functions(syntax).iter().map(|function| function.body).collect();
    for (at, node) in syntax.nodes.iter().enumerate() {
        if node.has_error || !node.is_named {
            continue;
        }
        if syntax.is(at, names.blocks) {
            let form = if bodies.contains(&at) { "body" } else { "block" };
            spans.extend(inside(syntax, at).map(|span| (form, span)));
            spans.extend(
                syntax.statements(at).into_iter().map(|child| ("statement", syntax.nodes[child].bytes.clone())),
            );
        } else if syntax.is(at, names.arguments) {
            spans.extend(inside(syntax, at).map(|span| ("arguments", span)));
        } else if [names.calls, names.expressions, names.binaries].iter().any(|kinds| syntax.is(at, kinds)) {
            spans.push(("expression", node.bytes.clone()));
        }
    }
    spans
}

/// What is between the brackets of a node, without the white space there; where it has none, all of it.
fn inside(syntax: &Syntax, at: usize) -> Option<Range<usize>> {
    let span = &syntax.nodes[at].bytes;
    let text = &syntax.text[span.clone()];
    let (start, end) = match text.starts_with(['{', '(']) && text.ends_with(['}', ')']) && text.len() >= 2 {
        true => (span.start + 1, span.end - 1),
        false => (span.start, span.end),
    };
    let inner = &syntax.text[start..end];
    let trimmed = inner.trim();
    let lead = inner.len() - inner.trim_start().len();
    (!trimmed.is_empty()).then(|| start + lead..start + lead + trimmed.len())
}

/// From anywhere to anywhere, a few lines at most.
fn random(text: &str, rng: &mut Rng) -> Option<Range<usize>> {
    if text.len() < 40 {
        return None;
    }
    let mut start = rng.below(text.len() - 20);
    let mut end = (start + MIDDLE_BYTES_MIN + rng.below(300)).min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    Some(start..end)
}

fn episode(desk: &Desk, path: &str, syntax: &Syntax, form: &'static str, span: Range<usize>) -> Episode {
    let text = syntax.text;
    let mut start = span.start.saturating_sub(PREFIX_BYTES_MAX);
    if start > 0 {
        start = text[..span.start].char_indices().map(|(at, _)| at).find(|&at| at >= start).unwrap_or(span.start);
        start = text[start..span.start].find('\n').map_or(start, |line_end| start + line_end + 1);
    }
    let mut end = (span.end + SUFFIX_BYTES_MAX).min(text.len());
    if end < text.len() {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        end = text[span.end..end].rfind('\n').map_or(end, |line_end| span.end + line_end + 1);
    }
    Episode {
        kind: MinedKind::Fim,
        form,
        document: Document::FillInTheMiddle {
            prefix: text[start..span.start].to_owned(),
            middle: text[span.clone()].to_owned(),
            suffix: text[span.end..end].to_owned(),
        },
        silent: Vec::new(),
        commit: desk.commit.clone(),
        path: path.to_owned(),
        language: Some(syntax.language.name()),
    }
}
