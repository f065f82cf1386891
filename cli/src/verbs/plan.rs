//! `lateen plan`: what running a model takes of memory, before it is loaded; what training takes is `plan_train.rs`,
//! what compressing takes `plan_compress.rs`.

use super::{plan_compress, plan_train};
use crate::memory::{KvArguments, Machine, PassArguments, Planned, at_most_many, context_of, name_of};
use crate::place::{AdapterArguments, WeightArguments, model_place, outline_model, stored_bytes};
use crate::terminal::{put, put_json};
use anyhow::Result;
use clap::{Args, Subcommand};
use evaluate::Table;
use evaluate::table::bytes_in_words;
use models::{Plan, PlanSettings};
use serde::Serialize;

/// Say what running a model takes of memory, and whether it fits, without loading it
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// A model folder, a GGUF file, a run, or the name of a fixture
    #[arg(required = true)]
    model: Option<String>,
    /// Tokens of one sequence, prompt and answer together; if not given 8192, or what the model can take if that is
    /// less
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    #[command(flatten)]
    passes: PassArguments,
    /// Sequences at a time, each with a context of its own
    #[arg(long, default_value_t = 1, value_parser = at_most_many)]
    sequences: usize,
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    adapter: AdapterArguments,
    #[command(flatten)]
    kv: KvArguments,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// What else can be planned.
#[derive(Subcommand)]
enum Other {
    Train(plan_train::Arguments),
    Compress(plan_compress::Arguments),
}

/// What `--json` writes; all sizes in bytes.
#[derive(Serialize)]
struct Findings {
    model: String,
    context: usize,
    kv: &'static str,
    pass_tokens: usize,
    sequences: usize,
    threads: usize,
    /// Of the weights, in the files that they come from.
    stored: u64,
    plan: Plan,
    total: usize,
    machine: Machine,
    fits: bool,
    /// Tokens of one sequence with which it fits, at most.
    context_max: usize,
}

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    match (arguments.other.take(), arguments.model.take()) {
        (Some(Other::Train(arguments)), _) => plan_train::run(arguments),
        (Some(Other::Compress(arguments)), _) => plan_compress::run(&arguments),
        (None, Some(model)) => of_running(model, &arguments),
        (None, None) => unreachable!("the arguments ask for a model"),
    }
}

fn of_running(model: String, arguments: &Arguments) -> Result<()> {
    arguments.passes.set_threads();
    let place = model_place(&model)?;
    let loading = arguments.weights.loading();
    let mut outline = outline_model(&place, loading)?;
    arguments.adapter.attach(&mut outline)?;
    let context = context_of(arguments.context, 0, &outline.config)?;
    let settings = PlanSettings {
        pass_tokens: arguments.passes.pass_tokens,
        sequences: arguments.sequences,
        ..PlanSettings::one(context, arguments.kv.format(), kernels::pool::threads())
    };
    let planned = Planned::of(&outline, loading, settings);
    let findings = Findings {
        model,
        context: settings.context,
        kv: name_of(settings.kv),
        pass_tokens: settings.pass_tokens,
        sequences: settings.sequences,
        threads: settings.threads,
        stored: stored_bytes(&place)?,
        plan: planned.plan,
        total: planned.plan.total(),
        machine: planned.machine,
        fits: planned.fits(),
        context_max: planned.context_max().min(outline.config.positions_max),
    };
    match arguments.json {
        true => put_json(&findings),
        false => Ok(put(&in_words(&findings))?),
    }
}

fn in_words(findings: &Findings) -> String {
    let Findings { plan, machine, .. } = findings;
    let mut table = Table::new(&["part", "bytes", "of"]);
    let mut line = |part: &str, bytes: usize, of: String| {
        table.push(vec![part.to_owned(), bytes_in_words(bytes as u64), of]);
    };
    line("weights", plan.weights, format!("{} in the file", bytes_in_words(findings.stored)));
    let sequences = if findings.sequences > 1 { format!("{} × ", findings.sequences) } else { String::new() };
    line("keys and values", plan.cache, format!("{sequences}{} tokens in {}", findings.context, findings.kv));
    line("recurrent state", plan.recurrent, "whatever the context".into());
    line("forward buffers", plan.forward, format!("{} tokens a pass", findings.pass_tokens));
    line("program", plan.program, format!("{} threads", findings.threads));
    line("while loading", plan.loading, "the largest weight, before anything runs".into());
    line("most at a time", findings.total, String::new());
    let verdict = match findings.fits {
        true => format!("it fits, with a context of up to {} tokens", findings.context_max),
        false if findings.context_max > 0 => {
            format!("it does not fit; with a context of {} tokens it would", findings.context_max)
        }
        false => "it does not fit, whatever the context".to_owned(),
    };
    format!("{}{}\n{verdict}\n", table.to_text(), machine.in_words())
}
