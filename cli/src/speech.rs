//! A model speaking to somebody who reads along: how it samples, and its text as it comes.

use crate::place::Speaking;
use crate::terminal::Meter;
use anyhow::Result;
use clap::Args;
use engine::{Finish, Generation, Progress, Request, Sampling, Session, Settings, generate};
use evaluate::table::duration_in_words;
use serde_json::Value;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use text::stream::{Detokenizer, StopStrings};

/// How the next token is chosen; what is not given comes from the model's generation_config.json.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArguments {
    /// 0 always takes the most probable token
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Only the k most probable tokens (0: all)
    #[arg(long)]
    pub(crate) top_k: Option<usize>,
    /// Only the most probable tokens that together have this probability
    #[arg(long)]
    pub(crate) top_p: Option<f32>,
    /// Only tokens at least this probable relative to the best
    #[arg(long)]
    pub(crate) min_p: Option<f32>,
    /// Above 1, tokens that were there already become less probable
    #[arg(long)]
    pub(crate) repetition_penalty: Option<f32>,
    /// The same seed gives the same text
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Tokens of an answer, at most
    #[arg(long)]
    pub(crate) max_tokens: Option<usize>,
    /// A text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

impl SamplingArguments {
    /// The settings for a model, checked.
    pub(crate) fn sampling(&self, place: &Path) -> Result<Sampling> {
        let defaults = generation_defaults(place);
        let number = |key: &str| defaults.get(key).and_then(Value::as_f64).map(|value| value as f32);
        let sampled = defaults.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
        let default_temperature = if sampled { number("temperature").unwrap_or(1.0) } else { 0.0 };
        let plain = Sampling::with_temperature(default_temperature, 0);
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(default_temperature),
            top_k: self.top_k.or(number("top_k").map(|k| k as usize)).unwrap_or(plain.top_k),
            top_p: self.top_p.or(number("top_p")).unwrap_or(plain.top_p),
            min_p: self.min_p.or(number("min_p")).unwrap_or(plain.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(number("repetition_penalty"))
                .unwrap_or(plain.repetition_penalty),
            seed: self.seed.unwrap_or(0),
            ..plain
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// The model's own defaults; a model without them has none, nor has a GGUF file.
fn generation_defaults(place: &Path) -> Value {
    let text = std::fs::read_to_string(place.join("generation_config.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// So many passes of a prompt are worth a meter, after the first.
const PASSES_LEFT: usize = 2;

/// What was said.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) generation: Generation,
    /// The text that ended it, if it was one of the stop texts.
    pub(crate) stopped_by: Option<String>,
}

impl Said {
    /// Why it ended, by the names that other programs use.
    pub(crate) fn finish(&self) -> &'static str {
        match self.generation.finish {
            Finish::Stop(_) => "stop",
            _ if self.stopped_by.is_some() => "stop",
            Finish::Length | Finish::ContextFull => "length",
            Finish::Cancelled => "cancelled",
        }
    }

    /// The seven lines of `--verbose`, in the words and the order that people quote in bug reports.
    pub(crate) fn timings(&self, load: std::time::Duration) -> String {
        let timings = &self.generation.timings;
        let total = load + timings.prefill + timings.decode;
        let lines = [
            ("total duration:", duration_in_words(total)),
            ("load duration:", duration_in_words(load)),
            ("prompt eval count:", format!("{} token(s)", timings.prefill_tokens)),
            ("prompt eval duration:", duration_in_words(timings.prefill)),
            ("prompt eval rate:", format!("{:.2} tokens/s", timings.prefill_tokens_per_second())),
            ("eval count:", format!("{} token(s)", self.generation.tokens.len())),
            ("eval duration:", duration_in_words(timings.decode)),
            ("eval rate:", format!("{:.2} tokens/s", timings.decode_tokens_per_second())),
        ];
        lines.map(|(name, value)| format!("{name:22}{value}")).join("\n")
    }
}

/// Continues `session` and hands every piece of text to `show` as soon as it is certain.
pub(crate) fn speak(
    speaking: &Speaking,
    session: &mut Session,
    request: &Request,
    stops: &[String],
    cancel: &AtomicBool,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> Result<Said> {
    let settings = Settings::default();
    let mut detokenizer = Detokenizer::new(StopStrings::new(stops));
    let mut text = String::new();
    let mut shown: io::Result<()> = Ok(());
    let mut meter: Option<Meter> = None;
    let on_progress = |progress| {
        let token = match progress {
            Progress::Prompt { done, total } => {
                if meter.is_some() || total - done >= PASSES_LEFT * settings.pass_tokens {
                    // What the first pass took says less about the rate than those after it.
                    let begin = || Meter::starting_at("reading the prompt", done as u64, total as u64, "tokens");
                    meter.get_or_insert_with(begin).set(done as u64, "");
                }
                return ControlFlow::Continue(());
            }
            Progress::Token(token) => token,
        };
        meter = None;
        let piece = detokenizer.push(&speaking.tokenizer, token);
        text.push_str(&piece);
        shown = if piece.is_empty() { Ok(()) } else { show(&piece) };
        let over = shown.is_err() || detokenizer.stopped_by().is_some();
        if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generation = generate(&speaking.model, settings, session, request, cancel, on_progress)?;
    shown?;
    let rest = detokenizer.finish();
    text.push_str(&rest);
    if !rest.is_empty() {
        show(&rest)?;
    }
    Ok(Said { text, generation, stopped_by: detokenizer.stopped_by().map(str::to_owned) })
}
