//! Tokens per second, for one reader at a time.

use crate::EvaluateError;
use crate::statistics::quantile;
use engine::{Request, Sampling, Session, Settings, generate};
use models::{KvFormat, Model};
use numeric::Rng;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

/// What is timed. The prompt is random: its content does not change the work, but for which experts it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeedSettings {
    pub prompt_tokens: usize,
    pub decode_tokens: usize,
    pub repetitions: usize,
    pub kv: KvFormat,
}

impl Default for SpeedSettings {
    fn default() -> Self {
        Self { prompt_tokens: 128, decode_tokens: 64, repetitions: 3, kv: KvFormat::default() }
    }
}

/// Medians over the repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    pub prompt_tokens: usize,
    pub decode_tokens: usize,
    pub prefill_tokens_per_second: f64,
    pub decode_tokens_per_second: f64,
}

pub fn speed(model: &Model, settings: &SpeedSettings) -> Result<Speed, EvaluateError> {
    assert!(settings.repetitions > 0, "a median needs a value");
    let room = model.config.positions_max;
    let prompt_tokens = settings.prompt_tokens.clamp(1, room.div_ceil(2));
    let decode_tokens = settings.decode_tokens.min(room - prompt_tokens).max(2);
    let mut rng = Rng::new(0);
    let request = Request { sampling: Sampling::greedy(), max_tokens: decode_tokens, stop: Vec::new() };
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // The first run warms caches and the thread pool, and is not counted.
    for repetition in 0..=settings.repetitions {
        let prompt: Vec<u32> = (0..prompt_tokens).map(|_| rng.below(model.config.vocab_size) as u32).collect();
        let mut session = Session::new(&model.config, settings.kv);
        session.sync(&model.config, &prompt)?;
        let never = AtomicBool::new(false);
        let on_token = |_| ControlFlow::Continue(());
        let timings = generate(model, Settings::default(), &mut session, &request, &never, on_token)?.timings;
        if repetition > 0 {
            prefill.push(timings.prefill_tokens_per_second());
            decode.push(timings.decode_tokens_per_second());
        }
    }
    Ok(Speed {
        prompt_tokens,
        decode_tokens,
        prefill_tokens_per_second: quantile(&prefill, 0.5),
        decode_tokens_per_second: quantile(&decode, 0.5),
    })
}
