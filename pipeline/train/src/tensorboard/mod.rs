//! TensorBoard's event files, written beside `metrics.jsonl` from the same events: `tensorboard --logdir runs`.
//!
//! The metrics are the record; an event file is made anew from them whenever a run begins or goes on, under a new name,
//! so that steps that a resumed run takes again are not there twice.

mod message;
mod record;

use crate::error::TrainError;
use crate::event::{Event, Step};
use formats::FormatsError;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder's name in a run's folder.
pub const FOLDER: &str = "tensorboard";

/// What a file's name must hold for TensorBoard to look into it.
const NAME: &str = "events.out.tfevents.";

/// An event file that grows with the run.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
    clock: Clock,
}

impl EventFile {
    /// A new file in `run`'s folder that holds what was recorded so far. Files of earlier calls are removed.
    pub fn create(run: &Path, recorded: &[Event], now: f64) -> Result<Self, TrainError> {
        let folder = run.join(FOLDER);
        let io = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Io { action, path, source }
        };
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(io("read", &folder))? {
            let old = entry.map_err(io("read", &folder))?.path();
            if old.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NAME)) {
                fs::remove_file(&old).map_err(io("remove", &old))?;
            }
        }
        // Files are read in the order of their names, which begin with the time.
        let path = folder.join(format!("{NAME}{:010}.lateen", now as u64));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let file = file.map_err(io("create", &path))?;
        let mut events = Self { path, file, clock: Clock::default() };
        let mut bytes = record::framed(&message::file_version(now));
        for event in recorded {
            bytes.extend_from_slice(&events.clock.encoded(event));
        }
        events.append(&bytes)?;
        Ok(events)
    }

    pub fn write(&mut self, event: &Event) -> Result<(), TrainError> {
        let bytes = self.clock.encoded(event);
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        let written = self.file.write_all(bytes);
        Ok(written.map_err(|source| FormatsError::from_write(&self.path, bytes.len() as u64, source))?)
    }
}

/// The time of events, which say it only as seconds since their run began.
#[derive(Debug, Default)]
struct Clock {
    /// In seconds since 1970, of a moment at which the run had been going for 0 seconds.
    zero: f64,
    now: f64,
}

impl Clock {
    /// An event as a framed record; nothing for what TensorBoard has no curve for.
    fn encoded(&mut self, event: &Event) -> Vec<u8> {
        let (step, values) = match event {
            Event::Begin(begin) => {
                self.zero = begin.started - begin.seconds;
                self.now = begin.started;
                return Vec::new();
            }
            Event::Step(step) => {
                self.now = self.zero + step.seconds;
                (step.step, of_step(step))
            }
            Event::Validation(found) => {
                let all = [("validation/loss".to_owned(), found.loss)].into_iter();
                (found.step, all.chain(by_kind("validation_loss", &found.losses)).collect())
            }
            Event::Tasks { step, scores, .. } => (*step, by_kind("tasks_solved", scores).collect()),
            Event::ExpertLoad { .. } | Event::Warning { .. } | Event::Checkpoint { .. } | Event::End { .. } => {
                return Vec::new();
            }
        };
        let values: Vec<(String, f64)> = values;
        record::framed(&message::scalars(self.now, step, &values))
    }
}

fn by_kind<'a>(tag: &'a str, values: &'a BTreeMap<String, f64>) -> impl Iterator<Item = (String, f64)> + 'a {
    values.iter().map(move |(kind, &value)| (format!("{tag}/{kind}"), value))
}

fn of_step(step: &Step) -> Vec<(String, f64)> {
    let mut values = vec![
        ("train/loss", step.loss),
        ("train/learning_rate", step.learning_rate),
        ("train/gradient_norm", step.gradient_norm),
        ("train/tokens_per_second", step.tokens_per_second),
        ("train/epoch", step.epoch as f64),
    ];
    if step.expert_imbalance > 0.0 {
        values.extend([("experts/imbalance", step.expert_imbalance), ("experts/router_entropy", step.router_entropy)]);
    }
    if let Some(bytes) = step.peak_memory_bytes {
        values.push(("train/peak_memory_gigabytes", bytes as f64 / 1e9));
    }
    let named = values.into_iter().map(|(tag, value)| (tag.to_owned(), value));
    named.chain(by_kind("train_loss", &step.losses)).chain(by_kind("train_terms", &step.terms)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Begin, Validation};

    fn begin(started: f64, seconds: f64, step: usize) -> Event {
        Event::Begin(Begin { started, seconds, step, ..Begin::default() })
    }

    fn validation(step: usize, loss: f64) -> Event {
        Event::Validation(Validation { step, loss, losses: [("solve".to_owned(), loss)].into(), seconds: 1.0 })
    }

    #[test]
    fn a_file_holds_each_event_once_at_its_time_and_a_resumed_run_has_one_file() {
        let run = std::env::temp_dir().join(format!("lateen-events-{}", std::process::id()));
        let _ = fs::remove_dir_all(&run);
        let mut first = EventFile::create(&run, &[], 1000.0).expect("a new file");
        let recorded = [begin(1000.0, 0.0, 0), validation(0, 0.5), Event::Checkpoint { step: 1 }];
        recorded.iter().for_each(|event| first.write(event).expect("it is written"));
        let mut second = EventFile::create(&run, &recorded, 2000.0).expect("a file for the rest");
        second.write(&begin(2000.0, 60.0, 1)).expect("it is written");
        second.write(&validation(9, f64::NAN)).expect("it is written");
        let files: Vec<PathBuf> =
            fs::read_dir(run.join(FOLDER)).expect("it is there").map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(files, [second.path.clone()]);
        let records = record::read(&fs::read(&second.path).expect("it reads"));
        assert_eq!(records.len(), 3, "the version and two validations");
        assert_eq!(records[0], message::file_version(2000.0));
        let values = |loss| [("validation/loss".to_owned(), loss), ("validation_loss/solve".to_owned(), loss)];
        assert_eq!(records[1], message::scalars(1000.0, 0, &values(0.5)));
        assert_eq!(records[2], message::scalars(2000.0, 9, &values(f64::NAN)));
        fs::remove_dir_all(&run).expect("it can be removed");
    }
}
