//! Training runs that are killed, stopped, starved of disk or changed: nothing is lost, and what is said is true.

#![cfg(unix)]

mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{Folder, bad, errors, good, lateen, run};

const RECIPE: &str = r#"
[[stage]]
kind = "pretrain"
name = "base"
config = "config.json"
tokenizer.from = "text"
save = "f32"
[stage.train]
steps = 40
batch_tokens = 512
accumulation = 2
sequence_length = 256
learning_rate = 1e-3
weight_decay = 0.1
auxiliary_coefficient = 0.001
save_every = 3
evaluate_every = 7
[stage.data]
validation = 8
[[stage.data.source]]
type = "kata"
episodes = 24
"#;

/// A folder with what the recipe names.
fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    let text = folder.model("text");
    fs::remove_file(text.join("config.json")).expect("only its tokenizer is wanted");
    folder.write("config.json", &support::config(512));
    folder.write("small.toml", RECIPE);
    folder
}

fn stage(folder: &Folder) -> PathBuf {
    folder.join("runs/small/01-base")
}

fn start(folder: &Folder) -> Child {
    let mut command = lateen(folder);
    command.args(["train", "small.toml"]).stderr(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// The step of the newest checkpoint.
fn newest(folder: &Folder) -> Option<u64> {
    let entries = fs::read_dir(stage(folder).join("checkpoints")).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max()
}

/// Waits for a checkpoint after that of step `before`; `false` if the program ended first.
fn wait_for_checkpoint(folder: &Folder, child: &mut Child, before: Option<u64>) -> bool {
    let began = Instant::now();
    while newest(folder) <= before {
        if child.try_wait().expect("a child can be asked").is_some() {
            return false;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint after {before:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(kill.expect("kill starts").success());
}

fn finished(output: &Output) -> String {
    let said = errors(output);
    assert!(output.status.success(), "{said}");
    said
}

/// The weights of the run that nobody disturbs.
fn undisturbed(name: &str) -> (Vec<u8>, Vec<(u64, String)>) {
    let folder = folder(name);
    finished(&run(&folder, &["train", "small.toml"]));
    (weights(&folder), losses(&stage(&folder)))
}

fn weights(folder: &Folder) -> Vec<u8> {
    fs::read(stage(folder).join("model.safetensors")).expect("the stage's model")
}

/// Every step's loss, digit for digit.
fn losses(stage: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(stage.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is an event"));
    let steps = lines.filter(|event| event["event"] == "step");
    steps.map(|event| (event["step"].as_u64().expect("a number"), event["loss"].to_string())).collect()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_weights() {
    let wanted = undisturbed("kill-whole");
    let folder = folder("kill");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    let seed = u64::from(since.subsec_nanos());
    let mut rng = numeric::Rng::new(seed);
    for _ in 0..5 {
        let before = newest(&folder);
        let mut child = start(&folder);
        if !wait_for_checkpoint(&folder, &mut child, before) {
            break;
        }
        // Anywhere in the steps and checkpoints that follow.
        std::thread::sleep(Duration::from_micros(rng.below(120_000) as u64));
        let _ = child.kill();
        let output = child.wait_with_output().expect("it ends");
        let resumed = errors(&output).contains("resumed at step");
        assert!(resumed || before.is_none() || output.status.success(), "seed {seed}: {}", errors(&output));
    }
    let said = finished(&run(&folder, &["train", "small.toml"]));
    assert!(said.contains("resumed at step") || said.contains("done before"), "seed {seed}: {said}");
    assert!(weights(&folder) == wanted.0, "seed {seed}: other weights");
    assert_eq!(losses(&stage(&folder)), wanted.1, "seed {seed}");
}

#[test]
fn sigterm_saves_and_the_run_goes_on_to_the_same_end() {
    let wanted = undisturbed("term-whole");
    let folder = folder("term");
    let mut child = start(&folder);
    assert!(wait_for_checkpoint(&folder, &mut child, None), "{}", errors(&child.wait_with_output().expect("it ends")));
    signal(&child, "-TERM");
    let output = child.wait_with_output().expect("it ends");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(said.contains("stopping after this step") && said.contains("hint: saved after step"), "{said}");
    let saved = newest(&folder).expect("a checkpoint");
    assert!(said.contains(&format!("saved after step {saved};")), "{said}");
    let said = finished(&run(&folder, &["train", "small.toml"]));
    assert!(said.contains(&format!("resumed at step {saved}")), "{said}");
    assert!(weights(&folder) == wanted.0 && losses(&stage(&folder)) == wanted.1);
    assert!(!stage(&folder).join("checkpoints").exists(), "what they would resume is done");
}

#[test]
fn asked_twice_it_ends_at_once() {
    let folder = folder("twice");
    // One step that takes long.
    let slow = RECIPE
        .replace("batch_tokens = 512", "batch_tokens = 131072")
        .replace("accumulation = 2", "accumulation = 1")
        .replace("evaluate_every = 7", "evaluate_every = 0");
    folder.write("small.toml", &slow);
    let child = start(&folder);
    let began = Instant::now();
    while !stage(&folder).join("metrics.jsonl").is_file() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    // By now the step is on its way.
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(50));
    signal(&child, "-INT");
    let asked = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("Ctrl-C again: at once") && !said.contains("saved after step"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(1), "it took {:?}", asked.elapsed());
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_while_saving_leaves_the_checkpoint_before_it() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let folder = folder("full");
    folder.write("small.toml", &RECIPE.replace("steps = 40", "steps = 100_000"));
    // The signal is ignored, as a full disk sends none.
    let line = "trap '' XFSZ; exec \"$0\" train small.toml";
    let mut child = Command::new("sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_lateen")])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the shell starts");
    assert!(
        wait_for_checkpoint(&folder, &mut child, Some(2)),
        "{}",
        errors(&child.wait_with_output().expect("it ends"))
    );
    let limit = Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    let process = Pid::from_raw(child.id() as i32);
    prlimit(process, Resource::Fsize, limit).expect("a process of one's own can be limited");
    let output = child.wait_with_output().expect("it ends");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = newest(&folder).expect("a checkpoint");
    for wanted in
        ["could not be saved", &format!("the checkpoint of step {last} is whole"), "no room for", "free some space"]
    {
        assert!(said.contains(wanted), "missing {wanted:?}: {said}");
    }
    let names: Vec<_> = fs::read_dir(stage(&folder).join("checkpoints")).expect("it is there").collect();
    assert_eq!(names.len(), 1, "nothing half written is left: {names:?}");

    let mut child = start(&folder);
    assert!(wait_for_checkpoint(&folder, &mut child, Some(last)), "with room again it goes on");
    signal(&child, "-INT");
    let said = errors(&child.wait_with_output().expect("it ends"));
    assert!(said.contains(&format!("resumed at step {last}")), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_will_be_full_is_known_before_the_first_step() {
    let folder = folder("small-disk");
    let line = "trap '' XFSZ; ulimit -f 128; exec \"$0\" train small.toml";
    let output = Command::new("sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_lateen")])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .output()
        .expect("the shell starts");
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the disk will not hold this run") && said.contains("lower keep_last"), "{said}");
    assert!(!stage(&folder).join("metrics.jsonl").exists(), "no step was taken");
    finished(&run(&folder, &["train", "small.toml"]));
}

#[test]
fn an_interrupted_run_is_not_lost_to_a_changed_line() {
    let folder = folder("changed");
    folder.write("small.toml", &RECIPE.replace("steps = 40", "steps = 100_000"));
    let mut child = start(&folder);
    assert!(wait_for_checkpoint(&folder, &mut child, None));
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(130));

    folder.write("small.toml", RECIPE);
    for words in [&["train", "small.toml"][..], &["build", "small.toml"]] {
        let said = bad(&folder, 1, words);
        assert!(said.contains("was interrupted and cannot go on"), "{said}");
        assert!(said.contains("train.steps was 100000, is 40"), "{said}");
        assert!(said.contains("hint: undo that change") && said.contains("train small.toml base --fresh"), "{said}");
    }
    assert!(newest(&folder).is_some(), "it is still there");
    let said = finished(&run(&folder, &["train", "small.toml", "--fresh"]));
    assert!(!said.contains("resumed"), "{said}");
    // How often it looks at itself changes nothing of what it makes.
    folder.write("small.toml", &RECIPE.replace("evaluate_every = 7", "evaluate_every = 9"));
    assert!(finished(&run(&folder, &["train", "small.toml"])).contains("done before"));
}

#[test]
fn validation_comes_first_the_best_model_last_and_reports_lie_side_by_side() {
    let folder = folder("reports");
    let best = RECIPE
        .replace(
            "evaluate_every = 7",
            "evaluate_every = 4\nresult = \"best\"\npatience = 2\ntasks_every = 24\ntasks = 1",
        )
        .replace("steps = 40", "steps = 24\nschedule = \"wsd\"");
    folder.write("best.toml", &best);
    folder.write("small.toml", &RECIPE.replace("steps = 40", "steps = 12\nschedule = \"linear\""));
    let said = finished(&run(&folder, &["train", "best.toml", "--tui"]));
    for wanted in
        ["no terminal to draw on", "step 0: validation loss", "step 0: solved", "the result is the model of step"]
    {
        assert!(said.contains(wanted), "missing {wanted:?}: {said}");
    }
    finished(&run(&folder, &["train", "small.toml"]));
    let events = fs::read_dir(folder.join("runs/best/01-base/tensorboard")).expect("event files").count();
    assert_eq!(events, 1);

    assert_eq!(good(&folder, &["train", "report", "best", "runs/small/01-base", "-o", "page.html"]), "page.html\n");
    let page = fs::read_to_string(folder.join("page.html")).expect("it was written");
    for wanted in ["best/01-base", "small/01-base", "2 runs, side by side", "all parameters", "Expert load of"] {
        assert!(page.contains(wanted), "missing {wanted:?}");
    }
    good(&folder, &["train", "report", "small", "--title", "One & only", "-o", "one.html"]);
    assert!(fs::read_to_string(folder.join("one.html")).is_ok_and(|page| page.contains("<h1>One &amp; only</h1>")));
    let said = bad(&folder, 1, &["train", "report", "nothing", "-o", "x.html"]);
    assert!(said.contains("there is no metrics.jsonl in nothing or runs/nothing") && said.contains("hint: "), "{said}");
    bad(&folder, 2, &["train", "report", "small"]);
    bad(&folder, 2, &["train"]);
}
