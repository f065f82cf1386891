//! The pipeline's watchers: progress of preparation and training as people see it, and where this machine keeps
//! sources.

use crate::dashboard::Dashboard;
use crate::place::sandbox;
use crate::terminal::{Meter, peak_memory_bytes, say};
use environment::Split;
use evaluate::{Cell, Subject, TaskSettings};
use models::Model;
use prepare::Roots;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use text::Renderer;
use train::event::Begin;
use train::{Event, Progress, Scores};

/// Preparation: one meter for each thing that is done.
#[derive(Default)]
pub(crate) struct Preparing {
    meter: RefCell<Option<(String, Meter)>>,
}

impl prepare::Watch for Preparing {
    fn at(&self, what: &str, done: usize, total: usize) {
        let mut meter = self.meter.borrow_mut();
        if meter.as_ref().is_none_or(|(name, _)| name != what) {
            *meter = None;
            *meter = Some((what.to_owned(), Meter::new(what, total as u64, "")));
        }
        if let Some((_, meter)) = meter.as_mut() {
            meter.set(done as u64, "");
        }
        if done >= total {
            *meter = None;
        }
    }
}

/// Training as it is watched: by a bar or a picture, and tried on katas where the recipe asks for it.
pub(crate) struct Training<'a> {
    shown: Shown,
    renderer: Renderer<'a>,
    cancelled: &'a AtomicBool,
}

enum Shown {
    Bar(Bar),
    Dashboard(Dashboard),
}

impl<'a> Training<'a> {
    /// With a picture if that is asked for and there is a terminal for it.
    pub(crate) fn new(what: &str, dashboard: bool, renderer: Renderer<'a>, cancelled: &'a AtomicBool) -> Self {
        let picture = if dashboard { Dashboard::open(what) } else { None };
        if dashboard && picture.is_none() {
            say("  no terminal to draw on: progress is told in lines");
        }
        let bar = || Shown::Bar(Bar { what: what.to_owned(), meter: None });
        Self { shown: picture.map_or_else(bar, Shown::Dashboard), renderer, cancelled }
    }

    fn solve(&self, model: &Model, per_kind: u64) -> anyhow::Result<Scores> {
        let sandbox = sandbox()?;
        let subject = Subject { model, renderer: self.renderer, sandbox: &sandbox };
        let settings = TaskSettings { count: per_kind, splits: vec![Split::Validation], ..TaskSettings::default() };
        let report = evaluate::solve_tasks(&subject, &settings, self.cancelled, &mut |_| ())?;
        let score = |cell: &Cell| (cell.kind.name().to_owned(), cell.passed.rate);
        Ok(report.cells.iter().map(score).collect())
    }
}

impl Progress for Training<'_> {
    fn record(&mut self, event: &Event) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.record(event),
            Shown::Dashboard(dashboard) => dashboard.record(event),
        }
    }

    fn try_tasks(&mut self, model: &Model, per_kind: u64) -> Option<Scores> {
        match self.solve(model, per_kind) {
            Ok(scores) => Some(scores),
            Err(_) if self.cancelled.load(Ordering::Relaxed) => None,
            Err(error) => {
                let line = format!("  the katas could not be tried, training goes on: {error:#}");
                match &self.shown {
                    Shown::Bar(bar) => bar.say(&line),
                    Shown::Dashboard(_) => say(&line),
                }
                None
            }
        }
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        peak_memory_bytes()
    }
}

/// A meter of steps, and a line for whatever a person should not miss.
struct Bar {
    what: String,
    meter: Option<Meter>,
}

impl Bar {
    fn say(&self, line: &str) {
        match &self.meter {
            Some(meter) => meter.say(line),
            None => say(line),
        }
    }

    fn begin(&mut self, begin: &Begin) {
        self.meter = Some(Meter::starting_at(&self.what, begin.step as u64, begin.steps as u64, "steps"));
        let resumed = if begin.step > 0 { format!(", resumed at step {}", begin.step) } else { String::new() };
        self.say(&format!(
            "  {} samples with {} trained tokens of {} ({:.0} %); {} of {} parameters are trained, balance loss of \
             routers {}{resumed}",
            begin.samples,
            begin.trained_tokens,
            begin.tokens,
            100.0 * begin.trained_tokens as f64 / begin.tokens.max(1) as f64,
            begin.trained_parameters,
            begin.parameters,
            begin.auxiliary_coefficient
        ));
    }

    fn record(&mut self, event: &Event) {
        match event {
            Event::Begin(begin) => self.begin(begin),
            Event::Step(step) => {
                let detail = format!(" · loss {:.4} · {:.0} tokens/s", step.loss, step.tokens_per_second);
                if let Some(meter) = &mut self.meter {
                    meter.set(step.step as u64, &detail);
                }
            }
            Event::Validation(found) => {
                let kinds: Vec<String> = found.losses.iter().map(|(kind, loss)| format!("{kind} {loss:.3}")).collect();
                let kinds = if kinds.len() > 1 { format!(" ({})", kinds.join(", ")) } else { String::new() };
                self.say(&format!("  step {}: validation loss {:.4}{kinds}", found.step, found.loss));
            }
            Event::Tasks { step, scores, .. } => {
                let solved: Vec<String> =
                    scores.iter().map(|(kind, share)| format!("{kind} {:.0} %", 100.0 * share)).collect();
                self.say(&format!("  step {step}: solved {}", solved.join(", ")));
            }
            Event::Warning { step, message, .. } => self.say(&format!("  step {step}: warning: {message}")),
            Event::End { .. } => self.meter = None,
            Event::ExpertLoad { .. } | Event::Checkpoint { .. } => {}
        }
    }
}

/// Sources that a recipe names without saying where: `$rust` and `$python`, the standard libraries' own code.
pub(crate) struct SystemRoots;

impl Roots for SystemRoots {
    fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = match name {
            "rust" => PathBuf::from(answer("rustc", &["--print", "sysroot"])?).join("lib/rustlib/src/rust/library"),
            "python" => answer("python3", &["-c", "import sysconfig; print(sysconfig.get_paths()['stdlib'])"])?.into(),
            _ => return None,
        };
        folder.is_dir().then_some(folder)
    }
}

fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
