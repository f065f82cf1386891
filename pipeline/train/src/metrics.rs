//! `metrics.jsonl`: one event a line, appended and flushed, cut back to the checkpoint when a run resumes.

use crate::error::TrainError;
use crate::event::Event;
use formats::FormatsError;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name in a run's folder.
pub const METRICS: &str = "metrics.jsonl";

/// Appends events to a file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Metrics {
    /// Opens the file and forgets what stands after its first `bytes` bytes: steps that a resumed run takes again.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, TrainError> {
        let fail = |source| TrainError::Io { action: "open", path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        let bytes = bytes.min(file.metadata().map_err(fail)?.len());
        file.set_len(bytes).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    pub fn write(&mut self, event: &Event) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(event).expect("events are plain data");
        line.push(b'\n');
        let bytes = self.bytes + line.len() as u64;
        self.file.write_all(&line).map_err(|source| FormatsError::from_write(&self.path, bytes, source))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Bytes written so far, for a checkpoint to remember.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// All whole lines of a metrics file. A last line that a crash cut short is left out.
pub fn read(path: &Path) -> Result<Vec<Event>, TrainError> {
    let fail = |source| TrainError::Io { action: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| TrainError::Damaged {
            path: path.to_owned(),
            what: format!("line {} is no event of a training run ({error})", index + 1),
        })
    };
    whole.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Step;

    #[test]
    fn what_is_no_number_comes_back_as_none() {
        let text = r#"{"event":"step","step":3,"loss":null,"losses":{"chat":null,"solve":0.5},"learning_rate":0.1,
            "gradient_norm":null,"expert_imbalance":0.0,"tokens":9,"trained_tokens":9,"tokens_per_second":1.0,
            "seconds":1.0,"epoch":0}"#;
        let Event::Step(step) = serde_json::from_str(text).expect("older files have fewer keys") else {
            panic!("a step")
        };
        assert!(step.loss.is_nan() && step.gradient_norm.is_nan() && step.losses["chat"].is_nan());
        assert_eq!((step.losses["solve"], step.skipped, step.peak_memory_bytes), (0.5, false, None));
        let again = serde_json::to_string(&Event::Step(Step { skipped: true, ..step })).expect("plain data");
        assert!(again.contains("\"loss\":null") && again.contains("\"skipped\":true"), "{again}");
        assert!(matches!(serde_json::from_str(&again), Ok(Event::Step(step)) if step.loss.is_nan()));
    }

    #[test]
    fn lines_come_back_and_a_resumed_run_cuts_them() {
        let path = std::env::temp_dir().join(format!("lateen-metrics-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let event = |step| Event::Checkpoint { step };
        let mut metrics = Metrics::open(&path, 0).expect("new file");
        metrics.write(&event(1)).expect("write");
        let kept = metrics.bytes();
        metrics.write(&event(2)).expect("write");
        drop(metrics);
        assert_eq!(read(&path).expect("read"), [event(1), event(2)]);

        let mut metrics = Metrics::open(&path, kept).expect("reopen");
        metrics.write(&event(3)).expect("write");
        metrics.file.write_all(b"{\"event\":\"checkp").expect("half a line");
        assert_eq!(read(&path).expect("read"), [event(1), event(3)]);
        std::fs::remove_file(&path).expect("remove");
    }
}
