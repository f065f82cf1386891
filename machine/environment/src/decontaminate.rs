//! Proof that what is measured was not trained on.

use std::collections::HashMap;

use crate::task::Task;

/// A test task that shares a program (up to names and spaces) or a description with a training task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    pub train_id: String,
    pub test_id: String,
    /// What they share.
    pub shared: String,
}

/// Every overlap between the two sides; empty when the split holds.
pub fn overlaps(train: &[Task], test: &[Task]) -> Vec<Overlap> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for task in train {
        for print in task.fingerprints() {
            seen.entry(print).or_insert(&task.id);
        }
    }
    let mut found = Vec::new();
    for task in test {
        for print in task.fingerprints() {
            if let Some(&train_id) = seen.get(&print) {
                found.push(Overlap { train_id: train_id.to_owned(), test_id: task.id.clone(), shared: print });
            }
        }
    }
    found
}
