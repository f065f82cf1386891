//! `--tui`: a training run as one picture that is drawn anew twice a second, for as long as steps take.

mod curve;
mod frame;

use crate::screen::{self, Screen};
use crate::terminal::{peak_memory_bytes, say};
use frame::{Around, View};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use train::Event;

const REDRAW: Duration = Duration::from_millis(500);
/// Lines of what was said that are shown.
const SAID_MAX: usize = 4;

/// Shows a run; dropped, it gives the terminal back.
pub(crate) struct Dashboard {
    shared: Arc<Shared>,
    drawing: Option<JoinHandle<()>>,
}

struct Shared {
    view: Mutex<View>,
    over: Mutex<bool>,
    ended: Condvar,
}

impl Dashboard {
    /// `None` where there is no terminal to draw on.
    pub(crate) fn open(what: &str) -> Option<Self> {
        let screen = Screen::open()?;
        let view = View { what: what.to_owned(), ..View::default() };
        let shared = Shared { view: Mutex::new(view), over: Mutex::new(false), ended: Condvar::new() };
        let shared = Arc::new(shared);
        let seen = Arc::clone(&shared);
        let drawing = thread::spawn(move || seen.draw(&screen));
        Some(Self { shared, drawing: Some(drawing) })
    }

    /// Takes notice of an event; what a person should not miss is said, too, and stays when the picture is gone.
    pub(crate) fn record(&self, event: &Event) {
        let mut view = lock(&self.shared.view);
        match event {
            Event::Begin(begin) => view.begin = Some(begin.clone()),
            Event::Step(step) => view.take_step(step),
            Event::Validation(found) => view.take_validation(found),
            Event::Tasks { step, scores, .. } => view.scores = Some((*step, scores.clone())),
            Event::ExpertLoad { layers, .. } => view.load.clone_from(layers),
            Event::Checkpoint { step } => view.saved = Some(*step),
            Event::Warning { step, message, .. } => say(&format!("  step {step}: warning: {message}")),
            Event::End { .. } => {}
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.ended.notify_all();
        // A panic of the drawing thread was told by the panic itself.
        let _ = self.drawing.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn draw(&self, screen: &Screen) {
        let began = Instant::now();
        let mut over = lock(&self.over);
        while !*over {
            let (rows, columns) = screen.size();
            let around = Around {
                rows,
                columns,
                elapsed: began.elapsed(),
                peak_memory: peak_memory_bytes(),
                said: screen::held_lines(SAID_MAX),
            };
            let frame = lock(&self.view).frame(&around);
            let colours = screen.has_colours();
            let rows: Vec<String> = frame.iter().map(|row| row.painted(columns, colours)).collect();
            screen.draw(&rows);
            over = self.ended.wait_timeout(over, REDRAW).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What is behind these locks stays whole through a panic: each change of it is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
