//! The oracle's models, and a place for what tests write.

#![allow(dead_code, reason = "each test binary uses its part")]

use formats::TensorFile;
use models::{KvFormat, Model, State};
use ops::{Infer, Precision};
use std::path::{Path, PathBuf};

pub(crate) fn oracle(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case)
}

/// A folder of its own for one test, removed afterwards.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for a test");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The second sequence of a case, the longer one.
pub(crate) fn tokens(case: &str) -> Vec<u32> {
    let file = TensorFile::open(oracle(case).join("fixtures.safetensors")).expect("fixtures");
    let ids = file.get("seq1.input_ids").expect("ids").to_i64().expect("integers");
    ids.into_iter().map(|id| id as u32).collect()
}

/// Logits of all positions.
pub(crate) fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let h = models::hidden(&mut e, model, &mut [State::empty(&model.config, KvFormat::F32)], tokens, &[tokens.len()]);
    let rows: Vec<usize> = (0..tokens.len()).collect();
    models::logits(&mut e, model, &h, &rows).to_vec()
}

/// The same, a token at a time.
pub(crate) fn logits_one_by_one(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config, KvFormat::F32)];
    let one = |&token: &u32| {
        let h = models::hidden(&mut e, model, &mut states, &[token], &[1]);
        models::logits(&mut e, model, &h, &[0]).to_vec()
    };
    tokens.iter().flat_map(one).collect()
}

pub(crate) fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d.is_nan() { d } else { worst.max(d) })
}
