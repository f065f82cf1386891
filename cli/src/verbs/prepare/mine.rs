//! `lateen prepare mine`: a person's own git repositories as training episodes.

use crate::place::{model_place, open_text};
use crate::stages::Preparing;
use crate::terminal::{put, put_json, say};
use anyhow::Result;
use clap::{Args, ValueEnum};
use evaluate::Table;
use evaluate::table::bytes_in_words;
use prepare::{MineRecipe, MineReport, MinedKind, mine};
use std::path::PathBuf;
use text::Renderer;

/// Mine git repositories into episodes: replay, debugging, review, fill-in-the-middle and reasoning, one file for each
#[derive(Args)]
#[command(after_help = "\
Nothing in a repository is run or checked out, and nothing leaves this machine. Secrets, e-mail addresses and the
names in paths of home folders are replaced. Repositories without a permissive licence are passed over unless
--any-licence says that the code is yours to use.")]
pub(super) struct Arguments {
    /// Folders of git repositories, bare ones too
    #[arg(required = true, value_name = "REPO")]
    repositories: Vec<PathBuf>,
    /// The folder to write replay.jsonl, debugging.jsonl, review.jsonl, fim.jsonl and reasoning.jsonl to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Only these kinds
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<KindName>,
    /// Take code under any licence, or none
    #[arg(long)]
    any_licence: bool,
    /// The newest commits of each history that are looked at
    #[arg(long, value_name = "COUNT", default_value_t = MineRecipe::default().commits_max)]
    commits: usize,
    /// Leave out changes of more files
    #[arg(long, value_name = "COUNT", default_value_t = MineRecipe::default().files_max)]
    files_max: usize,
    /// Leave out changes that remove and add more lines
    #[arg(long, value_name = "COUNT", default_value_t = MineRecipe::default().diff_lines_max)]
    diff_lines_max: usize,
    /// Leave out larger files
    #[arg(long, value_name = "BYTES", default_value_t = MineRecipe::default().file_bytes_max)]
    file_bytes_max: usize,
    /// The largest share of reviews that approve, from 0 to below 1
    #[arg(long, value_name = "SHARE", default_value_t = MineRecipe::default().approvals_max)]
    approvals_max: f64,
    /// The largest share of the commits that nothing corrected which are reviewed with a fault put into them
    #[arg(long, value_name = "SHARE", default_value_t = MineRecipe::default().review_mutants_max)]
    review_mutants_max: f64,
    /// Count tokens as this model does: a model folder, a GGUF file, a run, or the name of a fixture
    #[arg(long)]
    model: Option<String>,
    /// With --model, leave out longer episodes
    #[arg(long, value_name = "TOKENS", default_value_t = MineRecipe::default().tokens_max, requires = "model")]
    tokens_max: usize,
    /// Write .jsonl.gz
    #[arg(long)]
    gzip: bool,
    /// The same seed gives the same episodes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

/// Names of kinds as the command line has them.
#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    Replay,
    Debugging,
    Review,
    Fim,
    Reasoning,
}

impl From<KindName> for MinedKind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Replay => Self::Replay,
            KindName::Debugging => Self::Debugging,
            KindName::Review => Self::Review,
            KindName::Fim => Self::Fim,
            KindName::Reasoning => Self::Reasoning,
        }
    }
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let recipe = MineRecipe {
        repositories: arguments.repositories,
        kinds: arguments.kinds.into_iter().map(MinedKind::from).collect(),
        commits_max: arguments.commits,
        files_max: arguments.files_max,
        diff_lines_max: arguments.diff_lines_max,
        file_bytes_max: arguments.file_bytes_max,
        tokens_max: arguments.tokens_max,
        approvals_max: arguments.approvals_max,
        review_mutants_max: arguments.review_mutants_max,
        any_licence: arguments.any_licence,
        is_packed: arguments.gzip,
        seed: arguments.seed,
        ..MineRecipe::default()
    };
    let text = arguments.model.map(|name| open_text(&model_place(&name)?)).transpose()?;
    let renderer = text.as_ref().map(|(tokenizer, template)| Renderer::new(tokenizer, template));
    let report = mine(&recipe, &arguments.out, renderer.as_ref(), &Preparing::default())?;
    for repository in &report.repositories {
        if let Some(why) = &repository.skipped {
            say(&format!("{} was passed over: {why}", repository.path.display()));
        }
    }
    if arguments.json {
        return put_json(&report);
    }
    put(&in_words(&report))?;
    say(&format!("{} episodes in {}", report.kept(), arguments.out.display()));
    Ok(())
}

/// The yield as tables: what was read, what each kind gave, and why the rest was dropped.
fn in_words(report: &MineReport) -> String {
    let mut read = Table::new(&["repository", "licence", "commits", "files"]);
    for one in report.repositories.iter().filter(|one| one.skipped.is_none()) {
        let licence = if one.licence.is_empty() { "none found" } else { &one.licence };
        read.push(vec![one.name.clone(), licence.to_owned(), one.commits.to_string(), one.files.to_string()]);
    }
    let mut yields = Table::new(&["kind", "candidates", "kept", "text", "tokens", "made from"]);
    let mut drops = Table::new(&["dropped", "", "why"]);
    for (kind, tally) in &report.kinds {
        let forms: Vec<String> = tally.forms.iter().map(|(form, count)| format!("{count} {form}")).collect();
        yields.push(vec![
            kind.name().to_owned(),
            tally.candidates.to_string(),
            tally.kept.to_string(),
            bytes_in_words(tally.bytes as u64),
            tally.tokens.map_or_else(|| "—".to_owned(), |tokens| tokens.to_string()),
            forms.join(", "),
        ]);
        let mut whys: Vec<(&&str, &usize)> = tally.dropped.iter().collect();
        whys.sort_by_key(|(why, count)| (std::cmp::Reverse(**count), **why));
        whys.iter()
            .for_each(|(why, count)| drops.push(vec![kind.name().to_owned(), count.to_string(), (**why).to_owned()]));
    }
    let scrubbed: Vec<String> = report.scrubbed.iter().map(|(sort, count)| format!("{count} {sort}")).collect();
    let scrubbed = if scrubbed.is_empty() { "none".to_owned() } else { scrubbed.join(", ") };
    let dropped = if drops.rows.is_empty() { String::new() } else { format!("\n{}", drops.to_text()) };
    format!("{}\n{}{dropped}\nsecrets and addresses replaced: {scrubbed}\n", read.to_text(), yields.to_text())
}
