//! Sources of data as the command line names them.

use crate::failure::Problem;
use crate::place::{model_place, open_text};
use anyhow::Result;
use clap::{Args, ValueEnum};
use prepare::{Broken, CodeRecipe, FileRecipe, Format, KataRecipe, Kind, SourceRecipe, WrittenAs};
use std::path::Path;
use text::{Template, Tokenizer};

/// How sources are read: what a recipe's `[[stage.data.source]]` would say.
#[derive(Args)]
#[command(next_help_heading = "Reading")]
pub(super) struct ReadingArguments {
    /// The model whose tokenizer and chat template turn documents into tokens
    #[arg(long)]
    pub(super) model: String,
    /// The form of the records, where their fields do not tell
    #[arg(long, value_parser = format)]
    format: Option<Format>,
    /// What the records teach, where they do not say so themselves
    #[arg(long, value_parser = kind)]
    kind: Option<Kind>,
    /// Write questions and answers through the chat template, or as a text to continue
    #[arg(long = "as")]
    written_as: Option<WrittenName>,
    /// What the records call one of their fields; may be given several times
    #[arg(long = "field", value_name = "OURS=THEIRS", value_parser = field)]
    fields: Vec<(String, String)>,
    /// The share of pieces of code that get a hole
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    fill_share: f64,
    /// Leave out records that cannot be read, and count them
    #[arg(long)]
    skip_broken: bool,
    /// The share of holed texts that show the suffix first
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(super) suffix_first: f64,
    /// The same seed makes the same holes
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum WrittenName {
    Chat,
    Text,
}

fn format(name: &str) -> Result<Format, String> {
    let all = Format::ALL;
    let known = || all.map(Format::name).join(", ");
    all.into_iter().find(|format| format.name() == name).ok_or_else(|| format!("want one of {}", known()))
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| format!("want one of {}", Kind::ALL.map(Kind::name).join(", ")))
}

fn field(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(ours, theirs)| !ours.is_empty() && !theirs.is_empty());
    pair.map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned())).ok_or_else(|| "want OURS=THEIRS".to_owned())
}

impl ReadingArguments {
    /// What a person means by a word: `kata`, a data file, a folder of those, or a folder of code.
    pub(super) fn source(&self, name: &str) -> Result<SourceRecipe> {
        let path = Path::new(name);
        if name == "kata" && !path.exists() {
            return Ok(SourceRecipe::Kata(KataRecipe::default()));
        }
        if !path.exists() {
            let hint = "give a file (.jsonl, .json, .parquet, also .gz and .zst), a folder of those, a folder of code, \
                        or kata";
            return Err(Problem::new(format!("there is no source {name}"), hint).into());
        }
        let file = FileRecipe {
            format: self.format,
            kind: self.kind,
            written_as: self.written_as.map(|name| match name {
                WrittenName::Chat => WrittenAs::Chat,
                WrittenName::Text => WrittenAs::Text,
            }),
            fields: self.fields.iter().cloned().collect(),
            fill_share: self.fill_share,
            broken: if self.skip_broken { Broken::Skip } else { Broken::Refuse },
            ..FileRecipe::new(path)
        };
        if path.is_dir() && file.files().is_err() {
            let roots = vec![name.to_owned()];
            return Ok(SourceRecipe::Code(CodeRecipe { roots, fill_share: self.fill_share, ..CodeRecipe::default() }));
        }
        Ok(SourceRecipe::File(file))
    }

    /// What turns documents into tokens; a folder with these two files needs no model.
    pub(super) fn text(&self) -> Result<(Tokenizer, Template)> {
        let folder = Path::new(&self.model);
        match folder.join("tokenizer.json").is_file() {
            true => open_text(folder),
            false => open_text(&model_place(&self.model)?),
        }
    }
}
