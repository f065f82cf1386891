//! What a model is made of, and the one place where its tensors' names and shapes are written down.

use crate::source::{Initial, Source};
use crate::{AttentionConfig, Config, DeltaConfig, FeedForwardKind, MixerKind, ModelError};
use ops::{AttentionShape, Columns, Conv, DeltaGates, DeltaShape, Expert, Linear, Moe, Norm, Parameter, Rope};
use std::ops::Range;

#[derive(Debug, Clone)]
pub struct Weights {
    /// `[V, H]`; also the head where the config ties them.
    pub embedding: Linear,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Norm,
    pub separate_head: Option<Linear>,
}

#[derive(Debug, Clone)]
pub struct LayerWeights {
    pub input_norm: Norm,
    pub mixer: Mixer,
    pub post_norm: Norm,
    pub feed_forward: FeedForward,
}

impl LayerWeights {
    /// The routed experts, if it has any.
    pub fn mixture(&self) -> Option<&Moe> {
        match &self.feed_forward {
            FeedForward::Moe(moe) => Some(&moe.routed),
            FeedForward::Dense(_) => None,
        }
    }
}

#[derive(Debug, Clone)]
pub enum Mixer {
    Attention(Box<AttentionWeights>),
    Delta(Box<DeltaWeights>),
}

#[derive(Debug, Clone)]
pub struct AttentionWeights {
    /// Rows `[q | gate]` per head where the output is gated.
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    /// Of queries and of keys.
    pub head_norms: Option<[Norm; 2]>,
    /// Columns of the queries and of the gates in the query projection.
    pub gate: Option<[Columns; 2]>,
    pub shape: AttentionShape,
    pub rope: Rope,
}

/// The projection into a delta layer, as a file has it. The two halves of a split one may be in different formats.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one stands in each delta layer, whose weights are boxed")]
pub enum DeltaInput {
    /// One map with rows `[q | k | v… | z…]` per key head, to be taken apart.
    Grouped { qkvz: Linear, qkv_columns: Columns, z_columns: Columns },
    /// Two maps, each in the order that is used: all of q, k and v; all of z.
    Split { qkv: Linear, z: Linear },
}

#[derive(Debug, Clone)]
pub struct DeltaWeights {
    pub input: DeltaInput,
    /// Rows `[b… | a…]` per key head.
    pub ba: Linear,
    pub conv: Conv,
    pub gates: DeltaGates,
    pub norm: Norm,
    pub output: Linear,
    pub b_columns: Columns,
    pub a_columns: Columns,
}

#[derive(Debug, Clone)]
pub enum FeedForward {
    Dense(Box<Expert>),
    Moe(Box<MoeWeights>),
}

#[derive(Debug, Clone)]
pub struct MoeWeights {
    pub routed: Moe,
    pub shared: Option<SharedExpert>,
}

/// An expert that every token visits, scaled by the sigmoid of a one-column gate.
#[derive(Debug, Clone)]
pub struct SharedExpert {
    pub expert: Expert,
    pub gate: Linear,
}

impl Weights {
    /// Takes every tensor of `config`'s model from `source`, which checks it.
    pub(crate) fn bind(config: &Config, source: &mut impl Source) -> Result<Self, ModelError> {
        Self::bind_layers(config, source, 0..config.layers.len())
    }

    /// As [`Self::bind`], but of the layers only these: a model that is larger than memory is walked through in pieces.
    pub(crate) fn bind_layers(
        config: &Config,
        source: &mut impl Source,
        layers: Range<usize>,
    ) -> Result<Self, ModelError> {
        let mut b = Binder { config, source };
        let embedding = b.embedding()?;
        let layers = layers.map(|index| b.layer(index)).collect::<Result<_, _>>()?;
        let (final_norm, separate_head) = b.ending()?;
        Ok(Self { embedding, layers, final_norm, separate_head })
    }

    /// What stands before the first layer.
    pub(crate) fn bind_embedding(config: &Config, source: &mut impl Source) -> Result<Linear, ModelError> {
        Binder { config, source }.embedding()
    }

    /// What stands after the last layer; the head only where it is not the embedding.
    pub(crate) fn bind_ending(config: &Config, source: &mut impl Source) -> Result<(Norm, Option<Linear>), ModelError> {
        Binder { config, source }.ending()
    }

    /// The norm after the last layer, without the head.
    pub(crate) fn bind_final_norm(config: &Config, source: &mut impl Source) -> Result<Norm, ModelError> {
        Binder { config, source }.final_norm()
    }

    /// Layer `index` alone.
    pub(crate) fn bind_layer(
        config: &Config,
        source: &mut impl Source,
        index: usize,
    ) -> Result<LayerWeights, ModelError> {
        Binder { config, source }.layer(index)
    }

    pub fn head(&self) -> &Linear {
        self.separate_head.as_ref().unwrap_or(&self.embedding)
    }
}

/// Walks over a config and asks the source for one tensor after the other.
struct Binder<'a, S> {
    config: &'a Config,
    source: &'a mut S,
}

impl<S: Source> Binder<'_, S> {
    fn parameter(&mut self, name: String, shape: &[usize], initial: Initial) -> Result<Parameter, ModelError> {
        self.source.parameter(name, shape, initial)
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear, ModelError> {
        let weight = self.parameter(format!("{name}.weight"), &shape, Initial::Normal)?;
        let bias = match bias {
            true => Some(self.parameter(format!("{name}.bias"), &shape[..1], Initial::Constant(0.0))?),
            false => None,
        };
        Ok(Linear { weight, bias, adapter: None })
    }

    fn embedding(&mut self) -> Result<Linear, ModelError> {
        self.linear("model.embed_tokens", [self.config.vocab_size, self.config.hidden_size], false)
    }

    fn final_norm(&mut self) -> Result<Norm, ModelError> {
        self.norm("model.norm", self.config.hidden_size)
    }

    fn ending(&mut self) -> Result<(Norm, Option<Linear>), ModelError> {
        let (width, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let final_norm = self.final_norm()?;
        let head = match self.config.tied_embeddings {
            true => None,
            false => Some(self.linear("lm_head", [vocabulary, width], false)?),
        };
        Ok((final_norm, head))
    }

    /// A norm of the residual stream or of heads.
    fn norm(&mut self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let offset = self.source.norm_offset(self.config.model_type);
        let weight = self.parameter(format!("{name}.weight"), &[width], Initial::Constant(1.0 - offset))?;
        Ok(Norm { weight, offset, epsilon: self.config.rms_norm_epsilon })
    }

    fn layer(&mut self, index: usize) -> Result<LayerWeights, ModelError> {
        let (config, width) = (self.config, self.config.hidden_size);
        let name = format!("model.layers.{index}");
        let layer = config.layers[index];
        let input_norm = self.norm(&format!("{name}.input_layernorm"), width)?;
        let mixer = match layer.mixer {
            MixerKind::Attention => Mixer::Attention(Box::new(self.attention(&format!("{name}.self_attn"))?)),
            MixerKind::Delta => Mixer::Delta(Box::new(self.delta(&format!("{name}.linear_attn"))?)),
        };
        let post_norm = self.norm(&format!("{name}.post_attention_layernorm"), width)?;
        let name = format!("{name}.mlp");
        let feed_forward = match layer.feed_forward {
            FeedForwardKind::Dense => FeedForward::Dense(Box::new(self.expert(&name, config.dense_width)?)),
            FeedForwardKind::Experts { count } => FeedForward::Moe(Box::new(self.moe(&name, index, count)?)),
        };
        Ok(LayerWeights { input_norm, mixer, post_norm, feed_forward })
    }

    fn attention(&mut self, name: &str) -> Result<AttentionWeights, ModelError> {
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config.attention;
        let AttentionConfig { rotary_dim, rope_theta, qkv_bias, output_bias, .. } = self.config.attention;
        let AttentionConfig { head_norm, output_gate, .. } = self.config.attention;
        let width = self.config.hidden_size;
        let query_rows = heads * head_dim * if output_gate { 2 } else { 1 };
        let gate = output_gate.then(|| {
            [0, 1].map(|part| {
                let start = |head: usize| (2 * head + part) * head_dim;
                Columns::new(query_rows, (0..heads).map(|head| start(head)..start(head) + head_dim))
            })
        });
        let query = self.linear(&format!("{name}.q_proj"), [query_rows, width], qkv_bias)?;
        let key = self.linear(&format!("{name}.k_proj"), [kv_heads * head_dim, width], qkv_bias)?;
        let value = self.linear(&format!("{name}.v_proj"), [kv_heads * head_dim, width], qkv_bias)?;
        let output = self.linear(&format!("{name}.o_proj"), [width, heads * head_dim], output_bias)?;
        let head_norms = match head_norm {
            true => {
                Some([self.norm(&format!("{name}.q_norm"), head_dim)?, self.norm(&format!("{name}.k_norm"), head_dim)?])
            }
            false => None,
        };
        let scale = (head_dim as f32).sqrt().recip();
        let shape = AttentionShape { query_heads: heads, kv_heads, head_dim, scale };
        let rope = Rope { rotary_dim, theta: rope_theta };
        Ok(AttentionWeights { query, key, value, output, head_norms, gate, shape, rope })
    }

    fn delta(&mut self, name: &str) -> Result<DeltaWeights, ModelError> {
        let delta: DeltaConfig = self.config.delta.expect("a config with delta layers describes them");
        let (shape, width) = (delta.shape(), self.config.hidden_size);
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = shape;
        let (keys, values) = (key_heads * key_dim, value_heads * value_dim);
        let channels = 2 * keys + values;
        let columns = DeltaColumns::of(&shape);
        let input = match self.source.splits_delta_input(name) {
            true => DeltaInput::Split {
                qkv: self.linear(&format!("{name}.in_proj_qkv"), [channels, width], false)?,
                z: self.linear(&format!("{name}.in_proj_z"), [values, width], false)?,
            },
            false => DeltaInput::Grouped {
                qkvz: self.linear(&format!("{name}.in_proj_qkvz"), [channels + values, width], false)?,
                qkv_columns: columns.qkv,
                z_columns: columns.z,
            },
        };
        let ba = self.linear(&format!("{name}.in_proj_ba"), [2 * value_heads, width], false)?;
        let conv_shape = [channels, 1, delta.kernel];
        let conv = Conv { weight: self.parameter(format!("{name}.conv1d.weight"), &conv_shape, Initial::Conv)? };
        let a_log = self.parameter(format!("{name}.A_log"), &[value_heads], Initial::DecayRate)?;
        let dt_bias = self.parameter(format!("{name}.dt_bias"), &[value_heads], Initial::TimeStep)?;
        let weight = self.parameter(format!("{name}.norm.weight"), &[value_dim], Initial::Constant(1.0))?;
        let norm = Norm { weight, offset: 0.0, epsilon: self.config.rms_norm_epsilon };
        let output = self.linear(&format!("{name}.out_proj"), [width, values], false)?;
        Ok(DeltaWeights {
            input,
            ba,
            conv,
            gates: DeltaGates { a_log, dt_bias, shape },
            norm,
            output,
            b_columns: columns.b,
            a_columns: columns.a,
        })
    }

    fn expert(&mut self, name: &str, inner: usize) -> Result<Expert, ModelError> {
        let width = self.config.hidden_size;
        Ok(Expert {
            gate: self.linear(&format!("{name}.gate_proj"), [inner, width], false)?,
            up: self.linear(&format!("{name}.up_proj"), [inner, width], false)?,
            down: self.linear(&format!("{name}.down_proj"), [width, inner], false)?,
        })
    }

    fn moe(&mut self, name: &str, layer: usize, count: usize) -> Result<MoeWeights, ModelError> {
        let experts = self.config.experts.expect("a config with mixture layers describes their experts");
        let width = self.config.hidden_size;
        let router = self.linear(&format!("{name}.gate"), [count, width], false)?;
        let bank = (0..count).map(|expert| self.expert(&format!("{name}.experts.{expert}"), experts.width));
        let bank = bank.collect::<Result<Vec<_>, _>>()?;
        let (top_k, normalize) = (experts.top_k, experts.normalize);
        let routed = Moe { layer, router, experts: bank, adapters: [None, None, None], top_k, normalize };
        let shared = match experts.shared_width {
            0 => None,
            inner => Some(SharedExpert {
                expert: self.expert(&format!("{name}.shared_expert"), inner)?,
                gate: self.linear(&format!("{name}.shared_expert_gate"), [1, width], false)?,
            }),
        };
        Ok(MoeWeights { routed, shared })
    }
}

/// Where q, k, v, z, b and a stand in the fused projections, which are grouped by key head: `[q | k | v… | z…]` and
/// `[b… | a…]`, with as many value heads in each group as share that key head.
pub(crate) struct DeltaColumns {
    pub(crate) qkv: Columns,
    pub(crate) z: Columns,
    b: Columns,
    a: Columns,
}

impl DeltaColumns {
    pub(crate) fn of(shape: &DeltaShape) -> Self {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = *shape;
        let shared = value_heads / key_heads;
        let values = shared * value_dim;
        let group = 2 * key_dim + 2 * values;
        let part =
            |from: usize, len: usize| (0..key_heads).map(move |head| head * group + from..head * group + from + len);
        let qkv = part(0, key_dim).chain(part(key_dim, key_dim)).chain(part(2 * key_dim, values));
        let gate = |from: usize| {
            Columns::new(
                2 * value_heads,
                (0..key_heads).map(move |head| {
                    let start = 2 * head * shared + from;
                    start..start + shared
                }),
            )
        };
        Self {
            qkv: Columns::new(key_heads * group, qkv),
            z: Columns::new(key_heads * group, part(2 * key_dim + values, values)),
            b: gate(0),
            a: gate(shared),
        }
    }
}

/// Visits every parameter in a fixed order; the same text serves shared and mutable borrows.
macro_rules! walk {
    ($name:ident, $linear:ident, $iter:ident, $($mutable:tt)?) => {
        fn $linear<'a>(map: &'a $($mutable)? Linear, visit: &mut dyn FnMut(&'a $($mutable)? Parameter)) {
            visit(&$($mutable)? map.weight);
            if let Some(bias) = &$($mutable)? map.bias {
                visit(bias);
            }
            if let Some(adapter) = &$($mutable)? map.adapter {
                visit(&$($mutable)? adapter.a);
                visit(&$($mutable)? adapter.b);
            }
        }

        impl Weights {
            /// Every parameter, adapters included, in a fixed order.
            pub fn $name<'a>(&'a $($mutable)? self, visit: &mut dyn FnMut(&'a $($mutable)? Parameter)) {
                $linear(&$($mutable)? self.embedding, visit);
                for layer in self.layers.$iter() {
                    layer.$name(visit);
                }
                visit(&$($mutable)? self.final_norm.weight);
                if let Some(head) = &$($mutable)? self.separate_head {
                    $linear(head, visit);
                }
            }
        }

        impl LayerWeights {
            /// Every parameter of the layer, adapters included, in a fixed order.
            pub fn $name<'a>(&'a $($mutable)? self, visit: &mut dyn FnMut(&'a $($mutable)? Parameter)) {
                fn expert<'a>(expert: &'a $($mutable)? Expert, visit: &mut dyn FnMut(&'a $($mutable)? Parameter)) {
                    $linear(&$($mutable)? expert.gate, visit);
                    $linear(&$($mutable)? expert.up, visit);
                    $linear(&$($mutable)? expert.down, visit);
                }
                visit(&$($mutable)? self.input_norm.weight);
                match &$($mutable)? self.mixer {
                    Mixer::Attention(w) => {
                        $linear(&$($mutable)? w.query, visit);
                        $linear(&$($mutable)? w.key, visit);
                        $linear(&$($mutable)? w.value, visit);
                        $linear(&$($mutable)? w.output, visit);
                        for norm in w.head_norms.$iter().flatten() {
                            visit(&$($mutable)? norm.weight);
                        }
                    }
                    Mixer::Delta(w) => {
                        match &$($mutable)? w.input {
                            DeltaInput::Grouped { qkvz, .. } => $linear(qkvz, visit),
                            DeltaInput::Split { qkv, z } => {
                                $linear(qkv, visit);
                                $linear(z, visit);
                            }
                        }
                        $linear(&$($mutable)? w.ba, visit);
                        visit(&$($mutable)? w.conv.weight);
                        visit(&$($mutable)? w.gates.a_log);
                        visit(&$($mutable)? w.gates.dt_bias);
                        visit(&$($mutable)? w.norm.weight);
                        $linear(&$($mutable)? w.output, visit);
                    }
                }
                visit(&$($mutable)? self.post_norm.weight);
                match &$($mutable)? self.feed_forward {
                    FeedForward::Dense(w) => expert(&$($mutable)? *w, visit),
                    FeedForward::Moe(w) => {
                        $linear(&$($mutable)? w.routed.router, visit);
                        for routed in w.routed.experts.$iter() {
                            expert(routed, visit);
                        }
                        for adapter in w.routed.adapters.$iter().flatten() {
                            visit(&$($mutable)? adapter.a);
                            visit(&$($mutable)? adapter.b);
                        }
                        if let Some(shared) = &$($mutable)? w.shared {
                            expert(&$($mutable)? shared.expert, visit);
                            $linear(&$($mutable)? shared.gate, visit);
                        }
                    }
                }
            }
        }
    };
}

walk!(visit, visit_linear, iter,);
walk!(visit_mut, visit_linear_mut, iter_mut, mut);

impl LayerWeights {
    /// Bytes that the layer takes in memory.
    pub fn bytes(&self) -> usize {
        let mut bytes = 0;
        self.visit(&mut |parameter| bytes += parameter.matrix.bytes());
        bytes
    }
}

impl Weights {
    /// Every linear map with the path of its module, for adapters and quantization: `model.layers.0.mlp.gate`.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        fn of_expert(expert: &mut Expert) -> [&mut Linear; 3] {
            [&mut expert.gate, &mut expert.up, &mut expert.down]
        }
        let mut all = vec![&mut self.embedding];
        for layer in &mut self.layers {
            match &mut layer.mixer {
                Mixer::Attention(w) => {
                    let w = &mut **w;
                    all.extend([&mut w.query, &mut w.key, &mut w.value, &mut w.output]);
                }
                Mixer::Delta(w) => {
                    let w = &mut **w;
                    match &mut w.input {
                        DeltaInput::Grouped { qkvz, .. } => all.push(qkvz),
                        DeltaInput::Split { qkv, z } => all.extend([qkv, z]),
                    }
                    all.extend([&mut w.ba, &mut w.output]);
                }
            }
            match &mut layer.feed_forward {
                FeedForward::Dense(w) => all.extend(of_expert(w)),
                FeedForward::Moe(w) => {
                    let w = &mut **w;
                    all.push(&mut w.routed.router);
                    all.extend(w.routed.experts.iter_mut().flat_map(of_expert));
                    if let Some(shared) = &mut w.shared {
                        all.extend(of_expert(&mut shared.expert));
                        all.push(&mut shared.gate);
                    }
                }
            }
        }
        all.extend(&mut self.separate_head);
        all
    }
}
