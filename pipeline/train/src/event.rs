//! What happens in a run: one record for the metrics file, for the report, and for whoever watches.

use models::Model;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Mean losses in nats per token, by the name of the kind.
pub type Losses = BTreeMap<String, f64>;

/// Shares of tasks that were solved, by the name of the kind.
pub type Scores = BTreeMap<String, f64>;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Begin(Begin),
    Step(Step),
    Validation(Validation),
    /// A trial on tasks, judged by running what the model wrote.
    Tasks {
        step: usize,
        scores: Scores,
        seconds: f64,
    },
    /// How the experts were used since the last such record: `layers[l][e]` is the share of layer `l`'s choices;
    /// `entropies[l]` is how undecided its router was at this step, in nats a token.
    ExpertLoad {
        step: usize,
        layers: Vec<Vec<f32>>,
        #[serde(default)]
        entropies: Vec<f32>,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Steps that were done before: 0 unless it resumes.
    pub step: usize,
    pub steps: usize,
    pub parameters: usize,
    pub trained_parameters: usize,
    pub samples: usize,
    /// Of all samples together.
    #[serde(default)]
    pub tokens: usize,
    pub trained_tokens: usize,
    pub validation_samples: usize,
    pub batch_tokens: usize,
    /// Weight of the router's balancing loss, said aloud because many forget it.
    pub auxiliary_coefficient: f32,
    /// What is trained, in a few words.
    #[serde(default)]
    pub method: String,
    /// When this call began, in seconds since 1970, and how long the run had been going by then.
    #[serde(default)]
    pub started: f64,
    #[serde(default)]
    pub seconds: f64,
}

/// One optimizer step. `step` counts finished ones, from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub step: usize,
    /// Cross entropy: the weighted mean over the step's tokens of data. Without a teacher it is what is minimised.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Unweighted means by kind.
    #[serde(deserialize_with = "numbers")]
    pub losses: Losses,
    /// What else was measured, unweighted, by name: how far a student is from its teacher in each respect.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers")]
    pub terms: Losses,
    pub learning_rate: f64,
    /// Before clipping.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f64,
    /// Whether the parameters were left as they were: a number that is none, or a spike that the recipe skips.
    #[serde(default)]
    pub skipped: bool,
    /// The busiest expert's load as a multiple of an even share, worst layer; 0 without experts.
    pub expert_imbalance: f64,
    /// How undecided the routers were, in nats a token, the mean over layers; 0 without experts.
    #[serde(default)]
    pub router_entropy: f64,
    pub tokens: usize,
    pub trained_tokens: usize,
    pub tokens_per_second: f64,
    /// Since the run began, without the time between an interruption and a resumption.
    pub seconds: f64,
    pub epoch: u64,
    /// The most memory that the process has held, where whoever watches can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// Losses on data that is never trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    pub step: usize,
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    #[serde(deserialize_with = "numbers")]
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
    /// The loss is where it began.
    Flat,
    /// A gradient many times its usual size.
    Spike,
    /// A learning rate of zero before the end.
    NoRate,
    /// Hardly any token is trained, or none of a step.
    FewTrained,
    /// A layer's choices fell upon few experts.
    ExpertCollapse,
    /// No validation was better than the one before training.
    NoGain,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Finished,
    /// Its patience was at its end: validation got no better.
    StoppedEarly,
    Interrupted,
}

/// Someone who watches a run. Training itself never prints.
pub trait Progress {
    fn record(&mut self, event: &Event);

    /// Tries the model on tasks; `None` where whoever watches cannot.
    fn try_tasks(&mut self, _model: &Model, _per_kind: u64) -> Option<Scores> {
        None
    }

    /// The most memory that the process has held.
    fn peak_memory_bytes(&self) -> Option<u64> {
        None
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn record(&mut self, _: &Event) {}
}

/// JSON has no word for what is no number and writes `null`, which is read back as that.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let read = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(read.into_iter().map(|(kind, value)| (kind, value.unwrap_or(f64::NAN))).collect())
}
