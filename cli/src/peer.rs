//! A peer that is measured beside us: a command that prints how fast it was, run in turn with our own repetitions so
//! that both meet the same machine.

use anyhow::{Context, Result, bail};
use evaluate::Measurement;
use evaluate::statistics::quantile;
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};

/// What one run printed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Printed {
    /// Tokens a second, decoding.
    Number(f64),
    Entries(Vec<Entry>),
}

/// One of the objects that `llama-bench -o json` lists. Those with both a prompt and an answer are of neither phase.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Entry {
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    avg_ts: f64,
    #[serde(default)]
    samples_ts: Vec<f64>,
}

/// A peer's runs, interleaved with ours.
#[derive(Debug, Serialize)]
pub(crate) struct Peer {
    command: String,
    pub(crate) comparisons: Vec<Comparison>,
}

/// One of our measurements, and what the peer found of the same.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) phase: &'static str,
    pub(crate) tokens: usize,
    pub(crate) depth: usize,
    /// Medians.
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// Ours over theirs.
    pub(crate) ratio: f64,
    /// All that the peer found, in tokens a second.
    pub(crate) peer_tokens_per_second: Vec<f64>,
}

/// Runs the command once.
pub(crate) fn run(command: &str) -> Result<Printed> {
    let output = Command::new("sh").arg("-c").arg(command).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {command}"))?;
    if !output.status.success() {
        bail!("`{command}` ended with {}", output.status);
    }
    read(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("cannot read what `{command}` printed"))
}

fn read(text: &str) -> Result<Printed> {
    if text.trim_start().starts_with('[') {
        let entries: Vec<Entry> = serde_json::from_str(text).context("it is not the JSON of llama-bench")?;
        return Ok(Printed::Entries(entries));
    }
    let word = text.split_whitespace().next_back().unwrap_or("");
    let number = word.parse().ok().filter(|number: &f64| number.is_finite());
    let number = number.with_context(|| format!("want a list in JSON or one number, its last word is {word:?}"))?;
    Ok(Printed::Number(number))
}

impl Entry {
    /// Prompts of one length say nothing about those of another; decoding is the same work for every token.
    fn is_of(&self, ours: &Measurement) -> bool {
        let same = match ours.phase {
            "prefill" => self.n_gen == 0 && self.n_prompt == ours.tokens,
            _ => self.n_gen > 0 && self.n_prompt == 0,
        };
        same && self.n_depth == ours.depth
    }

    fn tokens_per_second(&self) -> Vec<f64> {
        if self.samples_ts.is_empty() { vec![self.avg_ts] } else { self.samples_ts.clone() }
    }
}

impl Printed {
    /// What this run says about our measurement; `last_decode` is the one that a single number stands for.
    fn about(&self, ours: &Measurement, last_decode: Option<usize>, index: usize) -> Vec<f64> {
        match self {
            Self::Number(number) if last_decode == Some(index) => vec![*number],
            Self::Number(_) => Vec::new(),
            Self::Entries(entries) => {
                entries.iter().filter(|entry| entry.is_of(ours)).flat_map(Entry::tokens_per_second).collect()
            }
        }
    }
}

impl Peer {
    /// Holds our measurements and the peer's runs together. At least one of ours must have its counterpart.
    pub(crate) fn compare(command: &str, ours: &[Measurement], runs: &[Printed]) -> Result<Self> {
        let last_decode = ours.iter().rposition(|measurement| measurement.phase == "decode");
        let compare = |(index, ours): (usize, &Measurement)| {
            let found: Vec<f64> = runs.iter().flat_map(|run| run.about(ours, last_decode, index)).collect();
            let (median, theirs) = (ours.tokens_per_second.median, quantile(&found, 0.5));
            (!found.is_empty()).then_some(Comparison {
                phase: ours.phase,
                tokens: ours.tokens,
                depth: ours.depth,
                ours: median,
                theirs,
                ratio: median / theirs,
                peer_tokens_per_second: found,
            })
        };
        let comparisons: Vec<Comparison> = ours.iter().enumerate().filter_map(compare).collect();
        if comparisons.is_empty() {
            let wanted = ours.iter().map(|m| format!("{} of {} after {}", m.phase, m.tokens, m.depth));
            let wanted: Vec<String> = wanted.collect();
            bail!("`{command}` printed nothing about what was measured here: {}", wanted.join(", "));
        }
        Ok(Self { command: command.to_owned(), comparisons })
    }

    pub(crate) fn command(&self) -> &str {
        &self.command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evaluate::Spread;

    fn ours(phase: &'static str, tokens: usize, depth: usize, median: f64) -> Measurement {
        let tokens_per_second = Spread { median, low: median, high: median };
        let (token_bytes, bandwidth_share) = (None, None);
        Measurement { phase, tokens, depth, tokens_per_second, token_bytes, bandwidth_share, operations: Vec::new() }
    }

    fn all() -> [Measurement; 4] {
        [
            ours("prefill", 512, 0, 200.0),
            ours("decode", 128, 0, 30.0),
            ours("prefill", 512, 4096, 150.0),
            ours("decode", 128, 4096, 20.0),
        ]
    }

    #[test]
    fn entries_find_what_they_are_about() {
        let text = r#"[
            {"model_type": "x", "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 9.0, "samples_ts": [80.0, 100.0]},
            {"n_prompt": 256, "n_gen": 0, "n_depth": 0, "avg_ts": 1.0, "samples_ts": [1.0]},
            {"n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 15.0},
            {"n_prompt": 512, "n_gen": 64, "n_depth": 0, "avg_ts": 2.0},
            {"n_prompt": 0, "n_gen": 64, "n_depth": 4096, "avg_ts": 10.0, "samples_ts": [10.0]}
        ]"#;
        let one = read(text).expect("a list");
        let two = read(&text.replace("[80.0, 100.0]", "[120.0]")).expect("a list");
        let peer = Peer::compare("cmd", &all(), &[one, two]).expect("three match");
        let found: Vec<_> = peer.comparisons.iter().map(|c| (c.phase, c.depth, c.theirs, c.ratio)).collect();
        assert_eq!(found, [("prefill", 0, 100.0, 2.0), ("decode", 0, 15.0, 2.0), ("decode", 4096, 10.0, 2.0)]);
        assert_eq!(peer.comparisons[0].peer_tokens_per_second, [80.0, 100.0, 120.0]);
    }

    #[test]
    fn a_number_is_about_the_last_decoding() {
        let runs = [read("speed: 10\n").expect("a number"), read("8").expect("a number"), Printed::Number(12.0)];
        let peer = Peer::compare("cmd", &all(), &runs).expect("it matches");
        let [only] = &peer.comparisons[..] else { panic!("one comparison") };
        assert_eq!((only.phase, only.depth, only.theirs, only.ratio), ("decode", 4096, 10.0, 2.0));
        let error = Peer::compare("cmd", &all()[..1], &runs).expect_err("nothing was decoded").to_string();
        assert!(error.contains("nothing about what was measured here: prefill of 512 after 0"), "{error}");
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, wanted) in [
            ("", "its last word is \"\""),
            ("fast", "its last word is \"fast\""),
            ("NaN", "its last word is \"NaN\""),
            ("[{\"n_prompt\": 1}]", "not the JSON of llama-bench"),
        ] {
            let error = format!("{:#}", read(text).expect_err("it says nothing"));
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
