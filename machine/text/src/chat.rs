//! What is said in a conversation, before any template turns it into characters.

use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One turn of a conversation. `content` is empty where an assistant turn is only a tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    #[serde(default)]
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), reasoning_content: None, tool_calls: Vec::new() }
    }
}

/// A call that the assistant makes; arguments keep the order in which they were written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub name: String,
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// A tool that the assistant may call; `parameters` is a JSON schema of type object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    pub name: String,
    pub description: String,
    pub parameters: serde_json::Value,
}

/// Something to train on or to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Document {
    Chat {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tools: Vec<ToolDefinition>,
        messages: Vec<Message>,
    },
    FillInTheMiddle {
        prefix: String,
        middle: String,
        suffix: String,
    },
    /// Files of one repository, in the order in which they are read; the last may have a hole to fill.
    Repository {
        name: String,
        files: Vec<RepositoryFile>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fill: Option<RepositoryFill>,
    },
    Plain {
        text: String,
    },
    /// A text without any template that the model is to continue.
    Completion {
        prompt: String,
        completion: String,
    },
}

/// A file as context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryFile {
    pub path: String,
    pub text: String,
}

/// A file with a hole, after the files that are its context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryFill {
    pub path: String,
    pub prefix: String,
    pub middle: String,
    pub suffix: String,
}
