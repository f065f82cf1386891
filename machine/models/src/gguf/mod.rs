//! A model out of a GGUF file: what llama.cpp's converter makes of the architectures of this family.

mod config;
mod names;
mod source;

pub(crate) use source::GgufSource;
