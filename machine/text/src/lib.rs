//! Text: tokenizer, chat templates, tool calls, fill-in-the-middle, streaming detokenizer.
//!
//! The rule of this crate: what a user wrote never becomes a control token. `Tokenizer::encode` knows no control
//! tokens at all; a chat is rendered with its author recorded per character (`guard`), and only what the template
//! itself wrote may form one.

mod argument;
pub mod byte_alphabet;
pub mod chat;
mod control;
mod error;
mod guard;
mod python;
pub mod render;
pub mod reply;
pub mod stream;
pub mod template;
pub mod tokenizer;
pub mod tool_calls;
pub mod train;
mod vocabulary;
pub mod wire;

pub use chat::{Document, Message, RepositoryFile, RepositoryFill, Role, ToolCall, ToolDefinition};
pub use error::TextError;
pub use render::{FillOrder, Part, Piece, Renderer, Source, Span};
pub use stream::{Detokenizer, StopStrings};
pub use template::{RenderOptions, Rendered, Template};
pub use tokenizer::{EncodedToken, Tokenizer};
pub use vocabulary::TokenLists;
