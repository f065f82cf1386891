//! Tool calls in the format of Qwen3-Coder: written as the template writes them, read as models write them.
//!
//! ```text
//! <tool_call>
//! <function=NAME>
//! <parameter=KEY>
//! VALUE
//! </parameter>
//! </function>
//! </tool_call>
//! ```
//! VALUE is raw text, not XML: it ends at the first `</parameter>` on its own line that another parameter or the end
//! of the function follows. A call that cannot be read never loses the answer: it stays in the content, and a problem
//! says why.

use crate::chat::{Message, Role, ToolCall, ToolDefinition};
use crate::error::shortened;
use crate::{argument, python};
use minijinja::value::Serde;
use serde_json::{Map, Value};

pub(crate) const CALL_OPEN: &str = "<tool_call>";
pub(crate) const CALL_CLOSE: &str = "</tool_call>";
pub(crate) const FUNCTION_OPEN: &str = "<function=";
const FUNCTION_CLOSE: &str = "</function>";
const PARAMETER_OPEN: &str = "<parameter=";
const PARAMETER_CLOSE: &str = "</parameter>";

/// Why a call could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallProblem {
    #[error("the call of {function:?} is cut off in {place}: allow more tokens, or ask for the call again")]
    Truncated { function: String, place: String },
    #[error("a tool call is malformed: want {want}, found {found:?}")]
    Malformed { want: &'static str, found: String },
}

/// An answer of a model, taken apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ParsedCalls {
    /// The text beside the calls, and the calls that could not be read.
    pub content: String,
    pub calls: Vec<ToolCall>,
    pub problems: Vec<CallProblem>,
}

/// Writes a call as the chat template does.
pub fn write(call: &ToolCall) -> String {
    let mut out = format!("{CALL_OPEN}\n{FUNCTION_OPEN}{}>\n", call.name);
    for (key, value) in &call.arguments {
        out.push_str(&format!("{PARAMETER_OPEN}{key}>\n{}\n{PARAMETER_CLOSE}\n", written(value)));
    }
    out + FUNCTION_CLOSE + "\n" + CALL_CLOSE
}

/// An argument as text: what Python's `str` gives for scalars, JSON for lists and objects.
fn written(value: &Value) -> String {
    let value = minijinja::Value::from(Serde(value));
    python::as_text_or_json(&value)
}

/// Finds the calls in an answer. Without `<tool_call>` around it, a `<function=NAME>` counts if the tool is known.
pub fn parse(text: &str, tools: &[ToolDefinition]) -> ParsedCalls {
    let mut parsed = ParsedCalls::default();
    let mut rest = text;
    while let Some(start) = next_call(rest, tools) {
        let (before, call_text) = rest.split_at(start);
        add_content(&mut parsed, before);
        match read_call(call_text, tools) {
            Ok((call, length)) => {
                parsed.calls.push(call);
                rest = &call_text[length..];
            }
            Err(problem) => {
                let kept = unread_length(call_text, &problem);
                parsed.problems.push(problem);
                add_content(&mut parsed, &call_text[..kept]);
                rest = &call_text[kept..];
            }
        }
    }
    add_content(&mut parsed, rest);
    if !parsed.calls.is_empty() {
        parsed.content = parsed.content.trim().to_owned();
    }
    parsed
}

/// A generated answer as a message: reasoning, content and calls apart.
pub fn message_from_generated(text: &str, tools: &[ToolDefinition]) -> (Message, Vec<CallProblem>) {
    let (reasoning_content, rest) = split_reasoning(text);
    let parsed = parse(rest, tools);
    let message =
        Message { role: Role::Assistant, content: parsed.content, reasoning_content, tool_calls: parsed.calls };
    (message, parsed.problems)
}

/// Takes the thinking off the front of an answer. An answer may begin inside it, where the prompt opened it; one that
/// ends inside it is all thinking.
pub fn split_reasoning(text: &str) -> (Option<String>, &str) {
    let opened = text.trim_start().strip_prefix("<think>");
    let body = opened.unwrap_or(text);
    let (reasoning, rest) = match body.split_once("</think>") {
        Some((reasoning, rest)) => (reasoning, rest.trim_start_matches('\n')),
        None if opened.is_some() => (body, ""),
        None => return (None, text),
    };
    let reasoning = reasoning.trim();
    ((!reasoning.is_empty()).then(|| reasoning.to_owned()), rest)
}

fn add_content(parsed: &mut ParsedCalls, text: &str) {
    // Between and after calls, white space is layout.
    if parsed.calls.is_empty() || !text.trim().is_empty() {
        parsed.content.push_str(text);
    }
}

/// How much of a call that could not be read is text: after a malformed opening another call may follow, after a
/// cut-off one there is nothing more.
pub(crate) fn unread_length(call_text: &str, problem: &CallProblem) -> usize {
    match problem {
        CallProblem::Truncated { .. } => call_text.len(),
        CallProblem::Malformed { .. } => call_text.find('>').map_or(call_text.len(), |end| end + 1),
    }
}

/// Where the next call begins.
pub(crate) fn next_call(text: &str, tools: &[ToolDefinition]) -> Option<usize> {
    let wrapped = text.find(CALL_OPEN);
    let bare = text.match_indices(FUNCTION_OPEN).map(|(at, _)| at).find(|&at| {
        let name = text[at + FUNCTION_OPEN.len()..].split_once('>').map(|(name, _)| name.trim());
        tools.iter().any(|tool| name == Some(&tool.name))
    });
    [wrapped, bare].into_iter().flatten().min()
}

/// Reads one call at the beginning of `text`; gives it and its length.
pub(crate) fn read_call(text: &str, tools: &[ToolDefinition]) -> Result<(ToolCall, usize), CallProblem> {
    let mut rest = text.strip_prefix(CALL_OPEN).unwrap_or(text).trim_start();
    let call = if rest.starts_with('{') { read_json_call(&mut rest)? } else { read_function(&mut rest, tools)? };
    let after = rest.trim_start();
    let rest = after.strip_prefix(CALL_CLOSE).unwrap_or(rest);
    Ok((call, text.len() - rest.len()))
}

/// The older form of the family: `{"name": …, "arguments": {…}}` inside the tags.
fn read_json_call(rest: &mut &str) -> Result<ToolCall, CallProblem> {
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) if error.is_eof() => return Err(truncated("", "its JSON")),
        _ => return Err(malformed("JSON with \"name\" and \"arguments\"", rest)),
    };
    let call = ToolCall::from_json(&value).map_err(|_| malformed("\"name\" and \"arguments\"", rest))?;
    *rest = &rest[values.byte_offset()..];
    Ok(call)
}

fn read_function(rest: &mut &str, tools: &[ToolDefinition]) -> Result<ToolCall, CallProblem> {
    let name = read_opening(rest, FUNCTION_OPEN, "")?;
    let schema = tools.iter().find(|tool| tool.name == name).map(|tool| &tool.parameters);
    let mut arguments = Map::new();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(FUNCTION_CLOSE) {
            *rest = after;
            return Ok(ToolCall { name, arguments });
        }
        // A model that forgets to close the function has still made the call.
        if rest.starts_with(CALL_CLOSE) {
            return Ok(ToolCall { name, arguments });
        }
        let key = read_opening(rest, PARAMETER_OPEN, &name)?;
        let Some((value, length)) = read_value(rest) else {
            return Err(truncated(&name, &format!("the parameter {key:?}")));
        };
        let property = schema.and_then(|schema| schema.get("properties")?.get(&key));
        arguments.insert(key, argument::typed(value, property));
        *rest = &rest[length..];
    }
}

/// Reads `<tag=NAME>` and gives the name.
fn read_opening(rest: &mut &str, tag: &'static str, function: &str) -> Result<String, CallProblem> {
    let want = if tag == FUNCTION_OPEN { "<function=NAME>" } else { "<parameter=NAME> or </function>" };
    let place = if function.is_empty() { "its name".to_owned() } else { "its parameters".to_owned() };
    let Some(after) = rest.strip_prefix(tag) else {
        let is_begun = [tag, FUNCTION_CLOSE, CALL_CLOSE].iter().any(|tag| tag.starts_with(*rest));
        return Err(if is_begun { truncated(function, &place) } else { malformed(want, rest) });
    };
    let Some(end) = after.find(['>', '\n']) else { return Err(truncated(function, &place)) };
    let name = after[..end].trim();
    if name.is_empty() || !after[end..].starts_with('>') {
        return Err(malformed(want, rest));
    }
    *rest = &after[end + 1..];
    Ok(name.to_owned())
}

/// The raw text of a value, and the length up to after its closing tag; `None` if it has no end.
fn read_value(text: &str) -> Option<(&str, usize)> {
    let closings = || text.match_indices(PARAMETER_CLOSE).map(|(at, _)| at);
    let is_followed = |at: usize| {
        let after = text[at + PARAMETER_CLOSE.len()..].trim_start();
        [PARAMETER_OPEN, FUNCTION_CLOSE, CALL_CLOSE].iter().any(|tag| after.starts_with(tag) || tag.starts_with(after))
    };
    let on_own_line = |at: usize| text[..at].ends_with('\n');
    let closing =
        closings().find(|&at| on_own_line(at) && is_followed(at)).or_else(|| closings().find(|&at| is_followed(at)));
    if let Some(at) = closing {
        return Some((without_line_ends(&text[..at]), at + PARAMETER_CLOSE.len()));
    }
    // The closing tag was forgotten, but the function and the call are closed.
    let forgotten = text.match_indices(FUNCTION_CLOSE).map(|(at, _)| at);
    let at =
        forgotten.into_iter().find(|&at| text[at + FUNCTION_CLOSE.len()..].trim_start().starts_with(CALL_CLOSE))?;
    Some((without_line_ends(&text[..at]), at))
}

/// Exactly one line end in front and one behind belong to the format.
fn without_line_ends(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}

fn truncated(function: &str, place: &str) -> CallProblem {
    CallProblem::Truncated { function: function.to_owned(), place: place.to_owned() }
}

fn malformed(want: &'static str, found: &str) -> CallProblem {
    CallProblem::Malformed { want, found: shortened(&found) }
}
