//! `lateen doctor`: whether this machine can do what the program is for, told in one screen.

use crate::place::{Speaking, sandbox};
use crate::terminal::{put, put_json};
use anyhow::{Result, bail};
use clap::Args;
use environment::{Limits, Probe};
use evaluate::table::{bytes_in_words, duration_in_words};
use evaluate::{SpeedSettings, Table, speed};
use models::Loading;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use sysinfo::{Disks, System};

/// Check this machine: processor, memory, disk, the model that comes with the program, the sandbox
#[derive(Args)]
pub(crate) struct Arguments {
    /// The model to try
    #[arg(long, default_value = "tiny")]
    model: String,
    /// Machine-readable
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    good: bool,
    found: String,
    seconds: f64,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let checks = [
        check("program", || Ok(format!("lateen {} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))),
        check("processor", || Ok(processor())),
        check("memory", memory),
        check("disk", disk),
        check("model", || model(&arguments.model)),
        check("sandbox", sandbox_holds),
    ];
    let failed = checks.iter().filter(|check| !check.good).count();
    if arguments.json {
        put_json(&checks)?;
    } else {
        let mut table = Table::new(&["check", "found", "time"]);
        for check in &checks {
            let mark = if check.good { "ok  " } else { "BAD " };
            let time = duration_in_words(Duration::from_secs_f64(check.seconds));
            table.push(vec![format!("{mark}{}", check.name), check.found.clone(), time]);
        }
        put(&table.to_list())?;
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}

fn check(name: &'static str, find: impl FnOnce() -> Result<String>) -> Check {
    let began = Instant::now();
    let found = find();
    let seconds = began.elapsed().as_secs_f64();
    match found {
        Ok(found) => Check { name, good: true, found, seconds },
        Err(error) => Check { name, good: false, found: format!("{error:#}"), seconds },
    }
}

fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sets = instruction_sets();
    let sets = if sets.is_empty() { "no vector instructions that we use".to_owned() } else { sets.join(" ") };
    format!("{threads} threads, {sets}")
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let sets = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    sets.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    let sets = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    sets.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

fn memory() -> Result<String> {
    let mut system = System::new()?;
    system.refresh_memory();
    let (total, free) = (system.total_memory(), system.available_memory());
    if free < 500_000_000 {
        bail!(
            "only {} of {} are free; training the tiny model wants 500 MB",
            bytes_in_words(free),
            bytes_in_words(total)
        );
    }
    Ok(format!("{} free of {}", bytes_in_words(free), bytes_in_words(total)))
}

fn disk() -> Result<String> {
    let here = std::env::current_dir()?;
    let free = free_bytes(&here);
    let Some(free) = free else { return Ok("the system does not say".into()) };
    if free < 500_000_000 {
        bail!("only {} are free in {}; a build wants 500 MB", bytes_in_words(free), here.display());
    }
    // A quota or a read-only folder does not show in the free space.
    let probe = here.join(format!(".lateen-doctor-{}.tmp", std::process::id()));
    let written = std::fs::write(&probe, [0u8; 4096]);
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => Ok(format!("{} free here", bytes_in_words(free))),
        Err(error) => bail!("{} cannot be written to: {error}", here.display()),
    }
}

/// Free bytes of the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let disks = Disks::new_with_refreshed_list().ok()?;
    let holding = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    holding.max_by_key(|disk| disk.mount_point().as_os_str().len()).map(|disk| disk.available_space())
}

fn model(name: &str) -> Result<String> {
    let speaking = Speaking::open(name, Loading::Packed)?;
    let measured = speed(&speaking.model, &SpeedSettings { repetitions: 1, ..SpeedSettings::default() })?;
    Ok(format!(
        "{}: {}, prefill {:.0} and decode {:.0} tokens/s",
        speaking.place.display(),
        bytes_in_words(speaking.model.bytes() as u64),
        measured.prefill_tokens_per_second,
        measured.decode_tokens_per_second
    ))
}

fn sandbox_holds() -> Result<String> {
    let limits = Limits { duration: Duration::from_millis(500), ..Limits::default() };
    let sandbox = sandbox()?.limited(limits);
    let probe = [Probe { setup: Vec::new(), call: "double(21)".into() }];
    let good = sandbox.evaluate("def double(x):\n    return 2 * x\n", &probe);
    if !good.answers.first().is_some_and(|answer| answer.is("42")) {
        bail!("a correct program did not run: {}", good.failure.unwrap_or_else(|| "wrong answer".into()));
    }
    let attacks = [
        ("an endless loop", "while True:\n    pass\n"),
        ("a program that takes all memory", "x = []\nwhile True:\n    x.append('a' * 1000000)\n"),
        ("a program that opens a file", "open('/etc/passwd').read()\n"),
        ("a program that opens a connection", "import socket\nsocket.socket()\n"),
    ];
    for (what, program) in attacks {
        if sandbox.evaluate(program, &[]).failure.is_none() {
            bail!("{what} was not stopped");
        }
    }
    Ok("runs programs; stops endless loops, memory hogs, files and sockets".into())
}
