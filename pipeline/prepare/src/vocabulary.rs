//! A tokenizer of one's own, trained on the same data that the model will learn.

use crate::dataset::{DataRecipe, SourceRecipe, Watch};
use crate::error::PrepareError;
use crate::kata::KataRecipe;
use crate::source::{Raw, Roots, Skipped};
use numeric::Rng;
use rayon::prelude::*;
use text::{Document, RenderOptions, Template, TextError, Tokenizer};

/// What is asked of a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    /// Tokens in all: the 256 bytes and the control tokens among them.
    pub size: usize,
    /// Katas looked at; more than some thousands change little.
    pub episodes: usize,
}

/// Trains a tokenizer on what `data` names. Conversations are seen as the template writes them, markup and tools
/// included.
pub fn train_tokenizer(
    vocabulary: Vocabulary,
    data: &DataRecipe,
    template: &Template,
    roots: &dyn Roots,
    watch: &dyn Watch,
) -> Result<Tokenizer, PrepareError> {
    data.check()?;
    // Nothing but bytes and control tokens: enough to render.
    let bytes_only = text::train::train([""; 0], 256 + text::train::CONTROL_TOKENS.len())?;
    let mut texts: Vec<String> = Vec::new();
    let mut bytes_before = 0.0;
    for (index, source) in data.sources.iter().enumerate() {
        let seed = Rng::new(data.seed).fork(index as u64).next_u64();
        let raws = read(source, vocabulary.episodes, seed, roots, watch)?;
        let written: Result<Vec<Vec<String>>, TextError> =
            raws.par_iter().map(|raw| written(&raw.document, template, &bytes_only)).collect();
        let share = source.share_max(data.sources.len());
        let mut left = if bytes_before > 0.0 && share < 1.0 { bytes_before * share / (1.0 - share) } else { f64::MAX };
        for text in written?.into_iter().flatten() {
            left -= text.len() as f64;
            if left < 0.0 {
                break;
            }
            bytes_before += text.len() as f64;
            texts.push(text);
        }
    }
    watch.at("training the tokenizer", 0, vocabulary.size);
    Ok(text::train::train(texts, vocabulary.size)?)
}

fn read(
    source: &SourceRecipe,
    episodes: usize,
    seed: u64,
    roots: &dyn Roots,
    watch: &dyn Watch,
) -> Result<Vec<Raw>, PrepareError> {
    match source {
        SourceRecipe::Code(code) => code.read(seed, roots, &mut Skipped::default()),
        SourceRecipe::File(file) => file.documents(seed)?.collect(),
        SourceRecipe::Kata(kata) => {
            let few = KataRecipe { episodes: kata.episodes.min(episodes), ..kata.clone() };
            let at = |done, total| watch.at("drawing katas for the tokenizer", done, total);
            Ok(few.read(few.split(), seed, &at)?.0)
        }
    }
}

/// A document as the texts that a tokenizer will meet.
fn written(document: &Document, template: &Template, tokenizer: &Tokenizer) -> Result<Vec<String>, TextError> {
    Ok(match document {
        Document::Chat { tools, messages } => {
            vec![template.render(messages, tools, &RenderOptions::default(), tokenizer)?.text]
        }
        Document::FillInTheMiddle { prefix, middle, suffix } => vec![prefix.clone(), middle.clone(), suffix.clone()],
        Document::Repository { files, fill, .. } => {
            let files = files.iter().map(|file| format!("{}\n{}\n", file.path, file.text));
            let fill = fill.iter().flat_map(|fill| [fill.prefix.clone(), fill.middle.clone(), fill.suffix.clone()]);
            files.chain(fill).collect()
        }
        Document::Plain { text } => vec![text.clone()],
        Document::Completion { prompt, completion } => vec![prompt.clone(), completion.clone()],
    })
}
