//! The numbers of a model, from `config.json` in either dialect: the released one (transformers 4) and the one that
//! transformers 5 writes. What is read is checked once, here; class defaults are never guessed, because the released
//! values differ from them.

use crate::ModelError;
use serde_json::{Map, Value, json};

/// The four architectures of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Qwen3Next,
}

/// How a layer mixes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixerKind {
    Attention,
    Delta,
}

/// What a layer does with each token by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    Dense,
    Experts { count: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    pub mixer: MixerKind,
    pub feed_forward: FeedForwardKind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// How many entries of each head are rotated.
    pub rotary_dim: usize,
    pub rope_theta: f32,
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Queries and keys are RMS-normed per head.
    pub head_norm: bool,
    /// The query projection also yields a gate for the output.
    pub output_gate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaConfig {
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    pub kernel: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    pub width: usize,
    /// Width of the shared expert; 0 where there is none.
    pub shared_width: usize,
    pub top_k: usize,
    pub normalize: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub model_type: ModelType,
    pub hidden_size: usize,
    pub vocab_size: usize,
    pub dense_width: usize,
    pub positions_max: usize,
    pub rms_norm_epsilon: f32,
    pub tied_embeddings: bool,
    pub attention: AttentionConfig,
    pub delta: Option<DeltaConfig>,
    pub experts: Option<ExpertsConfig>,
    pub layers: Vec<LayerConfig>,
    /// All keys of the file, so that those we do not use survive a round trip.
    source: Map<String, Value>,
}

/// Looks up keys and remembers which one it was asked for.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.present(key).ok_or_else(|| ModelError::Value(format!("the key {key:?} is missing")))?;
        let wanted = || ModelError::Value(format!("{key:?} is {value}, want a whole number from 1 to 2^24"));
        let size = value.as_u64().filter(|&size| (1..=1 << 24).contains(&size)).ok_or_else(wanted)?;
        Ok(size as usize)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.present(key).is_none() { Ok(default) } else { self.size(key) }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        Ok(Some(number.ok_or_else(|| ModelError::Value(format!("{key:?} is {value}, want a positive number")))?))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.present(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| ModelError::Value(format!("{key:?} is {value}, want true or false")))
    }
}

impl ModelType {
    fn parse(name: &str) -> Result<Self, ModelError> {
        match name {
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            "qwen3_moe" => Ok(Self::Qwen3Moe),
            "qwen3_next" => Ok(Self::Qwen3Next),
            other => Err(ModelError::Value(format!(
                "model_type {other:?} is not one of qwen2, qwen3, qwen3_moe, qwen3_next"
            ))),
        }
    }
}

impl Config {
    /// Reads and checks a `config.json`.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let value: Value = serde_json::from_str(text).map_err(|error| ModelError::Value(error.to_string()))?;
        let Value::Object(source) = value else { return Err(ModelError::Value("it is not an object".into())) };
        let keys = Keys(&source);
        let name = keys.present("model_type").and_then(Value::as_str).unwrap_or_default();
        let model_type = ModelType::parse(name)?;
        if keys.flag("use_sliding_window", false)? {
            return Err(ModelError::Value("use_sliding_window is true; windowed attention is not supported".into()));
        }
        let hidden_size = keys.size("hidden_size")?;
        let config = Self {
            model_type,
            hidden_size,
            vocab_size: keys.size("vocab_size")?,
            dense_width: keys.size_or("intermediate_size", 0)?,
            positions_max: keys.size_or("max_position_embeddings", 32_768)?,
            rms_norm_epsilon: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied_embeddings: keys.flag("tie_word_embeddings", false)?,
            attention: attention(&keys, model_type, hidden_size)?,
            delta: (model_type == ModelType::Qwen3Next).then(|| delta(&keys)).transpose()?,
            experts: experts(&keys, model_type)?,
            layers: layers(&keys, model_type)?,
            source: source.clone(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Value(message));
        let attention = &self.attention;
        // What is planned for each head is planned before there is a weight that would say that there are so many.
        let delta_heads = self.delta.map_or(0, |delta| delta.value_heads.max(delta.key_heads));
        let heads = attention.heads.max(attention.kv_heads).max(delta_heads);
        if heads > 4096 {
            return fail(format!("{heads} heads are more than the 4096 that are thinkable"));
        }
        if !attention.heads.is_multiple_of(attention.kv_heads) {
            return fail(format!("{} heads do not share {} kv heads evenly", attention.heads, attention.kv_heads));
        }
        if attention.rotary_dim == 0 || attention.rotary_dim % 2 == 1 || attention.rotary_dim > attention.head_dim {
            return fail(format!("{} of {} entries cannot be rotated", attention.rotary_dim, attention.head_dim));
        }
        if let Some(delta) = &self.delta
            && !delta.value_heads.is_multiple_of(delta.key_heads)
        {
            return fail(format!("{} value heads do not share {} key heads", delta.value_heads, delta.key_heads));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            match layer.feed_forward {
                FeedForwardKind::Dense if self.dense_width == 0 => {
                    return fail(format!("layer {index} is dense, but intermediate_size is missing"));
                }
                FeedForwardKind::Experts { count } if count < self.experts.map_or(0, |experts| experts.top_k) => {
                    return fail(format!("layer {index} has {count} experts, fewer than num_experts_per_tok"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets how many experts each layer has, in order; dense layers keep their place with any number.
    pub fn set_expert_counts(&mut self, counts: &[usize]) {
        for (layer, &count) in self.layers.iter_mut().zip(counts) {
            if let FeedForwardKind::Experts { count: old } = &mut layer.feed_forward {
                *old = count;
            }
        }
    }

    /// Experts of each mixture layer.
    pub fn expert_counts(&self) -> Vec<usize> {
        let count = |layer: &LayerConfig| match layer.feed_forward {
            FeedForwardKind::Experts { count } => Some(count),
            FeedForwardKind::Dense => None,
        };
        self.layers.iter().filter_map(count).collect()
    }

    /// The file in the dialect of transformers 5, unknown keys kept. Layers with different numbers of experts are
    /// beyond that dialect: the largest number is written there and the whole list under `lateen.experts_per_layer`.
    pub fn to_json(&self) -> String {
        let mut out = self.source.clone();
        for old in ["rope_theta", "partial_rotary_factor", "rope_scaling", "full_attention_interval", "torch_dtype"] {
            out.remove(old);
        }
        let mut rope = json!({"rope_type": "default", "rope_theta": self.attention.rope_theta});
        if self.model_type == ModelType::Qwen3Next {
            rope["partial_rotary_factor"] = json!(self.attention.rotary_dim as f64 / self.attention.head_dim as f64);
            let name = |layer: &LayerConfig| match layer.mixer {
                MixerKind::Attention => "full_attention",
                MixerKind::Delta => "linear_attention",
            };
            out.insert("layer_types".into(), self.layers.iter().map(name).collect());
        }
        out.insert("rope_parameters".into(), rope);
        let counts = self.expert_counts();
        if let Some(&largest) = counts.iter().max() {
            out.remove("num_experts");
            out.remove("num_local_experts");
            let key = if self.model_type == ModelType::Qwen3Moe { "num_local_experts" } else { "num_experts" };
            out.insert(key.into(), json!(largest));
            out.remove("lateen");
            if counts.iter().any(|&count| count != largest) {
                let all = |layer: &LayerConfig| match layer.feed_forward {
                    FeedForwardKind::Experts { count } => count,
                    FeedForwardKind::Dense => 0,
                };
                let list: Vec<usize> = self.layers.iter().map(all).collect();
                out.insert("lateen".into(), json!({"experts_per_layer": list}));
            }
        }
        serde_json::to_string_pretty(&Value::Object(out)).expect("a JSON map prints")
    }

    /// Sets a key that we carry and do not use, such as `dtype` or `quantization_config`; null removes it.
    pub fn set_extra(&mut self, key: &str, value: Value) {
        match value {
            Value::Null => drop(self.source.remove(key)),
            value => drop(self.source.insert(key.into(), value)),
        }
    }

    pub fn extra(&self, key: &str) -> Option<&Value> {
        self.source.get(key)
    }
}

fn attention(keys: &Keys, model_type: ModelType, hidden_size: usize) -> Result<AttentionConfig, ModelError> {
    let heads = keys.size("num_attention_heads")?;
    let head_dim = match model_type {
        ModelType::Qwen2 => keys.size_or("head_dim", hidden_size / heads)?,
        _ => keys.size("head_dim")?,
    };
    let nested = keys.present("rope_parameters").or(keys.present("rope_scaling")).and_then(Value::as_object);
    let empty = Map::new();
    let nested = Keys(nested.unwrap_or(&empty));
    let kind = nested.present("rope_type").or(nested.present("type")).and_then(Value::as_str);
    if let Some(kind) = kind.filter(|&kind| kind != "default") {
        return Err(ModelError::Value(format!("rope_type {kind:?} is not supported, only \"default\"")));
    }
    let of_both = |key: &str| Ok::<_, ModelError>(nested.number(key)?.or(keys.number(key)?));
    let next = model_type == ModelType::Qwen3Next;
    let share = of_both("partial_rotary_factor")?.unwrap_or(if next { 0.25 } else { 1.0 });
    let bias = keys.flag("attention_bias", false)?;
    Ok(AttentionConfig {
        heads,
        kv_heads: keys.size("num_key_value_heads")?,
        head_dim,
        rotary_dim: (head_dim as f64 * share) as usize,
        rope_theta: of_both("rope_theta")?.unwrap_or(10_000.0) as f32,
        qkv_bias: bias || model_type == ModelType::Qwen2,
        output_bias: bias,
        head_norm: model_type != ModelType::Qwen2,
        output_gate: next,
    })
}

fn delta(keys: &Keys) -> Result<DeltaConfig, ModelError> {
    Ok(DeltaConfig {
        key_heads: keys.size("linear_num_key_heads")?,
        value_heads: keys.size("linear_num_value_heads")?,
        key_dim: keys.size("linear_key_head_dim")?,
        value_dim: keys.size("linear_value_head_dim")?,
        kernel: keys.size("linear_conv_kernel_dim")?,
    })
}

fn expert_count(keys: &Keys) -> Result<usize, ModelError> {
    match keys.present("num_experts") {
        Some(value) if value.as_u64() == Some(0) => Ok(0),
        Some(_) => keys.size("num_experts"),
        None => keys.size("num_local_experts"),
    }
}

fn has_experts(model_type: ModelType) -> bool {
    matches!(model_type, ModelType::Qwen3Moe | ModelType::Qwen3Next)
}

fn experts(keys: &Keys, model_type: ModelType) -> Result<Option<ExpertsConfig>, ModelError> {
    if !has_experts(model_type) || expert_count(keys)? == 0 {
        return Ok(None);
    }
    let next = model_type == ModelType::Qwen3Next;
    Ok(Some(ExpertsConfig {
        width: keys.size("moe_intermediate_size")?,
        shared_width: if next { keys.size("shared_expert_intermediate_size")? } else { 0 },
        top_k: keys.size("num_experts_per_tok")?,
        normalize: keys.flag("norm_topk_prob", next)?,
    }))
}

fn layers(keys: &Keys, model_type: ModelType) -> Result<Vec<LayerConfig>, ModelError> {
    let count = keys.size("num_hidden_layers")?;
    if count > 4096 {
        return Err(ModelError::Value(format!("{count} layers are more than the 4096 that are thinkable")));
    }
    let (experts, step) = match has_experts(model_type) {
        true => (expert_count(keys)?, keys.size_or("decoder_sparse_step", 1)?),
        false => (0, 1),
    };
    let dense: Vec<u64> = match keys.present("mlp_only_layers").and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(Value::as_u64).collect(),
        None => Vec::new(),
    };
    let mixers = mixers(keys, model_type, count)?;
    let own = keys.present("lateen").and_then(|own| own.get("experts_per_layer")).and_then(Value::as_array);
    let feed_forward = |index: usize| {
        let sparse = experts > 0 && (index + 1).is_multiple_of(step) && !dense.contains(&(index as u64));
        let listed = own.and_then(|list| list.get(index)).and_then(Value::as_u64).map(|count| count as usize);
        match sparse {
            true => FeedForwardKind::Experts { count: listed.unwrap_or(experts) },
            false => FeedForwardKind::Dense,
        }
    };
    let each = mixers.into_iter().enumerate();
    Ok(each.map(|(index, mixer)| LayerConfig { mixer, feed_forward: feed_forward(index) }).collect())
}

fn mixers(keys: &Keys, model_type: ModelType, count: usize) -> Result<Vec<MixerKind>, ModelError> {
    if model_type != ModelType::Qwen3Next {
        return Ok(vec![MixerKind::Attention; count]);
    }
    if let Some(list) = keys.present("layer_types").and_then(Value::as_array) {
        if list.len() != count {
            return Err(ModelError::Value(format!("layer_types has {} entries for {count} layers", list.len())));
        }
        let parse = |value: &Value| match value.as_str() {
            Some("full_attention") => Ok(MixerKind::Attention),
            Some("linear_attention") => Ok(MixerKind::Delta),
            _ => Err(ModelError::Value(format!("layer_types holds {value}, want full_attention or linear_attention"))),
        };
        return list.iter().map(parse).collect();
    }
    let interval = keys.size_or("full_attention_interval", 4)?;
    let kind =
        |index: usize| if (index + 1).is_multiple_of(interval) { MixerKind::Attention } else { MixerKind::Delta };
    Ok((0..count).map(kind).collect())
}
