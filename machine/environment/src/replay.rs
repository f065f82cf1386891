//! A change to a small repository, re-enacted with tools: every result in a demonstration comes from the tool itself.

use numeric::Rng;
use serde_json::{Map, Value};
use text::chat::{Document, Message, Role, ToolCall};

use crate::debugging::faulty;
use crate::kata::{Kata, Test};
use crate::repository::{Check, Repository, tools};
use crate::sandbox::Sandbox;
use crate::scenario::{self, Plan};
use crate::split::Split;
use crate::task::{Exercise, Prompt, Verdict};

#[derive(Debug)]
pub(crate) struct Replay {
    katas: Vec<Kata>,
    repository: Repository,
    request: String,
    /// Assistant turns and tool results, in turn; the last is the assistant's closing words.
    turns: Vec<Message>,
}

impl Replay {
    pub(crate) fn draw(split: Split, rng: &mut Rng) -> Self {
        for _ in 0..200 {
            let plan = match rng.below(10) {
                0..=3 => {
                    let (kata, mutant) = faulty(split, rng);
                    scenario::fix(split, kata, mutant, rng)
                }
                4 | 5 => scenario::add(split, rng),
                6 => scenario::follow_notes(split, rng),
                7 => scenario::rename(split, rng),
                _ => scenario::change_constant(split, rng),
            };
            if let Some(replay) = plan.and_then(Self::enact) {
                return replay;
            }
        }
        panic!("no replay could be enacted in the split {}", split.name());
    }

    /// Runs the planned calls. A plan that does not solve its own task, or was solved before it began, is dropped.
    fn enact(plan: Plan) -> Option<Self> {
        let sandbox = Sandbox::in_process().limited(crate::kata::OWN_LIMITS);
        let mut repository = plan.repository.clone();
        if repository.solved(&sandbox) {
            return None;
        }
        let mut turns = Vec::new();
        for (remark, call) in plan.steps {
            let result = repository.call(&sandbox, &call);
            if result.starts_with("error:") || result.len() > 900 {
                return None;
            }
            let mut turn = Message::new(Role::Assistant, remark);
            turn.tool_calls.push(call);
            turns.push(turn);
            turns.push(Message::new(Role::Tool, result));
        }
        let solved = repository.solved(&sandbox) && turns.last()?.content.ends_with(" passed") && !failing(&turns);
        turns.push(Message::new(Role::Assistant, plan.closing));
        solved.then_some(Self { katas: plan.katas, repository: plan.repository, request: plan.request, turns })
    }
}

/// Whether the last result tells of a failing test: the closing words would then be untrue.
fn failing(turns: &[Message]) -> bool {
    turns.last().is_some_and(|turn| turn.content.contains("failed"))
}

impl Exercise for Replay {
    fn prompt(&self) -> Prompt {
        Prompt::Chat { tools: tools(), messages: vec![Message::new(Role::User, self.request.as_str())] }
    }

    fn demonstration(&self) -> Document {
        let mut messages = vec![Message::new(Role::User, self.request.as_str())];
        messages.extend(self.turns.iter().cloned());
        Document::Chat { tools: tools(), messages }
    }

    fn judge(&self, _sandbox: &Sandbox, _answer: &str) -> Verdict {
        Verdict::failed("a replay is judged by its repository, not by an answer")
    }

    fn katas(&self) -> &[Kata] {
        &self.katas
    }

    fn repository(&self) -> Option<Repository> {
        Some(self.repository.clone())
    }
}

/// A call with its arguments in order.
pub(crate) fn call(name: &str, arguments: &[(&str, &str)]) -> ToolCall {
    let arguments: Map<String, Value> =
        arguments.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    ToolCall { name: name.to_owned(), arguments }
}

/// The hidden tests of katas that live in one module.
pub(crate) fn check(path: &str, katas: &[&Kata]) -> Check {
    let tests: Vec<Test> = katas.iter().flat_map(|kata| kata.tests.iter().cloned()).collect();
    Check { path: path.to_owned(), tests }
}
