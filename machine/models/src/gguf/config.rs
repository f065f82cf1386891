//! The numbers of a model from the metadata of a GGUF file. They are translated into a `config.json`, so that one place
//! checks them. No default of any library stands in for a key that is missing.

use crate::{Config, ModelError};
use formats::Gguf;
use formats::gguf::Value;
use serde_json::{Map, Value as Json, json};

/// The names of an architecture in GGUF and in `transformers`.
const ARCHITECTURES: [(&str, &str); 4] =
    [("qwen2", "qwen2"), ("qwen3", "qwen3"), ("qwen3moe", "qwen3_moe"), ("qwen3next", "qwen3_next")];

/// Metadata of one architecture; errors name the file and the whole key.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    fn problem(&self, problem: String) -> ModelError {
        ModelError::Config { path: self.gguf.path().to_owned(), problem }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.gguf.value(&self.name(key))
    }

    fn found<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.problem(format!("the key {} is {value}, want {wanted}", self.name(key)));
        Ok(Some(read(value).ok_or_else(wrong)?))
    }

    fn needed<T>(&self, key: &str, found: Option<T>) -> Result<T, ModelError> {
        found.ok_or_else(|| self.problem(format!("the key {} is missing", self.name(key))))
    }

    fn size_or_none(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.found(key, "a whole number from 1 to 2^24", |value| {
            value.as_u64().filter(|size| (1..=1 << 24).contains(size)).map(|size| size as usize)
        })
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.needed(key, self.size_or_none(key)?)
    }

    fn number(&self, key: &str) -> Result<f64, ModelError> {
        let positive = |value: Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        self.needed(key, self.found(key, "a positive number", positive)?)
    }

    /// Refuses a key with any value but the one at which it does nothing.
    fn only<T: PartialEq>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
        idle: T,
    ) -> Result<(), ModelError> {
        self.found(key, wanted, |value| read(value).filter(|found| *found == idle)).map(|_| ())
    }
}

impl Config {
    /// Reads and checks the metadata of a GGUF file. Blocks that predict further tokens (`nextn`) are not counted.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let problem = |problem: String| ModelError::Config { path: gguf.path().to_owned(), problem };
        let name = gguf.value("general.architecture").and_then(|value| value.as_str()).unwrap_or_default();
        let Some(&(architecture, model_type)) = ARCHITECTURES.iter().find(|known| known.0 == name) else {
            let known = ARCHITECTURES.map(|known| known.0).join(", ");
            return Err(problem(format!("general.architecture {name:?} is not one of {known}")));
        };
        let keys = Keys { gguf, architecture };
        let mut json = Map::new();
        let mut put = |name: &str, value: Json| drop(json.insert(name.into(), value));
        put("model_type", json!(model_type));
        let n_layers = layer_count(&keys)?;
        for (name, value) in general(&keys, n_layers)? {
            put(name, value);
        }
        let rotary_dim = attention(&keys, &mut put)?;
        if model_type == "qwen3_next" {
            delta(&keys, n_layers, &mut put)?;
        }
        if matches!(model_type, "qwen3_moe" | "qwen3_next") {
            experts(&keys, n_layers, model_type, &mut put)?;
        }
        let text = Json::Object(json).to_string();
        let mut config = Self::from_json(&text).map_err(|error| match error {
            ModelError::Value(message) => problem(message),
            other => other,
        })?;
        // The share that a config.json writes is rounded; the number is known.
        config.attention.rotary_dim = rotary_dim;
        Ok(config)
    }
}

/// How many blocks a file says it has: the layers, and those that predict further tokens.
pub(super) fn block_count(gguf: &Gguf) -> usize {
    let architecture = gguf.value("general.architecture").and_then(|value| value.as_str()).unwrap_or_default();
    let count = gguf.value(&format!("{architecture}.block_count")).and_then(|value| value.as_u64());
    count.map_or(0, |count| count as usize)
}

fn layer_count(keys: &Keys) -> Result<usize, ModelError> {
    let blocks = keys.size("block_count")?;
    // Each has tensors of its own; nothing is made for layers that cannot be there.
    if blocks > keys.gguf.len() {
        let (name, found) = (keys.name("block_count"), keys.gguf.len());
        return Err(keys.problem(format!("{name} is {blocks}, but the file has only {found} tensors")));
    }
    let predicting = keys.found("nextn_predict_layers", "a number of blocks", |value| value.as_u64())?.unwrap_or(0);
    let trunk = usize::try_from(predicting).ok().and_then(|predicting| blocks.checked_sub(predicting));
    trunk.filter(|&trunk| trunk > 0).ok_or_else(|| {
        keys.problem(format!("{blocks} blocks, of which {predicting} predict further tokens, leave no model"))
    })
}

fn general(keys: &Keys, n_layers: usize) -> Result<Vec<(&'static str, Json)>, ModelError> {
    let embedding = keys.gguf.get("token_embd.weight")?;
    let &[vocabulary, _] = embedding.shape else {
        let problem = format!("want two dimensions, the file has {:?}", embedding.shape);
        return Err(ModelError::Tensor { name: embedding.name.into(), problem });
    };
    let mut all = vec![
        ("num_hidden_layers", json!(n_layers)),
        ("hidden_size", json!(keys.size("embedding_length")?)),
        ("vocab_size", json!(vocabulary)),
        ("max_position_embeddings", json!(keys.size("context_length")?)),
        ("rms_norm_eps", json!(keys.number("attention.layer_norm_rms_epsilon")?)),
        ("tie_word_embeddings", json!(!keys.gguf.contains("output.weight"))),
    ];
    if let Some(width) = keys.size_or_none("feed_forward_length")? {
        all.push(("intermediate_size", json!(width)));
    }
    for (name, key) in [("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")] {
        if let Some(id) = keys.gguf.value(&format!("tokenizer.ggml.{key}")).and_then(|value| value.as_u64()) {
            all.push((name, json!(id)));
        }
    }
    Ok(all)
}

/// Returns how many entries of a head are rotated.
fn attention(keys: &Keys, put: &mut impl FnMut(&str, Json)) -> Result<usize, ModelError> {
    let heads = keys.size("attention.head_count")?;
    let head_dim = match keys.size_or_none("attention.key_length")? {
        Some(head_dim) => head_dim,
        // The format leaves the key out where the heads share the width evenly; only qwen2 always does.
        None if keys.architecture == "qwen2" => keys.size("embedding_length")? / heads,
        None => keys.size("attention.key_length")?,
    };
    let same = |value: Value| value.as_u64();
    keys.only("attention.value_length", &format!("the key length, {head_dim}"), same, head_dim as u64)?;
    let rotary_dim = match keys.size_or_none("rope.dimension_count")? {
        Some(rotary_dim) => rotary_dim,
        None if keys.architecture == "qwen3next" => keys.size("rope.dimension_count")?,
        None => head_dim,
    };
    keys.only("rope.scaling.type", "\"none\": stretched positions are not supported", |v| v.as_str(), "none")?;
    let positions = keys.size("context_length")? as u64;
    let whole = |value: Value| value.as_u64().map(|window| window == 0 || window >= positions);
    keys.only("attention.sliding_window", "the whole context: windows are not supported", whole, true)?;
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(keys.size("attention.head_count_kv")?));
    put("head_dim", json!(head_dim));
    let share = rotary_dim as f64 / head_dim as f64;
    let theta = keys.number("rope.freq_base")?;
    put("rope_parameters", json!({"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}));
    Ok(rotary_dim)
}

fn delta(keys: &Keys, n_layers: usize, put: &mut impl FnMut(&str, Json)) -> Result<(), ModelError> {
    let value_heads = keys.size("ssm.time_step_rank")?;
    let values = keys.size("ssm.inner_size")?;
    if !values.is_multiple_of(value_heads) {
        let names = [keys.name("ssm.inner_size"), keys.name("ssm.time_step_rank")];
        return Err(keys.problem(format!("{} is {values}, want a multiple of {}, {value_heads}", names[0], names[1])));
    }
    put("linear_num_key_heads", json!(keys.size("ssm.group_count")?));
    put("linear_num_value_heads", json!(value_heads));
    put("linear_key_head_dim", json!(keys.size("ssm.state_size")?));
    put("linear_value_head_dim", json!(values / value_heads));
    put("linear_conv_kernel_dim", json!(keys.size("ssm.conv_kernel")?));
    let name = |is_delta: bool| if is_delta { "linear_attention" } else { "full_attention" };
    put("layer_types", is_delta(keys, n_layers)?.into_iter().map(name).collect());
    Ok(())
}

/// Which layers are delta layers: the list if there is one, else the interval, and in files of old converters, which
/// wrote neither, what the tensors say.
fn is_delta(keys: &Keys, n_layers: usize) -> Result<Vec<bool>, ModelError> {
    let list = "attention.recurrent_layers";
    let flags = keys.found(list, "an array of booleans", |value| value.as_array()?.bools())?;
    if let Some(mut flags) = flags {
        if flags.len() < n_layers {
            let (name, found) = (keys.name(list), flags.len());
            return Err(keys.problem(format!("{name} has {found} entries for {n_layers} layers")));
        }
        flags.truncate(n_layers);
        return Ok(flags);
    }
    if let Some(interval) = keys.size_or_none("full_attention_interval")? {
        return Ok((1..=n_layers).map(|number| !number.is_multiple_of(interval)).collect());
    }
    Ok((0..n_layers).map(|index| keys.gguf.contains(&format!("blk.{index}.ssm_a"))).collect())
}

fn experts(keys: &Keys, n_layers: usize, model_type: &str, put: &mut impl FnMut(&str, Json)) -> Result<(), ModelError> {
    let next = model_type == "qwen3_next";
    // 1 stands for a softmax over the router's scores.
    keys.only("expert_gating_func", "1 (softmax)", |value| value.as_u64(), 1)?;
    keys.only("expert_weights_scale", "1.0", |value| value.as_f64(), 1.0)?;
    // llama.cpp divides by the sum in both architectures whatever the file says, which is mostly nothing.
    let normalize = keys.found("expert_weights_norm", "true or false", |value| value.as_bool())?.unwrap_or(true);
    put(if next { "num_experts" } else { "num_local_experts" }, json!(keys.size("expert_count")?));
    put("num_experts_per_tok", json!(keys.size("expert_used_count")?));
    put("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?));
    put("norm_topk_prob", json!(normalize));
    if next {
        put("shared_expert_intermediate_size", json!(keys.size("expert_shared_feed_forward_length")?));
    }
    // No key tells which layers are dense; the tensors do.
    let is_dense = |index: &usize| keys.gguf.contains(&format!("blk.{index}.ffn_gate.weight"));
    put("mlp_only_layers", (0..n_layers).filter(is_dense).collect());
    Ok(())
}
