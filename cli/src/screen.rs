//! The whole terminal as one picture, and the terminal as it was afterwards, however the program ends.

use console::Term;
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

/// Lines that were said while there is a picture, to be shown when it is gone; `None` while there is none.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// The other screen that terminals have for pictures, without a cursor; and back (xterm's control sequences).
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// A picture in place of what the terminal showed. Dropped, it gives that back.
pub(crate) struct Screen {
    terminal: Term,
}

impl Screen {
    /// `None` where there is no terminal to draw on.
    pub(crate) fn open() -> Option<Self> {
        let terminal = Term::stderr();
        if !(io::stdout().is_terminal() && terminal.features().is_attended()) || console::is_dumb() {
            return None;
        }
        static RESTORE_ON_PANIC: Once = Once::new();
        RESTORE_ON_PANIC.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                restore();
                report(what);
            }));
        });
        *held() = Some(Vec::new());
        write(ENTER);
        Some(Self { terminal })
    }

    /// Rows and columns, as they are now.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (rows, columns) = self.terminal.size();
        (rows.into(), columns.into())
    }

    pub(crate) fn has_colours(&self) -> bool {
        console::colors_enabled_stderr()
    }

    /// Draws over what is there, row by row, so that nothing flickers.
    pub(crate) fn draw(&self, rows: &[String]) {
        // One that was restored meanwhile is not drawn on.
        if held().is_some() {
            write(&format!("\x1b[H{}\x1b[K\x1b[J", rows.join("\x1b[K\r\n")));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Keeps a line for later if there is a picture; returns whether it did.
pub(crate) fn hold(line: &str) -> bool {
    let mut held = held();
    let lines = held.as_mut();
    lines.is_some_and(|lines| {
        lines.push(line.trim().to_owned());
        true
    })
}

/// The newest lines that were kept, at most so many.
pub(crate) fn held_lines(count: usize) -> Vec<String> {
    let held = held();
    let lines = held.as_deref().unwrap_or_default();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// Gives the terminal back and shows what was said meanwhile. Nothing happens where there is no picture.
pub(crate) fn restore() {
    if let Some(lines) = held().take() {
        write(LEAVE);
        lines.iter().for_each(|line| write(&format!("{line}\n")));
    }
}

/// A panic elsewhere does not change what is in here.
fn held() -> std::sync::MutexGuard<'static, Option<Vec<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// If even the terminal cannot be written to there is nobody to tell.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_held_only_while_there_is_a_picture() {
        assert!(!hold("before") && held_lines(3).is_empty());
        *held() = Some(Vec::new());
        assert!(["one", "\ntwo", "three"].into_iter().all(hold));
        assert_eq!(held_lines(2), ["two", "three"]);
        assert_eq!(held().take().expect("a picture").len(), 3);
        assert!(!hold("after"));
    }
}
