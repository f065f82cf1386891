//! What can go wrong with text that somebody gave us: files, templates, conversations.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the tokenizer {origin} cannot be used: {reason}")]
    Tokenizer { origin: String, reason: String },
    #[error("the tokenizer has no token {name:?}, which {needed_for} needs; train or choose a tokenizer that has it")]
    MissingToken { name: String, needed_for: &'static str },
    #[error("the chat template {origin} is not valid: {reason}")]
    Template { origin: String, reason: String },
    #[error("no chat template in {folder}: want chat_template.jinja, or \"chat_template\" in tokenizer_config.json")]
    NoTemplate { folder: PathBuf },
    #[error("the chat template refused the conversation: {reason}")]
    Refused { reason: String },
    #[error(
        "the chat template marks no assistant text, so nothing could be trained on; \
         put {{% generation %}} … {{% endgeneration %}} around what the assistant says"
    )]
    NoGenerationBlocks,
    #[error(
        "the chat template looks into what this conversation says, so that spans with a weight of their own cannot be \
         followed through it; give whole messages a weight instead"
    )]
    SpansLost,
    #[error("want a vocabulary of {wanted} tokens, the text supports {reached}; give more text or ask for fewer")]
    TooLittleText { wanted: usize, reached: usize },
    #[error("a vocabulary of {wanted} tokens is too small: bytes and control tokens alone need {least}")]
    VocabularyTooSmall { wanted: usize, least: usize },
    #[error("{what} is not as expected: want {want}, found {found}")]
    Conversation { what: String, want: &'static str, found: String },
}

/// A short form of a JSON value for messages: long ones are cut.
pub(crate) fn shortened(value: &impl std::fmt::Display) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
