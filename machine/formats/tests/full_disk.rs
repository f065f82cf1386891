//! Out of room: a clear error, the old file unharmed, nothing half-written. A limit on file size, set by the shell for
//! a child, stands in for the full disk: the system refuses at the same places, and no privileges are needed.
#![cfg(target_os = "linux")]

mod folder;

use folder::{fresh, names_in};
use formats::{DType, FormatsError, TensorPlan, write_atomically};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Whether this process is the child that has the limit.
fn is_limited() -> bool {
    let limits = fs::read_to_string("/proc/self/limits").expect("Linux tells a process its limits");
    let line = limits.lines().find(|line| line.starts_with("Max file size")).expect("the file size is among them");
    line.split_whitespace().nth(3) == Some("65536")
}

/// Runs the named test of this very program under a limit of 64 KiB a file.
fn run_limited(test: &str) {
    let program = std::env::current_exe().expect("a test knows itself");
    // The signal is ignored, so that the write fails with an error as it does on a full disk.
    let script = r#"trap "" XFSZ; ulimit -f 64; exec "$0" --exact "$1""#;
    let output = Command::new("bash").args(["-c", script]).arg(program).arg(test).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_room_for_a_model() {
    if is_limited() {
        return write_a_model();
    }
    let folder = fresh("no_room");
    fs::write(folder.join("model.safetensors"), "the old one").expect("writes");
    run_limited("no_room_for_a_model");
    assert_eq!(names_in(&folder), ["model.safetensors"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("reads"), b"the old one");
}

fn write_a_model() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_room");
    let mut plan = TensorPlan::new();
    plan.declare("large", DType::U8, &[200_000]);
    let wanted = plan.bytes();
    // Refused when it begins where the file system reserves, else at the write.
    let outcome = plan.create_model(&folder, 1 << 30).and_then(|mut writer| {
        writer.write("large", &vec![1; 200_000])?;
        writer.finish()
    });
    let error = outcome.expect_err("there is no room");
    let FormatsError::Full { path, bytes_wanted, .. } = &error else { panic!("{error}") };
    assert_eq!(path.file_name().expect("a name"), "model.safetensors");
    assert!(*bytes_wanted > wanted, "{bytes_wanted} bytes do not include the header");
    assert!(error.to_string().contains("free some space"), "{error}");
}

#[test]
fn no_room_for_a_report() {
    if is_limited() {
        return write_a_report();
    }
    let folder = fresh("no_room_report");
    fs::write(folder.join("report.json"), "the old one").expect("writes");
    run_limited("no_room_for_a_report");
    assert_eq!(names_in(&folder), ["report.json"]);
    assert_eq!(fs::read(folder.join("report.json")).expect("reads"), b"the old one");
}

fn write_a_report() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_room_report").join("report.json");
    let outcome = write_atomically(&path, |writer| (0..3000).try_for_each(|_| writer.write_all(&[b'x'; 100])));
    let error = outcome.expect_err("there is no room");
    assert!(matches!(error, FormatsError::Full { bytes_wanted, .. } if bytes_wanted > 65_536), "{error}");
}
