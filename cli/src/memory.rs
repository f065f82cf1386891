//! Memory: how keys and values are kept, what a model will take, and what the machine has.

use crate::control_group;
use crate::failure::Problem;
use anyhow::Result;
use clap::{Args, ValueEnum};
use evaluate::table::bytes_in_words;
use kernels::kv_page::PAGE_TOKENS;
use models::{Config, KvFormat, Loading, Model, Plan, PlanSettings, Quantization};
use numeric::Format;
use serde::Serialize;
use std::path::Path;
use sysinfo::System;

/// How a model that runs keeps keys and values.
#[derive(Args, Clone, Copy)]
pub(crate) struct KvArguments {
    /// How keys and values of earlier tokens are kept; int8 takes half of f16
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    kv: KvName,
}

/// How long a text a model that runs shall take.
#[derive(Args, Clone, Copy)]
pub(crate) struct ContextArguments {
    /// Tokens of the context, prompt and answer together; if not given 8192, or more for a longer prompt
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
}

impl ContextArguments {
    /// Room for one sequence that needs so many tokens.
    pub(crate) fn settings(self, needed: usize, kv: KvArguments, config: &Config) -> Result<PlanSettings> {
        let context = context_of(self.context, needed, config)?;
        Ok(PlanSettings::one(context, kv.format(), kernels::pool::threads()))
    }
}

/// How a model goes through a text.
#[derive(Args, Clone, Copy)]
pub(crate) struct PassArguments {
    /// Tokens in one pass of a prefill
    #[arg(long, default_value_t = 512, value_parser = at_most_many)]
    pub(crate) pass_tokens: usize,
    /// Threads; all processors if not given
    #[arg(long, value_parser = at_most_many)]
    threads: Option<usize>,
}

impl PassArguments {
    /// Before anything runs.
    pub(crate) fn set_threads(self) {
        if let Some(threads) = self.threads {
            kernels::pool::set_threads(threads);
        }
    }
}

/// From 1 to 65536: more is a slip of the hand.
pub(crate) fn at_most_many(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1 << 16).contains(number));
    number.ok_or_else(|| "want a whole number from 1 to 65536".to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvName {
    F16,
    Int8,
    F32,
}

impl KvArguments {
    pub(crate) fn format(self) -> KvFormat {
        self.kv.format()
    }
}

impl KvName {
    pub(crate) fn format(self) -> KvFormat {
        match self {
            Self::F16 => KvFormat::F16,
            Self::Int8 => KvFormat::Int8,
            Self::F32 => KvFormat::F32,
        }
    }
}

/// As `--kv` takes it.
pub(crate) fn name_of(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F16 => "f16",
        KvFormat::Int8 => "int8",
        KvFormat::F32 => "f32",
    }
}

/// Tokens of a sequence for which room is planned if nobody says how many.
const CONTEXT_TOKENS: usize = 8192;

/// The context that was asked for, or the usual one, or the longer one that is `needed`.
pub(crate) fn context_of(asked: Option<usize>, needed: usize, config: &Config) -> Result<usize> {
    let most = config.positions_max;
    match asked {
        Some(asked) if !(1..=most).contains(&asked) => {
            let message = format!("--context {asked} is not from 1 to {most}, which is what the model can take");
            Err(Problem::new(message, "leave it out for the usual one").into())
        }
        asked => Ok(asked.unwrap_or(CONTEXT_TOKENS.max(needed).min(most))),
    }
}

/// Memory of this machine, as this process may have it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Machine {
    total: u64,
    available: u64,
    /// What the control group of the process may take at most, if that is less than the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let memory = System::new().map(|mut system| {
            system.refresh_memory();
            (system.total_memory(), system.available_memory())
        });
        // A system that does not say how much it has refuses nothing.
        let (total, available) = memory.unwrap_or((u64::MAX, u64::MAX));
        match control_group::memory() {
            Some((limit, free)) if limit < total => Self { total, available: available.min(free), limit: Some(limit) },
            _ => Self { total, available, limit: None },
        }
    }

    /// Bytes that are available.
    pub(crate) fn available(&self) -> u64 {
        self.available
    }

    /// Whether so many bytes are available.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        bytes as u64 <= self.available
    }

    pub(crate) fn in_words(&self) -> String {
        let limit = self
            .limit
            .map_or_else(String::new, |limit| format!(", of which this process may have {}", bytes_in_words(limit)));
        format!("{} available of {}{limit}", bytes_in_words(self.available), bytes_in_words(self.total))
    }
}

/// `4GB`, `500 MB`, `3.5GiB`, or a plain number of bytes.
pub(crate) fn bytes_from_words(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("want a number with MB, GB, MiB or GiB, such as 4GB".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e18 => Ok((number * factor) as u64),
        _ => Err("want a number above 0, such as 4GB".to_owned()),
    }
}

/// A plan beside the machine that it is for.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) settings: PlanSettings,
    pub(crate) machine: Machine,
}

impl Planned {
    pub(crate) fn of(outline: &Model, loading: Loading, settings: PlanSettings) -> Self {
        Self { plan: Plan::of(outline, loading, &settings), settings, machine: Machine::here() }
    }

    /// As it is, beside another model.
    pub(crate) fn beside(self, other: &Self) -> Self {
        Self { plan: self.plan.beside(other.plan), ..self }
    }

    /// Refuses what does not fit, with the numbers and with what would; `outline` is the model in `place`.
    pub(crate) fn check(&self, outline: &Model, loading: Loading, place: &Path) -> Result<()> {
        if self.fits() {
            return Ok(());
        }
        let Plan { weights, cache, recurrent, forward, .. } = self.plan;
        let words = |bytes: usize| bytes_in_words(bytes as u64);
        let message = format!(
            "{} does not fit into memory: it takes {} (weights {}, keys and values of {} tokens in {} {}, \
             other state {}, forward buffers {}), and {} are available",
            place.display(),
            words(self.plan.total()),
            words(weights),
            self.settings.context,
            name_of(self.settings.kv),
            words(cache),
            words(recurrent),
            words(forward),
            bytes_in_words(self.machine.available),
        );
        let ways = self.ways_to_fit(outline, loading, place);
        let hint = match ways.is_empty() {
            true => "close other programs, or take a smaller model".to_owned(),
            false => ways.join("; or "),
        };
        Err(Problem::new(message, hint).into())
    }

    /// What a person could change, whether or not it is enough by itself.
    fn ways_to_fit(&self, outline: &Model, loading: Loading, place: &Path) -> Vec<String> {
        let mut ways = Vec::new();
        match self.context_max() {
            0 => {}
            context => ways.push(format!("--context {context} fits")),
        }
        let settings = PlanSettings { kv: KvFormat::Int8, ..self.settings };
        let saved = self.plan.cache.saturating_sub(Plan::of(outline, loading, &settings).cache);
        if self.settings.kv != KvFormat::Int8 && saved > 0 {
            ways.push(format!("--kv int8 takes {} less", bytes_in_words(saved as u64)));
        }
        let rounding = Loading::Quantized(Quantization::to(Format::Nvfp4));
        if loading == Loading::Packed
            && let Ok(rounded) = Model::outline(place, rounding)
        {
            let saved = outline.bytes().saturating_sub(rounded.bytes());
            ways.push(format!("--quantize nvfp4 takes {} less", bytes_in_words(saved as u64)));
        }
        ways
    }

    pub(crate) fn fits(&self) -> bool {
        self.machine.has(self.plan.total())
    }

    /// Tokens of a sequence with which it fits; 0 where no context is short enough.
    pub(crate) fn context_max(&self) -> usize {
        let Plan { weights, program, recurrent, forward, loading, cache, .. } = self.plan;
        let without = weights + program + (recurrent + forward).max(loading);
        let pages = self.settings.context.div_ceil(PAGE_TOKENS);
        let left = (self.machine.available as usize).saturating_sub(without);
        // A model without attention remembers any context in the same memory.
        match cache / pages.max(1) {
            0 if left > 0 => usize::MAX,
            0 => 0,
            page => left / page * PAGE_TOKENS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, wanted) in [("4GB", 4_000_000_000), ("500 MB", 500_000_000), ("1.5GiB", 1_610_612_736), ("77", 77)] {
            assert_eq!(bytes_from_words(text), Ok(wanted), "{text}");
        }
        for text in ["", "GB", "-4GB", "4 apples", "0", "1e9", "1.2.3GB"] {
            assert!(bytes_from_words(text).is_err(), "{text}");
        }
    }
}
