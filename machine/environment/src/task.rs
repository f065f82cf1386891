//! One thing for a model to do: what it is shown, what a good answer looks like, and whether an answer is good.

use numeric::Rng;
use serde::{Deserialize, Serialize};
use text::chat::{Document, Message, Role, ToolDefinition};

use crate::kata::{Kata, Test};
use crate::repository::Repository;
use crate::sandbox::Sandbox;
use crate::source::{extract_code, without_names};
use crate::split::{Split, hash};
use crate::{debugging, hole, reasoning, replay, review};

/// What the model practises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpisodeKind {
    /// A description becomes a program.
    Solve,
    /// A change to a small repository, made with tools.
    Replay,
    /// A program and a test that it fails become a program that passes.
    Debugging,
    /// A diff becomes a verdict.
    Review,
    /// A program with a hole becomes the hole's content.
    FillInTheMiddle,
    /// A program and a call become the value that it returns.
    Reasoning,
}

impl EpisodeKind {
    pub const ALL: [EpisodeKind; 6] = [
        EpisodeKind::Solve,
        EpisodeKind::Replay,
        EpisodeKind::Debugging,
        EpisodeKind::Review,
        EpisodeKind::FillInTheMiddle,
        EpisodeKind::Reasoning,
    ];

    pub fn name(self) -> &'static str {
        match self {
            EpisodeKind::Solve => "solve",
            EpisodeKind::Replay => "replay",
            EpisodeKind::Debugging => "debugging",
            EpisodeKind::Review => "review",
            EpisodeKind::FillInTheMiddle => "fill_in_the_middle",
            EpisodeKind::Reasoning => "reasoning",
        }
    }
}

/// What stands before the model's first word.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Chat { tools: Vec<ToolDefinition>, messages: Vec<Message> },
    FillInTheMiddle { prefix: String, suffix: String },
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub passed: bool,
    /// Equal to the reference, up to space at the ends.
    pub exact: bool,
    /// Why not, in words that the model can learn from; or what was checked.
    pub detail: String,
}

impl Verdict {
    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Self { passed: false, exact: false, detail: detail.into() }
    }
}

/// What each kind of episode knows how to do.
pub(crate) trait Exercise: Send + Sync + std::fmt::Debug {
    fn prompt(&self) -> Prompt;
    fn demonstration(&self) -> Document;
    fn judge(&self, sandbox: &Sandbox, answer: &str) -> Verdict;
    /// The katas that it is made of, for tests and for the check against leaks.
    fn katas(&self) -> &[Kata];
    fn repository(&self) -> Option<Repository> {
        None
    }
}

/// One thing for a model to do. Made by [`task`]; the same arguments give the same task.
#[derive(Debug)]
pub struct Task {
    pub id: String,
    pub kind: EpisodeKind,
    pub family: &'static str,
    pub split: Split,
    exercise: Box<dyn Exercise>,
}

/// Makes the task that these arguments name.
pub fn task(kind: EpisodeKind, split: Split, seed: u64) -> Task {
    let mut rng = Rng::new(hash(&[kind.name(), split.name()]) ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let exercise: Box<dyn Exercise> = match kind {
        EpisodeKind::Solve => Box::new(Solve::draw(split, &mut rng)),
        EpisodeKind::Debugging => Box::new(debugging::Debugging::draw(split, &mut rng)),
        EpisodeKind::Review => Box::new(review::Review::draw(split, &mut rng)),
        EpisodeKind::FillInTheMiddle => Box::new(hole::FillInTheMiddle::draw(split, &mut rng)),
        EpisodeKind::Reasoning => Box::new(reasoning::Reasoning::draw(split, &mut rng)),
        EpisodeKind::Replay => Box::new(replay::Replay::draw(split, &mut rng)),
    };
    let family = exercise.katas()[0].family;
    let id = format!("{}-{}-{family}-{seed:x}", kind.name(), split.name());
    Task { id, kind, family, split, exercise }
}

impl Task {
    /// Up to where the assistant must act.
    pub fn prompt(&self) -> Prompt {
        self.exercise.prompt()
    }

    /// The whole episode, for training.
    pub fn demonstration(&self) -> Document {
        self.exercise.demonstration()
    }

    /// Judges one answer. A replay is not judged by an answer but by its repository: see [`Repository::solved`].
    pub fn judge(&self, sandbox: &Sandbox, answer: &str) -> Verdict {
        self.exercise.judge(sandbox, answer)
    }

    /// A fresh copy of the files that a replay starts from; other kinds have none.
    pub fn repository(&self) -> Option<Repository> {
        self.exercise.repository()
    }

    /// The hidden tests.
    pub fn tests(&self) -> &[Test] {
        &self.exercise.katas()[0].tests
    }

    /// The reference program.
    pub fn program(&self) -> &str {
        &self.exercise.katas()[0].program
    }

    #[cfg(test)]
    pub(crate) fn exercise_families(&self) -> Vec<&'static str> {
        self.exercise.katas().iter().map(|kata| kata.family).collect()
    }

    /// What would give a test task away if it were seen in training: its programs up to names, and its descriptions.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        let mut prints = Vec::new();
        for kata in self.exercise.katas() {
            prints.push(without_names(&kata.program));
            prints.push(kata.description.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        }
        prints
    }
}

/// Description to program.
#[derive(Debug)]
struct Solve {
    kata: Kata,
    request: String,
}

impl Solve {
    fn draw(split: Split, rng: &mut Rng) -> Self {
        let kata = Kata::draw(split, rng);
        let request = kata.request(rng);
        Self { kata, request }
    }
}

impl Exercise for Solve {
    fn prompt(&self) -> Prompt {
        ask(&self.request)
    }

    fn demonstration(&self) -> Document {
        conversation(&self.request, None, &fenced(&self.kata.program))
    }

    fn judge(&self, sandbox: &Sandbox, answer: &str) -> Verdict {
        self.kata.judge(sandbox, extract_code(answer))
    }

    fn katas(&self) -> &[Kata] {
        std::slice::from_ref(&self.kata)
    }
}

/// A prompt of one user message.
pub(crate) fn ask(request: &str) -> Prompt {
    Prompt::Chat { tools: Vec::new(), messages: vec![Message::new(Role::User, request)] }
}

/// A question and its answer.
pub(crate) fn conversation(request: &str, reasoning: Option<&str>, answer: &str) -> Document {
    let mut reply = Message::new(Role::Assistant, answer);
    reply.reasoning_content = reasoning.map(str::to_owned);
    Document::Chat { tools: Vec::new(), messages: vec![Message::new(Role::User, request), reply] }
}

pub(crate) fn fenced(program: &str) -> String {
    format!("```python\n{}\n```", program.trim_end())
}
