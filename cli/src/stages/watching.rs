//! The pipeline's watchers: progress of preparation and training as people see it, and where this machine keeps
//! sources.

use crate::terminal::Meter;
use prepare::Roots;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use train::{Event, Progress};

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

/// Training: a meter of steps, and a line for whatever a person should not miss.
pub(crate) struct Training {
    what: String,
    meter: Option<Meter>,
}

impl Training {
    pub(crate) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), meter: None }
    }

    fn say(&self, line: &str) {
        if let Some(meter) = &self.meter {
            meter.say(line);
        }
    }
}

impl Progress for Training {
    fn record(&mut self, event: &Event) {
        match event {
            Event::Begin(begin) => {
                let meter = Meter::starting_at(&self.what, begin.step as u64, begin.steps as u64, "steps");
                self.meter = Some(meter);
                let resumed = if begin.step > 0 { format!(", resumed at step {}", begin.step) } else { String::new() };
                self.say(&format!(
                    "  {} samples with {} trained tokens; {} of {} parameters are trained, balance loss of routers {}{resumed}",
                    begin.samples,
                    begin.trained_tokens,
                    begin.trained_parameters,
                    begin.parameters,
                    begin.auxiliary_coefficient
                ));
            }
            Event::Step(step) => {
                let detail = format!(" · loss {:.4} · {:.0} tokens/s", step.loss, step.tokens_per_second);
                if let Some(meter) = &mut self.meter {
                    meter.set(step.step as u64, &detail);
                }
            }
            Event::Validation(validation) => {
                self.say(&format!("  step {}: validation loss {:.4}", validation.step, validation.loss));
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
