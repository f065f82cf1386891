//! Ctrl-C: the first asks the work in progress to end well, the second ends the program.

use crate::terminal::say;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C sets the returned flag; `promise` says what will happen then.
pub(crate) fn listen(promise: &'static str) -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(move || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            end_now();
        }
        if !promise.is_empty() {
            say(&format!("\n{promise} (Ctrl-C again: at once)"));
        }
    })?;
    Ok(&REQUESTED)
}

/// Whether it was asked for since the last time somebody looked.
pub(crate) fn take() -> bool {
    REQUESTED.swap(false, Ordering::Relaxed)
}

#[expect(clippy::exit, reason = "a second Ctrl-C means now, from a thread that nobody waits for")]
fn end_now() {
    std::process::exit(130);
}
