//! `lateen compare`: ways of dropping and merging experts beside each other, on one model, before one is chosen.

use crate::failure::Problem;
use crate::interrupt;
use crate::place::{Speaking, model_directory};
use crate::stages::{Asked, Planned, Watched, Watching};
use crate::terminal::{put, put_json, say};
use crate::verbs::compress::calibration_data;
use crate::verbs::evaluate::unless_stopped;
use anyhow::{Context, Result};
use clap::Args;
use compress::{Budget, LayerSize, MergeRecipe, PlanRecipe, Saliency};
use environment::Split;
use evaluate::{Divergence, Measured, Table, Watch, divergence, kata_samples};
use models::{Loading, Model};
use prepare::Sample;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Tasks of each kind whose demonstrations are what the results are measured on.
const HELD_OUT_TASKS: u64 = 12;
/// Records of a file that are kept for that.
const HELD_OUT_RECORDS: usize = 128;

/// Compare ways of dropping and merging experts: how far each takes a model from what it says now
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a run, or the name of a fixture
    model: String,
    /// Experts that stay in each layer; several for several comparisons
    #[arg(long, value_name = "N", value_delimiter = ',', required = true)]
    keep: Vec<usize>,
    /// How often, with other calibration data (and, for chance, other chances)
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Tokens to watch the experts on
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Watch the experts on the records of this file (JSON lines, JSON, Parquet) instead of katas, and measure on up to
    /// 128 of them that are kept back
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// More methods: a TOML file of [[method]] tables with a name, plan and merge, as the stage `prune` of a recipe has
    #[arg(long, value_name = "FILE")]
    methods: Option<PathBuf>,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// A way from many experts to few.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    name: String,
    #[serde(default)]
    plan: PlanRecipe,
    #[serde(default)]
    merge: Option<MergeRecipe>,
}

impl Method {
    fn asks(&self) -> Asked {
        let merge = self.plan.merge.then(|| self.merge.clone().unwrap_or_default());
        Asked::by(&self.plan, merge.as_ref())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Methods {
    method: Vec<Method>,
}

/// What one way led to, once for each seed.
#[derive(Debug, Serialize)]
struct Findings {
    method: String,
    keep: usize,
    seeds: Vec<Divergence>,
}

impl Findings {
    fn mean(&self, of: impl Fn(&Divergence) -> f64) -> f64 {
        self.seeds.iter().map(of).sum::<f64>() / self.seeds.len() as f64
    }

    fn divergence(&self) -> f64 {
        self.mean(|found| found.mean)
    }
}

/// What is common to all: ours, what is published, and chance.
fn usual() -> Vec<Method> {
    let method =
        |name: &str, plan: PlanRecipe, merge: Option<MergeRecipe>| Method { name: name.to_owned(), plan, merge };
    let dropping = |saliency| PlanRecipe { saliency, keep_super_experts: false, ..PlanRecipe::default() };
    let merging = PlanRecipe { merge: true, ..PlanRecipe::default() };
    vec![
        method("merging", merging.clone(), Some(MergeRecipe::default())),
        method(
            "merging, greedy budget",
            PlanRecipe { budget: Budget::Greedy, ..merging },
            Some(MergeRecipe::default()),
        ),
        method(REAP, dropping(Saliency::Reap), None),
        method("searched pruning (RCO)", PlanRecipe { budget: Budget::Search, ..PlanRecipe::default() }, None),
        method("frequency pruning", dropping(Saliency::Frequency), None),
        method("random pruning", dropping(Saliency::Random), None),
        method("averaging, not aligned (M-SMoE)", PlanRecipe::by_frequency(0), Some(MergeRecipe::averaging())),
    ]
}

/// What the others are held against.
const REAP: &str = "REAP pruning";

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if arguments.seeds == 0 {
        return Err(Problem::new("--seeds 0 compares nothing", "say 1 or more").into());
    }
    let mut methods = usual();
    if let Some(path) = &arguments.methods {
        methods.extend(read(path)?);
    }
    let from = model_directory(&arguments.model)?;
    let speaking = Speaking::open(&from.display().to_string(), Loading::F32)?;
    let cancel = interrupt::listen("stopping; nothing is written")?;
    let mut findings: Vec<Findings> = Vec::new();
    for seed in 0..arguments.seeds {
        let data = Data::prepare(&arguments, &speaking, &methods, seed)?;
        for &keep in &arguments.keep {
            for method in &methods {
                say(&format!("{} to {keep} experts, seed {seed}", method.name));
                let found = data
                    .measure(&speaking.model, method, keep, cancel)
                    .with_context(|| format!("{} to {keep} experts", method.name))?;
                match findings.iter_mut().find(|other| other.method == method.name && other.keep == keep) {
                    Some(findings) => findings.seeds.push(found),
                    None => findings.push(Findings { method: method.name.clone(), keep, seeds: vec![found] }),
                }
            }
        }
    }
    match arguments.json {
        true => put_json(&findings),
        false => Ok(put(&table(&findings).to_text())?),
    }
}

fn read(path: &std::path::Path) -> Result<Vec<Method>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let methods: Methods =
        toml::from_str(&text).with_context(|| format!("{} is no list of methods", path.display()))?;
    Ok(methods.method)
}

/// What the experts do, and what the results are measured on.
struct Data {
    seed: u64,
    watched: Watched,
    held_out: Vec<Sample>,
}

impl Data {
    fn prepare(arguments: &Arguments, speaking: &Speaking, methods: &[Method], seed: u64) -> Result<Self> {
        let data = arguments.data.as_deref();
        let kept = if data.is_some() { HELD_OUT_RECORDS } else { 0 };
        let dataset = calibration_data(data, arguments.tokens, (seed, kept), &speaking.renderer())?;
        let held_out = match data {
            Some(_) => dataset.validation,
            None => kata_samples(&speaking.renderer(), Split::Test, HELD_OUT_TASKS, 0)?,
        };
        // Once, for what any of the methods asks.
        let asked = methods.iter().map(Method::asks).fold(Asked::default(), Asked::or);
        let watching = Watching { samples: &dataset.samples, tokens_max: arguments.tokens, place: None };
        let watched = Watched::on(&speaking.model, &watching, asked)?;
        Ok(Self { seed, watched, held_out })
    }

    fn measure(&self, teacher: &Model, method: &Method, keep: usize, cancel: &AtomicBool) -> Result<Divergence> {
        let mut model = teacher.clone();
        let mut plan = PlanRecipe { seed: self.seed, keep: Some(keep), total: None, ..method.plan.clone() };
        if plan.budget != Budget::Uniform {
            (plan.keep, plan.total) = (None, Some(keep * LayerSize::of(&model).len()));
            // Where few stay there must be something left to hand out.
            let top_k = model.config.experts.map_or(1, |experts| experts.top_k);
            plan.minimum = plan.minimum.or(Some((keep * 3 / 4).clamp(top_k, 2 * top_k)));
        }
        self.watched.shrink(&mut model, Planned::Decided(plan), method.merge.as_ref())?;
        let mut watch = Watch { cancel, progress: &mut |_| () };
        let found = divergence(Measured::exactly(&model), Measured::exactly(teacher), &self.held_out, &mut watch);
        Ok(unless_stopped(found)?.0)
    }
}

fn table(findings: &[Findings]) -> Table {
    let mut table = Table::new(&[
        "method",
        "experts",
        "KL from the model (nats)",
        "of REAP's",
        "lowest",
        "highest",
        "same top token",
        "perplexity",
    ]);
    for found in findings {
        let reap = findings.iter().find(|other| other.method == REAP && other.keep == found.keep);
        let ratio = reap.map_or_else(String::new, |reap| format!("{:.2}", found.divergence() / reap.divergence()));
        let each = || found.seeds.iter().map(|found| found.mean);
        table.push(vec![
            found.method.clone(),
            found.keep.to_string(),
            format!("{:.4}", found.divergence()),
            ratio,
            format!("{:.4}", each().fold(f64::INFINITY, f64::min)),
            format!("{:.4}", each().fold(0.0, f64::max)),
            format!("{:.1} %", 100.0 * found.mean(|found| found.same_top_token.rate)),
            format!("{:.3}", found.mean(|found| found.model.perplexity)),
        ]);
    }
    table
}
