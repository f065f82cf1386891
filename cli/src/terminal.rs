//! What people see: talk and progress on standard error, data on standard output.

use crate::screen;
use evaluate::table::duration_in_words;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Lines of progress where nobody watches a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One line to the person at the terminal; where a picture fills it, the line waits. If even that cannot be written
/// there is nobody to tell.
pub(crate) fn say(line: &str) {
    if screen::hold(line) {
        return;
    }
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Data to whoever reads: a person or a program. A closed pipe is an error that `failure` takes for success.
pub(crate) fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A value as indented JSON.
pub(crate) fn put_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    put(&format!("{}\n", serde_json::to_string_pretty(value)?))?;
    Ok(())
}

/// How far a long piece of work is: a bar on a terminal, a line now and then in a log.
pub(crate) struct Meter {
    what: String,
    unit: &'static str,
    total: u64,
    first: u64,
    done: u64,
    began: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Meter {
    pub(crate) fn new(what: impl Into<String>, total: u64, unit: &'static str) -> Self {
        Self::starting_at(what, 0, total, unit)
    }

    /// Of work that was begun before; what was done then says nothing about the rate.
    pub(crate) fn starting_at(what: impl Into<String>, first: u64, total: u64, unit: &'static str) -> Self {
        let what = what.into();
        let bar = io::stderr().is_terminal().then(|| {
            let style = "{msg:28} {percent:>3} % ▕{bar:24}▏ {human_pos}/{human_len} {prefix} · {eta} left";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total)
                .with_position(first)
                .with_style(style.progress_chars("█▌ "))
                .with_message(what.clone())
        });
        let now = Instant::now();
        Self { what, unit, total, first, done: first, began: now, last_line: now, bar }
    }

    /// `done` of the total is done; `detail` is whatever else is worth a glance.
    pub(crate) fn set(&mut self, done: u64, detail: &str) {
        self.done = done;
        let rate = self.rate();
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{} · {rate}{detail}", self.unit));
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let left = self.time_left().map_or_else(String::new, |left| format!(", {left} left"));
            say(&format!("{}: {done}/{} {}, {rate}{detail}{left}", self.what, self.total, self.unit));
        }
    }

    /// Shows a line without tearing the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn rate(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.done <= self.first || seconds <= 0.0 {
            return "…".into();
        }
        let rate = (self.done - self.first) as f64 / seconds;
        if rate >= 1.0 { format!("{rate:.1}/s") } else { format!("{:.1} s each", 1.0 / rate) }
    }

    fn time_left(&self) -> Option<String> {
        let share = self.done.saturating_sub(self.first) as f64 / self.total.saturating_sub(self.first).max(1) as f64;
        let seconds = self.began.elapsed().as_secs_f64() * (1.0 / share - 1.0);
        (share > 0.0 && seconds.is_finite()).then(|| duration_in_words(Duration::from_secs_f64(seconds.max(0.0))))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The most memory that this process has held, where the system tells.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The peak begins anew with what is held now, where the system allows it; elsewhere it stays what it was.
pub(crate) fn forget_peak_memory() {
    // Linux: 5 resets VmHWM, `man 5 proc`.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
