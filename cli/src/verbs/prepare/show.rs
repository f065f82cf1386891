//! `lateen prepare show`: documents as the tokens that a model would learn, each with what it counts.

use super::sources::ReadingArguments;
use crate::terminal::{put, say};
use anyhow::Result;
use clap::{Args, ValueEnum};
use numeric::Rng;
use prepare::{Raw, Sample, SourceRecipe, Weighing};
use serde_json::json;
use std::io::{IsTerminal, stdout};
use text::{Document, FillOrder, Renderer, Role, Tokenizer};

/// Show documents as tokens, coloured by what each counts in training
#[derive(Args)]
pub(super) struct Arguments {
    /// A data file, a folder of them, a folder of code, or `kata`
    source: String,
    #[command(flatten)]
    reading: ReadingArguments,
    /// How many documents
    #[arg(short = 'n', long = "count", default_value_t = 3)]
    count: usize,
    /// Pass over so many documents first
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// One token a line, with its id and its weight
    #[arg(long, conflicts_with = "json")]
    tokens: bool,
    /// Print tokens and weights as JSON, one document a line
    #[arg(long)]
    json: bool,
    /// Colours: where somebody looks, always, or never; NO_COLOR in the environment means never
    #[arg(long, default_value = "auto")]
    color: ColorName,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ColorName {
    Auto,
    Always,
    Never,
}

impl ColorName {
    fn is_wanted(self) -> bool {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        self == Self::Always || (self == Self::Auto && !is_refused && stdout().is_terminal())
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut source = arguments.reading.source(&arguments.source)?;
    if let SourceRecipe::Kata(kata) = &mut source {
        kata.episodes = arguments.skip + arguments.count;
    }
    let (tokenizer, template) = arguments.reading.text()?;
    let renderer = Renderer::new(&tokenizer, &template);
    let weighing = Weighing::default();
    let is_coloured = arguments.color.is_wanted();
    let mut shown = 0;
    let documents = source.documents(arguments.reading.seed, &crate::stages::SystemRoots)?;
    for (index, raw) in documents.enumerate().skip(arguments.skip).take(arguments.count) {
        let raw = raw?;
        let mut rng = Rng::new(arguments.reading.seed).fork(index as u64);
        let is_suffix_first = rng.chance(arguments.reading.suffix_first);
        let order = if is_suffix_first { FillOrder::SuffixFirst } else { FillOrder::PrefixFirst };
        let sample = raw.sample(&renderer, &weighing, order)?;
        if arguments.json {
            let line = json!({
                "origin": raw.origin, "kind": raw.kind, "tokens": sample.tokens, "weights": sample.weights,
            });
            put(&format!("{line}\n"))?;
        } else {
            put(&heading(&raw, &sample))?;
            put(&match arguments.tokens {
                true => as_list(&tokenizer, &sample),
                false => as_text(&tokenizer, &sample, is_coloured),
            })?;
        }
        warn(&renderer, &raw, &sample);
        shown += 1;
    }
    if shown == 0 {
        say(&format!("{} has no document after the first {}", arguments.source, arguments.skip));
    } else if !arguments.json && !arguments.tokens {
        say(match is_coloured {
            true => "grey: shown only · green: learnt · yellow: counts less than 1 · bold magenta: counts more",
            false => "⟦…⟧ is learnt; a number in front says what it counts, where that is not 1",
        });
    }
    Ok(())
}

fn heading(raw: &Raw, sample: &Sample) -> String {
    format!(
        "── {} · {} · {} tokens, {} learnt, weight {:.1}\n",
        raw.origin,
        raw.kind.name(),
        sample.tokens.len(),
        sample.trained_tokens(),
        sample.weight()
    )
}

/// What training would refuse, or what a template does that inference will not.
fn warn(renderer: &Renderer<'_>, raw: &Raw, sample: &Sample) {
    if sample.trained_tokens() == 0 {
        say(&format!("warning: {}: there is nothing to learn, so training leaves it out", raw.origin));
    }
    if let Some(message) = first_rewritten(renderer, &raw.document, &sample.tokens) {
        say(&format!(
            "warning: {}: the template writes messages up to {message} differently once others follow: what is learnt \
             is not what the model will see when it answers there",
            raw.origin
        ));
    }
}

/// The first assistant's message after which the conversation so far is no beginning of the whole.
fn first_rewritten(renderer: &Renderer<'_>, document: &Document, all: &[u32]) -> Option<usize> {
    let Document::Chat { tools, messages } = document else { return None };
    let mut answers = (0..messages.len()).filter(|&index| messages[index].role == Role::Assistant);
    answers.find(|&index| {
        let pieces = renderer.chat(&messages[..=index], tools);
        pieces.is_ok_and(|pieces| !all.starts_with(&text::render::flatten(&pieces)))
    })
}

fn as_list(tokenizer: &Tokenizer, sample: &Sample) -> String {
    let line = |(&token, weight): (&u32, &f32)| {
        format!("{token:>7} {weight:>6} {:?}\n", String::from_utf8_lossy(tokenizer.token_bytes(token)))
    };
    sample.tokens.iter().zip(&sample.weights).map(line).collect()
}

/// The text in runs of tokens that count the same.
fn as_text(tokenizer: &Tokenizer, sample: &Sample, is_coloured: bool) -> String {
    let mut text = String::new();
    let mut start = 0;
    for run in sample.weights.chunk_by(|a, b| a == b) {
        let part = printable(&tokenizer.decode(&sample.tokens[start..start + run.len()]));
        start += run.len();
        text.push_str(&if is_coloured { coloured(&part, run[0]) } else { bracketed(&part, run[0]) });
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn coloured(text: &str, weight: f32) -> String {
    let colour = match weight {
        0.0 => "90",
        1.0 => "32",
        weight if weight < 1.0 => "33",
        _ => "1;35",
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

fn bracketed(text: &str, weight: f32) -> String {
    match weight {
        0.0 => text.to_owned(),
        1.0 => format!("⟦{text}⟧"),
        weight => format!("⟦{weight}: {text}⟧"),
    }
}

/// What data says must not move the cursor of whoever looks at it.
fn printable(text: &str) -> String {
    let one = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_told_with_colours_and_without() {
        assert_eq!(bracketed("a", 0.0) + &bracketed("b", 1.0) + &bracketed("c", 0.5), "a⟦b⟧⟦0.5: c⟧");
        assert_eq!(coloured("a", 0.0), "\u{1b}[90ma\u{1b}[0m");
        assert_ne!(coloured("a", 0.5), coloured("a", 2.0));
        assert_eq!(printable("a\u{1b}[2J\tb\r\nü"), "a\\u{1b}[2J\tb\\r\nü");
    }
}
