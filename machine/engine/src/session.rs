//! One sequence: its tokens, what the model remembers of them, and what was asked of it.

use crate::{EngineError, Sampling};
use models::{Config, KvFormat, State};
use std::time::Duration;

/// A sequence. `tokens` are in the state; `pending` ones wait for the next forward pass; `logits` belong to the last
/// token of `tokens` and are empty while anything is pending.
#[derive(Clone)]
pub struct Session {
    pub(crate) state: State,
    pub(crate) tokens: Vec<u32>,
    pub(crate) pending: Vec<u32>,
    pub(crate) logits: Vec<f32>,
    /// Tokens that the state takes at most.
    pub(crate) context_max: usize,
}

/// How much of a prompt was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reused {
    /// Tokens whose state was kept.
    pub kept: usize,
    /// Tokens still to be computed.
    pub fresh: usize,
}

impl Session {
    /// An empty one; `kv` is how it will keep keys and values.
    pub fn new(config: &Config, kv: KvFormat) -> Self {
        Self {
            state: State::empty(config, kv),
            tokens: Vec::new(),
            pending: Vec::new(),
            logits: Vec::new(),
            context_max: config.positions_max,
        }
    }

    /// Takes at most so many tokens, prompt and answer together: those for which memory is planned.
    pub fn limited(self, context_max: usize) -> Self {
        Self { context_max: self.context_max.min(context_max), ..self }
    }

    /// The empty one that this one was.
    pub(crate) fn emptied(&self, config: &Config) -> Self {
        Self::new(config, self.state.kv()).limited(self.context_max)
    }

    /// Tokens that it takes at most.
    pub fn context_max(&self) -> usize {
        self.context_max
    }

    /// How it keeps keys and values.
    pub fn kv(&self) -> KvFormat {
        self.state.kv()
    }

    /// The tokens that the state holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Makes `tokens` what this session continues from. What the state already holds is kept if it is a prefix of them;
    /// otherwise everything starts again, because a recurrent state cannot be wound back.
    pub fn sync(&mut self, config: &Config, tokens: &[u32]) -> Result<Reused, EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(position) = tokens.iter().position(|&token| token as usize >= config.vocab_size) {
            return Err(EngineError::UnknownToken { token: tokens[position], position, vocabulary: config.vocab_size });
        }
        if tokens.len() > self.context_max {
            return Err(EngineError::PromptTooLong { found: tokens.len(), wanted: self.context_max });
        }
        let complete = tokens.len() > self.tokens.len() || !self.logits.is_empty();
        if !(tokens.starts_with(&self.tokens) && complete) {
            *self = self.emptied(config);
        }
        self.pending = tokens[self.tokens.len()..].to_vec();
        if !self.pending.is_empty() {
            self.logits.clear();
        }
        Ok(Reused { kept: self.tokens.len(), fresh: self.pending.len() })
    }
}

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub sampling: Sampling,
    pub max_tokens: usize,
    /// Tokens that end the text; they are reported in [`Finish::Stop`], not among the generated ones.
    pub stop: Vec<u32>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop(u32),
    /// As many tokens as were asked for.
    Length,
    /// The model has no position left, or the session no room.
    ContextFull,
    Cancelled,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub tokens: Vec<u32>,
    pub finish: Finish,
    pub timings: Timings,
}

/// Where the time went. In a batch the durations are of the wall clock, which several sequences share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Prompt tokens that were computed, without those whose state was there already.
    pub prefill_tokens: usize,
    pub prefill: Duration,
    pub decode_tokens: usize,
    pub decode: Duration,
}

impl Timings {
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill)
    }

    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_tokens, self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
