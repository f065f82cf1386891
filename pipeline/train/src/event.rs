//! What happens in a run: one record for the metrics file, for the report, and for whoever watches.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Mean losses in nats per token, by the name of the kind.
pub type Losses = BTreeMap<String, f64>;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Begin(Begin),
    Step(Step),
    Validation(Validation),
    /// How the experts were used since the last such record: `layers[l][e]` is the share of layer `l`'s choices.
    ExpertLoad {
        step: usize,
        layers: Vec<Vec<f32>>,
    },
    Warning {
        step: usize,
        warning: Warning,
        message: String,
    },
    Checkpoint {
        step: usize,
    },
    End {
        step: usize,
        outcome: Ending,
        seconds: f64,
    },
}

/// Said when a run begins, and again when it resumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Steps that were done before: 0 unless it resumes.
    pub step: usize,
    pub steps: usize,
    pub parameters: usize,
    pub trained_parameters: usize,
    pub samples: usize,
    pub trained_tokens: usize,
    pub validation_samples: usize,
    pub batch_tokens: usize,
    /// Weight of the router's balancing loss, said aloud because many forget it.
    pub auxiliary_coefficient: f32,
}

/// One optimizer step. `step` counts finished ones, from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub step: usize,
    /// What was minimised: the weighted mean over the step's tokens.
    pub loss: f64,
    /// Unweighted means by kind.
    pub losses: Losses,
    pub learning_rate: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// The busiest expert's load as a multiple of an even share, worst layer; 0 without experts.
    pub expert_imbalance: f64,
    pub tokens: usize,
    pub trained_tokens: usize,
    pub tokens_per_second: f64,
    /// Since the run began, without the time between an interruption and a resumption.
    pub seconds: f64,
    pub epoch: u64,
}

/// Losses on data that is never trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    pub step: usize,
    pub loss: f64,
    pub losses: Losses,
    pub seconds: f64,
}

/// What a run warns of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    Memorising,
    NotLearning,
    Overfitting,
    NotANumber,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Finished,
    Interrupted,
}

/// Someone who watches a run. Training itself never prints.
pub trait Progress {
    fn record(&mut self, event: &Event);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn record(&mut self, _: &Event) {}
}
