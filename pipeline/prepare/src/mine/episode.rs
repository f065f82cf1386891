//! Episodes as they are built and as they are written.

use super::workspace::{Action, Workspace, tools};
use crate::error::PrepareError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use text::{Document, Message, Role};

/// The five kinds, by the names that the lines bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MinedKind {
    Replay,
    Debugging,
    Review,
    /// Fill-in-the-middle.
    Fim,
    Reasoning,
}

impl MinedKind {
    pub const ALL: [Self; 5] = [Self::Replay, Self::Debugging, Self::Review, Self::Fim, Self::Reasoning];

    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Debugging => "debugging",
            Self::Review => "review",
            Self::Fim => "fim",
            Self::Reasoning => "reasoning",
        }
    }
}

/// Something to learn from, before it is a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Episode {
    pub(super) kind: MinedKind,
    /// From what it was made: `commit`, `mutant`.
    pub(super) form: &'static str,
    pub(super) document: Document,
    /// Messages that carry no loss although the assistant says them, by index.
    pub(super) silent: Vec<usize>,
    /// The commit, and the file that it is mostly about.
    pub(super) commit: String,
    pub(super) path: String,
    pub(super) language: Option<&'static str>,
}

impl Episode {
    /// The line of JSON that the reader takes.
    pub(super) fn line(&self, repository: &str) -> Value {
        let mut line = Map::new();
        match &self.document {
            Document::Chat { tools, messages } => {
                let messages: Vec<Value> = messages.iter().enumerate().map(|at| self.message(at)).collect();
                line.insert("messages".into(), messages.into());
                if !tools.is_empty() {
                    let wrapped = tools.iter().map(|tool| json!({"type": "function", "function": tool}));
                    line.insert("tools".into(), wrapped.collect::<Vec<_>>().into());
                }
            }
            Document::FillInTheMiddle { prefix, middle, suffix } => {
                line.insert("prefix".into(), json!(prefix));
                line.insert("suffix".into(), json!(suffix));
                line.insert("middle".into(), json!(middle));
            }
            other => unreachable!("nothing here makes {other:?}"),
        }
        line.insert("kind".into(), json!(self.kind.name()));
        line.insert("form".into(), json!(self.form));
        line.insert("source".into(), json!(format!("{repository}@{}", self.commit)));
        line.insert("path".into(), json!(self.path));
        if let Some(language) = self.language {
            line.insert("language".into(), json!(language));
        }
        line.into()
    }

    fn message(&self, (index, message): (usize, &Message)) -> Value {
        let mut value = Map::new();
        value.insert("role".into(), json!(message.role));
        value.insert("content".into(), json!(message.content));
        if let Some(reasoning) = &message.reasoning_content {
            value.insert("reasoning_content".into(), json!(reasoning));
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| json!({"type": "function", "function": call}));
            value.insert("tool_calls".into(), calls.collect::<Vec<_>>().into());
        }
        if self.silent.contains(&index) {
            value.insert("weight".into(), json!(0.0));
        }
        value.into()
    }

    /// Bytes of everything that is said, called and shown.
    pub(super) fn bytes(&self) -> usize {
        match &self.document {
            Document::Chat { messages, .. } => messages
                .iter()
                .map(|message| {
                    let calls: usize =
                        message.tool_calls.iter().map(|call| json!(call.arguments).to_string().len()).sum();
                    message.content.len() + message.reasoning_content.as_ref().map_or(0, String::len) + calls
                })
                .sum(),
            Document::FillInTheMiddle { prefix, middle, suffix } => prefix.len() + middle.len() + suffix.len(),
            other => unreachable!("nothing here makes {other:?}"),
        }
    }
}

/// A question and its answer, with the thinking in between.
pub(super) fn conversation(request: &str, reasoning: Option<String>, answer: &str) -> Document {
    let mut reply = Message::new(Role::Assistant, answer);
    reply.reasoning_content = reasoning;
    Document::Chat { tools: Vec::new(), messages: vec![Message::new(Role::User, request), reply] }
}

/// A conversation with tools, while it is enacted.
pub(super) struct Trajectory {
    messages: Vec<Message>,
    silent: Vec<usize>,
    /// Paths that listings of folders have shown.
    listed: BTreeSet<String>,
}

impl Trajectory {
    pub(super) fn of(request: &str) -> Self {
        Self { messages: vec![Message::new(Role::User, request)], silent: Vec::new(), listed: BTreeSet::new() }
    }

    /// Whether anything shown so far names a path.
    pub(super) fn knows(&self, path: &str) -> bool {
        path == "." || self.listed.contains(path) || self.shown().any(|shown| shown.contains(path))
    }

    /// Takes a step if the tool does it; `thought` is what the assistant thinks before. Says whether it was taken. A
    /// place that nothing has named yet is known only afterwards: such a step is shown and not learnt.
    pub(super) fn step(
        &mut self,
        workspace: &mut Workspace,
        thought: Option<String>,
        action: &Action,
    ) -> Result<bool, PrepareError> {
        let Some(result) = workspace.act(action)? else { return Ok(false) };
        let is_guess = match action {
            Action::List { path } | Action::Read { path, .. } | Action::Search { path, .. } => !self.knows(path),
            _ => false,
        };
        if let Action::List { path } = action {
            let folder = if path == "." { String::new() } else { format!("{path}/") };
            self.listed.extend(result.lines().map(|name| format!("{folder}{}", name.trim_end_matches('/'))));
        }
        let mut turn = Message::new(Role::Assistant, "");
        turn.reasoning_content = thought;
        turn.tool_calls.push(action.call());
        self.messages.push(turn);
        self.messages.push(Message::new(Role::Tool, result));
        if is_guess {
            self.hush_last_step();
        }
        Ok(true)
    }

    /// The last step was one that only somebody who knows the outcome would take: it is shown, and not learnt.
    pub(super) fn hush_last_step(&mut self) {
        let last = self.messages.len() - 2;
        if self.silent.last() != Some(&last) {
            self.silent.push(last);
        }
    }

    /// What the assistant has been shown so far.
    pub(super) fn shown(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().filter(|message| message.role != Role::Assistant).map(|message| message.content.as_str())
    }

    /// The assistant's last words, and the call that it ends with, if any: nothing is known of that call's result.
    pub(super) fn ended(mut self, words: &str, last: Option<&Action>) -> (Document, Vec<usize>) {
        let mut turn = Message::new(Role::Assistant, words);
        turn.tool_calls.extend(last.map(Action::call));
        self.messages.push(turn);
        (Document::Chat { tools: tools(), messages: self.messages }, self.silent)
    }
}
