//! `lateen compress`: fewer experts, by dropping and merging, and fewer bits, from flags.

use crate::failure::Problem;
use crate::place::{Speaking, model_directory};
use crate::recipe::SaveFormat;
use crate::stages::{Planned, Preparing, Shrunk, SystemRoots, pass_lineage_on, save_model, shrink};
use crate::terminal::{put, say};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use compress::{Plan, PlanRecipe, QuantizeRecipe, StoredFormat};
use evaluate::table::bytes_in_words;
use models::{Loading, Model};
use prepare::{DataRecipe, Dataset, FileRecipe, Fit, KataRecipe, Packing, SourceRecipe};
use std::path::{Path, PathBuf};

/// Make a model smaller: drop and merge experts, store weights in fewer bits
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a run, or the name of a fixture
    model: String,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
    /// Experts that stay in each layer
    #[arg(long, value_name = "N", conflicts_with = "plan")]
    keep: Option<usize>,
    /// Merge experts that do not stay into those that do, where that measures better than dropping them
    #[arg(long, requires = "keep")]
    merge: bool,
    /// Drop and merge what this plan says (the plan.toml of an earlier run, possibly edited)
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Watch the experts on the records of this file (JSON lines, JSON, Parquet) instead of katas
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Tokens to watch the experts on
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Store projections and experts in this format
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<FormatName>,
    /// Routers and their gates
    #[arg(long, value_name = "FORMAT", default_value = "q8_0")]
    router: FormatName,
    /// Embeddings, head and thin projections
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    rest: FormatName,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    F32,
    Bf16,
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
    Mxfp4,
    Nvfp4,
}

impl From<FormatName> for StoredFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::F32 => Self::F32,
            FormatName::Bf16 => Self::Bf16,
            FormatName::Q8_0 => Self::Q8_0,
            FormatName::Mxfp4 => Self::Mxfp4,
            FormatName::Nvfp4 => Self::Nvfp4,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let prunes = arguments.keep.is_some() || arguments.plan.is_some();
    if !prunes && arguments.quantize.is_none() {
        let hint = "say --keep N to drop experts, --quantize FORMAT for fewer bits, or both";
        return Err(Problem::new("nothing is to be done", hint).into());
    }
    if arguments.out.join("config.json").exists() {
        let message = format!("{} holds a model already", arguments.out.display());
        return Err(Problem::new(message, "give another --out, or remove it first").into());
    }
    let from = model_directory(&arguments.model)?;
    let loading = if prunes { Loading::F32 } else { Loading::Stored };
    let mut speaking = Speaking::open(&from.display().to_string(), loading)?;
    let before = Model::open(&from, Loading::Stored).map(|model| model.bytes())?;
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let (source, mut step) = (speaking.model.config.clone(), None);
    if prunes {
        let shrunk = shrunk(&arguments, &mut speaking)?;
        shrunk.save(&arguments.out)?;
        step = Some(shrunk.lineage(&source.expert_counts()));
    }
    if let Some(format) = arguments.quantize {
        let recipe = QuantizeRecipe {
            experts: format.into(),
            projections: format.into(),
            router: arguments.router.into(),
            rest: arguments.rest.into(),
        };
        compress::quantize(&mut speaking.model, &recipe)?;
    }
    save_model(&speaking.model, &speaking.tokenizer, &speaking.template, &arguments.out, SaveFormat::Bf16)?;
    pass_lineage_on(&from, &arguments.out, &source, step.as_ref())?;
    let after = Model::open(&arguments.out, Loading::Stored).map(|model| model.bytes())?;
    say(&format!("{} became {}", bytes_in_words(before as u64), bytes_in_words(after as u64)));
    put(&format!("{}\n", arguments.out.display()))?;
    Ok(())
}

fn shrunk(arguments: &Arguments, speaking: &mut Speaking) -> Result<Shrunk> {
    let planned = match &arguments.plan {
        Some(path) => Planned::Given(Plan::load(path)?),
        None => Planned::Decided(PlanRecipe { keep: arguments.keep, merge: arguments.merge, ..PlanRecipe::default() }),
    };
    let samples = match &planned {
        // Nothing has to be measured.
        Planned::Given(plan) if plan.layers.iter().all(|layer| layer.merge.is_empty()) => Vec::new(),
        _ => calibration_samples(arguments.data.as_deref(), arguments.tokens, 0, speaking)?.samples,
    };
    shrink(&mut speaking.model, &samples, arguments.tokens, planned, None)
}

/// What the experts are watched on: the records of a file, some of which are kept for measuring, or katas.
pub(crate) fn calibration_samples(
    data: Option<&Path>,
    tokens: usize,
    seed: u64,
    speaking: &Speaking,
) -> Result<Dataset> {
    let source = match data {
        Some(path) => SourceRecipe::File(FileRecipe::new(path)),
        // About 150 tokens an episode, so that there are enough and not many more.
        None => SourceRecipe::Kata(KataRecipe { episodes: tokens / 100 + 1, ..KataRecipe::default() }),
    };
    let recipe = DataRecipe { seed, sources: vec![source], ..DataRecipe::default() };
    let fit = Fit { sequence_length: 2048, packing: Packing::BestFit };
    Ok(prepare::load(&recipe, &speaking.renderer(), fit, &SystemRoots, &Preparing::default())?)
}
