//! A tokenizer from lists: those that a training just made, or those that a GGUF file carries. Both become the
//! `tokenizer.json` that a model folder would have, so that there is one way to read a tokenizer.

use crate::byte_alphabet;
use crate::control::ControlToken;
use crate::error::{TextError, shortened};
use crate::tokenizer::{Tokenizer, config_for};
use crate::train::{CONTROL_TOKENS, WORD_PATTERN};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// The vocabulary of a byte-level tokenizer with Qwen's word pattern, as GGUF lists it.
#[derive(Debug, Clone, Default)]
pub struct TokenLists<'a> {
    /// Every token at the place of its id.
    pub tokens: Vec<&'a str>,
    /// What each token is: 1 ordinary, 2 unknown, 3 control, 4 added by a user, 5 unused, 6 a byte.
    pub types: Vec<i64>,
    /// Pairs of tokens with a space between them, the ones to be merged first at the front.
    pub merges: Vec<&'a str>,
    /// The tokens that end an answer, the one that ends a sequence first.
    pub end_tokens: Vec<u32>,
    pub pad_token: Option<u32>,
}

const ORDINARY: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const ADDED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// What the lists come to.
struct Sorted<'a> {
    ordinary: Map<String, Value>,
    control: Vec<ControlToken>,
    merges: Vec<[&'a str; 2]>,
}

impl TokenLists<'_> {
    /// The tokenizer that the lists describe; `origin` is named in errors.
    pub fn tokenizer(&self, origin: &str) -> Result<Tokenizer, TextError> {
        let unusable = |reason: String| TextError::Tokenizer { origin: origin.into(), reason };
        let sorted = self.sorted().map_err(unusable)?;
        let named = |id: u32| match self.tokens.get(id as usize) {
            Some(name) => Ok(*name),
            None => Err(unusable(format!("an end or pad token has id {id}, there are {} tokens", self.tokens.len()))),
        };
        let mut config = config_for(sorted.control.iter());
        for (key, id) in [("eos_token", self.end_tokens.first().copied()), ("pad_token", self.pad_token)] {
            if let Some(id) = id {
                config[key] = json!(named(id)?);
            }
        }
        self.end_tokens.iter().try_for_each(|&id| named(id).map(|_| ()))?;
        let generation = json!({ "eos_token_id": self.end_tokens });
        let json = tokenizer_json(sorted.ordinary, &sorted.merges, &sorted.control);
        Tokenizer::build(json, Some(config), Some(&generation), origin)
    }

    fn sorted(&self) -> Result<Sorted<'_>, String> {
        if self.types.len() != self.tokens.len() {
            return Err(format!("it has {} tokens and the types of {}", self.tokens.len(), self.types.len()));
        }
        let (mut ordinary, mut control, mut names) = (Map::new(), Vec::new(), HashSet::new());
        for (id, (&name, &of_type)) in self.tokens.iter().zip(&self.types).enumerate() {
            // Rows beyond the vocabulary have names so that there is one for each; old converters call them added.
            let fills_up = of_type == UNUSED || (of_type == ADDED && name == format!("[PAD{id}]"));
            if fills_up {
                continue;
            }
            if !names.insert(name) {
                return Err(format!("the token {} occurs twice", shortened(&name.escape_debug())));
            }
            match of_type {
                ORDINARY | UNKNOWN | BYTE => drop(ordinary.insert(name.to_owned(), json!(id))),
                CONTROL | ADDED => control.push(ControlToken {
                    id: id as u32,
                    content: name.to_owned(),
                    special: of_type == CONTROL && !is_shown(name),
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                }),
                other => return Err(format!("token {id} is of type {other}, want 1 to 6")),
            }
        }
        if let Some(byte) = (0..=255).find(|&byte| !ordinary.contains_key(&byte_alphabet::written(&[byte]))) {
            return Err(format!("no token stands for the byte {byte:#04x}, so not every text can be written"));
        }
        let merges = self.merges.iter().map(|merge| pair(merge, &ordinary)).collect::<Result<_, _>>()?;
        Ok(Sorted { ordinary, control, merges })
    }
}

/// The two sides of a merge. They and what they become are ordinary tokens: no text may grow into a control token.
fn pair<'m>(merge: &'m str, ordinary: &Map<String, Value>) -> Result<[&'m str; 2], String> {
    let shown = || shortened(&merge.escape_debug());
    let (left, right) = merge.split_once(' ').ok_or_else(|| format!("the merge {} is no pair", shown()))?;
    let is_known = |token: &str| ordinary.contains_key(token);
    if !(is_known(left) && is_known(right) && is_known(&[left, right].concat())) {
        return Err(format!("the merge {} is not of ordinary tokens into one", shown()));
    }
    Ok([left, right])
}

/// llama.cpp's converter writes whatever looks like `<|…|>` as a control token, special or not: for the tokens of this
/// family we know better.
fn is_shown(name: &str) -> bool {
    CONTROL_TOKENS.iter().any(|&(known, special)| known == name && !special)
}

/// A `tokenizer.json` of this family.
pub(crate) fn tokenizer_json(ids: Map<String, Value>, merges: &[[&str; 2]], control: &[ControlToken]) -> Vec<u8> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let added = control.iter().map(|token| {
        json!({
            "id": token.id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
            "rstrip": token.rstrip, "normalized": false, "special": token.special,
        })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORD_PATTERN}, "behavior": "Isolated", "invert": false}, byte_level,
        ]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": ids, "merges": merges,
        },
    });
    serde_json::to_vec(&tokenizer).expect("a JSON value can always be written")
}
