//! Chores of the house: `cargo xtask tidy` checks what the compiler cannot, `bench` and `parity` measure only what
//! passes.

mod edges;
mod layout;
mod size;
mod source;
mod tidy;
mod unsafety;
mod words;
mod wrap;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask tidy            checks the house: edges, unsafe, sizes, names, words
cargo xtask tidy --shrink   lowers tidy-exceptions.txt to the truth
cargo xtask tidy --wrap P…  folds comments wider than the limit in the files under the paths P
cargo xtask bench [ARGS]    the kernels' tests, and if they pass, `lateen bench ARGS` in release
cargo xtask parity          every test that holds our numbers to a reference, in release";

/// The test programs that hold our numbers to numbers made by others.
const PARITY: [&str; 12] = [
    "nextest",
    "run",
    "--release",
    "-p=models",
    "-p=train",
    "-p=text",
    "--test=oracle",
    "--test=trl",
    "--test=tokenizer",
    "--test=chat",
    "--no-fail-fast",
    "--cargo-quiet",
];

/// One thing that is not as it should be.
#[derive(Debug)]
struct Finding {
    place: String,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.message)
    }
}

fn root() -> PathBuf {
    // Cargo's word when it runs; the compiler's may be of another clone that has the same target folder.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().expect("xtask is a folder of the workspace").to_owned()
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy(),
        ["tidy", "--shrink"] => tidy::House::read(&root()).and_then(|house| house.shrink()).map(|()| true),
        ["tidy", "--wrap", paths @ ..] if !paths.is_empty() => {
            tidy::House::read(&root()).and_then(|house| house.wrap(paths))
        }
        ["bench", rest @ ..] => bench(rest),
        ["parity"] => cargo(&PARITY),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "a tool for people")]
fn tidy() -> io::Result<bool> {
    let house = tidy::House::read(&root())?;
    let findings = house.check()?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("{} files, {} findings", house.n_files(), findings.len());
    Ok(findings.is_empty())
}

/// A figure of speed is worth nothing from a kernel that is wrong, so the gate comes first.
#[allow(clippy::print_stderr, reason = "a tool for people")]
fn bench(arguments: &[&str]) -> io::Result<bool> {
    if !cargo(&["test", "--quiet", "--package", "kernels"])? {
        eprintln!("the kernels' tests fail, so there is no speed to report");
        return Ok(false);
    }
    let mut command = vec!["run", "--release", "--package", "lateen", "--", "bench"];
    command.extend(arguments);
    cargo(&command)
}

fn cargo(arguments: &[&str]) -> io::Result<bool> {
    Ok(Command::new(env!("CARGO")).args(arguments).current_dir(root()).status()?.success())
}
