//! The hidden verb behind the sandbox: runs the programs that the parent process sends, one JSON line each.

use clap::Args;
use std::io;

/// What the parent calls this verb by.
pub(crate) const NAME: &str = "sandbox-worker";

#[derive(Args)]
#[command(name = NAME, hide = true)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: Arguments) -> anyhow::Result<()> {
    environment::worker::serve(io::BufReader::new(io::stdin()), io::stdout())?;
    Ok(())
}
