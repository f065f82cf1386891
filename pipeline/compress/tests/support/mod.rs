//! The oracle's models, tokens to observe them on, and a place for what tests write.

#![allow(dead_code, reason = "each test binary uses its part")]

use models::{Loading, Model};
use std::path::{Path, PathBuf};

/// Of the sequences that [`tokens`] are.
pub(crate) const LENGTHS: [usize; 3] = [70, 50, 30];

pub(crate) fn oracle(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case)
}

pub(crate) fn open(case: &str) -> Model {
    Model::open(&oracle(case), Loading::F32).expect("the oracle's model opens")
}

pub(crate) fn tokens() -> Vec<u32> {
    (0..150).map(|i| (i * 37 + i * i * 5) % 512).collect()
}

/// Every tensor of two folders.
pub(crate) fn same(found: &Path, wanted: &Path) {
    let [found, wanted] = [found, wanted].map(|path| formats::Tensors::open(path).expect("a model"));
    assert_eq!(found.len(), wanted.len());
    for tensor in wanted.tensors() {
        let other = found.get(tensor.name).expect("the same names");
        assert_eq!((other.dtype, other.shape), (tensor.dtype, tensor.shape), "{}", tensor.name);
        assert!(other.bytes == tensor.bytes, "{} holds other numbers", tensor.name);
    }
}

/// A folder of its own for one test, removed afterwards.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for a test");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
