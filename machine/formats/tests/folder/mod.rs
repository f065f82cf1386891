//! A fresh folder for one test, under Cargo's own, and pieces to build files with by hand.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("an old test folder can be removed");
    }
    fs::create_dir_all(&folder).expect("a test folder can be made");
    folder
}

/// A safetensors file from its two parts, with a true length in front.
#[allow(dead_code, reason = "each test program uses its own part of this file")]
pub(crate) fn assemble(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[allow(dead_code, reason = "each test program uses its own part of this file")]
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
