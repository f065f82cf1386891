//! The names that GGUF has for our tensors, which we call as `transformers` does.
//! Source: `gguf-py/gguf/tensor_mapping.py` of llama.cpp, and its converter's output tensor by tensor.

use crate::ModelType;

/// Where one of our tensors is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tensor: String,
    /// Which expert of a stack of them.
    pub(super) expert: Option<usize>,
    /// The block that it belongs to.
    pub(super) layer: Option<usize>,
}

/// Parts of a layer: our name, theirs.
const PARTS: [(&str, &str); 22] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// The place of a tensor that a model of this type has.
pub(super) fn place(name: &str, model_type: ModelType) -> Option<Place> {
    let whole = |tensor: &str| Some(Place { tensor: tensor.to_owned(), expert: None, layer: None });
    match name {
        "model.embed_tokens.weight" => return whole("token_embd.weight"),
        "model.norm.weight" => return whole("output_norm.weight"),
        "lm_head.weight" => return whole("output.weight"),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = layer.parse().ok()?;
    let within =
        |tensor: String, expert| Some(Place { tensor: format!("blk.{layer}.{tensor}"), expert, layer: Some(layer) });
    match rest {
        "linear_attn.A_log" => return within("ssm_a".into(), None),
        "linear_attn.dt_bias" => return within("ssm_dt.bias".into(), None),
        "post_attention_layernorm.weight" if model_type == ModelType::Qwen3Next => {
            return within("post_attention_norm.weight".into(), None);
        }
        "post_attention_layernorm.weight" => return within("ffn_norm.weight".into(), None),
        _ => {}
    }
    if let Some((expert, projection)) = rest.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.')) {
        let projection = projection.strip_suffix("_proj.weight")?;
        return within(format!("ffn_{projection}_exps.weight"), Some(expert.parse().ok()?));
    }
    let (part, end) = rest.rsplit_once('.')?;
    let (_, tensor) = PARTS.iter().find(|known| known.0 == part)?;
    within(format!("{tensor}.{end}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_places() {
        let found = |name: &str, model_type| place(name, model_type).map(|place| (place.tensor, place.expert));
        let cases = [
            ("model.norm.weight", "output_norm.weight", None),
            ("model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias", None),
            ("model.layers.12.linear_attn.A_log", "blk.12.ssm_a", None),
            ("model.layers.0.mlp.gate.weight", "blk.0.ffn_gate_inp.weight", None),
            ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", None),
            ("model.layers.0.mlp.experts.11.up_proj.weight", "blk.0.ffn_up_exps.weight", Some(11)),
            ("model.layers.0.mlp.shared_expert_gate.weight", "blk.0.ffn_gate_inp_shexp.weight", None),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight", None),
        ];
        for (name, tensor, expert) in cases {
            assert_eq!(found(name, ModelType::Qwen3Next), Some((tensor.to_owned(), expert)), "{name}");
        }
        let dense = found("model.layers.0.post_attention_layernorm.weight", ModelType::Qwen3);
        assert_eq!(dense, Some(("blk.0.ffn_norm.weight".to_owned(), None)));
        assert_eq!(place("model.layers.0.mlp.gates.weight", ModelType::Qwen3), None);
    }
}
