//! Conversations: OpenAI's messages and ShareGPT's turns, with what each message and each part of one counts.

use crate::source::PartWeights;
use serde_json::{Map, Value, json};
use std::ops::Range;
use text::tool_calls::{self, split_reasoning};
use text::{Document, Message, Part, Role, Span, ToolCall, ToolDefinition};

/// More different weights in one conversation are a mistake.
const SPAN_WEIGHTS_MAX: usize = 256;

/// A conversation that grows turn by turn.
#[derive(Default)]
pub(super) struct Conversation {
    turns: Vec<Turn>,
}

struct Turn {
    message: Message,
    /// Unsaid, it counts 1.
    weight: Option<f32>,
    spans: Vec<Weighted>,
    /// A call in a turn of its own, which others would write into the message before it.
    is_bare_call: bool,
    /// Where it stands in the record.
    place: String,
}

/// A part of a text that counts something of its own.
#[derive(Clone)]
struct Weighted {
    part: Part,
    range: Range<usize>,
    weight: f32,
}

impl Conversation {
    /// Adds turns that a field of the record lists.
    pub(super) fn read(&mut self, turns: &Value, field: &str) -> Result<(), String> {
        let turns =
            turns.as_array().ok_or_else(|| format!("{field}: want a list of messages, found {}", kind(turns)))?;
        for (index, turn) in turns.iter().enumerate() {
            let place = format!("{field}[{index}]");
            self.push(Turn::read(turn, &place).map_err(|what| format!("{place}: {what}"))?);
        }
        Ok(())
    }

    /// Adds messages, or a text that somebody says.
    pub(super) fn say(&mut self, role: Role, said: &Value, field: &str) -> Result<(), String> {
        match said {
            Value::String(text) => {
                self.text(role, text, field);
                Ok(())
            }
            Value::Object(_) => self.read(&json!([said]), field),
            Value::Array(_) => self.read(said, field),
            other => Err(format!("{field}: want a text or a list of messages, found {}", kind(other))),
        }
    }

    pub(super) fn text(&mut self, role: Role, text: &str, field: &str) {
        self.turns.push(Turn {
            message: Message::new(role, text),
            weight: None,
            spans: Vec::new(),
            is_bare_call: false,
            place: field.to_owned(),
        });
    }

    /// What was said so far is only shown.
    pub(super) fn is_given(&mut self) {
        self.is_given_until(self.turns.len());
    }

    pub(super) fn is_given_until(&mut self, count: usize) {
        for turn in self.turns.iter_mut().take(count) {
            turn.spans.clear();
            turn.weight = (turn.message.role == Role::Assistant).then_some(0.0);
        }
    }

    /// Messages that both have at their start.
    pub(super) fn common_start(&self, other: &Self) -> usize {
        self.turns.iter().zip(&other.turns).take_while(|(a, b)| a.message == b.message).count()
    }

    pub(super) fn begins_with_an_answer(&self) -> bool {
        self.turns.first().is_some_and(|turn| turn.message.role == Role::Assistant)
    }

    /// A call in a turn of its own belongs to the assistant's message before it.
    fn push(&mut self, turn: Turn) {
        if let Some(last) = self.turns.last_mut()
            && turn.is_bare_call
            && last.message.role == Role::Assistant
            && last.weight == turn.weight
        {
            last.message.tool_calls.extend(turn.message.tool_calls);
            return;
        }
        self.turns.push(turn);
    }

    /// The document, with the system text and the tools that the record has beside the turns.
    pub(super) fn finish(mut self, record: &Map<String, Value>) -> Result<(Document, PartWeights), String> {
        let tools = tools(record)?;
        self.join_system_texts(record);
        if self.turns.is_empty() {
            return Err("it has no messages".to_owned());
        }
        let (mut messages, mut parts) = (Vec::new(), PartWeights::default());
        for (index, turn) in self.turns.into_iter().enumerate() {
            let place = turn.place.clone();
            let (message, weight, spans) = turn.finish(&tools).map_err(|what| format!("{place}: {what}"))?;
            messages.push(message);
            parts.messages.extend(weight.map(|weight| (index, weight)));
            for Weighted { part, range, weight } in spans {
                let mark = parts.mark(weight);
                parts.spans.push(Span { message: index, part, range, mark });
            }
            if parts.span_weights.len() > SPAN_WEIGHTS_MAX {
                return Err(format!("{place}: more than {SPAN_WEIGHTS_MAX} different weights in one conversation"));
            }
        }
        Ok((Document::Chat { tools, messages }, parts))
    }

    /// Templates take one system message, the first.
    fn join_system_texts(&mut self, record: &Map<String, Value>) {
        let beside = record.get("system").and_then(Value::as_str).filter(|text| !text.is_empty());
        let count = self.turns.iter().take_while(|turn| turn.message.role == Role::System).count();
        let texts = self.turns.drain(..count).map(|turn| turn.message.content);
        let texts: Vec<String> = beside.map(str::to_owned).into_iter().chain(texts).collect();
        if !texts.is_empty() {
            let mut rest = std::mem::take(&mut self.turns);
            self.text(Role::System, &texts.join("\n\n"), "system");
            self.turns.append(&mut rest);
        }
    }
}

impl Turn {
    fn read(value: &Value, place: &str) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(|| format!("want an object, found {}", kind(value)))?;
        let (message, is_bare_call) = match (object.get("role"), object.get("from")) {
            (Some(Value::String(role)), _) if is_call(role) => (call_turn(object)?, true),
            (Some(Value::String(role)), _) => (message_of(object, role)?, false),
            (_, Some(Value::String(from))) if is_call(from) => (call_turn(object)?, true),
            (_, Some(Value::String(from))) => (message_of(object, from)?, false),
            _ => return Err("it says neither `role` nor `from`".to_owned()),
        };
        let weight = weight_of(object)?;
        if message.role != Role::Assistant && weight.is_some_and(|weight| weight > 0.0) {
            return Err("only what the assistant says can be trained; leave the weight out, or 0".to_owned());
        }
        let spans = spans_of(object, &message)?;
        if message.role != Role::Assistant && spans.iter().any(|span| span.weight > 0.0) {
            return Err("only what the assistant says can be trained; leave the spans out".to_owned());
        }
        Ok(Self { message, weight, spans, is_bare_call, place: place.to_owned() })
    }

    /// Takes apart what others write into the content: thinking, and calls as text.
    fn finish(mut self, tools: &[ToolDefinition]) -> Result<(Message, Option<f32>, Vec<Weighted>), String> {
        let message = &mut self.message;
        if message.role == Role::Tool {
            let inside = message.content.trim().strip_prefix("<tool_response>");
            let inside = inside.and_then(|text| text.strip_suffix("</tool_response>"));
            if let Some(text) = inside.filter(|text| !text.contains("<tool_response>")) {
                message.content = text.trim_matches('\n').to_owned();
            }
        }
        if message.role != Role::Assistant {
            return Ok((self.message, self.weight, Vec::new()));
        }
        let thinks = message.reasoning_content.is_none() && message.content.trim_start().starts_with("<think>");
        let calls = message.tool_calls.is_empty() && message.content.contains("<tool_call>");
        if (thinks || calls) && !self.spans.is_empty() {
            return Err("spans count the characters of the content, so thinking and calls must stand in \
                        reasoning_content and tool_calls"
                .to_owned());
        }
        if thinks && let (Some(reasoning), rest) = split_reasoning(&message.content) {
            (message.reasoning_content, message.content) = (Some(reasoning), rest.to_owned());
        }
        if calls && let Some((content, found)) = calls_within(&message.content, tools) {
            (message.content, message.tool_calls) = (content, found);
        }
        let is_silent = message.content.trim().is_empty()
            && message.tool_calls.is_empty()
            && message.reasoning_content.as_ref().is_none_or(|text| text.trim().is_empty());
        if is_silent && self.weight != Some(0.0) {
            return Err("the assistant says nothing here: no content, no reasoning, no call".to_owned());
        }
        Ok((self.message, self.weight, self.spans))
    }
}

fn is_call(role: &str) -> bool {
    matches!(role, "function_call" | "tool_call" | "function-call")
}

/// A message of a turn in either dialect.
fn message_of(turn: &Map<String, Value>, role: &str) -> Result<Message, String> {
    let mut plain = turn.clone();
    let role = match role {
        "chatgpt" | "bot" => "assistant",
        "function_response" | "tool_response" | "ipython" => "tool",
        other => other,
    };
    plain.insert("role".to_owned(), role.into());
    if !turn.contains_key("content")
        && let Some(value) = turn.get("value").or_else(|| turn.get("text"))
    {
        plain.insert("content".to_owned(), value.clone());
    }
    // What OpenAI's first files had.
    if let Some(call) = turn.get("function_call").filter(|call| call.is_object()) {
        plain.insert("tool_calls".to_owned(), json!([call]));
    }
    Message::from_json(&Value::Object(plain)).map_err(|error| error.to_string())
}

/// A turn that is a call, or several: JSON as a text or as it is.
fn call_turn(turn: &Map<String, Value>) -> Result<Message, String> {
    let said = turn.get("value").or_else(|| turn.get("content")).unwrap_or(&Value::Null);
    let calls = match said {
        Value::String(text) => {
            serde_json::from_str(text).map_err(|error| format!("a call that is not JSON: {error}"))?
        }
        other => other.clone(),
    };
    let calls = match calls {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls: Result<Vec<ToolCall>, _> = calls.iter().map(ToolCall::from_json).collect();
    let tool_calls = calls.map_err(|error| error.to_string())?;
    Ok(Message { tool_calls, ..Message::new(Role::Assistant, "") })
}

/// Calls that stand in the content: JSON between the tags as Hermes models write it, or the form of our template.
/// `None` if any of them cannot be read, because then it is perhaps no call.
fn calls_within(content: &str, tools: &[ToolDefinition]) -> Option<(String, Vec<ToolCall>)> {
    let (mut outside, mut calls, mut rest) = (String::new(), Vec::new(), content);
    while let Some((before, after)) = rest.split_once("<tool_call>") {
        let (inside, behind) = after.split_once("</tool_call>")?;
        let Ok(call) = serde_json::from_str::<Value>(inside.trim()) else {
            let parsed = tool_calls::parse(content, tools);
            return (parsed.problems.is_empty() && !parsed.calls.is_empty()).then_some((parsed.content, parsed.calls));
        };
        calls.push(ToolCall::from_json(&call).ok()?);
        outside.push_str(before);
        rest = behind;
    }
    outside.push_str(rest);
    Some((outside.trim().to_owned(), calls))
}

/// The tools of a record: a list, or a text with one.
fn tools(record: &Map<String, Value>) -> Result<Vec<ToolDefinition>, String> {
    let read = |list: &[Value]| {
        let tools = list.iter().enumerate();
        let read = |(index, tool): (usize, &Value)| {
            ToolDefinition::from_json(tool).map_err(|error| format!("tools[{index}]: {error}"))
        };
        tools.map(read).collect()
    };
    match record.get("tools").or_else(|| record.get("functions")) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => read(list),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => {
            let list: Vec<Value> = serde_json::from_str(text).map_err(|error| format!("tools, a text: {error}"))?;
            read(&list)
        }
        Some(other) => Err(format!("tools: want a list, or a text with one, found {}", kind(other))),
    }
}

/// What a message counts: `weight`, or yes or no as `train`.
fn weight_of(object: &Map<String, Value>) -> Result<Option<f32>, String> {
    if let Some(weight) = object.get("weight").filter(|weight| !weight.is_null()) {
        return number(weight, "weight").map(Some);
    }
    match object.get("train") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(is_trained)) => Ok(Some(f32::from(u8::from(*is_trained)))),
        Some(other) => Err(format!("train: want true or false, found {}", kind(other))),
    }
}

pub(super) fn number(value: &Value, field: &str) -> Result<f32, String> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| format!("{field} must be a number from 0 on, not {value}"))
}

/// Spans with a weight of their own: parts of a content that is a list, `spans`, and Axolotl's `train_detail`.
fn spans_of(object: &Map<String, Value>, message: &Message) -> Result<Vec<Weighted>, String> {
    let mut spans = Vec::new();
    let mut start = 0;
    for part in object.get("content").and_then(Value::as_array).into_iter().flatten() {
        let text = part.as_str().or_else(|| part.get("text")?.as_str()).unwrap_or_default();
        let range = start..start + text.len();
        start = range.end;
        if let Some(weight) = part.as_object().map(weight_of).transpose()?.flatten() {
            spans.push(Weighted { part: Part::Content, range, weight });
        }
    }
    if let Some(list) = object.get("spans").filter(|list| !list.is_null()) {
        spans.extend(listed_spans(list, &message.content, message.reasoning_content.as_deref())?);
    }
    if let Some(list) = object.get("train_detail").filter(|list| !list.is_null()) {
        spans.extend(axolotl_spans(list, &message.content)?);
    }
    check_apart(&mut spans)?;
    Ok(spans)
}

/// `[{"start": 3, "end": 8, "weight": 0.5}]`, in characters of the content, or of the field that it names.
fn listed_spans(list: &Value, content: &str, reasoning: Option<&str>) -> Result<Vec<Weighted>, String> {
    let list = list.as_array().ok_or_else(|| format!("spans: want a list, found {}", kind(list)))?;
    let read = |(index, span): (usize, &Value)| {
        let wrong = |what: String| format!("spans[{index}]: {what}");
        let object = span.as_object().ok_or_else(|| wrong(format!("want an object, found {}", kind(span))))?;
        let at = |key: &str| object.get(key).and_then(Value::as_u64).map(|at| at as usize);
        let (Some(start), Some(end)) = (at("start"), at("end")) else {
            return Err(wrong("want start and end, counted in characters".to_owned()));
        };
        let weight = weight_of(object).map_err(wrong)?.ok_or_else(|| wrong("it has no weight".to_owned()))?;
        let (part, text) = match object.get("field").and_then(Value::as_str) {
            None | Some("content" | "text") => (Part::Content, content),
            Some("reasoning_content") => (Part::Reasoning, reasoning.unwrap_or_default()),
            Some(other) => {
                return Err(wrong(format!("there are no spans of {other:?}, only of content and reasoning_content")));
            }
        };
        let range = byte_range(text, start..end).map_err(wrong)?;
        Ok(Weighted { part, range, weight })
    };
    list.iter().enumerate().map(read).collect()
}

/// `[{"begin_offset": 0, "end_offset": 8, "train": false}]`: the end belongs to it.
fn axolotl_spans(list: &Value, content: &str) -> Result<Vec<Weighted>, String> {
    let list = list.as_array().ok_or_else(|| format!("train_detail: want a list, found {}", kind(list)))?;
    let read = |(index, span): (usize, &Value)| {
        let wrong = |what: String| format!("train_detail[{index}]: {what}");
        let at = |key: &str| span.get(key).and_then(Value::as_u64).map(|at| at as usize);
        let is_trained = span.get("train").and_then(Value::as_bool);
        let (Some(begin), Some(end), Some(is_trained)) = (at("begin_offset"), at("end_offset"), is_trained) else {
            return Err(wrong("want begin_offset, end_offset and train".to_owned()));
        };
        let range = byte_range(content, begin..end.saturating_add(1)).map_err(wrong)?;
        Ok(Weighted { part: Part::Content, range, weight: f32::from(u8::from(is_trained)) })
    };
    list.iter().enumerate().map(read).collect()
}

/// A range of characters as one of bytes.
fn byte_range(text: &str, characters: Range<usize>) -> Result<Range<usize>, String> {
    let starts = || text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let ends = (starts().nth(characters.start), starts().nth(characters.end));
    match ends {
        (Some(start), Some(end)) if start < end => Ok(start..end),
        _ => Err(format!(
            "{}..{} is no part of a text of {} characters",
            characters.start,
            characters.end,
            text.chars().count()
        )),
    }
}

/// Spans in order, none over another.
fn check_apart(spans: &mut [Weighted]) -> Result<(), String> {
    spans.sort_by_key(|span| (span.part == Part::Reasoning, span.range.start));
    let overlap = spans.windows(2).find(|pair| pair[0].part == pair[1].part && pair[0].range.end > pair[1].range.start);
    match overlap {
        Some(_) => Err("two spans overlap; a token can have only one weight".to_owned()),
        None => Ok(()),
    }
}

/// Spans of a plain text.
pub(super) fn spans_of_text(record: &Map<String, Value>, text: &str) -> Result<PartWeights, String> {
    let mut parts = PartWeights::default();
    let Some(list) = record.get("spans").filter(|list| !list.is_null()) else { return Ok(parts) };
    let mut spans = listed_spans(list, text, None)?;
    check_apart(&mut spans)?;
    for Weighted { part, range, weight } in spans {
        let mark = parts.mark(weight);
        parts.spans.push(Span { message: 0, part, range, mark });
        if parts.span_weights.len() > SPAN_WEIGHTS_MAX {
            return Err(format!("spans: more than {SPAN_WEIGHTS_MAX} different weights in one text"));
        }
    }
    Ok(parts)
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
