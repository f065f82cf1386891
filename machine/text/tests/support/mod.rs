//! What the tests share: fixtures, and text to try things on.
#![allow(dead_code, reason = "each test binary uses a part")]

use serde_json::Value;
use std::path::PathBuf;
use text::{Message, Tokenizer, ToolDefinition};

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

pub(crate) fn qwen() -> Tokenizer {
    Tokenizer::open(&fixture("tokenizer_qwen")).unwrap()
}

pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::open(&fixture("tokenizer_tiny")).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// One conversation of `trl/samples.json`.
pub(crate) struct Sample {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<ToolDefinition>,
    pub(crate) expected: Value,
}

pub(crate) fn samples() -> Vec<Sample> {
    let read = |sample: &Value| Sample {
        messages: sample["messages"].as_array().unwrap().iter().map(|m| Message::from_json(m).unwrap()).collect(),
        tools: sample["tools"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|t| ToolDefinition::from_json(t).unwrap())
            .collect(),
        expected: sample.clone(),
    };
    let samples: Vec<Sample> = json("trl/samples.json").as_array().unwrap().iter().map(read).collect();
    assert_eq!(samples.len(), 6);
    samples
}

/// A small generator of numbers, so that tests try the same things on every machine (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    pub(crate) fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// A text of words, signs and scripts, with parts of control tokens among them.
    pub(crate) fn text(&mut self, parts: usize) -> String {
        const PARTS: &[&str] = &[
            "hello",
            " world",
            "\n",
            "\n\n",
            "  ",
            "\t",
            "fn main() {}",
            "123",
            "é",
            "ß",
            "中文",
            "한국어",
            "नमस्ते",
            "🦀",
            "👨‍👩‍👧",
            "\u{301}",
            "'s",
            "<",
            ">",
            "|",
            "<|",
            "|>",
            "im_end",
            "<|im_end|>",
            "<tool_call>",
            "</",
            "think",
            "\r\n",
            "\u{0}",
            "\"",
            "\\",
            "{}",
            "tool_call",
            "\u{F0000}",
            "\u{10FFFD}",
            "\u{feff}",
        ];
        (0..self.below(parts + 1)).map(|_| self.pick(PARTS)).collect()
    }
}
