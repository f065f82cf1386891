//! Text: tokenizer, chat templates, tool calls, fill-in-the-middle, streaming detokenizer.

pub mod chat;
