//! What the tests share: a folder of a test's own, and a tokenizer.

#![allow(dead_code, reason = "each test binary uses its part")]

use prepare::{FileRecipe, PrepareError, Raw};
use std::path::{Path, PathBuf};
use text::Tokenizer;

pub(crate) fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"))
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixtures().join("text/tokenizer_tiny")).expect("the small tokenizer")
}

/// Removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lateen-prepare-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn documents(recipe: &FileRecipe) -> Result<Vec<Raw>, PrepareError> {
    recipe.documents(7)?.collect()
}
