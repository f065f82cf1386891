//! One try at one task: what the model is shown, and what its answer leads to.

use super::{Subject, TaskSettings};
use crate::EvaluateError;
use engine::{Finish, Generation, Request, Sampling};
use environment::{Prompt, Repository, Task};
use text::chat::{Message, Role, ToolDefinition};
use text::tool_calls::message_from_generated;

/// Where a try stands.
pub(super) struct Attempt<'t> {
    pub(super) task: &'t Task,
    pub(super) task_index: usize,
    /// `None` is the greedy try.
    pub(super) sample: Option<u64>,
    agent: Option<Agent>,
    pub(super) tokens: usize,
    pub(super) turns: usize,
    /// An answer reached the limit of tokens or of the context.
    pub(super) cut_short: bool,
}

/// A conversation with tools.
struct Agent {
    tools: Vec<ToolDefinition>,
    messages: Vec<Message>,
    repository: Repository,
}

/// What to do with a try after the model has spoken.
pub(super) enum Next {
    /// Continue from these tokens.
    Continue(Vec<u32>),
    Judge(Judging),
}

/// What the judge is given.
pub(super) enum Judging {
    Answer(String),
    Repository(Box<Repository>),
}

impl<'t> Attempt<'t> {
    /// The try and its prompt.
    pub(super) fn begin(
        subject: &Subject<'_>,
        settings: &TaskSettings,
        task: &'t Task,
        task_index: usize,
        sample: Option<u64>,
    ) -> Result<(Self, Vec<u32>), EvaluateError> {
        let (tokens, agent) = match task.prompt() {
            Prompt::FillInTheMiddle { prefix, suffix } => {
                (subject.renderer.fill_prompt(&prefix, &suffix, settings.fill_order)?, None)
            }
            Prompt::Chat { tools, messages } => {
                let tokens = subject.renderer.prompt(&messages, &tools)?;
                (tokens, task.repository().map(|repository| Agent { tools, messages, repository }))
            }
        };
        let attempt = Self { task, task_index, sample, agent, tokens: 0, turns: 0, cut_short: false };
        Ok((attempt, tokens))
    }

    pub(super) fn request(&self, subject: &Subject<'_>, settings: &TaskSettings) -> Request {
        let tokenizer = subject.renderer.tokenizer();
        let is_fill = matches!(self.task.prompt(), Prompt::FillInTheMiddle { .. });
        let sampling = match self.sample {
            None => Sampling::greedy(),
            Some(sample) => {
                let seed = settings.seed ^ ((self.task_index as u64) << 24) ^ (sample << 12) ^ self.turns as u64;
                Sampling::with_temperature(settings.temperature, seed)
            }
        };
        let stop = if is_fill { tokenizer.fill_end_tokens() } else { tokenizer.end_tokens().to_vec() };
        Request { sampling, max_tokens: settings.max_tokens, stop }
    }

    /// Takes in what the model said.
    pub(super) fn advance(
        &mut self,
        subject: &Subject<'_>,
        settings: &TaskSettings,
        generation: &Generation,
    ) -> Result<Next, EvaluateError> {
        self.tokens += generation.tokens.len();
        self.turns += 1;
        self.cut_short |= matches!(generation.finish, Finish::Length | Finish::ContextFull);
        let text = subject.renderer.tokenizer().decode_without_special(&generation.tokens);
        let Some(agent) = &mut self.agent else { return Ok(Next::Judge(Judging::Answer(text))) };
        let again = agent.act(subject, &text) && self.turns < settings.max_turns;
        if !again {
            return Ok(Next::Judge(self.give_up()));
        }
        Ok(Next::Continue(subject.renderer.prompt(&agent.messages, &agent.tools)?))
    }

    /// What there is to judge if nothing more can be said.
    pub(super) fn give_up(&mut self) -> Judging {
        match self.agent.take() {
            Some(agent) => Judging::Repository(Box::new(agent.repository)),
            None => Judging::Answer(String::new()),
        }
    }
}

impl Agent {
    /// Runs the calls of an answer; whether there were any.
    fn act(&mut self, subject: &Subject<'_>, text: &str) -> bool {
        let (message, problems) = message_from_generated(text, &self.tools);
        let calls = message.tool_calls.clone();
        self.messages.push(message);
        for call in &calls {
            let result = self.repository.call(subject.sandbox, call);
            self.messages.push(Message::new(Role::Tool, result));
        }
        // A call that cannot be read is answered too, so that the model can write it again.
        for problem in &problems {
            self.messages.push(Message::new(Role::Tool, format!("error: {problem}")));
        }
        !calls.is_empty() || !problems.is_empty()
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
