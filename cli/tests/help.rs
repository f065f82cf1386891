//! The help of every verb, word for word, so that a change of the command line is seen in a review.
//! `LATEEN_UPDATE_HELP=1 cargo nextest run -p lateen` writes the files anew.

mod support;

use std::path::Path;
use support::{Folder, good};

#[test]
fn help_is_what_it_was() {
    let folder = Folder::new("help");
    let verbs = [
        ("lateen", vec![]),
        ("build", vec!["build"]),
        ("train", vec!["train"]),
        ("train-report", vec!["train", "report"]),
        ("adapter", vec!["adapter"]),
        ("adapter-inspect", vec!["adapter", "inspect"]),
        ("adapter-merge", vec!["adapter", "merge"]),
        ("compress", vec!["compress"]),
        ("compress-pad", vec!["compress", "pad"]),
        ("compress-report", vec!["compress", "report"]),
        ("compare", vec!["compare"]),
        ("evaluate", vec!["evaluate"]),
        ("bench", vec!["bench"]),
        ("plan", vec!["plan"]),
        ("plan-train", vec!["plan", "train"]),
        ("plan-compress", vec!["plan", "compress"]),
        ("run", vec!["run"]),
        ("complete", vec!["complete"]),
        ("prepare-kata", vec!["prepare", "kata"]),
        ("prepare-stats", vec!["prepare", "stats"]),
        ("prepare-show", vec!["prepare", "show"]),
        ("prepare-mine", vec!["prepare", "mine"]),
        ("inspect", vec!["inspect"]),
        ("inspect-logits", vec!["inspect", "logits"]),
        ("inspect-gradients", vec!["inspect", "gradients"]),
        ("doctor", vec!["doctor"]),
    ];
    let update = std::env::var_os("LATEEN_UPDATE_HELP").is_some();
    for (name, words) in verbs {
        let found = good(&folder, &[words.as_slice(), &["--help"]].concat());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/help/{name}.txt"));
        if update {
            std::fs::write(&path, &found).expect("the file can be written");
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, wanted, "{} is not what lateen {name} --help says", path.display());
    }
}

#[test]
fn the_worker_is_hidden_and_the_version_is_not() {
    let folder = Folder::new("version");
    assert!(!good(&folder, &["--help"]).contains("sandbox-worker"), "nobody calls the worker by hand");
    assert_eq!(good(&folder, &["--version"]), format!("lateen {}\n", env!("CARGO_PKG_VERSION")));
}
