//! Speed by the book: prefill and decoding at several depths, against what the memory allows, and where the time goes.

use crate::EvaluateError;
use crate::statistics::quantile;
use models::{KvFormat, Model, State, TokenBytes};
use numeric::Rng;
use ops::{Infer, OpTime, Precision, Timed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// What is timed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchSettings {
    /// Lengths of prompts, in tokens.
    pub prompts: Vec<usize>,
    /// Tokens to decode; 0 leaves decoding out.
    pub decode: usize,
    /// How many tokens stand before what is timed, with random keys and values.
    pub depths: Vec<usize>,
    pub repetitions: usize,
    /// Tokens in one pass of a prefill.
    pub pass_tokens: usize,
    /// How keys and values are kept.
    pub kv: KvFormat,
}

impl BenchSettings {
    /// Tokens of the longest sequence.
    pub fn tokens_max(&self) -> usize {
        let timed = self.prompts.iter().copied().max().unwrap_or(0).max(self.decode);
        self.depths.iter().max().unwrap_or(&0) + timed
    }
}

/// Of the repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        Self { median: quantile(values, 0.5), low: quantile(values, 0.0), high: quantile(values, 1.0) }
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    pub tokens: usize,
    pub depth: usize,
    pub tokens_per_second: Spread,
    /// Decoding only: what a token reads, and which part that was of the bandwidth measured right before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_bytes: Option<TokenBytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_share: Option<f64>,
    /// Milliseconds a token by kind of operation, the longest first.
    pub operations: Vec<OperationShare>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationShare {
    pub name: &'static str,
    pub calls: f64,
    pub milliseconds: f64,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bench {
    pub weights_bytes: usize,
    pub threads: usize,
    /// What the threads read of memory, in the same run; the median where it was measured several times.
    pub bandwidth_gigabytes_per_second: f64,
    pub measurements: Vec<Measurement>,
}

/// One thing to time, and what was found so far.
struct Timing<'m> {
    model: &'m Model,
    executor: Timed<Infer>,
    rng: Rng,
}

impl Timing<'_> {
    fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.rng.below(self.model.config.vocab_size) as u32).collect()
    }

    /// Takes random tokens in; returns the seconds, logits of the last token included.
    fn pass(&mut self, state: &mut State, count: usize, pass_tokens: usize) -> f64 {
        let tokens = self.tokens(count);
        let start = Instant::now();
        let states = std::slice::from_mut(state);
        for part in tokens.chunks(pass_tokens) {
            let hidden = models::hidden(&mut self.executor, self.model, states, part, &[part.len()]);
            if part.as_ptr_range().end == tokens.as_ptr_range().end {
                let last = [hidden.rows - 1];
                self.executor.run("head", |infer| models::logits(infer, self.model, &hidden, &last));
            }
        }
        start.elapsed().as_secs_f64()
    }
}

/// Times the model. `bandwidth` measures, as `kernels::bandwidth::read` does, what memory gives in bytes a second; a
/// machine shared with strangers changes from minute to minute, so it is asked around each decoding. `progress` hears
/// what is done next.
pub fn bench(
    model: &Model,
    settings: &BenchSettings,
    bandwidth: &mut dyn FnMut() -> f64,
    progress: &dyn Fn(&str),
) -> Result<Bench, EvaluateError> {
    let longest = settings.tokens_max();
    if longest > model.config.positions_max {
        let most = model.config.positions_max;
        return Err(EvaluateError::Nothing(format!("{longest} tokens are wanted, the model has {most} positions")));
    }
    let mut timing = Timing { model, executor: Timed::new(Infer::new(Precision::F32)), rng: Rng::new(1) };
    let mut measurements = Vec::new();
    let mut bandwidths = Vec::new();
    for &depth in &settings.depths {
        progress(&format!("{depth} tokens before"));
        let before = State::imagined(&model.config, settings.kv, depth, &mut timing.rng);
        let prompts = settings.prompts.iter().map(|&tokens| ("prefill", tokens, settings.pass_tokens));
        let decode = (settings.decode > 0).then_some(("decode", settings.decode, 1));
        for (phase, tokens, pass_tokens) in prompts.chain(decode) {
            progress(&format!("{phase} of {tokens} after {depth}"));
            let token_bytes = (phase == "decode").then(|| model.token_bytes(depth + tokens / 2, settings.kv));
            let measured_before = token_bytes.map(|_| bandwidth());
            let found = repeat(&mut timing, &before, tokens, pass_tokens, settings.repetitions);
            let around = measured_before.map(|before| [before, bandwidth()]);
            bandwidths.extend(around.into_iter().flatten());
            measurements.push(Measurement {
                phase,
                tokens,
                depth,
                tokens_per_second: found.0,
                token_bytes,
                bandwidth_share: token_bytes
                    .zip(around)
                    .map(|(bytes, [one, two])| bytes.total() as f64 * found.0.median / (0.5 * (one + two))),
                operations: found.1,
            });
        }
    }
    if bandwidths.is_empty() {
        bandwidths.push(bandwidth());
    }
    Ok(Bench {
        weights_bytes: model.bytes(),
        threads: kernels::pool::threads(),
        bandwidth_gigabytes_per_second: quantile(&bandwidths, 0.5) / 1e9,
        measurements,
    })
}

/// The first repetition warms caches and threads and is not counted.
fn repeat(
    timing: &mut Timing<'_>,
    before: &State,
    tokens: usize,
    pass_tokens: usize,
    repetitions: usize,
) -> (Spread, Vec<OperationShare>) {
    let mut speeds = Vec::with_capacity(repetitions);
    for repetition in 0..=repetitions {
        let mut state = before.clone();
        if repetition == 1 {
            timing.executor.times.clear();
        }
        let seconds = match pass_tokens {
            // One token at a time, each with its logits.
            1 => (0..tokens).map(|_| timing.pass(&mut state, 1, 1)).sum(),
            _ => timing.pass(&mut state, tokens, pass_tokens),
        };
        if repetition > 0 {
            speeds.push(tokens as f64 / seconds);
        }
    }
    (Spread::of(&speeds), shares(&timing.executor.times, tokens * repetitions))
}

fn shares(times: &BTreeMap<&'static str, OpTime>, tokens: usize) -> Vec<OperationShare> {
    let share = |(&name, op): (&&'static str, &OpTime)| OperationShare {
        name,
        calls: op.calls as f64 / tokens as f64,
        milliseconds: 1e3 * op.time.as_secs_f64() / tokens as f64,
    };
    let mut all: Vec<OperationShare> = times.iter().map(share).collect();
    all.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    all
}
