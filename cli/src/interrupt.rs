//! Requests to stop: the first asks the work in progress to end well, the second ends the program.

use crate::screen;
use crate::terminal::say;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The signal that asked first. Numbers are those of POSIX, which shells know.
static SIGNAL: AtomicI32 = AtomicI32::new(INTERRUPT);

const INTERRUPT: i32 = 2;

/// From here on Ctrl-C sets the returned flag; `promise` says what will happen then.
pub(crate) fn listen(promise: &'static str) -> anyhow::Result<&'static AtomicBool> {
    hear(&[INTERRUPT], promise)
}

/// As [`listen`], for work that saves itself: also when a service or a scheduler ends the program (SIGTERM), or its
/// terminal is closed (SIGHUP).
pub(crate) fn listen_to_all(promise: &'static str) -> anyhow::Result<&'static AtomicBool> {
    const HANGUP: i32 = 1;
    const TERMINATE: i32 = 15;
    // `nohup` has a program ignore its terminal's end; a handler would undo that.
    match is_ignored(HANGUP) {
        true => hear(&[INTERRUPT, TERMINATE], promise),
        false => hear(&[INTERRUPT, TERMINATE, HANGUP], promise),
    }
}

/// Whether it was asked for since the last time somebody looked.
pub(crate) fn take() -> bool {
    REQUESTED.swap(false, Ordering::Relaxed)
}

/// What the program ends with when it was asked to stop: 130 after Ctrl-C, 143 after SIGTERM.
pub(crate) fn exit_code() -> u8 {
    128 + SIGNAL.load(Ordering::Relaxed) as u8
}

fn asked(signal: i32, promise: &str) {
    if REQUESTED.swap(true, Ordering::Relaxed) {
        end_now(signal);
    }
    SIGNAL.store(signal, Ordering::Relaxed);
    if !promise.is_empty() {
        let again = if signal == INTERRUPT { "Ctrl-C again" } else { "asked again" };
        say(&format!("\n{promise} ({again}: at once)"));
    }
}

#[cfg(unix)]
fn hear(signals: &[i32], promise: &'static str) -> anyhow::Result<&'static AtomicBool> {
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    std::thread::spawn(move || signals.forever().for_each(|signal| asked(signal, promise)));
    Ok(&REQUESTED)
}

#[cfg(not(unix))]
fn hear(_: &[i32], promise: &'static str) -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(move || asked(INTERRUPT, promise))?;
    Ok(&REQUESTED)
}

/// Whether whoever started the program had it ignore a signal, where the system tells (Linux, `man 5 proc`); elsewhere
/// it is taken for ignored, which leaves things as they are.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    match mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) {
        Some(mask) => mask >> (signal - 1) & 1 == 1,
        None => true,
    }
}

#[expect(clippy::exit, reason = "a second request means now, from a thread that nobody waits for")]
fn end_now(signal: i32) {
    screen::restore();
    std::process::exit(128 + signal);
}
