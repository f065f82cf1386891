//! `lateen plan compress`: what compressing a model will take of memory, disk and time, before anything is read.

use super::compress::{ObservationArguments, counts};
use crate::failure::Problem;
use crate::memory::{Machine, bytes_from_words};
use crate::place::model_directory;
use crate::stages::is_held_out;
use crate::terminal::{put, put_json, say};
use anyhow::{Context, Result};
use clap::Args;
use compress::{CompressCost, CompressSpeed, GroupSize, MergePlan, MergeRecipe, ObservePlan, PlanRecipe};
use evaluate::Table;
use evaluate::table::{bytes_in_words, duration_in_words};
use models::{Config, LayerStream, Loading, Model};
use numeric::Format;
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Say what `lateen compress` will take of memory, disk and time, without reading a weight
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a run, the name of a fixture, or a config.json of a model that is not here
    model: String,
    /// Experts that stay in each layer
    #[arg(long, value_name = "N")]
    keep: usize,
    /// As with `lateen compress --merge`
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    observation: ObservationArguments,
    /// Tokens of a sequence, at most 2048
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=2048))]
    sequence_length: u32,
    /// Memory that may be held at most, such as 4GB; if not given, what the machine has available
    #[arg(long, value_name = "BYTES", value_parser = bytes_from_words)]
    memory: Option<u64>,
    /// How fast the disk reads and writes, in MB/s; if not given, a file is written and weights are read for a moment
    #[arg(long, value_name = "MB/S")]
    disk_speed: Option<f64>,
    /// How many multiply-adds a second, in billions; if not given, products of the model's shape are timed for a moment
    #[arg(long, value_name = "BILLIONS")]
    product_speed: Option<f64>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// What `--json` writes; all sizes in bytes, all times in seconds.
#[derive(Serialize)]
struct Findings {
    model: String,
    keep: usize,
    tokens: usize,
    chunk_tokens: usize,
    /// Of the weights before.
    before: u64,
    plan: ObservePlan,
    /// Where experts are merged.
    merging: Option<MergePlan>,
    /// While experts are watched, and while the result is written, or merged and written.
    observing: usize,
    writing: usize,
    allowed: u64,
    fits: bool,
    cost: CompressCost,
    /// Beside what is there: the result, statistics, and states as long as they are needed.
    disk: u64,
    speeds: Speeds,
    seconds: f64,
}

/// Bytes, and what is computed, a second.
#[derive(Debug, Clone, Copy, Serialize)]
struct Speeds {
    read: f64,
    write: f64,
    #[serde(flatten)]
    computing: CompressSpeed,
    disk_measured: bool,
    products_measured: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (outline, loading, folder) = subject(&arguments.model)?;
    let top_k = outline.config.experts.map_or(0, |experts| experts.top_k);
    let has = outline.config.expert_counts();
    let (fewest, most) = (has.iter().min().copied().unwrap_or(0), has.iter().max().copied().unwrap_or(0));
    if arguments.keep < top_k.max(1) || arguments.keep > fewest {
        let message = format!("--keep {} of {most} experts, {top_k} of which every token chooses", arguments.keep);
        return Err(Problem::new(message, format!("keep from {top_k} to {fewest}")).into());
    }
    let tokens = arguments.observation.tokens;
    let length = arguments.sequence_length as usize;
    let mut lengths = vec![length; tokens / length];
    lengths.extend(Some(tokens % length).filter(|&rest| rest > 0));
    let allowed = arguments.memory.unwrap_or_else(|| Machine::here().available());
    let (options, plan) = arguments.observation.fit(arguments.merge, (&outline, loading), &lengths, allowed as usize);
    let after: Vec<usize> = counts(&outline.config).iter().map(|&count| count.min(arguments.keep)).collect();
    let mut cost = CompressCost::of(&outline, &lengths, &options, &after, None, &plan);
    let merging = arguments.merge.then(|| merging(&outline, loading, &lengths, &after));
    if merging.is_some() {
        cost = cost.merging(&outline, &lengths, &after, (&PlanRecipe::default(), &MergeRecipe::default()));
    }
    let speeds = arguments.speeds(&outline, options.chunk_tokens, folder.as_deref())?;
    let computing = cost.seconds(&speeds.computing);
    let writing = merging.map_or_else(|| compress::rewrite_memory(&outline, loading), |merging| merging.total());
    let findings = Findings {
        model: arguments.model.clone(),
        keep: arguments.keep,
        tokens,
        chunk_tokens: options.chunk_tokens,
        before: outline.bytes() as u64,
        plan,
        merging,
        observing: plan.total(),
        writing,
        allowed,
        fits: plan.total().max(writing) as u64 <= allowed,
        cost,
        disk: cost.model + plan.disk().max(merging.map_or(0, |merging| merging.states + plan.statistics)) as u64,
        speeds,
        seconds: cost.read as f64 / speeds.read + cost.written as f64 / speeds.write + computing,
    };
    match arguments.json {
        true => put_json(&findings),
        false => Ok(put(&findings.in_words())?),
    }
}

/// What merging takes for sequences of these lengths, each a pack of its own.
fn merging(outline: &Model, loading: Loading, lengths: &[usize], keep: &[usize]) -> MergePlan {
    let of_kind = |held_out: bool| -> Vec<Vec<usize>> {
        let kind = lengths.iter().enumerate().filter(|&(index, _)| is_held_out(index, lengths.len()) == held_out);
        kind.map(|(_, &length)| vec![length]).collect()
    };
    let [calibration, held_out] = [of_kind(false), of_kind(true)];
    let rows = calibration.iter().flatten().sum();
    let group = GroupSize::expected(outline, PlanRecipe::default().group_max, rows);
    MergePlan::of(outline, loading, [&calibration, &held_out], keep, group)
}

/// The model's outline as it would be read, and where it lies, if it is there.
fn subject(name: &str) -> Result<(Model, Loading, Option<PathBuf>)> {
    let path = Path::new(name);
    if path.is_file() && path.extension().is_some_and(|extension| extension == "json") {
        let reading = || format!("cannot use the configuration {name}");
        let text = std::fs::read_to_string(path).with_context(reading)?;
        let config = Config::from_json(&text).with_context(reading)?;
        return Ok((Model::imagined(config, Loading::Stored, Format::Bf16), Loading::Stored, None));
    }
    let folder = model_directory(name)?;
    let stream =
        LayerStream::open_plain(&folder).with_context(|| format!("cannot open the model in {}", folder.display()))?;
    Ok((stream.outline().clone(), stream.loading(), Some(folder)))
}

impl Arguments {
    fn speeds(&self, outline: &Model, chunk_tokens: usize, folder: Option<&Path>) -> Result<Speeds> {
        let positive = |name: &str, value: Option<f64>| match value {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(Problem::new(format!("--{name} wants a number above 0"), "500, say"))
            }
            other => Ok(other),
        };
        let disk = positive("disk-speed", self.disk_speed)?.map(|speed| speed * 1e6);
        let products = positive("product-speed", self.product_speed)?.map(|speed| speed * 1e9);
        if disk.is_none() || products.is_none() {
            say("measuring this machine for a moment");
        }
        let write = match disk {
            Some(speed) => speed,
            None => write_speed().context("cannot measure how fast this folder's disk writes; give --disk-speed")?,
        };
        let read = disk.or_else(|| read_speed(folder?)).unwrap_or(write);
        let computing = match products {
            Some(speed) => CompressSpeed::derived(outline, speed),
            None => CompressSpeed::measured(outline, chunk_tokens, self.merge),
        };
        let (disk_measured, products_measured) = (disk.is_none(), products.is_none());
        Ok(Speeds { read, write, computing, disk_measured, products_measured })
    }
}

/// Bytes that are written or read to see how fast that is.
const PROBE_BYTES: usize = 128 << 20;
const PIECE_BYTES: usize = 4 << 20;

/// A file in this folder, until it is on the disk.
fn write_speed() -> std::io::Result<f64> {
    let path = std::env::current_dir()?.join(format!(".lateen-disk-speed-{}.tmp", std::process::id()));
    let measured = (|| {
        let mut file = File::create(&path)?;
        let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        let began = Instant::now();
        for _ in 0..PROBE_BYTES / PIECE_BYTES {
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        Ok(PROBE_BYTES as f64 / began.elapsed().as_secs_f64())
    })();
    let _ = std::fs::remove_file(&path);
    measured
}

/// Pieces of the largest file of weights, from its end, which is least likely to be in memory already.
fn read_speed(folder: &Path) -> Option<f64> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let weights = files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let (bytes, path) = weights.filter_map(|path| Some((path.metadata().ok()?.len(), path))).max()?;
    let mut file = File::open(path).ok()?;
    let wanted = (PROBE_BYTES as u64).min(bytes);
    file.seek(SeekFrom::Start(bytes - wanted)).ok()?;
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], wanted);
    let began = Instant::now();
    while left > 0 {
        let read = file.read(&mut piece).ok().filter(|&read| read > 0)?;
        left = left.saturating_sub(read as u64);
    }
    Some(wanted as f64 / began.elapsed().as_secs_f64().max(1e-6))
}

/// What merging adds to what is computed.
fn merging_in_words(cost: &CompressCost, speed: &CompressSpeed) -> String {
    let merging = cost.merging;
    format!(
        "; merging {:.3e} at {:.3e}/s, {:.0} pairs of experts put in order at {:.0}/s, and {:.3e} multiply-adds in f64 \
         at {:.3e}/s",
        merging.multiply_adds, speed.merge_multiply_adds, merging.pairs, speed.pairs, merging.algebra, speed.algebra,
    )
}

impl Findings {
    fn in_words(&self) -> String {
        let words = |bytes: usize| bytes_in_words(bytes as u64);
        let mut table = Table::new(&["part", "bytes", "of"]);
        let mut line = |part: &str, bytes: String, of: String| table.push(vec![part.to_owned(), bytes, of]);
        let Self { plan, cost, speeds, .. } = self;
        line("largest layer", words(plan.layer), format!("{} of weights in all", bytes_in_words(self.before)));
        line("activations", words(plan.activations), format!("{} tokens at a time", self.chunk_tokens));
        line("embedding or head", words(plan.ends), "without any layer".into());
        let place = if plan.states_on_disk { "on disk" } else { "in memory" };
        line("hidden states", words(plan.states), format!("{} tokens, {place}", self.tokens));
        line("statistics", words(plan.statistics), "of all experts, also on disk".into());
        if let Some(merging) = &self.merging {
            line("inputs of a mixture", words(merging.rows), "while it is merged".into());
            line("mixture being merged", words(merging.working), "in f32, with its largest group".into());
        }
        line("program", words(plan.program), String::new());
        line("most while watching", words(self.observing), String::new());
        let writing = if self.merging.is_some() { "most while merging" } else { "most while writing" };
        line(writing, words(self.writing), String::new());
        line("disk", bytes_in_words(self.disk), format!("the result takes {}", bytes_in_words(cost.model)));
        let verdict = if self.fits { "it fits into" } else { "it does not fit into" };
        let duration = |seconds: f64| duration_in_words(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)));
        let how = |measured: bool| if measured { "as measured here" } else { "as given" };
        let merging = if self.merging.is_some() { merging_in_words(cost, &speeds.computing) } else { String::new() };
        format!(
            "{}{verdict} {}\nit takes about {}: reading {} at {}/s and writing {} at {}/s ({}), {:.3e} multiply-adds \
             at {:.3e}/s{merging} ({})\n",
            table.to_text(),
            bytes_in_words(self.allowed),
            duration(self.seconds),
            bytes_in_words(cost.read),
            bytes_in_words(speeds.read as u64),
            bytes_in_words(cost.written),
            bytes_in_words(speeds.write as u64),
            how(speeds.disk_measured),
            cost.multiply_adds,
            speeds.computing.multiply_adds,
            how(speeds.products_measured),
        )
    }
}
