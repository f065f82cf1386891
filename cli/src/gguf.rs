//! The tokenizer and the chat template that a GGUF file carries.

use crate::failure::Problem;
use crate::terminal::say;
use anyhow::Result;
use formats::Gguf;
use formats::gguf::{Array, EXTENSION, Value};
use std::path::Path;
use text::{Template, TokenLists, Tokenizer};

/// Whether a name is that of a GGUF file, be it there or not.
pub(crate) fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// Reads both out of a file. The template of this family stands in where there is none, which is said.
pub(crate) fn open_text(path: &Path) -> Result<(Tokenizer, Template)> {
    text_of(&Gguf::open(path)?)
}

fn text_of(gguf: &Gguf) -> Result<(Tokenizer, Template)> {
    let tokenizer = tokenizer(gguf)?;
    let origin = gguf.path().display().to_string();
    let source = gguf.value("tokenizer.chat_template").and_then(|value| value.as_str());
    let template = match source {
        Some(source) => Template::from_source(source.to_owned(), &origin)?,
        None => {
            say(&format!("{origin} has no chat template; that of Qwen3-Coder is used"));
            Template::embedded()
        }
    };
    Ok((tokenizer, template))
}

/// A value under `tokenizer.ggml.`, if there is one; of another kind it is refused.
fn found<'a, T>(
    gguf: &'a Gguf,
    key: &str,
    wanted: &str,
    read: impl Fn(Value<'a>) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let name = format!("tokenizer.ggml.{key}");
    let Some(value) = gguf.value(&name) else { return Ok(None) };
    let wrong = || {
        let message = format!("{}: the key {name} is {value}, want {wanted}", gguf.path().display());
        Problem::new(message, "only the byte-level tokenizers of the Qwen family are known")
    };
    read(value).ok_or_else(wrong).map(Some)
}

fn needed<T>(gguf: &Gguf, key: &str, found: Option<T>) -> Result<T, Problem> {
    found.ok_or_else(|| {
        let message = format!("{}: the key tokenizer.ggml.{key} is missing", gguf.path().display());
        Problem::new(message, "the file has no whole tokenizer: convert the model again")
    })
}

fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    for (key, only) in [("model", "gpt2"), ("pre", "qwen2")] {
        let is_known = |value: Value| value.as_str().filter(|name| *name == only).map(|_| ());
        needed(gguf, key, found(gguf, key, &format!("{only:?}"), is_known)?)?;
    }
    // Templates write what a text begins with; a tokenizer that adds to it is none of this family.
    found(gguf, "add_bos_token", "false", |value| value.as_bool().filter(|adds| !adds))?;
    found(gguf, "add_eos_token", "false", |value| value.as_bool().filter(|adds| !adds))?;
    let strings = |key: &str| {
        needed(gguf, key, found(gguf, key, "an array of strings", |value| value.as_array().and_then(Array::strings))?)
    };
    let types = found(gguf, "token_type", "an array of integers", |value| value.as_array()?.integers())?;
    let id =
        |key: &str| found(gguf, key, "the id of a token", |value| value.as_u64().and_then(|id| u32::try_from(id).ok()));
    let mut end_tokens: Vec<u32> = Vec::new();
    for key in ["eos_token_id", "eot_token_id"] {
        end_tokens.extend(id(key)?.filter(|id| !end_tokens.contains(id)));
    }
    let lists = TokenLists {
        tokens: strings("tokens")?,
        types: needed(gguf, "token_type", types)?,
        merges: strings("merges")?,
        end_tokens,
        pad_token: id("padding_token_id")?,
    };
    Ok(lists.tokenizer(&gguf.path().display().to_string())?)
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gguf_hostile_tests.rs"]
mod hostile_tests;
