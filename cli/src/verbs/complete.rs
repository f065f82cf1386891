//! `lateen complete`: fills the hole between what stands before the cursor and what stands after it.

use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::memory::{ContextArguments, KvArguments};
use crate::place::{AdapterArguments, Outlined, WeightArguments};
use crate::speech::{SamplingArguments, speak};
use crate::terminal::{put, put_json};
use anyhow::{Context, Result};
use clap::Args;
use engine::{Finish, Request, Session};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use text::FillOrder;

/// Fill in the middle: complete the text at the cursor
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    model: String,
    /// A file with what stands before the cursor
    #[arg(long, value_name = "FILE", conflicts_with = "prefix_text")]
    prefix: Option<PathBuf>,
    /// What stands before the cursor
    #[arg(long, value_name = "TEXT")]
    prefix_text: Option<String>,
    /// A file with what stands after the cursor
    #[arg(long, value_name = "FILE", conflicts_with = "suffix_text")]
    suffix: Option<PathBuf>,
    /// What stands after the cursor
    #[arg(long, value_name = "TEXT")]
    suffix_text: Option<String>,
    /// Without a prefix, the text is read from standard input, and this marks the cursor in it
    #[arg(long, value_name = "TEXT", default_value = "<|cursor|>")]
    marker: String,
    /// Show the model the suffix first
    #[arg(long)]
    suffix_first: bool,
    /// Machine-readable, at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    adapter: AdapterArguments,
    #[command(flatten)]
    kv: KvArguments,
    #[command(flatten)]
    context: ContextArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
}

const COMPLETION_TOKENS: usize = 128;

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let (prefix, suffix) = sides(&arguments)?;
    let outlined = Outlined::look_with(&arguments.model, arguments.weights.loading(), &arguments.adapter)?;
    let cancel = interrupt::listen("")?;
    let order = if arguments.suffix_first { FillOrder::SuffixFirst } else { FillOrder::PrefixFirst };
    let prompt = outlined.renderer().fill_prompt(&prefix, &suffix, order)?;
    let max_tokens = arguments.sampling.max_tokens.unwrap_or(COMPLETION_TOKENS);
    let settings = arguments.context.settings(prompt.len() + max_tokens, arguments.kv, &outlined.model.config)?;
    let planned = outlined.planned(settings);
    let speaking = outlined.open_within(&planned)?;
    let mut session = Session::new(&speaking.model.config, settings.kv).limited(settings.context);
    session.sync(&speaking.model.config, &prompt)?;
    let request = Request {
        sampling: arguments.sampling.sampling(&speaking.place)?,
        max_tokens,
        stop: speaking.tokenizer.fill_end_tokens(),
    };
    let stream = !arguments.json;
    let show = |piece: &str| if stream { put(piece) } else { Ok(()) };
    let said = speak(&speaking, &mut session, &request, &arguments.sampling.stop, cancel, show)?;
    if arguments.json {
        put_json(&json!({
            "text": said.text,
            "finish": said.finish(),
            "prompt_tokens": prompt.len(),
            "tokens": said.generation.tokens.len(),
            "tokens_per_second": said.generation.timings.decode_tokens_per_second(),
        }))?;
    }
    match said.generation.finish {
        Finish::Cancelled if said.stopped_by.is_none() => Err(Interrupted { hint: String::new() }.into()),
        _ => Ok(()),
    }
}

/// What stands before and after the cursor.
fn sides(arguments: &Arguments) -> Result<(String, String)> {
    let read = |path: &Option<PathBuf>, text: &Option<String>| -> Result<Option<String>> {
        match (path, text) {
            (Some(path), _) => Ok(Some(read_text(path)?)),
            (None, text) => Ok(text.clone()),
        }
    };
    let prefix = read(&arguments.prefix, &arguments.prefix_text)?;
    let suffix = read(&arguments.suffix, &arguments.suffix_text)?;
    if prefix.is_some() || suffix.is_some() {
        return Ok((prefix.unwrap_or_default(), suffix.unwrap_or_default()));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input as text")?;
    let (before, after) = text.split_once(&arguments.marker).ok_or_else(|| {
        let message = format!("there is no cursor {:?} in the text on standard input", arguments.marker);
        Problem::new(message, "put it where the text shall be completed, or give --prefix and --suffix")
    })?;
    Ok((before.to_owned(), after.to_owned()))
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {} as text", path.display()))
}
