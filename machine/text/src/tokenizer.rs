//! The tokenizer: text to token ids and back, byte-level BPE as in a Hugging Face `tokenizer.json`.

use crate::byte_alphabet;
use crate::control::{ControlToken, ControlTokens};
use crate::error::TextError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::Path;
use tokenizers::decoders::DecoderWrapper;

/// A token and the bytes of the text that it came from. Tokens that share one character have the same range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedToken {
    pub id: u32,
    pub range: Range<usize>,
    /// Was this matched as a control token?
    pub is_control: bool,
}

/// Text to tokens and back. Cheap to share between threads by reference or `Arc`.
pub struct Tokenizer {
    /// The model without its added tokens: whatever goes through here comes out as ordinary tokens.
    plain: tokenizers::Tokenizer,
    control: ControlTokens,
    /// The bytes of all tokens in one piece; token `i` is `bytes[ends[i - 1]..ends[i]]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    end_tokens: Vec<u32>,
    json: Vec<u8>,
    config: Value,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary_size", &self.vocabulary_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a model folder: `tokenizer.json`, and `tokenizer_config.json` and `generation_config.json` where present.
    pub fn open(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let json = std::fs::read(&path).map_err(|source| TextError::Read { path: path.clone(), source })?;
        let config = read_optional_json(&folder.join("tokenizer_config.json"))?;
        let generation = read_optional_json(&folder.join("generation_config.json"))?;
        Self::build(json, config, generation.as_ref(), &path.display().to_string())
    }

    /// Reads one `tokenizer.json`, with nothing known beside it.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let json = std::fs::read(path).map_err(|source| TextError::Read { path: path.into(), source })?;
        Self::build(json, None, None, &path.display().to_string())
    }

    /// Takes the content of a `tokenizer.json`.
    pub fn from_json(json: Vec<u8>) -> Result<Self, TextError> {
        Self::build(json, None, None, "given as JSON")
    }

    pub(crate) fn build(
        json: Vec<u8>,
        config: Option<Value>,
        generation: Option<&Value>,
        origin: &str,
    ) -> Result<Self, TextError> {
        let unusable = |reason: String| TextError::Tokenizer { origin: origin.into(), reason };
        #[derive(Deserialize)]
        struct Added {
            #[serde(default)]
            added_tokens: Vec<ControlToken>,
        }
        let added: Added = serde_json::from_slice(&json).map_err(|error| unusable(error.to_string()))?;
        let whole = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| unusable(error.to_string()))?;
        if !matches!(whole.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(unusable("want a byte-level BPE tokenizer (decoder ByteLevel), found another kind".into()));
        }
        let control = ControlTokens::new(added.added_tokens, origin)?;
        let plain = without_added_tokens(&whole).map_err(|error| unusable(error.to_string()))?;
        let (bytes, ends) = token_bytes_table(&plain, &control).map_err(unusable)?;
        let config = config.unwrap_or_else(|| config_for(control.iter()));
        let end_tokens = find_end_tokens(&control, &config, generation);
        Ok(Self { plain, control, bytes, ends, end_tokens, json, config })
    }

    /// Writes `tokenizer.json` (as it was read) and `tokenizer_config.json`.
    pub fn save(&self, folder: &Path) -> Result<(), TextError> {
        let write = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(|source| TextError::Write { path, source })
        };
        std::fs::create_dir_all(folder).map_err(|source| TextError::Write { path: folder.into(), source })?;
        write("tokenizer.json", &self.json)?;
        let mut config = serde_json::to_vec_pretty(&self.config).expect("a JSON value can always be written");
        config.push(b'\n');
        write("tokenizer_config.json", &config)
    }

    /// Ordinary text: nothing in it becomes a control token, `<|im_end|>` is ten characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoding = self.plain.encode_fast(text, false).expect("byte-level BPE covers every byte");
        encoding.get_ids().to_vec()
    }

    /// Text that we wrote ourselves: control tokens in it are recognised.
    pub fn encode_with_control(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut at = 0;
        for (range, id) in self.control.find(text, &[]) {
            self.encode_into(&mut ids, &text[at..range.start]);
            ids.push(id);
            at = range.end;
        }
        self.encode_into(&mut ids, &text[at..]);
        ids
    }

    /// Text of which the `protected` byte ranges (sorted, disjoint) were written by others: a control token is
    /// recognised only where none of it lies in them. Without control tokens in the protected parts this is
    /// `encode_with_control`.
    pub fn encode_guarded(&self, text: &str, protected: &[Range<usize>]) -> Vec<EncodedToken> {
        let mut tokens = Vec::new();
        let mut at = 0;
        for (range, id) in self.control.find(text, protected) {
            self.encode_ranges_into(&mut tokens, text, at..range.start);
            at = range.end;
            tokens.push(EncodedToken { id, range, is_control: true });
        }
        self.encode_ranges_into(&mut tokens, text, at..text.len());
        tokens
    }

    fn encode_into(&self, ids: &mut Vec<u32>, text: &str) {
        if !text.is_empty() {
            let encoding = self.plain.encode_fast(text, false).expect("byte-level BPE covers every byte");
            ids.extend_from_slice(encoding.get_ids());
        }
    }

    fn encode_ranges_into(&self, tokens: &mut Vec<EncodedToken>, text: &str, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        let start = part.start;
        let encoding = self.plain.encode(&text[part], false).expect("byte-level BPE covers every byte");
        let pairs = encoding.get_ids().iter().zip(encoding.get_offsets());
        tokens.extend(pairs.map(|(&id, &(from, to))| EncodedToken {
            id,
            range: start + from..start + to,
            is_control: false,
        }));
    }

    /// The text of these tokens, control tokens included; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_where(ids, |_| true)
    }

    /// The text of these tokens without the special ones (`<|im_end|>` and its like; `<tool_call>` is not special).
    pub fn decode_without_special(&self, ids: &[u32]) -> String {
        self.decode_where(ids, |id| !self.is_special(id))
    }

    fn decode_where(&self, ids: &[u32], keep: impl Fn(u32) -> bool) -> String {
        let bytes: Vec<u8> = ids.iter().filter(|&&id| keep(id)).flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; empty for an id that the vocabulary does not have (models pad their embeddings).
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// The id of a control token by its name, or of an ordinary token by its spelling in the vocabulary.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.control.id(name).or_else(|| self.plain.token_to_id(name))
    }

    /// The id of a control token that something cannot do without.
    pub fn control_id(&self, name: &str, needed_for: &'static str) -> Result<u32, TextError> {
        self.control.id(name).ok_or_else(|| TextError::MissingToken { name: name.into(), needed_for })
    }

    /// Is this one of the added tokens?
    pub fn is_control(&self, id: u32) -> bool {
        self.control.get(id).is_some()
    }

    /// Is this a control token that is never shown to a reader?
    pub fn is_special(&self, id: u32) -> bool {
        self.control.get(id).is_some_and(|token| token.special)
    }

    /// The names of all control tokens with their ids, in the order of the file.
    pub fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.control.iter().map(|token| (token.content.as_str(), token.id))
    }

    /// One more than the largest id. A model may have more rows than this, never fewer.
    pub fn vocabulary_size(&self) -> usize {
        self.ends.len()
    }

    /// The tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The tokens that end a fill-in-the-middle answer: those of a chat, and the ones that begin another file.
    pub fn fill_end_tokens(&self) -> Vec<u32> {
        let mut ends = self.end_tokens.clone();
        let names = ["<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];
        for id in names.iter().filter_map(|name| self.control.id(name)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    /// The token that fills unused places of a batch.
    pub fn pad_token(&self) -> Option<u32> {
        self.config_token("pad_token").or_else(|| self.control.id("<|endoftext|>"))
    }

    /// The text of a token named in `tokenizer_config.json`, such as `bos_token`.
    pub fn config_token_text(&self, key: &str) -> Option<&str> {
        token_text(self.config.get(key)?)
    }

    fn config_token(&self, key: &str) -> Option<u32> {
        self.control.id(self.config_token_text(key)?)
    }
}

/// The model, normaliser and pre-tokenizer of a tokenizer, without any added token, truncation or padding.
fn without_added_tokens(whole: &tokenizers::Tokenizer) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut plain = tokenizers::Tokenizer::new(whole.get_model().clone());
    plain.with_normalizer(whole.get_normalizer().cloned())?;
    plain.with_pre_tokenizer(whole.get_pre_tokenizer().cloned());
    plain.with_decoder(whole.get_decoder().cloned());
    Ok(plain)
}

/// The bytes of all tokens, end to end. Ids without a token get no bytes.
fn token_bytes_table(plain: &tokenizers::Tokenizer, control: &ControlTokens) -> Result<(Vec<u8>, Vec<u32>), String> {
    // Control tokens have the ids that the file gives them: the library counts on from its own vocabulary, and would
    // close a gap.
    let vocabulary = plain.get_vocab(false);
    let ids = vocabulary.values().copied().chain(control.iter().map(|token| token.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    if size > 1 << 24 {
        return Err(format!("want ids below {}, found {}", 1 << 24, size - 1));
    }
    let mut names: Vec<Option<&str>> = vec![None; size];
    for (name, &id) in &vocabulary {
        names[id as usize] = Some(name);
    }
    for token in control.iter() {
        names[token.id as usize] = Some(&token.content);
    }
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(size);
    for (id, name) in names.into_iter().enumerate() {
        match name {
            Some(name) if control.get(id as u32).is_some() => bytes.extend_from_slice(name.as_bytes()),
            // A token outside the alphabet can only be one that somebody put into the vocabulary by hand.
            Some(name) => bytes.extend(byte_alphabet::bytes_of(name).unwrap_or_else(|| name.as_bytes().to_vec())),
            None => {}
        }
        ends.push(bytes.len() as u32);
    }
    Ok((bytes, ends))
}

/// The end tokens in order of authority: `generation_config.json`, `tokenizer_config.json`, then the names that end a
/// turn or a text in this family.
fn find_end_tokens(control: &ControlTokens, config: &Value, generation: Option<&Value>) -> Vec<u32> {
    let mut ends = Vec::new();
    let mut add = |id: u32| {
        if !ends.contains(&id) {
            ends.push(id);
        }
    };
    match generation.and_then(|generation| generation.get("eos_token_id")) {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).for_each(|id| add(id as u32)),
        Some(Value::Number(id)) => id.as_u64().into_iter().for_each(|id| add(id as u32)),
        _ => {}
    }
    if let Some(id) = config.get("eos_token").and_then(token_text).and_then(|name| control.id(name)) {
        add(id);
    }
    ["<|im_end|>", "<|endoftext|>"].iter().filter_map(|name| control.id(name)).for_each(&mut add);
    ends
}

/// `tokenizer_config.json` writes a token as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A `tokenizer_config.json` that `transformers` loads, for a tokenizer that came without one.
pub(crate) fn config_for<'a>(tokens: impl Iterator<Item = &'a ControlToken>) -> Value {
    let entry = |token: &ControlToken| {
        let fields = json!({
            "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
            "rstrip": token.rstrip, "normalized": false, "special": token.special,
        });
        (token.id.to_string(), fields)
    };
    let decoder: Map<String, Value> = tokens.map(entry).collect();
    let named = |name: &str| {
        let is_there = decoder.values().any(|fields| fields["content"] == name);
        if is_there { json!(name) } else { Value::Null }
    };
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": null,
        "clean_up_tokenization_spaces": false,
        "eos_token": named("<|im_end|>"),
        "errors": "replace",
        "model_max_length": 1_048_576,
        "pad_token": named("<|endoftext|>"),
        "split_special_tokens": false,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
        "added_tokens_decoder": decoder,
    })
}

/// A JSON file that may be missing; one that is there must be readable.
pub(crate) fn read_optional_json(path: &Path) -> Result<Option<Value>, TextError> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TextError::Read { path: path.into(), source }),
    };
    let value = serde_json::from_slice(&content).map_err(|error| TextError::Tokenizer {
        origin: path.display().to_string(),
        reason: format!("want JSON: {error}"),
    })?;
    Ok(Some(value))
}
