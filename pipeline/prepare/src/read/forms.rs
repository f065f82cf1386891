//! One record in whichever form its fields show.

use super::FileRecipe;
use super::chat::{self, Conversation, kind as kind_of_value};
use crate::code;
use crate::kind::Kind;
use crate::source::PartWeights;
use environment::{Episode, Split};
use numeric::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use text::{Document, Role};

/// The forms that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `messages`, as OpenAI writes them, with `tools` beside them.
    Chat,
    /// `conversations` of `from` and `value`.
    Sharegpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `prompt` and `completion`, texts or messages.
    Completion,
    /// `chosen` and `rejected`, or `right` and `wrong`, after a `prompt`.
    Pair,
    /// `prefix`, `middle` and `suffix`.
    FillInTheMiddle,
    /// `code` or `content`: source code, to read on or to get holes.
    Code,
    /// `text`
    Text,
    /// Our own document, told by its `type`.
    Document,
    /// Our own episode.
    Episode,
}

/// How a question and its answer are written where the form leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrittenAs {
    /// Through the model's chat template. Unsaid, so are Alpaca and pairs.
    Chat,
    /// As a text to continue, without any template but Alpaca's own. Unsaid, so are prompts and completions.
    Text,
}

impl Format {
    pub const ALL: [Self; 10] = [
        Self::Chat,
        Self::Sharegpt,
        Self::Alpaca,
        Self::Completion,
        Self::Pair,
        Self::FillInTheMiddle,
        Self::Code,
        Self::Text,
        Self::Document,
        Self::Episode,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::Completion => "completion",
            Self::Pair => "pair",
            Self::FillInTheMiddle => "fill_in_the_middle",
            Self::Code => "code",
            Self::Text => "text",
            Self::Document => "document",
            Self::Episode => "episode",
        }
    }

    /// The form that a record's fields show.
    fn of(record: &Map<String, Value>) -> Result<Self, String> {
        let has = |key: &str| record.get(key).is_some_and(|value| !value.is_null());
        let turns = ["messages", "conversations", "conversation"].iter().find_map(|key| record.get(*key));
        let is_document = record.get("type").and_then(Value::as_str).is_some_and(|name| DOCUMENTS.contains(&name));
        Ok(match () {
            () if has("document") && has("split") => Self::Episode,
            () if is_document => Self::Document,
            () if turns.is_some_and(|turns| turns.get(0).is_some_and(|turn| turn.get("from").is_some())) => {
                Self::Sharegpt
            }
            () if turns.is_some() => Self::Chat,
            () if has("chosen") || has("right") => Self::Pair,
            () if has("instruction") && has("output") => Self::Alpaca,
            () if has("prefix") && has("middle") => Self::FillInTheMiddle,
            () if has("prompt") && has("completion") => Self::Completion,
            () if has("code") || has("content") => Self::Code,
            () if has("text") => Self::Text,
            () => {
                let keys: Vec<&String> = record.keys().collect();
                return Err(format!(
                    "its fields {keys:?} are none of: messages; conversations; instruction and output; prompt and \
                     completion; chosen and rejected; right and wrong; prefix, middle and suffix; code; text. \
                     If they have other names, say fields = {{ … }} at the source"
                ));
            }
        })
    }
}

/// What `type` says of our own documents; conversations among them are read as anybody's.
const DOCUMENTS: [&str; 4] = ["fill_in_the_middle", "repository", "plain", "completion"];

/// What a record is.
pub(super) struct Form {
    pub(super) format: Format,
    pub(super) documents: Vec<FormDocument>,
    pub(super) weight: f32,
    pub(super) has_rejected_answer: bool,
    /// An episode of a part of the world that is measured, which is left out of training.
    pub(super) is_measured: bool,
}

pub(super) struct FormDocument {
    pub(super) document: Document,
    pub(super) kind: Kind,
    pub(super) parts: PartWeights,
}

impl Form {
    pub(super) fn read(value: Value, recipe: &FileRecipe, rng: &mut Rng) -> Result<Self, String> {
        let Value::Object(record) = value else {
            return Err(format!("want an object, found {}", kind_of_value(&value)));
        };
        let format = match recipe.format {
            Some(format) => format,
            None => Format::of(&record)?,
        };
        let own = match record.get("weight") {
            None | Some(Value::Null) => 1.0,
            Some(weight) => chat::number(weight, "weight")?,
        };
        let is_pair = format == Format::Pair;
        let mut form = Self {
            format,
            documents: Vec::new(),
            weight: own * recipe.weight * if is_pair { recipe.pair_weight } else { 1.0 },
            has_rejected_answer: is_pair && (record.contains_key("rejected") || record.contains_key("wrong")),
            is_measured: false,
        };
        if format == Format::Episode {
            form.episode(record, recipe.measures)?;
            return Ok(form);
        }
        let kind = kind_of(&record, recipe.kind)?;
        if format == Format::Code {
            form.code(&record, kind, recipe, rng)?;
            return Ok(form);
        }
        let (document, parts) = match format {
            Format::Chat | Format::Sharegpt => turns(&record)?,
            Format::Alpaca => alpaca(&record, recipe.written_as)?,
            Format::Completion => completion(&record, recipe.written_as)?,
            Format::Pair => pair(&record, recipe.written_as)?,
            Format::FillInTheMiddle => (fill(&record)?, PartWeights::default()),
            Format::Text => plain(&record)?,
            Format::Document => (own_document(record)?, PartWeights::default()),
            Format::Code | Format::Episode => unreachable!("both were returned above"),
        };
        let kind = kind.unwrap_or_else(|| usual_kind(&document));
        form.documents.push(FormDocument { document, kind, parts });
        Ok(form)
    }

    fn episode(&mut self, record: Map<String, Value>, measures: bool) -> Result<(), String> {
        let read = serde_json::from_value(Value::Object(record));
        let episode: Episode = read.map_err(|error| format!("an episode: {error}"))?;
        self.is_measured = episode.split != Split::Train && !measures;
        if !self.is_measured {
            let (document, kind) = (episode.document, Kind::of_episode(episode.kind));
            self.documents.push(FormDocument { document, kind, parts: PartWeights::default() });
        }
        Ok(())
    }

    fn code(
        &mut self,
        record: &Map<String, Value>,
        kind: Option<Kind>,
        recipe: &FileRecipe,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let field = if record.contains_key("code") { "code" } else { "content" };
        for piece in code::pieces(text(record, field)?, recipe.piece_bytes_max) {
            let (document, usual) = code::document(piece, recipe.fill_share, rng);
            let kind = kind.unwrap_or(usual);
            self.documents.push(FormDocument { document, kind, parts: PartWeights::default() });
        }
        if self.documents.is_empty() {
            return Err(format!("{field}: there is nothing but blanks and overlong lines"));
        }
        Ok(())
    }
}

/// What the record says that it teaches, or the source. A name that is not ours is the data's own affair where the
/// source says what it is.
fn kind_of(record: &Map<String, Value>, of_source: Option<Kind>) -> Result<Option<Kind>, String> {
    let Some(name) = record.get("kind").and_then(Value::as_str) else { return Ok(of_source) };
    match Kind::from_name(name).or(of_source) {
        Some(kind) => Ok(Some(kind)),
        None => {
            let names = Kind::ALL.map(Kind::name).join(", ");
            Err(format!("kind: no kind is called {name:?}; want one of {names}, or say kind at the source"))
        }
    }
}

fn usual_kind(document: &Document) -> Kind {
    match document {
        Document::Chat { .. } => Kind::Chat,
        Document::FillInTheMiddle { .. } | Document::Repository { fill: Some(_), .. } => Kind::CodeInfilling,
        Document::Repository { .. } | Document::Plain { .. } | Document::Completion { .. } => Kind::Plain,
    }
}

type Parts = (Document, PartWeights);

fn turns(record: &Map<String, Value>) -> Result<Parts, String> {
    let field = ["messages", "conversations", "conversation"].into_iter().find(|key| record.contains_key(*key));
    let field = field.ok_or("it has neither messages nor conversations")?;
    let mut conversation = Conversation::default();
    conversation.read(&record[field], field)?;
    conversation.finish(record)
}

fn alpaca(record: &Map<String, Value>, written_as: Option<WrittenAs>) -> Result<Parts, String> {
    let instruction = text(record, "instruction")?;
    let output = text(record, "output")?;
    let input = record.get("input").and_then(Value::as_str).filter(|input| !input.trim().is_empty());
    if written_as == Some(WrittenAs::Text) {
        let (prompt, completion) = (classic_alpaca(instruction, input), output.to_owned());
        return Ok((Document::Completion { prompt, completion }, PartWeights::default()));
    }
    let mut conversation = Conversation::default();
    let history = record.get("history").and_then(Value::as_array);
    for (index, turn) in history.into_iter().flatten().enumerate() {
        let field = format!("history[{index}]");
        let (Some(asked), Some(answered)) = (turn.get(0).and_then(Value::as_str), turn.get(1).and_then(Value::as_str))
        else {
            return Err(format!("{field}: want a question and an answer"));
        };
        conversation.text(Role::User, asked, &field);
        conversation.text(Role::Assistant, answered, &field);
    }
    let asked = input.map_or_else(|| instruction.to_owned(), |input| format!("{instruction}\n\n{input}"));
    conversation.text(Role::User, &asked, "instruction");
    conversation.text(Role::Assistant, output, "output");
    conversation.finish(record)
}

/// The prompt that Stanford's Alpaca was trained with, which models without a chat template expect.
fn classic_alpaca(instruction: &str, input: Option<&str>) -> String {
    let opening = "Below is an instruction that describes a task";
    let request = "Write a response that appropriately completes the request.";
    match input {
        Some(input) => format!(
            "{opening}, paired with an input that provides further context. {request}\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        ),
        None => format!("{opening}. {request}\n\n### Instruction:\n{instruction}\n\n### Response:\n"),
    }
}

/// A prompt is given, a completion learnt.
fn completion(record: &Map<String, Value>, written_as: Option<WrittenAs>) -> Result<Parts, String> {
    let field = |key: &str| record.get(key).ok_or_else(|| format!("it has no {key}"));
    let (prompt, completion) = (field("prompt")?, field("completion")?);
    if let (Value::String(prompt), Value::String(completion)) = (prompt, completion)
        && written_as != Some(WrittenAs::Chat)
    {
        if completion.is_empty() {
            return Err("completion: it is empty, so there is nothing to learn".to_owned());
        }
        let (prompt, completion) = (prompt.clone(), completion.clone());
        return Ok((Document::Completion { prompt, completion }, PartWeights::default()));
    }
    let mut conversation = Conversation::default();
    conversation.say(Role::User, prompt, "prompt")?;
    conversation.is_given();
    conversation.say(Role::Assistant, completion, "completion")?;
    conversation.finish(record)
}

/// The better answer of a pair is learnt. The worse one is not, and is shown only where the record says what was wrong
/// with it: then the better one comes after it.
fn pair(record: &Map<String, Value>, written_as: Option<WrittenAs>) -> Result<Parts, String> {
    let (better, worse) = if record.contains_key("chosen") { ("chosen", "rejected") } else { ("right", "wrong") };
    let right = record.get(better).ok_or_else(|| format!("it has no {better}"))?;
    let wrong = record.get(worse).filter(|wrong| !wrong.is_null());
    let prompt = record.get("prompt").filter(|prompt| !prompt.is_null());
    if written_as == Some(WrittenAs::Text) {
        let (prompt, completion) = (prompt.map_or(Ok(""), |_| text(record, "prompt"))?, text(record, better)?);
        let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
        return Ok((Document::Completion { prompt, completion }, PartWeights::default()));
    }
    let answer = |said: &Value, field: &str| {
        let mut conversation = Conversation::default();
        conversation.say(Role::Assistant, said, field).map(|()| conversation)
    };
    let chosen = answer(right, better)?;
    if !chosen.begins_with_an_answer() {
        // Whole conversations: what both have in common is the prompt.
        let rejected = wrong.map_or_else(|| Ok(Conversation::default()), |wrong| answer(wrong, worse))?;
        let common = chosen.common_start(&rejected);
        let mut conversation = chosen;
        conversation.is_given_until(common);
        return conversation.finish(record);
    }
    let mut conversation = Conversation::default();
    let asked = prompt.ok_or_else(|| format!("it has {better}, and no prompt that this answers"))?;
    conversation.say(Role::User, asked, "prompt")?;
    let feedback = ["feedback", "why"].into_iter().find(|key| record.get(*key).is_some_and(Value::is_string));
    if let (Some(wrong), Some(field)) = (wrong, feedback) {
        conversation.say(Role::Assistant, wrong, worse)?;
        conversation.text(Role::User, text(record, field)?, field);
    }
    conversation.is_given();
    conversation.say(Role::Assistant, right, better)?;
    conversation.finish(record)
}

fn fill(record: &Map<String, Value>) -> Result<Document, String> {
    let suffix = record.get("suffix").and_then(Value::as_str).unwrap_or_default();
    let middle = text(record, "middle")?;
    if middle.is_empty() {
        return Err("middle: it is empty, so there is nothing to fill in".to_owned());
    }
    let [prefix, middle, suffix] = [text(record, "prefix")?, middle, suffix].map(str::to_owned);
    Ok(Document::FillInTheMiddle { prefix, middle, suffix })
}

fn plain(record: &Map<String, Value>) -> Result<Parts, String> {
    let said = text(record, "text")?;
    if said.trim().is_empty() {
        return Err("text: it is empty".to_owned());
    }
    Ok((Document::Plain { text: said.to_owned() }, chat::spans_of_text(record, said)?))
}

fn own_document(record: Map<String, Value>) -> Result<Document, String> {
    serde_json::from_value(Value::Object(record)).map_err(|error| format!("a document: {error}"))
}

fn text<'a>(record: &'a Map<String, Value>, field: &str) -> Result<&'a str, String> {
    match record.get(field) {
        Some(Value::String(text)) => Ok(text),
        None => Err(format!("it has no {field}")),
        Some(other) => Err(format!("{field}: want a text, found {}", kind_of_value(other))),
    }
}
