//! How a failure is told: what went wrong, why, and what to do.

use crate::interrupt;
use crate::terminal::say;
use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// A failure with advice.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    hint: String,
    source: Option<anyhow::Error>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), source: None }
    }

    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }

    pub(crate) fn because(self, source: impl Into<anyhow::Error>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

/// The program was asked to stop, and what it was to do is not complete.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) hint: String,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Error for Interrupted {}

/// Says what happened and gives the exit code. Nobody reading on (`lateen … | head`) is not a failure.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(interrupted) = error.chain().find_map(|cause| cause.downcast_ref::<Interrupted>()) {
        say("interrupted");
        if !interrupted.hint.is_empty() {
            say(&format!("hint: {}", interrupted.hint));
        }
        return ExitCode::from(interrupt::exit_code());
    }
    let mut shown = String::new();
    for (index, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        // Many errors repeat their cause in their own words; it is not said twice.
        if index > 0 && shown.contains(&text) {
            continue;
        }
        say(&if index == 0 { format!("error: {text}") } else { format!("  because: {text}") });
        shown.push_str(&text);
    }
    for problem in error.chain().filter_map(|cause| cause.downcast_ref::<Problem>()) {
        say(&format!("hint: {}", problem.hint()));
    }
    ExitCode::FAILURE
}

fn is_broken_pipe(cause: &(dyn Error + 'static)) -> bool {
    let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    io.or(json) == Some(io::ErrorKind::BrokenPipe)
}
