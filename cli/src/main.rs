//! `lateen`: teaches, shrinks and runs coding models on machines people own. One verb, one file under `verbs/`.
//!
//! Plain data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 used wrongly, 130 stopped
//! by Ctrl-C.

mod failure;
mod interrupt;
mod place;
#[allow(dead_code)]
mod recipe;
mod terminal;
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
    Prepare(verbs::prepare::Arguments),
    Inspect(verbs::inspect::Arguments),
    Doctor(verbs::doctor::Arguments),
    SandboxWorker(verbs::sandbox_worker::Arguments),
}

impl Verb {
    fn run(self) -> anyhow::Result<()> {
        match self {
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
