//! The kinds of training data, and how much each counts.

use environment::EpisodeKind;
use serde::{Deserialize, Serialize};

/// What a sample teaches. The first six are the task types of an episode, the last three come from files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A description becomes a program.
    Solve,
    /// A real change re-enacted with tools.
    Replay,
    Debugging,
    Review,
    #[serde(alias = "fim")]
    FillInTheMiddle,
    Reasoning,
    /// A conversation from a file that does not say what it teaches.
    Chat,
    /// Source code as it stands.
    Plain,
    /// Source code with a hole.
    CodeInfilling,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Solve,
        Kind::Replay,
        Kind::Debugging,
        Kind::Review,
        Kind::FillInTheMiddle,
        Kind::Reasoning,
        Kind::Chat,
        Kind::Plain,
        Kind::CodeInfilling,
    ];

    /// The name that recipes, metrics and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Solve => "solve",
            Kind::Replay => "replay",
            Kind::Debugging => "debugging",
            Kind::Review => "review",
            Kind::FillInTheMiddle => "fill_in_the_middle",
            Kind::Reasoning => "reasoning",
            Kind::Chat => "chat",
            Kind::Plain => "plain",
            Kind::CodeInfilling => "code_infilling",
        }
    }

    /// The kind of an episode.
    pub fn of_episode(kind: EpisodeKind) -> Kind {
        match kind {
            EpisodeKind::Solve => Kind::Solve,
            EpisodeKind::Replay => Kind::Replay,
            EpisodeKind::Debugging => Kind::Debugging,
            EpisodeKind::Review => Kind::Review,
            EpisodeKind::FillInTheMiddle => Kind::FillInTheMiddle,
            EpisodeKind::Reasoning => Kind::Reasoning,
        }
    }

    /// The kind by its name, or by the short one that everybody knows.
    pub fn from_name(name: &str) -> Option<Kind> {
        let name = if name == "fim" { Kind::FillInTheMiddle.name() } else { name };
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The loss weight of each kind: tuned so that no type dominates the gradient. What is not named counts 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KindWeights {
    pub solve: f32,
    pub replay: f32,
    pub debugging: f32,
    pub review: f32,
    #[serde(alias = "fim")]
    pub fill_in_the_middle: f32,
    pub reasoning: f32,
    pub chat: f32,
    pub plain: f32,
    pub code_infilling: f32,
}

impl Default for KindWeights {
    fn default() -> Self {
        Self {
            solve: 1.0,
            replay: 1.0,
            debugging: 1.0,
            review: 1.0,
            fill_in_the_middle: 1.0,
            reasoning: 1.0,
            chat: 1.0,
            plain: 1.0,
            code_infilling: 1.0,
        }
    }
}

impl KindWeights {
    pub fn of(&self, kind: Kind) -> f32 {
        match kind {
            Kind::Solve => self.solve,
            Kind::Replay => self.replay,
            Kind::Debugging => self.debugging,
            Kind::Review => self.review,
            Kind::FillInTheMiddle => self.fill_in_the_middle,
            Kind::Reasoning => self.reasoning,
            Kind::Chat => self.chat,
            Kind::Plain => self.plain,
            Kind::CodeInfilling => self.code_infilling,
        }
    }
}
