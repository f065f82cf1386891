//! The program as people start it, on a model made on the fly.

#![allow(dead_code, reason = "each test binary uses its part")]

use models::{Config, Model};
use numeric::Format;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use text::{Template, Tokenizer};

/// A folder of its own for one test, removed afterwards.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path
    }

    /// A small hybrid model with a tokenizer, in the folder `name`.
    pub(crate) fn model(&self, name: &str) -> PathBuf {
        self.model_of(name, |config| config)
    }

    /// As [`Self::model`], with another configuration.
    pub(crate) fn model_of(&self, name: &str, change: impl Fn(String) -> String) -> PathBuf {
        let directory = self.join(name);
        std::fs::create_dir_all(&directory).expect("the folder can be made");
        let text = fixtures().join("text/tokenizer_tiny");
        let tokenizer = Tokenizer::open(&text).expect("the fixture opens");
        let config =
            Config::from_json(&change(config(tokenizer.vocabulary_size()))).expect("the configuration is valid");
        Model::random(config, 1).save(&directory, Format::F32).expect("it is saved");
        tokenizer.save(&directory).expect("it is saved");
        Template::open(&text).expect("the fixture opens").save(&directory).expect("it is saved");
        directory
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

pub(crate) fn config(vocabulary: usize) -> String {
    format!(
        r#"{{"model_type": "qwen3_next", "head_dim": 16, "hidden_size": 32, "intermediate_size": 48,
        "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
        "max_position_embeddings": 1024, "moe_intermediate_size": 32, "norm_topk_prob": true, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1,
        "partial_rotary_factor": 0.25, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "shared_expert_intermediate_size": 32, "tie_word_embeddings": false, "vocab_size": {vocabulary}}}"#
    )
}

pub(crate) fn lateen(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lateen"));
    command.current_dir(folder.path()).env("HOME", folder.path()).stdin(std::process::Stdio::null());
    command
}

pub(crate) fn run(folder: &Folder, arguments: &[&str]) -> Output {
    lateen(folder).args(arguments).output().expect("the program starts")
}

/// Standard output of a run that must succeed.
pub(crate) fn good(folder: &Folder, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "lateen {arguments:?} failed:\n{}", errors(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Standard error of a run that must fail with this exit code.
pub(crate) fn bad(folder: &Folder, code: i32, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(code), "lateen {arguments:?} said:\n{said}");
    said
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
