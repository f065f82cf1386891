//! Puts the base model into the program, where the project has one, so that it can be tried without any file beside it,
//! and the commit, so that measurements say of what they are.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// `LATEEN_COMMIT` is the commit of the project that `inside` lies in; it is not set where there is no repository.
fn name_commit(inside: &Path) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(inside).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    println!("cargo::rustc-env=LATEEN_COMMIT={commit}");
    // It changes with every commit and checkout. Cargo takes a path that is not there for one that has changed.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && Path::new(&log).is_file()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}

fn main() -> io::Result<()> {
    let variable = |name: &str| env::var_os(name).ok_or_else(|| io::Error::other(format!("cargo sets {name}")));
    // Asked when it runs: with one target folder for several clones, this script may have been built for another.
    let base = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../fixtures/base");
    let out = PathBuf::from(variable("OUT_DIR")?);
    name_commit(&variable("CARGO_MANIFEST_DIR").map(PathBuf::from)?);
    println!("cargo::rerun-if-env-changed=CARGO_MANIFEST_DIR");
    // Cargo watches the folder above too: it is there before the model is.
    println!("cargo::rerun-if-changed=../fixtures/base");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files: Vec<PathBuf> = match fs::read_dir(&base) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    if !files.iter().any(|path| path.ends_with("config.json")) {
        files.clear();
    }
    let mut fingerprint = 0xCBF2_9CE4_8422_2325_u64;
    let mut list = String::new();
    for path in &files {
        let bytes = fs::read(path)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for &byte in name.as_bytes().iter().chain(&bytes) {
            fingerprint = (fingerprint ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        // A copy beside the list, so that the list names no place outside of the target folder.
        fs::write(out.join(name), &bytes)?;
        let place = format!("concat!(env!(\"OUT_DIR\"), {:?})", format!("/{name}"));
        writeln!(list, "    ({name:?}, include_bytes!({place})),").map_err(io::Error::other)?;
    }
    let source = format!(
        "/// Name and content of each file of the base model; empty where the project had none.\n\
         pub(crate) const FILES: &[(&str, &[u8])] = &[\n{list}];\n\
         /// Changes when any of the files does.\n\
         pub(crate) const FINGERPRINT: &str = \"{fingerprint:016x}\";\n"
    );
    fs::write(out.join("shipped.rs"), source)
}
