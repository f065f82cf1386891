//! An answer taken apart while it arrives: reasoning and content can be shown at once, a call is given when it is
//! whole.
//!
//! All parts together say what `tool_calls::message_from_generated` says of the whole text, white space around them
//! aside.

use crate::chat::{ToolCall, ToolDefinition};
use crate::stream::begun;
use crate::tool_calls::{self, CALL_CLOSE, CALL_OPEN, CallProblem, FUNCTION_OPEN};

const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

/// One piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplyPart {
    Reasoning(String),
    Content(String),
    Call(ToolCall),
    /// A call that could not be read; its text is in the content.
    Problem(CallProblem),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far: the answer may begin with its reasoning.
    Start,
    Reasoning,
    Content,
    Call,
}

/// Takes text in pieces of any size and gives the parts of the answer.
#[derive(Debug, Clone)]
pub struct ReplyStream {
    tools: Vec<ToolDefinition>,
    state: State,
    held: String,
    /// Nothing of the current reasoning or content has been shown yet, so white space in front is layout.
    is_at_front: bool,
}

impl ReplyStream {
    pub fn new(tools: Vec<ToolDefinition>) -> Self {
        Self { tools, state: State::Start, held: String::new(), is_at_front: true }
    }

    /// For prompts that end with an opened `<think>`.
    pub fn inside_reasoning(tools: Vec<ToolDefinition>) -> Self {
        Self { state: State::Reasoning, ..Self::new(tools) }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<ReplyPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts, false) {}
        parts
    }

    /// The end of the answer.
    pub fn finish(&mut self) -> Vec<ReplyPart> {
        let mut parts = Vec::new();
        while self.step(&mut parts, true) {}
        parts
    }

    /// Does what the held text allows; true if the state changed, so that there may be more to do.
    fn step(&mut self, parts: &mut Vec<ReplyPart>, is_end: bool) -> bool {
        match self.state {
            State::Start => self.step_start(is_end),
            State::Reasoning => self.step_reasoning(parts, is_end),
            State::Content => self.step_content(parts, is_end),
            State::Call => self.step_call(parts, is_end),
        }
    }

    fn step_start(&mut self, is_end: bool) -> bool {
        let text = self.held.trim_start();
        if let Some(after) = text.strip_prefix(THINK_OPEN) {
            self.held = after.to_owned();
            self.enter(State::Reasoning);
            return true;
        }
        if !is_end && THINK_OPEN.starts_with(text) {
            return false;
        }
        self.enter(State::Content);
        true
    }

    fn step_reasoning(&mut self, parts: &mut Vec<ReplyPart>, is_end: bool) -> bool {
        if let Some(end) = self.held.find(THINK_CLOSE) {
            self.show(parts, self.held[..end].trim_end().len());
            self.held = self.held.split_off(self.held.find(THINK_CLOSE).map_or(0, |at| at + THINK_CLOSE.len()));
            self.enter(State::Content);
            return true;
        }
        let kept = if is_end { 0 } else { begun(&self.held, THINK_CLOSE) };
        self.show(parts, self.held[..self.held.len() - kept].trim_end().len());
        false
    }

    fn step_content(&mut self, parts: &mut Vec<ReplyPart>, is_end: bool) -> bool {
        if let Some(start) = tool_calls::next_call(&self.held, &self.tools) {
            self.show(parts, self.held[..start].trim_end().len());
            self.held = self.held.trim_start().to_owned();
            self.enter(State::Call);
            return true;
        }
        let limit = if is_end { self.held.len() } else { self.held.len() - self.possible_call_length() };
        // White space at the end may turn out to be the layout in front of a call.
        let shown = if is_end { limit } else { self.held[..limit].trim_end().len() };
        self.show(parts, shown);
        false
    }

    /// How much of the end of the held text may be the beginning of a call.
    fn possible_call_length(&self) -> usize {
        let unfinished_name = self.held.rfind(FUNCTION_OPEN).filter(|&at| !self.held[at..].contains(['>', '\n']));
        let name_length = unfinished_name.map_or(0, |at| self.held.len() - at);
        name_length.max(begun(&self.held, CALL_OPEN)).max(begun(&self.held, FUNCTION_OPEN))
    }

    fn step_call(&mut self, parts: &mut Vec<ReplyPart>, is_end: bool) -> bool {
        match tool_calls::read_call(&self.held, &self.tools) {
            Ok((call, length)) => {
                let after = self.held[length..].trim_start();
                let is_closed = self.held[..length].ends_with(CALL_CLOSE);
                if !is_end && !is_closed && CALL_CLOSE.starts_with(after) {
                    return false;
                }
                parts.push(ReplyPart::Call(call));
                self.held = self.held.split_off(length);
            }
            Err(CallProblem::Truncated { .. }) if !is_end => return false,
            Err(problem) => {
                let length = tool_calls::unread_length(&self.held, &problem);
                let rest = self.held.split_off(length);
                parts.push(ReplyPart::Content(std::mem::replace(&mut self.held, rest)));
                parts.push(ReplyPart::Problem(problem));
                self.state = State::Content;
                self.is_at_front = false;
                return !self.held.is_empty();
            }
        }
        self.enter(State::Content);
        !self.held.is_empty()
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.is_at_front = true;
    }

    /// Shows the first bytes of the held text.
    fn show(&mut self, parts: &mut Vec<ReplyPart>, length: usize) {
        let rest = self.held.split_off(length);
        let text = std::mem::replace(&mut self.held, rest);
        let text = if self.is_at_front { text.trim_start() } else { &text };
        if text.is_empty() {
            return;
        }
        self.is_at_front = false;
        parts.push(match self.state {
            State::Reasoning => ReplyPart::Reasoning(text.to_owned()),
            _ => ReplyPart::Content(text.to_owned()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_flows_and_calls_come_whole() {
        let mut stream = ReplyStream::new(Vec::new());
        let content = |text: &str| ReplyPart::Content(text.into());
        assert_eq!(stream.push(" <thi"), []);
        assert_eq!(stream.push("nk>\nhm"), [ReplyPart::Reasoning("hm".into())]);
        assert_eq!(stream.push(" so</thi"), [ReplyPart::Reasoning(" so".into())]);
        assert_eq!(stream.push("nk>\n\nI look"), [content("I look")]);
        assert_eq!(stream.push(".\n\n<tool"), [content(".")]);
        assert_eq!(stream.push("_call>\n<function=f>\n</function>\n"), []);
        let call = ToolCall { name: "f".into(), arguments: serde_json::Map::new() };
        assert_eq!(stream.push("</tool_call>"), [ReplyPart::Call(call)]);
        assert_eq!(stream.finish(), []);
    }
}
