//! Records of measurements: what was found, with when, where and by which build, in a file of its own.

use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use sysinfo::{CpuRefreshKind, System};

#[derive(Serialize)]
struct Record<'a, T> {
    /// In UTC.
    date: String,
    version: &'static str,
    /// That the program was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    machine: Machine,
    #[serde(flatten)]
    findings: &'a T,
}

#[derive(Serialize)]
struct Machine {
    processor: String,
    /// That the program may use.
    threads: usize,
    memory_bytes: u64,
    system: &'static str,
}

impl Machine {
    fn here() -> Result<Self> {
        let mut system = System::new()?;
        system.refresh_memory();
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        let brand = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
        let processor = if brand.is_empty() { std::env::consts::ARCH } else { brand };
        Ok(Self {
            processor: processor.to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system.total_memory(),
            system: std::env::consts::OS,
        })
    }
}

/// Writes `folder/<model>-<date>.json`; returns where.
pub(crate) fn write(folder: &Path, model: &str, findings: &impl Serialize) -> Result<PathBuf> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?;
    let date = date(since);
    let commit = option_env!("LATEEN_COMMIT").filter(|commit| !commit.is_empty());
    let record = Record { date, version: env!("CARGO_PKG_VERSION"), commit, machine: Machine::here()?, findings };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Some systems have no colons in names.
    let path = folder.join(format!("{}-{}.json", file_name(model), record.date.replace(':', "")));
    formats::write_json(&path, &record)?;
    Ok(path)
}

/// The last part of a model's place, as part of a file's name.
fn file_name(model: &str) -> String {
    let path = Path::new(model);
    let last =
        if path.extension().is_some_and(|ending| ending == "gguf") { path.file_stem() } else { path.file_name() };
    let last = last.map_or_else(|| "model".into(), |last| last.to_string_lossy());
    last.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

/// `2026-11-28T00:41:55Z`. Days become a date as in Howard Hinnant's `civil_from_days`.
fn date(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_795_825_315, "2026-11-28T00:21:55Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), wanted);
        }
    }

    #[test]
    fn a_model_gives_its_name_to_a_file() {
        for (model, wanted) in [
            ("models/next64-Q4_K_M.gguf", "next64-Q4_K_M"),
            ("runs/tiny/05-quantize", "05-quantize"),
            ("qwen2.5-coder-3b", "qwen2.5-coder-3b"),
            ("a b/c:d", "c-d"),
            ("..", "model"),
        ] {
            assert_eq!(file_name(model), wanted);
        }
    }
}
