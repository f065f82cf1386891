//! `lateen`: teaches, shrinks and runs coding models on machines people own. One verb, one file under `verbs/`.
//!
//! Plain data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 used wrongly; stopped on
//! request 130 (Ctrl-C), 143 (SIGTERM) or 129 (its terminal was closed).

mod control_group;
mod dashboard;
mod failure;
mod gguf;
mod interrupt;
mod memory;
mod peer;
mod place;
mod ranks;
mod recipe;
mod record;
mod screen;
mod shipped;
mod speech;
mod stages;
mod terminal;
mod training_memory;
mod verbs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Teaches, shrinks and runs coding models on machines people own.
#[derive(Parser)]
#[command(name = "lateen", version, max_term_width = 100, arg_required_else_help = true)]
struct Program {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Build(verbs::build::Arguments),
    Train(verbs::train::Arguments),
    Adapter(verbs::adapter::Arguments),
    Compress(verbs::compress::Arguments),
    Compare(verbs::compare::Arguments),
    Evaluate(verbs::evaluate::Arguments),
    Bench(verbs::bench::Arguments),
    Plan(verbs::plan::Arguments),
    Run(verbs::run::Arguments),
    Complete(verbs::complete::Arguments),
    Prepare(verbs::prepare::Arguments),
    Inspect(verbs::inspect::Arguments),
    Doctor(verbs::doctor::Arguments),
    SandboxWorker(verbs::sandbox_worker::Arguments),
}

impl Verb {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Build(arguments) => verbs::build::run(arguments),
            Self::Train(arguments) => verbs::train::run(arguments),
            Self::Adapter(arguments) => verbs::adapter::run(arguments),
            Self::Compress(arguments) => verbs::compress::run(arguments),
            Self::Compare(arguments) => verbs::compare::run(arguments),
            Self::Evaluate(arguments) => verbs::evaluate::run(arguments),
            Self::Bench(arguments) => verbs::bench::run(arguments),
            Self::Plan(arguments) => verbs::plan::run(arguments),
            Self::Run(arguments) => verbs::run::run(arguments),
            Self::Complete(arguments) => verbs::complete::run(arguments),
            Self::Prepare(arguments) => verbs::prepare::run(arguments),
            Self::Inspect(arguments) => verbs::inspect::run(arguments),
            Self::Doctor(arguments) => verbs::doctor::run(arguments),
            Self::SandboxWorker(arguments) => verbs::sandbox_worker::run(arguments),
        }
    }
}

fn main() -> ExitCode {
    let program = Program::parse();
    match program.verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
