//! Measures how fast tasks are made and programs run, on one thread: `cargo run --release -p environment --example
//! measure`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use environment::{EpisodeKind, Sandbox, Split, task};

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1000);
    for kind in EpisodeKind::ALL {
        for split in [Split::Train, Split::Test] {
            let start = Instant::now();
            let made: Vec<_> = (0..count).map(|seed| task(kind, split, seed)).collect();
            let seconds = start.elapsed().as_secs_f64();
            let bytes: usize = made.iter().map(|task| format!("{:?}", task.demonstration()).len()).sum();
            println!(
                "{:20} {:12} {:7.0} tasks/s, {:5} bytes a demonstration",
                kind.name(),
                split.name(),
                count as f64 / seconds,
                bytes / made.len()
            );
        }
    }
    let tasks: Vec<_> = (0..count).map(|seed| task(EpisodeKind::Solve, Split::Train, seed)).collect();
    let sandbox = Sandbox::in_process();
    let start = Instant::now();
    let passed = tasks.iter().filter(|task| task.judge(&sandbox, task.program()).passed).count();
    println!("{passed} of {count} references pass; {:.0} programs/s", count as f64 / start.elapsed().as_secs_f64());
}
