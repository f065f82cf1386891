//! `lateen bench`: tokens a second at several depths, and what bounds them.

use crate::place::{WeightArguments, model_place, open_model};
use crate::terminal::{peak_memory_bytes, put, put_json, say};
use anyhow::{Context, Result, bail};
use clap::Args;
use evaluate::table::{bytes_in_words, duration_in_words};
use evaluate::{Bench, BenchSettings, Measurement, Table, bench};
use serde::Serialize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time prefill and decoding: tokens a second, share of the memory's bandwidth, time by operation
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    model: String,
    /// Lengths of prompts, in tokens
    #[arg(short, long = "prompt", value_name = "TOKENS", value_delimiter = ',', default_value = "512")]
    prompts: Vec<usize>,
    /// Tokens to decode; 0 for none
    #[arg(short = 'n', long = "decode", value_name = "TOKENS", default_value_t = 128)]
    decode: usize,
    /// Tokens that stand before what is timed
    #[arg(long = "depth", value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    depths: Vec<usize>,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Tokens in one pass of a prefill
    #[arg(long, default_value_t = 512)]
    pass_tokens: usize,
    #[command(flatten)]
    weights: WeightArguments,
    /// Threads; all processors if not given
    #[arg(long)]
    threads: Option<usize>,
    /// A peer to run between the repetitions: a shell command that prints one number, its tokens a second decoding
    #[arg(long, value_name = "CMD")]
    against: Option<String>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Findings {
    model: String,
    load_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    #[serde(flatten)]
    bench: Bench,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Peer>,
}

/// A peer's runs, interleaved with ours.
#[derive(Serialize)]
struct Peer {
    command: String,
    tokens_per_second: Vec<f64>,
    /// Our median over the peer's.
    ratio: f64,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        kernels::pool::set_threads(threads);
    }
    if arguments.repetitions == 0 || arguments.pass_tokens == 0 {
        bail!("--repetitions and --pass-tokens must be at least 1");
    }
    let settings = BenchSettings {
        prompts: arguments.prompts.clone(),
        decode: arguments.decode,
        depths: arguments.depths.clone(),
        repetitions: arguments.repetitions,
        pass_tokens: arguments.pass_tokens,
    };
    let start = Instant::now();
    let model = open_model(&model_place(&arguments.model)?, arguments.weights.loading())?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (bench, against) = match &arguments.against {
        None => (bench(&model, &settings, &|what| say(what))?, None),
        Some(command) => beside(&model, &settings, command)?,
    };
    let peak_memory_bytes = peak_memory_bytes();
    let findings = Findings { model: arguments.model, load_seconds, peak_memory_bytes, bench, against };
    match arguments.json {
        true => put_json(&findings),
        false => Ok(put(&in_words(&findings))?),
    }
}

/// Our runs and the peer's in turn, so that both meet the same machine.
fn beside(model: &models::Model, settings: &BenchSettings, command: &str) -> Result<(Bench, Option<Peer>)> {
    let once = BenchSettings { repetitions: 1, ..settings.clone() };
    let mut theirs = Vec::new();
    let mut ours: Vec<Bench> = Vec::new();
    for _ in 0..settings.repetitions {
        theirs.push(peer(command)?);
        ours.push(bench(model, &once, &|_| {})?);
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    let mut all = ours.pop().context("there was a repetition")?;
    for (index, measurement) in all.measurements.iter_mut().enumerate() {
        let own = measurement.tokens_per_second.median;
        let others = ours.iter().map(|bench| bench.measurements[index].tokens_per_second.median);
        let (median, low, high) = middle(others.chain([own]).collect());
        measurement.bandwidth_share = measurement.bandwidth_share.map(|share| share * median / own);
        measurement.tokens_per_second = evaluate::Spread { median, low, high };
    }
    let last = all.measurements.last().map_or(0.0, |measurement| measurement.tokens_per_second.median);
    let ratio = last / middle(theirs.clone()).0;
    Ok((all, Some(Peer { command: command.to_owned(), tokens_per_second: theirs, ratio })))
}

fn peer(command: &str) -> Result<f64> {
    let output = Command::new("sh").arg("-c").arg(command).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {command}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("`{command}` ended with {}", output.status);
    }
    let word = text.split_whitespace().next_back().unwrap_or("");
    word.parse().with_context(|| format!("`{command}` must print one number, its last word is {word:?}"))
}

fn in_words(findings: &Findings) -> String {
    let bench = &findings.bench;
    let mut table = Table::new(&["phase", "tokens", "depth", "tokens/s", "spread", "read a token", "of bandwidth"]);
    for m in &bench.measurements {
        let Measurement { tokens_per_second: speed, .. } = m;
        table.push(vec![
            m.phase.to_owned(),
            m.tokens.to_string(),
            m.depth.to_string(),
            format!("{:.1}", speed.median),
            format!("{:.1}–{:.1}", speed.low, speed.high),
            m.token_bytes.map_or_else(|| "—".into(), |bytes| bytes_in_words(bytes.total() as u64)),
            m.bandwidth_share.map_or_else(|| "—".into(), |share| format!("{:.0} %", 100.0 * share)),
        ]);
    }
    let mut text = table.to_text();
    for m in &bench.measurements {
        let total: f64 = m.operations.iter().map(|op| op.milliseconds).sum();
        let parts: Vec<String> = m.operations.iter().filter(|op| op.milliseconds > 0.01 * total).map(part).collect();
        text.push_str(&format!("{} after {}: {:.3} ms a token: {}\n", m.phase, m.depth, total, parts.join(", ")));
    }
    let memory = findings.peak_memory_bytes.map_or_else(|| "unknown".into(), bytes_in_words);
    text.push_str(&format!(
        "{} threads read {:.1} GB/s; weights {}, loaded in {}, peak memory {memory}\n",
        bench.threads,
        bench.bandwidth_gigabytes_per_second,
        bytes_in_words(bench.weights_bytes as u64),
        duration_in_words(Duration::from_secs_f64(findings.load_seconds)),
    ));
    if let Some(peer) = &findings.against {
        text.push_str(&format!("{:.2} times `{}` {:?}\n", peer.ratio, peer.command, peer.tokens_per_second));
    }
    text
}

fn part(operation: &evaluate::OperationShare) -> String {
    format!("{} {:.3}", operation.name, operation.milliseconds)
}
