//! Documents as tokens, every token with who speaks it, so that training can weigh them.

use crate::chat::{Document, Message, RepositoryFile, RepositoryFill, Role, ToolDefinition};
use crate::error::TextError;
use crate::template::{RenderOptions, Rendered, Said, Template};
use crate::tokenizer::{EncodedToken, Tokenizer};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Who a token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What the template writes around the turns.
    Template,
    /// System text and tool definitions.
    System,
    User,
    /// What a tool answered.
    Tool,
    /// The assistant's thinking, with `<think>` and `</think>`.
    AssistantReasoning,
    /// The assistant's answer, with the end of the turn.
    AssistantContent,
    /// The assistant's calls, with their markup; the end of the turn where a call ends it.
    AssistantToolCall,
    FillPrefix,
    FillSuffix,
    /// The text that fills the hole, with the end of the text.
    FillMiddle,
    /// Plain text and repository context, with the end of the text.
    Plain,
}

impl Source {
    pub const ALL: [Self; 11] = [
        Self::Template,
        Self::System,
        Self::User,
        Self::Tool,
        Self::AssistantReasoning,
        Self::AssistantContent,
        Self::AssistantToolCall,
        Self::FillPrefix,
        Self::FillSuffix,
        Self::FillMiddle,
        Self::Plain,
    ];
}

/// Consecutive tokens of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub tokens: Vec<u32>,
    pub source: Source,
    /// Is this what the model shall learn to say? (Assistant text, the middle of a hole, plain text.)
    pub trained: bool,
    /// The index of the assistant message that this belongs to, where known.
    pub message: Option<usize>,
    /// The mark of the [`Span`] that it comes from.
    pub mark: Option<u16>,
}

impl Piece {
    fn of(tokens: Vec<u32>, source: Source, trained: bool) -> Self {
        Self { tokens, source, trained, message: None, mark: None }
    }
}

/// Which text of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Content,
    Reasoning,
}

/// A part of what a document says that is to be found again in its tokens. Spans of one text do not overlap. Of a
/// plain text, the message is 0 and the part its content; other documents have no spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub message: usize,
    pub part: Part,
    /// Bytes.
    pub range: Range<usize>,
    /// What the caller knows it by.
    pub mark: u16,
}

/// In which order the parts around a hole are written. Both end with what the model fills in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FillOrder {
    /// prefix, suffix, middle
    #[default]
    PrefixFirst,
    /// suffix, prefix, middle: `<|fim_prefix|><|fim_suffix|>{suffix}<|fim_middle|>{prefix}{middle}`, so that the
    /// prefix runs on into the middle (Bavarian et al. 2022, "SPM variant 2").
    SuffixFirst,
}

const FOR_FILL: &str = "fill-in-the-middle";
const FOR_REPOSITORY: &str = "a repository document";
const FOR_TEXT: &str = "the end of a text";

/// A tokenizer and a template: all that turns documents into tokens.
#[derive(Debug, Clone, Copy)]
pub struct Renderer<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a Template,
}

impl<'a> Renderer<'a> {
    pub fn new(tokenizer: &'a Tokenizer, template: &'a Template) -> Self {
        Self { tokenizer, template }
    }

    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    pub fn template(&self) -> &'a Template {
        self.template
    }

    /// A document for training. `order` is for holes.
    pub fn document(&self, document: &Document, order: FillOrder) -> Result<Vec<Piece>, TextError> {
        self.document_with_spans(document, &[], order)
    }

    /// The same, with parts of its messages or its text that are to be found again in the tokens.
    pub fn document_with_spans(
        &self,
        document: &Document,
        spans: &[Span],
        order: FillOrder,
    ) -> Result<Vec<Piece>, TextError> {
        match document {
            Document::Chat { tools, messages } => self.chat_with_spans(&Said { messages, tools, spans }),
            Document::Plain { text } if !spans.is_empty() => self.plain_with_spans(text, spans),
            Document::FillInTheMiddle { prefix, middle, suffix } => self.fill(prefix, middle, suffix, order),
            Document::Repository { name, files, fill } => self.repository(name, files, fill.as_ref(), order),
            Document::Plain { text } => self.plain(text),
            Document::Completion { prompt, completion } => self.completion(prompt, completion),
        }
    }

    /// A conversation for training: what stands in generation blocks is trained.
    pub fn chat(&self, messages: &[Message], tools: &[ToolDefinition]) -> Result<Vec<Piece>, TextError> {
        self.chat_with_spans(&Said { messages, tools, spans: &[] })
    }

    fn chat_with_spans(&self, said: &Said<'_>) -> Result<Vec<Piece>, TextError> {
        if !self.template.has_generation_blocks() {
            return Err(TextError::NoGenerationBlocks);
        }
        let rendered = self.template.render_spans(said, &RenderOptions::default(), self.tokenizer)?;
        let messages = said.messages.iter().enumerate();
        let assistants: Vec<usize> =
            messages.filter(|(_, message)| message.role == Role::Assistant).map(|(index, _)| index).collect();
        Ok(self.label(&rendered, &assistants))
    }

    /// The tokens after which the model answers as the assistant.
    pub fn prompt(&self, messages: &[Message], tools: &[ToolDefinition]) -> Result<Vec<u32>, TextError> {
        self.prompt_with(messages, tools, &RenderOptions::prompt())
    }

    /// Like `prompt`, with the template's further variables.
    pub fn prompt_with(
        &self,
        messages: &[Message],
        tools: &[ToolDefinition],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TextError> {
        let rendered = self.template.render(messages, tools, options, self.tokenizer)?;
        let tokens = self.tokenizer.encode_guarded(&rendered.text, &rendered.protected());
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }

    /// Plain text for training, with its end.
    pub fn plain(&self, text: &str) -> Result<Vec<Piece>, TextError> {
        let mut tokens = self.tokenizer.encode(text);
        tokens.push(self.tokenizer.control_id("<|endoftext|>", FOR_TEXT)?);
        Ok(vec![Piece::of(tokens, Source::Plain, true)])
    }

    fn plain_with_spans(&self, text: &str, spans: &[Span]) -> Result<Vec<Piece>, TextError> {
        let mut marked: Vec<(Range<usize>, u16)> = spans.iter().map(|span| (span.range.clone(), span.mark)).collect();
        marked.sort_by_key(|(range, _)| range.start);
        let mut pieces: Vec<Piece> = Vec::new();
        for token in self.tokenizer.encode_guarded(text, std::slice::from_ref(&(0..text.len()))) {
            push(
                &mut pieces,
                token.id,
                Piece { mark: value_at(&marked, &token.range), ..Piece::of(Vec::new(), Source::Plain, true) },
            );
        }
        pieces.push(Piece::of(vec![self.tokenizer.control_id("<|endoftext|>", FOR_TEXT)?], Source::Plain, true));
        Ok(pieces)
    }

    /// A text and what continues it, tokenized apart, as they are when the model continues it; the prompt is given.
    pub fn completion(&self, prompt: &str, completion: &str) -> Result<Vec<Piece>, TextError> {
        let mut pieces = self.plain(completion)?;
        if !prompt.is_empty() {
            pieces.insert(0, Piece::of(self.tokenizer.encode(prompt), Source::Plain, false));
        }
        Ok(pieces)
    }

    /// A text with a hole for training; the middle and the end after it are trained.
    pub fn fill(&self, prefix: &str, middle: &str, suffix: &str, order: FillOrder) -> Result<Vec<Piece>, TextError> {
        let mut pieces = self.fill_context(prefix, suffix, order)?;
        let mut tokens = self.tokenizer.encode(middle);
        tokens.push(self.tokenizer.control_id("<|endoftext|>", FOR_TEXT)?);
        pieces.push(Piece::of(tokens, Source::FillMiddle, true));
        Ok(pieces)
    }

    /// The tokens after which the model fills a hole.
    pub fn fill_prompt(&self, prefix: &str, suffix: &str, order: FillOrder) -> Result<Vec<u32>, TextError> {
        Ok(flatten(&self.fill_context(prefix, suffix, order)?))
    }

    /// Files of one repository, and possibly one with a hole at the end. With a hole, the files before it are context
    /// and not trained; without, everything is.
    pub fn repository(
        &self,
        name: &str,
        files: &[RepositoryFile],
        fill: Option<&RepositoryFill>,
        order: FillOrder,
    ) -> Result<Vec<Piece>, TextError> {
        let context = self.repository_context(name, files)?;
        let end = self.tokenizer.control_id("<|endoftext|>", FOR_TEXT)?;
        let Some(fill) = fill else {
            let tokens = context.into_iter().chain([end]).collect();
            return Ok(vec![Piece::of(tokens, Source::Plain, true)]);
        };
        let mut tokens = context;
        tokens.extend(self.file_header(&fill.path)?);
        let mut pieces = vec![Piece::of(tokens, Source::Plain, false)];
        pieces.extend(self.fill(&fill.prefix, &fill.middle, &fill.suffix, order)?);
        Ok(pieces)
    }

    /// The tokens after which the model fills a hole in the file `path`, with other files as context.
    pub fn repository_fill_prompt(
        &self,
        name: &str,
        files: &[RepositoryFile],
        (path, prefix, suffix): (&str, &str, &str),
        order: FillOrder,
    ) -> Result<Vec<u32>, TextError> {
        let mut tokens = self.repository_context(name, files)?;
        tokens.extend(self.file_header(path)?);
        tokens.extend(self.fill_prompt(prefix, suffix, order)?);
        Ok(tokens)
    }

    fn fill_context(&self, prefix: &str, suffix: &str, order: FillOrder) -> Result<Vec<Piece>, TextError> {
        let control = |name| Ok::<_, TextError>(vec![self.tokenizer.control_id(name, FOR_FILL)?]);
        let piece = |tokens, source| Piece::of(tokens, source, false);
        let before = piece(control("<|fim_prefix|>")?, Source::Template);
        let between = piece(control("<|fim_suffix|>")?, Source::Template);
        let last = piece(control("<|fim_middle|>")?, Source::Template);
        let prefix = piece(self.tokenizer.encode(prefix), Source::FillPrefix);
        let suffix = piece(self.tokenizer.encode(suffix), Source::FillSuffix);
        let mut pieces = match order {
            FillOrder::PrefixFirst => vec![before, prefix, between, suffix, last],
            FillOrder::SuffixFirst => vec![before, between, suffix, last, prefix],
        };
        pieces.retain(|piece| !piece.tokens.is_empty());
        Ok(pieces)
    }

    fn repository_context(&self, name: &str, files: &[RepositoryFile]) -> Result<Vec<u32>, TextError> {
        let mut tokens = vec![self.tokenizer.control_id("<|repo_name|>", FOR_REPOSITORY)?];
        tokens.extend(self.tokenizer.encode(&format!("{name}\n")));
        for file in files {
            tokens.push(self.tokenizer.control_id("<|file_sep|>", FOR_REPOSITORY)?);
            tokens.extend(self.tokenizer.encode(&format!("{}\n{}\n", file.path, file.text)));
        }
        Ok(tokens)
    }

    fn file_header(&self, path: &str) -> Result<Vec<u32>, TextError> {
        let mut tokens = vec![self.tokenizer.control_id("<|file_sep|>", FOR_REPOSITORY)?];
        tokens.extend(self.tokenizer.encode(&format!("{path}\n")));
        Ok(tokens)
    }

    fn label(&self, rendered: &Rendered, assistants: &[usize]) -> Vec<Piece> {
        let tokens = self.tokenizer.encode_guarded(&rendered.text, &rendered.protected());
        // The n-th block is the n-th assistant's only if there is one block for each.
        let is_matched = rendered.generated.len() == assistants.len();
        let authored = with_gaps_filled(&rendered.text, &rendered.authored);
        let marked = with_gaps_filled(&rendered.text, &rendered.marked);
        let mut speaker = Speaker::new(self.tokenizer);
        let mut pieces: Vec<Piece> = Vec::new();
        for token in tokens {
            let author = value_at(&authored, &token.range);
            let block = block_of(&rendered.generated, &token.range);
            let source = match block {
                Some(block) => speaker.of(block, &token, author),
                None => author.unwrap_or(Source::Template),
            };
            let message = block.filter(|_| is_matched).map(|block| assistants[block]);
            let mark = value_at(&marked, &token.range);
            push(&mut pieces, token.id, Piece { message, mark, ..Piece::of(Vec::new(), source, block.is_some()) });
        }
        pieces
    }
}

/// Adds a token to the last piece, if that is of the same kind as the empty piece `like`, or else in a new one.
fn push(pieces: &mut Vec<Piece>, token: u32, like: Piece) {
    let kind = |piece: &Piece| (piece.source, piece.trained, piece.message, piece.mark);
    match pieces.last_mut() {
        Some(last) if kind(last) == kind(&like) => last.tokens.push(token),
        _ => pieces.push(Piece { tokens: vec![token], ..like }),
    }
}

/// All tokens of some pieces.
pub fn flatten(pieces: &[Piece]) -> Vec<u32> {
    pieces.iter().flat_map(|piece| &piece.tokens).copied().collect()
}

/// The ranges of a text, joined over the white space and quotes inside one author's text, which carry no author.
fn with_gaps_filled<T: Copy + PartialEq>(text: &str, ranges: &[(Range<usize>, T)]) -> Vec<(Range<usize>, T)> {
    let mut joined: Vec<(Range<usize>, T)> = Vec::new();
    for (range, value) in ranges {
        match joined.last_mut() {
            Some((last, of_last)) if of_last == value && is_gap(&text[last.end..range.start]) => last.end = range.end,
            _ => joined.push((range.clone(), *value)),
        }
    }
    joined
}

fn is_gap(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c < ' ' || matches!(c, '"' | '\\'))
}

/// The author (or the mark) of a token that came from these bytes: the first who wrote any of them.
fn value_at<T: Copy>(ranges: &[(Range<usize>, T)], token: &Range<usize>) -> Option<T> {
    let first = ranges.partition_point(|(range, _)| range.end <= token.start);
    ranges.get(first).filter(|(range, _)| range.start < token.end).map(|&(_, value)| value)
}

/// The generation block that a token lies in, if only partly: a token is trained as a whole or not at all.
fn block_of(generated: &[Range<usize>], token: &Range<usize>) -> Option<usize> {
    let first = generated.partition_point(|block| block.end <= token.start);
    generated.get(first).filter(|block| block.start < token.end).map(|_| first)
}

/// What the assistant is doing while its tokens go by.
struct Speaker {
    think: [Option<u32>; 2],
    tool_call: Option<u32>,
    block: Option<usize>,
    doing: Source,
}

impl Speaker {
    fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            think: [tokenizer.id("<think>"), tokenizer.id("</think>")],
            tool_call: tokenizer.id("<tool_call>"),
            block: None,
            doing: Source::AssistantContent,
        }
    }

    fn of(&mut self, block: usize, token: &EncodedToken, author: Option<Source>) -> Source {
        if self.block != Some(block) {
            self.block = Some(block);
            self.doing = Source::AssistantContent;
        }
        let control = token.is_control.then_some(token.id);
        if control.is_some() && control == self.think[0] {
            self.doing = Source::AssistantReasoning;
        } else if control.is_some() && control == self.tool_call {
            self.doing = Source::AssistantToolCall;
        } else if let Some(author) = author {
            self.doing = author;
        }
        let source = self.doing;
        if control.is_some() && control == self.think[1] {
            self.doing = Source::AssistantContent;
        }
        source
    }
}
