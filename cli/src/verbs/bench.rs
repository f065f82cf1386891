//! `lateen bench`: tokens a second at several depths, and what bounds them.

use crate::memory::{KvArguments, PassArguments, Planned, at_most_many, name_of};
use crate::peer::{self, Peer};
use crate::place::{AdapterArguments, WeightArguments, model_place, open_model, outline_model, stored_bytes};
use crate::record;
use crate::terminal::{forget_peak_memory, peak_memory_bytes, put, put_json, say};
use anyhow::{Context, Result};
use clap::Args;
use evaluate::statistics::quantile;
use evaluate::table::{bytes_in_words, duration_in_words};
use evaluate::{Bench, BenchSettings, Measurement, Table, bench};
use models::{Loading, PlanSettings};
use serde::Serialize;
use std::path::{Path, PathBuf};
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
    /// Tokens that stand before what is timed, with random keys and values
    #[arg(long = "depth", value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    depths: Vec<usize>,
    #[arg(long, default_value_t = 5, value_parser = at_most_many)]
    repetitions: usize,
    #[command(flatten)]
    passes: PassArguments,
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    adapter: AdapterArguments,
    #[command(flatten)]
    kv: KvArguments,
    /// A peer to run between the repetitions: a shell command that prints its tokens a second, either one number for
    /// decoding or what `llama-bench -o json` prints for any of what is measured here
    #[arg(long, value_name = "CMD")]
    against: Option<String>,
    /// Write the findings to this folder too, with the date, the machine and the commit, as MODEL-DATE.json
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Findings {
    model: String,
    load_seconds: f64,
    /// Of the weights, in the files that they come from.
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    /// How keys and values were kept.
    kv: &'static str,
    #[serde(flatten)]
    bench: Bench,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Peer>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.passes.set_threads();
    let settings = BenchSettings {
        prompts: arguments.prompts.clone(),
        decode: arguments.decode,
        depths: arguments.depths.clone(),
        repetitions: arguments.repetitions,
        pass_tokens: arguments.passes.pass_tokens,
        kv: arguments.kv.format(),
    };
    let place = model_place(&arguments.model)?;
    let stored_bytes = stored_bytes(&place)?;
    check(&settings, &place, arguments.weights.loading(), &arguments.adapter)?;
    let start = Instant::now();
    let mut model = open_model(&place, arguments.weights.loading())?;
    arguments.adapter.attach(&mut model)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut peak = None;
    let mut bandwidth = || {
        peak = peak.max(peak_memory_bytes());
        let found = kernels::bandwidth::read();
        // What that held is not what the model takes.
        forget_peak_memory();
        found
    };
    let (bench, against) = match &arguments.against {
        None => (bench(&model, &settings, &mut bandwidth, &|what| say(what))?, None),
        Some(command) => beside(&model, &settings, &mut bandwidth, command).map(|(bench, peer)| (bench, Some(peer)))?,
    };
    let peak_memory_bytes = peak.max(peak_memory_bytes());
    let kv = name_of(settings.kv);
    let findings =
        Findings { model: arguments.model, load_seconds, stored_bytes, peak_memory_bytes, kv, bench, against };
    if let Some(folder) = &arguments.record {
        say(&format!("record: {}", record::write(folder, &findings.model, &findings)?.display()));
    }
    match arguments.json {
        true => put_json(&findings),
        false => Ok(put(&in_words(&findings))?),
    }
}

/// Refuses what does not fit before anything is loaded.
fn check(settings: &BenchSettings, place: &Path, loading: Loading, adapter: &AdapterArguments) -> Result<()> {
    let mut outline = outline_model(place, loading)?;
    adapter.attach(&mut outline)?;
    let one = PlanSettings::one(settings.tokens_max(), settings.kv, kernels::pool::threads());
    // What stands before is kept for the next repetition.
    let settings = PlanSettings { pass_tokens: settings.pass_tokens, spare_states: 1, ..one };
    Planned::of(&outline, loading, settings).check(&outline, loading, place)
}

/// Our runs and the peer's in turn, so that both meet the same machine.
fn beside(
    model: &models::Model,
    settings: &BenchSettings,
    bandwidth: &mut dyn FnMut() -> f64,
    command: &str,
) -> Result<(Bench, Peer)> {
    let once = BenchSettings { repetitions: 1, ..settings.clone() };
    let mut theirs = Vec::new();
    let mut ours: Vec<Bench> = Vec::new();
    for repetition in 1..=settings.repetitions {
        say(&format!("repetition {repetition} of {}, the peer first", settings.repetitions));
        theirs.push(peer::run(command)?);
        ours.push(bench(model, &once, bandwidth, &|_| {})?);
        // A peer that speaks of something else is told at once.
        Peer::compare(command, &ours[0].measurements, &theirs)?;
    }
    let mut all = ours.last().context("there was a repetition")?.clone();
    for (index, measurement) in all.measurements.iter_mut().enumerate() {
        let of_all = || ours.iter().map(|bench| &bench.measurements[index]);
        measurement.tokens_per_second =
            evaluate::Spread::of(&of_all().map(|m| m.tokens_per_second.median).collect::<Vec<_>>());
        let shares: Vec<f64> = of_all().filter_map(|m| m.bandwidth_share).collect();
        measurement.bandwidth_share = (!shares.is_empty()).then(|| quantile(&shares, 0.5));
    }
    let bandwidths: Vec<f64> = ours.iter().map(|bench| bench.bandwidth_gigabytes_per_second).collect();
    all.bandwidth_gigabytes_per_second = quantile(&bandwidths, 0.5);
    let peer = Peer::compare(command, &all.measurements, &theirs)?;
    Ok((all, peer))
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
    let over_stored = |bytes: u64| bytes as f64 / findings.stored_bytes.max(1) as f64;
    let memory = |bytes| format!("{}, {:.2} × what is stored", bytes_in_words(bytes), over_stored(bytes));
    let memory = findings.peak_memory_bytes.map_or_else(|| "unknown".into(), memory);
    text.push_str(&format!(
        "{} threads read {:.1} GB/s; weights {}, loaded in {}, keys and values in {}, peak memory {memory}\n",
        bench.threads,
        bench.bandwidth_gigabytes_per_second,
        bytes_in_words(bench.weights_bytes as u64),
        duration_in_words(Duration::from_secs_f64(findings.load_seconds)),
        findings.kv,
    ));
    if let Some(peer) = &findings.against {
        text.push_str(&against_in_words(peer));
    }
    text
}

fn against_in_words(peer: &Peer) -> String {
    let mut table = Table::new(&["phase", "tokens", "depth", "tokens/s", "the peer's", "spread", "ratio"]);
    for c in &peer.comparisons {
        let spread = |share| quantile(&c.peer_tokens_per_second, share);
        table.push(vec![
            c.phase.to_owned(),
            c.tokens.to_string(),
            c.depth.to_string(),
            format!("{:.1}", c.ours),
            format!("{:.1}", c.theirs),
            format!("{:.1}–{:.1}", spread(0.0), spread(1.0)),
            format!("{:.2}", c.ratio),
        ]);
    }
    format!("\nbeside `{}`, medians:\n{}", peer.command(), table.to_text())
}

fn part(operation: &evaluate::OperationShare) -> String {
    format!("{} {:.3}", operation.name, operation.milliseconds)
}
