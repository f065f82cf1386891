//! `lateen adapter`: looks at adapters in PEFT's layout, and merges them into models.

use crate::failure::{Interrupted, Problem};
use crate::gguf;
use crate::interrupt;
use crate::place::{LayoutArguments, model_directory, model_place, open_text};
use crate::terminal::{Meter, put, put_json, say};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use evaluate::Table;
use evaluate::table::count_in_words;
use models::adapter::{self, AdapterSummary, Description, KindProof, Merge, MergeStep, Probe, Proof};
use models::{Config, ModelError};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Look at an adapter (LoRA, in PEFT's layout), or merge one into a model
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Inspect(Inspect),
    Merge(MergeArguments),
}

/// Show what an adapter changes, and by how much beside the model's weights
#[derive(Args)]
struct Inspect {
    /// A folder with adapter_config.json and adapter_model.safetensors
    adapter: PathBuf,
    /// The model that it is for; if not given, the folder that the adapter itself names, if that is there
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    layout: LayoutArguments,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// Write a model with the adapter added to its weights, each tensor proven and both compared on a few texts
#[derive(Args)]
struct MergeArguments {
    /// A model folder with plain weights, a run, or the name of a fixture
    model: String,
    /// A folder with adapter_config.json and adapter_model.safetensors
    adapter: PathBuf,
    /// The folder to write
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    layout: LayoutArguments,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Inspect(arguments) => inspect(&arguments),
        What::Merge(arguments) => merge(&arguments),
    }
}

/// What `inspect --json` writes.
#[derive(Serialize)]
struct Findings {
    adapter: PathBuf,
    #[serde(flatten)]
    description: Description,
    /// The model that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<AdapterSummary>,
}

fn inspect(arguments: &Inspect) -> Result<()> {
    let reading = || format!("cannot use the adapter in {}", arguments.adapter.display());
    let description = adapter::describe(&arguments.adapter).with_context(reading)?;
    let model = match &arguments.model {
        Some(name) => Some(model_place(name)?),
        // A name on a hub is no folder here; then the adapter is shown without its model.
        None => description.base.as_deref().map(PathBuf::from).filter(|base| base.join("config.json").is_file()),
    };
    let summary = model
        .as_deref()
        .map(|model| adapter::inspect(model, &arguments.adapter, &arguments.layout.import()))
        .transpose()
        .with_context(reading)?;
    let findings = Findings { adapter: arguments.adapter.clone(), description, model, summary };
    if arguments.json {
        return put_json(&findings);
    }
    put(&findings.properties().to_list())?;
    put("\n")?;
    match &findings.summary {
        Some(summary) => put(&summary_table(summary).to_text())?,
        None => {
            put(&findings.tensor_table().to_text())?;
            say("--model MODEL shows what it changes there, and whether it fits");
        }
    }
    if findings.summary.as_ref().is_some_and(|s| s.expert_weights > 0 && s.adapted_expert_weights == 0) {
        say("none of the routed experts is adapted");
    }
    Ok(())
}

impl Findings {
    fn properties(&self) -> Table {
        let Self { description, summary, .. } = self;
        let mut table = Table::new(&["property", "value"]);
        let mut line = |name: &str, value: String| table.push(vec![name.to_owned(), value]);
        line("folder", self.adapter.display().to_string());
        line("for", description.base.clone().unwrap_or_else(|| "not said".to_owned()));
        line("written by PEFT", description.peft_version.clone().unwrap_or_else(|| "of unknown version".to_owned()));
        let scaling = if description.rank_stabilized { "alpha / √rank" } else { "alpha / rank" };
        line("rank", description.rank.to_string());
        line("alpha", format!("{}, scale is {scaling}", description.alpha));
        line("dropout", description.dropout.to_string());
        let parameters = count_in_words(description.parameters as u64);
        line(
            "parameters",
            match summary {
                Some(summary) => {
                    let share = 100.0 * summary.parameters as f64 / summary.base_parameters.max(1) as f64;
                    format!("{parameters} in the file, {share:.2} % of the model")
                }
                None => parameters,
            },
        );
        if let Some(model) = &self.model {
            line("model", model.display().to_string());
        }
        table
    }

    fn tensor_table(&self) -> Table {
        let mut table = Table::new(&["tensors", "count", "shape"]);
        for kind in &self.description.tensors {
            let shape: Vec<String> = kind.shape.iter().map(usize::to_string).collect();
            table.push(vec![kind.kind.clone(), kind.count.to_string(), shape.join("×")]);
        }
        table
    }
}

fn ranks_in_words([low, high]: [usize; 2]) -> String {
    match high {
        0 => "whole".to_owned(),
        _ if low == high => low.to_string(),
        _ => format!("{low}–{high}"),
    }
}

fn share_in_words(share: f64) -> String {
    if share == 0.0 { "0".to_owned() } else { format!("{share:.2e}") }
}

fn summary_table(summary: &AdapterSummary) -> Table {
    let mut table = Table::new(&["weights", "count", "rank", "scale", "parameters", "‖Δ‖", "‖Δ‖/‖W‖"]);
    for kind in &summary.kinds {
        let [low, high] = kind.scales;
        let scale = match kind.ranks {
            [_, 0] => "—".to_owned(),
            _ if low == high => low.to_string(),
            _ => format!("{low}–{high}"),
        };
        let share =
            if kind.weight_norm > 0.0 { share_in_words(kind.delta_norm / kind.weight_norm) } else { "—".into() };
        table.push(vec![
            kind.kind.clone(),
            kind.weights.to_string(),
            ranks_in_words(kind.ranks),
            scale,
            count_in_words(kind.parameters as u64),
            format!("{:.3e}", kind.delta_norm),
            share,
        ]);
    }
    table
}

/// What `merge --json` writes.
#[derive(Serialize)]
struct Merged {
    out: PathBuf,
    proof: Proof,
    probe: Probe,
}

fn merge(arguments: &MergeArguments) -> Result<()> {
    let path = Path::new(&arguments.model);
    if path.is_file() && gguf::is_named(path) {
        let message = format!("{} is a GGUF file, whose weights are rounded already", arguments.model);
        let hint = "merge into the model folder that it was made from, or run it with --adapter";
        return Err(Problem::new(message, hint).into());
    }
    let base = model_directory(&arguments.model)?;
    let prompts = prompts(&base)?;
    let cancel = interrupt::listen("stopping; nothing is left behind")?;
    let job = Merge {
        base: &base,
        adapter: &arguments.adapter,
        out: &arguments.out,
        import: arguments.layout.import(),
        prompts: &prompts,
    };
    let mut meters = Meters::default();
    let mut watch = |step: MergeStep| {
        meters.show(step);
        !cancel.load(Ordering::Relaxed)
    };
    let (proof, probe) = match adapter::merge_directory(&job, &mut watch) {
        Err(ModelError::Cancelled) => return Err(Interrupted { hint: "nothing was written".to_owned() }.into()),
        other => other.with_context(|| {
            format!("cannot merge {} into {}; nothing was written", arguments.adapter.display(), base.display())
        })?,
    };
    drop(meters);
    let merged = Merged { out: arguments.out.clone(), proof, probe };
    if arguments.json {
        return put_json(&merged);
    }
    put(&merged.in_words())?;
    Ok(())
}

/// One meter for each thing that is done.
#[derive(Default)]
struct Meters(Option<(&'static str, Meter)>);

impl Meters {
    fn show(&mut self, step: MergeStep) {
        let (what, unit, done, total) = match step {
            MergeStep::Writing { done, total } => ("adding to the weights", "bytes", done, total),
            MergeStep::Proving { done, total } => ("proving every tensor", "bytes", done, total),
            MergeStep::Probing { done, total } => ("running both models", "layers", done, total),
        };
        if self.0.as_ref().is_none_or(|(name, _)| *name != what) {
            self.0 = None;
            self.0 = Some((what, Meter::new(what, total, unit)));
        }
        if let Some((_, meter)) = &mut self.0 {
            meter.set(done, "");
        }
    }
}

impl Merged {
    fn in_words(&self) -> String {
        let Self { proof, probe, out } = self;
        let headings = ["weights", "count", "rank", "‖Δ‖/‖W‖", "Δ lost to rounding", "error of what is allowed"];
        let mut table = Table::new(&headings);
        for kind in &proof.kinds {
            let KindProof { weights, without_delta, .. } = kind;
            let zero = if *without_delta > 0 { format!(" ({without_delta} with Δ = 0)") } else { String::new() };
            table.push(vec![
                kind.kind.clone(),
                format!("{weights}{zero}"),
                ranks_in_words(kind.ranks),
                share_in_words(kind.change()),
                format!("{:.2} %", 100.0 * kind.lost()),
                format!("{:.0} %", 100.0 * kind.worst),
            ]);
        }
        format!(
            "{}{} weights are what base and adapter give, {} tensors are what they were\n\
             logits after {} tokens, merged against base with adapter: rms difference {:.2e}, largest {:.2e}\n\
             what the adapter does to them:                            rms difference {:.2e}, largest {:.2e}\n\
             same top token: {} of {}\n{}\n",
            table.to_text(),
            proof.merged,
            proof.untouched,
            probe.tokens,
            probe.rms_difference,
            probe.largest_difference,
            probe.rms_effect,
            probe.largest_effect,
            probe.same_top_token,
            probe.tokens,
            out.display()
        )
    }
}

/// What both models are run on, where there is a tokenizer.
const TEXTS: [&str; 3] = [
    "def merge(left, right):\n    result = []\n    while left and right:\n        first = left if left[0] <= right[0] \
     else right\n        result.append(first.pop(0))\n    return result + left + right\n",
    "Write a function that returns the numbers in a list that are greater than a given one, and explain in a sentence \
     how it works.",
    "for (index, line) in text.lines().enumerate() {\n    println!(\"{index}: {line}\");\n}\n",
];
/// Of each.
const TOKENS_MAX: usize = 64;

/// The texts as tokens; of a model without a tokenizer numbers of its vocabulary that repeat in no short pattern.
fn prompts(base: &Path) -> Result<Vec<Vec<u32>>> {
    if base.join("tokenizer.json").is_file() {
        let (tokenizer, _) = open_text(base)?;
        let tokens = TEXTS.iter().map(|text| tokenizer.encode(text).into_iter().take(TOKENS_MAX).collect());
        return Ok(tokens.collect());
    }
    let path = base.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::from_json(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    let token = |at: usize| ((at * 7919 + at * at * 31) % config.vocab_size) as u32;
    Ok(vec![(0..TOKENS_MAX).map(token).collect(), (1000..1000 + TOKENS_MAX).map(token).collect()])
}
