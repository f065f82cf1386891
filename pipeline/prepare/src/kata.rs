//! The kata world as a source: episodes of every kind, checked against what will be measured.

use crate::error::PrepareError;
use crate::kind::Kind;
use crate::source::Raw;
use environment::{EpisodeKind, Overlap, Split, Task, overlaps, task};
use numeric::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Tasks drawn, checked and dropped again at a time.
const CHUNK: usize = 1024;

/// A source of katas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KataRecipe {
    pub episodes: usize,
    pub mix: KataMix,
    /// How often an epoch shows each episode, on average.
    pub repeat: f32,
    /// How much of what is learnt comes from here, in proportion to the `portion` of the other sources.
    pub portion: Option<f64>,
    /// The largest share of all trained tokens that may come from here.
    pub share_max: Option<f64>,
    /// Families that the shipped base model never saw, to find out how well something new is learnt. What was trained
    /// on them says nothing any more when it is measured on unseen families.
    pub new_families: bool,
}

/// How often each kind is drawn, in any unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KataMix {
    pub solve: f64,
    pub replay: f64,
    pub debugging: f64,
    pub review: f64,
    pub fill_in_the_middle: f64,
    pub reasoning: f64,
}

impl Default for KataMix {
    fn default() -> Self {
        Self { solve: 3.0, replay: 1.0, debugging: 1.5, review: 1.0, fill_in_the_middle: 2.0, reasoning: 1.5 }
    }
}

impl Default for KataRecipe {
    fn default() -> Self {
        Self {
            episodes: 10_000,
            mix: KataMix::default(),
            repeat: 1.0,
            portion: None,
            share_max: None,
            new_families: false,
        }
    }
}

/// What was drawn, and what the check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct KataReport {
    pub episodes: usize,
    pub by_kind: BTreeMap<String, usize>,
    /// Tasks that are measured, against which episodes were checked.
    pub checked_against: usize,
    /// Episodes left out because they share a program or a description with one of those.
    pub contaminated: usize,
    /// The first few of them, for a person to look at.
    pub examples: Vec<String>,
}

impl KataMix {
    fn weight(&self, kind: EpisodeKind) -> f64 {
        match kind {
            EpisodeKind::Solve => self.solve,
            EpisodeKind::Replay => self.replay,
            EpisodeKind::Debugging => self.debugging,
            EpisodeKind::Review => self.review,
            EpisodeKind::FillInTheMiddle => self.fill_in_the_middle,
            EpisodeKind::Reasoning => self.reasoning,
        }
    }

    fn check(&self) -> Result<(), PrepareError> {
        let weights = EpisodeKind::ALL.map(|kind| self.weight(kind));
        if weights.iter().all(|&weight| weight >= 0.0 && weight.is_finite()) && weights.iter().sum::<f64>() > 0.0 {
            return Ok(());
        }
        Err(PrepareError::Recipe { what: format!("the mix {weights:?} must be numbers from 0 on, not all 0") })
    }

    fn draw(&self, rng: &mut Rng) -> EpisodeKind {
        let total: f64 = EpisodeKind::ALL.iter().map(|&kind| self.weight(kind)).sum();
        let mut left = rng.uniform() * total;
        for kind in EpisodeKind::ALL {
            left -= self.weight(kind);
            if left < 0.0 {
                return kind;
            }
        }
        // Rounding can leave a crumb: the last kind that is wanted at all.
        *EpisodeKind::ALL.iter().rfind(|kind| self.weight(**kind) > 0.0).expect("check() saw a weight above 0")
    }
}

/// The task number `index` of a split: a function of its arguments alone, so that tasks can be made in any order.
fn numbered(mix: &KataMix, split: Split, seed: u64, index: usize) -> Task {
    let mut rng = Rng::new(seed).fork(index as u64);
    let kind = mix.draw(&mut rng);
    task(kind, split, rng.next_u64())
}

impl KataRecipe {
    /// Where its episodes come from.
    pub fn split(&self) -> Split {
        if self.new_families { Split::UnseenFamilies } else { Split::Train }
    }

    /// Draws the episodes in chunks and hands those that pass the check to `keep`, in order.
    fn each(
        &self,
        split: Split,
        seed: u64,
        measured: &[Task],
        mut keep: impl FnMut(&Task, usize) -> Result<(), PrepareError>,
    ) -> Result<KataReport, PrepareError> {
        self.mix.check()?;
        let mut report = KataReport { checked_against: measured.len(), ..KataReport::default() };
        for start in (0..self.episodes).step_by(CHUNK) {
            let indices = start..(start + CHUNK).min(self.episodes);
            let tasks: Vec<Task> = indices.into_par_iter().map(|i| numbered(&self.mix, split, seed, i)).collect();
            let drawn = start + tasks.len();
            for task in &report.clean(tasks, measured) {
                report.episodes += 1;
                *report.by_kind.entry(task.kind.name().to_owned()).or_default() += 1;
                keep(task, drawn)?;
            }
        }
        Ok(report)
    }

    /// The episodes as documents. `at` hears how many have been drawn.
    pub fn read(
        &self,
        split: Split,
        seed: u64,
        at: &dyn Fn(usize, usize),
    ) -> Result<(Vec<Raw>, KataReport), PrepareError> {
        self.read_checked(split, seed, &[], at)
    }

    /// The same, without those that give one of the `measured` tasks away.
    pub fn read_checked(
        &self,
        split: Split,
        seed: u64,
        measured: &[Task],
        at: &dyn Fn(usize, usize),
    ) -> Result<(Vec<Raw>, KataReport), PrepareError> {
        let mut documents = Vec::with_capacity(self.episodes);
        let report = self.each(split, seed, measured, |task, drawn| {
            let (document, kind) = (task.demonstration(), Kind::of_episode(task.kind));
            documents.push(Raw::new(document, kind, task.id.clone()));
            at(drawn, self.episodes);
            Ok(())
        })?;
        Ok((documents, report))
    }

    /// Writes the episodes as lines of JSON, whole or not at all.
    pub fn write_episodes(
        &self,
        split: Split,
        seed: u64,
        measured: &[Task],
        path: &Path,
        at: &dyn Fn(usize, usize),
    ) -> Result<KataReport, PrepareError> {
        let mut outcome = None;
        formats::write_atomically(path, |file| {
            let report = self.each(split, seed, measured, |task, drawn| {
                let mut line = serde_json::to_vec(&task.record()).expect("an episode is plain data");
                line.push(b'\n');
                at(drawn, self.episodes);
                file.write_all(&line).map_err(|source| PrepareError::Io {
                    action: "write",
                    path: path.to_owned(),
                    source,
                })
            });
            outcome = Some(report);
            match &outcome {
                Some(Err(error)) => Err(std::io::Error::other(error.to_string())),
                _ => Ok(()),
            }
        })?;
        outcome.expect("write_atomically calls its closure")
    }
}

impl KataReport {
    /// Without the tasks that give a measured one away. An overlap names one task of several that share the same thing,
    /// so the check is repeated until it finds nothing.
    fn clean(&mut self, mut tasks: Vec<Task>, measured: &[Task]) -> Vec<Task> {
        loop {
            let found = overlaps(&tasks, measured);
            if found.is_empty() {
                return tasks;
            }
            let before = tasks.len();
            tasks.retain(|task| match found.iter().find(|overlap| overlap.train_id == task.id) {
                Some(overlap) => {
                    self.leak(overlap);
                    false
                }
                None => true,
            });
            assert!(tasks.len() < before, "an overlap names a task that is there");
        }
    }

    fn leak(&mut self, overlap: &Overlap) {
        self.contaminated += 1;
        if self.examples.len() < 5 {
            self.examples.push(format!("{} shares with {}: {}", overlap.train_id, overlap.test_id, overlap.shared));
        }
    }
}

/// Tasks of every kind from every split that is measured, `count` of each.
pub fn measured_tasks(count: usize, seed: u64) -> Vec<Task> {
    let splits = [Split::Validation, Split::Test, Split::UnseenFamilies];
    let all = splits.into_iter().flat_map(|split| EpisodeKind::ALL.map(|kind| (split, kind)));
    let numbered: Vec<(Split, EpisodeKind, u64)> =
        all.flat_map(|(split, kind)| (0..count as u64).map(move |i| (split, kind, i))).collect();
    let rng = Rng::new(seed).fork(u64::MAX);
    numbered.into_par_iter().map(|(split, kind, i)| task(kind, split, rng.fork(i).next_u64())).collect()
}
