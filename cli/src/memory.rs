//! Memory that a person decides about: how keys and values are kept.

use clap::{Args, ValueEnum};
use models::KvFormat;

/// How a model that runs keeps keys and values.
#[derive(Args, Clone, Copy)]
pub(crate) struct KvArguments {
    /// How keys and values of earlier tokens are kept; int8 takes half of f16
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    kv: KvName,
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
