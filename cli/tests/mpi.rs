//! Training started by `mpirun`: two and four processes learn what one learns. Needs the feature `mpi`, and Open MPI.

#![cfg(feature = "mpi")]

mod support;

use models::{Loading, Model};
use std::path::Path;
use std::process::{Command, Output};
use support::{Folder, errors, run};

const RECIPE: &str = r#"
[[stage]]
kind = "sft"
name = "sft"
from = "model"
save = "f32"
[stage.train]
steps = 6
batch_tokens = 1024
accumulation = 4
sequence_length = 256
learning_rate = 1e-3
epsilon = 1e-4
chunk_tokens = 100
checkpoint_layers = true
evaluate_every = 3
[stage.data]
validation = 8
[[stage.data.source]]
type = "kata"
episodes = 24
"#;

fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.model("model");
    folder.write("small.toml", RECIPE);
    folder
}

fn together(folder: &Folder, ranks: usize, arguments: &[&str]) -> Output {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &ranks.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_lateen")).args(["train", "small.toml"]).args(arguments);
    command.current_dir(folder.path()).env("HOME", folder.path());
    command.output().expect("mpirun is there: install Open MPI")
}

fn weights(folder: &Folder) -> Vec<f32> {
    let model = Model::open(&folder.join("runs/small/01-sft"), Loading::F32).expect("the stage's model");
    model.parameters().into_iter().flat_map(|parameter| parameter.values().to_vec()).collect()
}

fn begun(folder: &Folder) -> bool {
    Path::new(&folder.join("runs/small/01-sft/metrics.jsonl")).exists()
}

#[test]
fn several_processes_learn_what_one_learns() {
    let alone = folder("mpi-1");
    let output = run(&alone, &["train", "small.toml"]);
    assert!(output.status.success(), "{}", errors(&output));
    let wanted = weights(&alone);
    for (ranks, sequence_ranks) in [(2, "1"), (2, "2"), (4, "2"), (4, "4")] {
        let folder = folder(&format!("mpi-{ranks}-{sequence_ranks}"));
        let output = together(&folder, ranks, &["--sequence-ranks", sequence_ranks]);
        assert!(output.status.success(), "{ranks} ranks, {sequence_ranks} to a sequence: {}", errors(&output));
        let worst = weights(&folder).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{ranks} ranks, {sequence_ranks} to a sequence: {worst}");
        // What is done stays done, and nobody is left waiting.
        let again = together(&folder, ranks, &["--sequence-ranks", sequence_ranks]);
        assert!(again.status.success() && errors(&again).contains("done before"), "{}", errors(&again));
    }
}

const DISTILL: &str = r#"
[[stage]]
kind = "distill"
name = "sft"
from = "model"
teacher = "teacher"
save = "f32"
[stage.distill]
gram = 0.1
[stage.distill.self_correction]
max_tokens = 8
[stage.train]
steps = 4
batch_tokens = 1024
accumulation = 4
sequence_length = 256
learning_rate = 1e-3
epsilon = 1e-4
[stage.data]
validation = 8
[[stage.data.source]]
type = "kata"
episodes = 24
"#;

#[test]
fn several_processes_learn_from_a_teacher_what_one_learns() {
    let folder = |name: &str, change: &dyn Fn(String) -> String| {
        let folder = folder(name);
        // A teacher with more experts than its student.
        folder.model_of("teacher", |config| config.replace("\"num_experts\": 4", "\"num_experts\": 6"));
        folder.write("small.toml", &change(DISTILL.to_owned()));
        folder
    };
    let kept = "[stage.distill]\nrouters = 0\nhidden = 0\ncache = { tokens = 16 }\n[stage.train]";
    let cached = |text: String| {
        let (before, after) = text.split_once("[stage.distill]").expect("a table");
        format!("{before}{kept}{}", after.split_once("[stage.train]").expect("a table").1)
    };
    let streamed = |text: String| text.replace("gram = 0.1", "gram = 0.1\nteacher_memory = \"streamed\"");
    let changes: [(&str, &dyn Fn(String) -> String); 3] =
        [("plain", &|text| text), ("streamed", &streamed), ("cached", &cached)];
    for (name, change) in changes {
        let alone = folder(&format!("mpi-teacher-{name}"), change);
        let output = run(&alone, &["train", "small.toml"]);
        assert!(output.status.success(), "{name}: {}", errors(&output));
        let wanted = weights(&alone);
        for ranks in [2, 4] {
            let folder = folder(&format!("mpi-teacher-{name}-{ranks}"), change);
            let output = together(&folder, ranks, &[]);
            assert!(output.status.success(), "{name}, {ranks} ranks: {}", errors(&output));
            let worst = weights(&folder).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}, {ranks} ranks: {worst}");
            let again = together(&folder, ranks, &[]);
            assert!(again.status.success() && errors(&again).contains("done before"), "{}", errors(&again));
        }
    }
    let cut = folder("mpi-teacher-cut", &|text| text);
    let output = together(&cut, 2, &["--sequence-ranks", "2"]);
    assert!(!output.status.success() && errors(&output).contains("leave --sequence-ranks at 1"), "{}", errors(&output));
}

#[test]
fn what_cannot_be_shared_is_refused_by_all() {
    let folder = folder("mpi-refused");
    let output = together(&folder, 3, &["--sequence-ranks", "2"]);
    assert!(!output.status.success());
    assert!(errors(&output).contains("3 ranks do not make groups of 2"), "{}", errors(&output));
    assert!(!begun(&folder));
}
