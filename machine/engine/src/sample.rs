//! Logits become a token.
//!
//! The steps, in order: repetition penalty, then temperature, top-k, top-p, min-p, then one draw.
//! That is the order of `transformers` ([`Order::TemperatureFirst`]), for which a model's generation_config.json is
//! tuned. llama.cpp draws from top-k, top-p, min-p of the *untempered* distribution and tempers what is left
//! ([`Order::TemperatureLast`]); the two differ wherever the temperature is not 1.
//!
//! Exact meanings, shared by both projects:
//! - repetition penalty r: each *distinct* token among the last `repetition_window` has its logit divided by r if
//!   positive, else multiplied by r.
//! - top-k: the k highest; among equals the lower id stays (`transformers` would keep all equals).
//! - top-p: the smallest set of most probable tokens whose probabilities add up to at least p; never empty.
//! - min-p: tokens at least p times as probable as the most probable one.
//! - temperature 0: the highest logit after the penalty, the lower id among equals; nothing is drawn.

use crate::EngineError;
use numeric::Rng;

/// Where the temperature stands in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As `transformers`: temperature, top-k, top-p, min-p.
    TemperatureFirst,
    /// As llama.cpp: top-k, top-p, min-p, temperature.
    TemperatureLast,
}

/// How to choose the next token. The neutral values are 0 for `top_k` and `min_p`, 1 for `top_p` and
/// `repetition_penalty`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    /// How many of the latest tokens the penalty looks at.
    pub repetition_window: usize,
    pub order: Order,
    pub seed: u64,
}

impl Sampling {
    /// The most probable token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::with_temperature(1.0, 0) }
    }

    /// A plain draw from the tempered distribution.
    pub fn with_temperature(temperature: f32, seed: u64) -> Self {
        Self {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: usize::MAX,
            order: Order::TemperatureFirst,
            seed,
        }
    }

    /// Refuses values without a meaning, so that a typing mistake is not a strange text.
    pub fn check(&self) -> Result<(), EngineError> {
        let refuse = |name, found: f32, wanted| Err(EngineError::Setting { name, found: found.to_string(), wanted });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", self.temperature, "0 (greedy) or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("repetition_penalty", self.repetition_penalty, "a positive number (1 is none)");
        }
        Ok(())
    }
}

/// A token that may be drawn, and how probable it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub token: u32,
    pub probability: f32,
}

/// [`Sampling`] and the generator it draws from.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    rng: Rng,
}

impl Sampler {
    pub fn new(settings: Sampling) -> Result<Self, EngineError> {
        settings.check()?;
        let rng = Rng::new(settings.seed);
        Ok(Self { settings, rng })
    }

    /// The next token after `history`, which both the penalty and an error's position refer to.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, EngineError> {
        let missing = EngineError::NotFinite { position: history.len() };
        if self.settings.temperature == 0.0 {
            if self.settings.repetition_penalty == 1.0 {
                return highest(logits).ok_or(missing);
            }
            return highest(&self.penalized(logits, history)).ok_or(missing);
        }
        let candidates = self.distribution(logits, history);
        let mut left = self.rng.uniform() as f32;
        for candidate in &candidates {
            left -= candidate.probability;
            if left < 0.0 {
                return Ok(candidate.token);
            }
        }
        // Rounding may leave a sliver beyond the last one.
        candidates.last().map(|candidate| candidate.token).ok_or(missing)
    }

    /// Every token that can be drawn, most probable first; empty if no logit is finite.
    pub fn distribution(&self, logits: &[f32], history: &[u32]) -> Vec<Candidate> {
        let settings = &self.settings;
        let scores = self.penalized(logits, history);
        let mut candidates: Vec<Candidate> = (0u32..)
            .zip(&scores)
            .filter(|(_, score)| score.is_finite())
            .map(|(token, &score)| Candidate { token, probability: score })
            .collect();
        if candidates.is_empty() {
            return candidates;
        }
        if settings.temperature == 0.0 {
            let token = highest(&scores).unwrap_or(0);
            return vec![Candidate { token, probability: 1.0 }];
        }
        if settings.order == Order::TemperatureFirst {
            temper(&mut candidates, settings.temperature);
        }
        keep_highest(&mut candidates, settings.top_k);
        let tempered_last = settings.order == Order::TemperatureLast && settings.temperature != 1.0;
        let scores: Vec<f32> = candidates.iter().map(|candidate| candidate.probability).collect();
        softmax(&mut candidates);
        keep_nucleus(&mut candidates, settings.top_p);
        let floor = settings.min_p * candidates[0].probability;
        let kept = candidates.partition_point(|candidate| candidate.probability >= floor);
        candidates.truncate(kept);
        if tempered_last {
            candidates.iter_mut().zip(&scores).for_each(|(candidate, &score)| candidate.probability = score);
            temper(&mut candidates, settings.temperature);
            softmax(&mut candidates);
        } else {
            normalize(&mut candidates);
        }
        candidates
    }

    fn penalized(&self, logits: &[f32], history: &[u32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return scores;
        }
        let start = history.len().saturating_sub(self.settings.repetition_window);
        let mut seen = history[start..].to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
            }
        }
        scores
    }
}

/// The finite score that is highest; the first among equals.
fn highest(scores: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &score) in (0u32..).zip(scores) {
        if score.is_finite() && best.is_none_or(|(_, highest)| score > highest) {
            best = Some((token, score));
        }
    }
    best.map(|(token, _)| token)
}

fn temper(candidates: &mut [Candidate], temperature: f32) {
    candidates.iter_mut().for_each(|candidate| candidate.probability /= temperature);
}

/// Keeps the `count` highest (0: all) and leaves them sorted.
fn keep_highest(candidates: &mut Vec<Candidate>, count: usize) {
    let by_score = |a: &Candidate, b: &Candidate| b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token));
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, by_score);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(by_score);
}

/// Scores become probabilities; the first candidate must be the highest.
fn softmax(candidates: &mut [Candidate]) {
    let highest = candidates[0].probability;
    candidates.iter_mut().for_each(|candidate| candidate.probability = (candidate.probability - highest).exp());
    normalize(candidates);
}

fn normalize(candidates: &mut [Candidate]) {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.probability)).sum();
    candidates
        .iter_mut()
        .for_each(|candidate| candidate.probability = (f64::from(candidate.probability) / total) as f32);
}

/// Cuts after the token with which the sum reaches `mass`.
fn keep_nucleus(candidates: &mut Vec<Candidate>, mass: f32) {
    if mass >= 1.0 {
        return;
    }
    let mut sum = 0.0f64;
    let reached = candidates.iter().position(|candidate| {
        sum += f64::from(candidate.probability);
        sum >= f64::from(mass)
    });
    candidates.truncate(reached.map_or(candidates.len(), |at| at + 1));
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
