//! Conversations as others write them in JSON: OpenAI's form, with the habits of datasets.
//!
//! Read: `content` null or missing or a list of text parts, `arguments` as an object or as a string of JSON, tools
//! with and without the `{"type": "function", "function": …}` wrapper, reasoning as `reasoning_content`, `reasoning`
//! or `thinking`.

use crate::chat::{Message, Role, ToolCall, ToolDefinition};
use crate::error::{TextError, shortened};
use serde_json::{Map, Value};

impl Role {
    /// The role by any of the names in use.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Self::System),
            "user" | "human" => Some(Self::User),
            "assistant" | "gpt" | "model" => Some(Self::Assistant),
            "tool" | "function" | "observation" => Some(Self::Tool),
            _ => None,
        }
    }
}

impl Message {
    /// Reads one message.
    pub fn from_json(value: &Value) -> Result<Self, TextError> {
        let wrong = |what: &str, want, found: &Value| mistake(format!("{what} of a message"), want, found);
        let name = value.get("role").and_then(Value::as_str).unwrap_or_default();
        let want = "\"system\", \"user\", \"assistant\" or \"tool\"";
        let role = Role::from_name(name).ok_or_else(|| wrong("the role", want, value.get("role").unwrap_or(value)))?;
        let content = content_text(value.get("content").unwrap_or(&Value::Null))?;
        let reasoning = ["reasoning_content", "reasoning", "thinking"].iter().find_map(|key| value.get(*key)?.as_str());
        let tool_calls = match value.get("tool_calls") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(calls)) => calls.iter().map(ToolCall::from_json).collect::<Result<_, _>>()?,
            Some(other) => return Err(wrong("the tool_calls", "a list", other)),
        };
        let reasoning_content = reasoning.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self { role, content, reasoning_content, tool_calls })
    }
}

impl ToolCall {
    /// Reads one call.
    pub fn from_json(value: &Value) -> Result<Self, TextError> {
        let function = value.get("function").unwrap_or(value);
        let name = function.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| mistake("the name of a tool call".into(), "a string", function))?;
        let wrong =
            |found: &Value| mistake(format!("the arguments of {name}"), "an object, or a string with one", found);
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments.clone(),
            Some(Value::String(text)) if text.trim().is_empty() => Map::new(),
            Some(written @ Value::String(text)) => serde_json::from_str(text).map_err(|_| wrong(written))?,
            Some(other) => return Err(wrong(other)),
        };
        Ok(Self { name: name.to_owned(), arguments })
    }
}

impl ToolDefinition {
    /// Reads one tool.
    pub fn from_json(value: &Value) -> Result<Self, TextError> {
        let function = value.get("function").unwrap_or(value);
        let name = function.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| mistake("the name of a tool".into(), "a string", function))?;
        let description = function.get("description").and_then(Value::as_str).unwrap_or_default();
        let parameters = function.get("parameters").or_else(|| function.get("input_schema"));
        Ok(Self {
            name: name.to_owned(),
            description: description.to_owned(),
            parameters: parameters.cloned().unwrap_or(Value::Null),
        })
    }
}

fn content_text(content: &Value) -> Result<String, TextError> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| {
                let text = part.as_str().or_else(|| part.get("text")?.as_str());
                text.ok_or_else(|| mistake("a part of the content".into(), "text (images are not read)", part))
            })
            .collect(),
        other => Err(mistake("the content of a message".into(), "a string or a list of text parts", other)),
    }
}

fn mistake(what: String, want: &'static str, found: &Value) -> TextError {
    TextError::Conversation { what, want, found: shortened(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_forms_in_use_are_read() {
        let message = Message::from_json(&json!({
            "role": "assistant", "content": null, "reasoning": "hm",
            "tool_calls": [
                {"function": {"name": "f", "arguments": "{\"a\": [1]}"}},
                {"name": "g", "arguments": {"b": 2}},
            ],
        }));
        let message = message.unwrap();
        assert_eq!(message.content, "");
        assert_eq!(message.reasoning_content.as_deref(), Some("hm"));
        assert_eq!(message.tool_calls[0].arguments["a"], json!([1]));
        assert_eq!(message.tool_calls[1].arguments["b"], json!(2));
        let parts = json!({"role": "human", "content": [{"type": "text", "text": "a"}, "b"]});
        assert_eq!(Message::from_json(&parts).unwrap(), Message::new(Role::User, "ab"));
    }

    #[test]
    fn mistakes_say_what_was_found() {
        let shown = |value| Message::from_json(&value).unwrap_err().to_string();
        assert!(shown(json!({"role": "robot"})).contains("found \"robot\""));
        assert!(shown(json!({"role": "user", "content": 3})).contains("found 3"));
        let call = json!({"name": "f", "arguments": "{"});
        assert!(ToolCall::from_json(&call).unwrap_err().to_string().contains("the arguments of f"));
        assert!(ToolDefinition::from_json(&json!({})).is_err());
    }
}
