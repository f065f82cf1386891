//! Sound files: every architecture, formats and sizes at random.

use super::super::gguf_writer::{GgufWriter, tensor_kind};
use numeric::{Format, Rng};

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.below(all.len())]
}

/// The sizes of a model.
struct Sizes {
    architecture: &'static str,
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inner: usize,
    experts: usize,
    vocabulary: usize,
    key_heads: usize,
    value_heads: usize,
    state: usize,
    /// Quantized weights are any bytes; bytes below 64 make scales that are numbers.
    bytes_below: usize,
}

impl Sizes {
    fn random(rng: &mut Rng, vocabulary: usize) -> Self {
        let kv_heads = 1 + rng.below(2);
        let key_heads = 1 + rng.below(2);
        Self {
            architecture: one_of(rng, &["qwen2", "qwen3", "qwen3moe", "qwen3next"]),
            layers: 1 + rng.below(3),
            width: one_of(rng, &[20, 32, 32, 64, 64, 256]),
            heads: kv_heads * (1 + rng.below(2)),
            kv_heads,
            head_dim: one_of(rng, &[2, 6, 8, 16, 32, 36]),
            inner: one_of(rng, &[24, 32, 32, 64, 64, 256]),
            experts: 1 + rng.below(5),
            vocabulary: vocabulary + rng.below(3),
            key_heads,
            value_heads: key_heads * (1 + rng.below(2)),
            state: one_of(rng, &[3, 8, 16]),
            bytes_below: one_of(rng, &[64, 64, 64, 64, 64, 256]),
        }
    }

    fn has_experts(&self) -> bool {
        matches!(self.architecture, "qwen3moe" | "qwen3next")
    }

    fn is_delta(&self, layer: usize) -> bool {
        self.architecture == "qwen3next" && !(layer + 1).is_multiple_of(2)
    }
}

/// A model whose every key and tensor fits, with a tokenizer.
pub(crate) fn sound(rng: &mut Rng) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.alignment = one_of(rng, &[32, 32, 8, 64, 4096]);
    let (tokens, merges) = tokenizer(rng, &mut writer);
    let sizes = Sizes::random(rng, tokens);
    writer.text("general.architecture", sizes.architecture);
    if writer.alignment != 32 || rng.below(2) == 0 {
        let alignment = writer.alignment as u32;
        writer.number("general.alignment", alignment);
    }
    keys(rng, &sizes, &mut writer);
    writer.number("a.merges", merges as u32);
    matrix(rng, &sizes, &mut writer, "token_embd.weight", &[sizes.vocabulary, sizes.width]);
    vector(rng, &mut writer, "output_norm.weight", &[sizes.width]);
    if rng.below(2) == 0 {
        matrix(rng, &sizes, &mut writer, "output.weight", &[sizes.vocabulary, sizes.width]);
    }
    for layer in 0..sizes.layers {
        mixer(rng, &sizes, layer, &mut writer);
        feed_forward(rng, &sizes, layer, &mut writer);
    }
    writer
}

fn keys(rng: &mut Rng, sizes: &Sizes, writer: &mut GgufWriter) {
    let mut number = |key: &str, value: usize| {
        writer.number(&format!("{}.{key}", sizes.architecture), value as u32);
    };
    number("block_count", sizes.layers);
    number("context_length", one_of(rng, &[4, 64, 4096]));
    number("embedding_length", sizes.width);
    number("feed_forward_length", sizes.inner);
    number("attention.head_count", sizes.heads);
    number("attention.head_count_kv", sizes.kv_heads);
    number("attention.key_length", sizes.head_dim);
    number("rope.dimension_count", sizes.head_dim.min(one_of(rng, &[2, 4, 8])));
    if sizes.has_experts() {
        number("expert_count", sizes.experts);
        number("expert_used_count", 1 + rng.below(sizes.experts));
        number("expert_feed_forward_length", sizes.inner);
    }
    if sizes.architecture == "qwen3next" {
        number("expert_shared_feed_forward_length", sizes.inner);
        number("ssm.time_step_rank", sizes.value_heads);
        number("ssm.inner_size", sizes.value_heads * sizes.state);
        number("ssm.group_count", sizes.key_heads);
        number("ssm.state_size", sizes.state);
        number("ssm.conv_kernel", 4);
        number("full_attention_interval", 2);
    }
    writer.float(&format!("{}.attention.layer_norm_rms_epsilon", sizes.architecture), 1e-6);
    writer.float(&format!("{}.rope.freq_base", sizes.architecture), 10_000.0);
}

fn mixer(rng: &mut Rng, sizes: &Sizes, layer: usize, writer: &mut GgufWriter) {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let width = sizes.width;
    vector(rng, writer, &name("attn_norm.weight"), &[width]);
    if sizes.is_delta(layer) {
        let (keys, values) = (sizes.key_heads * sizes.state, sizes.value_heads * sizes.state);
        matrix(rng, sizes, writer, &name("attn_qkv.weight"), &[2 * keys + values, width]);
        matrix(rng, sizes, writer, &name("attn_gate.weight"), &[values, width]);
        matrix(rng, sizes, writer, &name("ssm_ba.weight"), &[2 * sizes.value_heads, width]);
        vector(rng, writer, &name("ssm_conv1d.weight"), &[2 * keys + values, 4]);
        let rates: Vec<f32> = (0..sizes.value_heads).map(|_| -0.01 - rng.uniform() as f32).collect();
        writer.floats(&name("ssm_a"), &[sizes.value_heads], &rates);
        vector(rng, writer, &name("ssm_dt.bias"), &[sizes.value_heads]);
        vector(rng, writer, &name("ssm_norm.weight"), &[sizes.state]);
        matrix(rng, sizes, writer, &name("ssm_out.weight"), &[width, values]);
        return;
    }
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let gated = if sizes.architecture == "qwen3next" { 2 } else { 1 };
    for (part, rows) in [("attn_q", gated * queries), ("attn_k", keys), ("attn_v", keys)] {
        matrix(rng, sizes, writer, &name(&format!("{part}.weight")), &[rows, width]);
        if sizes.architecture == "qwen2" {
            vector(rng, writer, &name(&format!("{part}.bias")), &[rows]);
        } else if part != "attn_v" {
            vector(rng, writer, &name(&format!("{part}_norm.weight")), &[sizes.head_dim]);
        }
    }
    matrix(rng, sizes, writer, &name("attn_output.weight"), &[width, queries]);
}

fn feed_forward(rng: &mut Rng, sizes: &Sizes, layer: usize, writer: &mut GgufWriter) {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    let (width, inner) = (sizes.width, sizes.inner);
    let next = sizes.architecture == "qwen3next";
    vector(rng, writer, &name(if next { "post_attention_norm" } else { "ffn_norm" }), &[width]);
    let mut bank = |end: &str, stack: &[usize]| {
        for (part, shape) in [("gate", [inner, width]), ("up", [inner, width]), ("down", [width, inner])] {
            matrix(rng, sizes, writer, &name(&format!("ffn_{part}{end}")), &[stack, &shape].concat());
        }
    };
    if !sizes.has_experts() {
        return bank("", &[]);
    }
    bank("_exps", &[sizes.experts]);
    if next {
        bank("_shexp", &[]);
        vector(rng, writer, &name("ffn_gate_inp_shexp"), &[width]);
    }
    vector(rng, writer, &name("ffn_gate_inp"), &[sizes.experts, width]);
}

/// Plain numbers.
fn vector(rng: &mut Rng, writer: &mut GgufWriter, name: &str, shape: &[usize]) {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| 0.2 * rng.normal() as f32).collect();
    writer.floats(name, shape, &values);
}

/// Any format whose blocks fit the rows.
fn matrix(rng: &mut Rng, sizes: &Sizes, writer: &mut GgufWriter, name: &str, shape: &[usize]) {
    use Format::{Bf16, F16, F32, Iq4Nl, Iq4Xs, Mxfp4, Nvfp4, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    let all = [F32, F16, Bf16, Q8_0, Q4_0, Iq4Nl, Mxfp4, Nvfp4, Iq4Xs, Q4K, Q5K, Q6K];
    let columns = shape[shape.len() - 1];
    let fits = |format: &Format| columns.is_multiple_of(format.block_columns());
    let format = one_of(rng, &all.into_iter().filter(fits).collect::<Vec<_>>());
    if format == F32 {
        return vector(rng, writer, name, shape);
    }
    let count = shape.iter().product::<usize>() / columns * format.row_bytes(columns);
    let bytes = (0..count).map(|_| rng.below(sizes.bytes_below) as u8).collect();
    writer.tensor(name, tensor_kind(formats::gguf::name_of(format)), shape, bytes);
    if format == Nvfp4 && rng.below(2) == 0 {
        let name = name.replace(".weight", ".scale");
        writer.floats(&name, &[1], &[0.5]);
    }
}

/// A tokenizer of all bytes, some merges and three control tokens; returns how many tokens and merges it has.
fn tokenizer(rng: &mut Rng, writer: &mut GgufWriter) -> (usize, usize) {
    // Bytes as byte-level tokenizers write them (GPT-2): what cannot be seen moves up by 256.
    let seen = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 255;
    let shown = (0..256u32).map(|byte| {
        next += u32::from(!seen(byte));
        char::from_u32(if seen(byte) { byte } else { next }).expect("a character").to_string()
    });
    let mut tokens: Vec<String> = shown.collect();
    let mut merges: Vec<String> = Vec::new();
    for _ in 0..rng.below(6) {
        let (left, right) = (tokens[rng.below(tokens.len())].clone(), tokens[rng.below(tokens.len())].clone());
        let merged = format!("{left}{right}");
        if !tokens.contains(&merged) {
            merges.push(format!("{left} {right}"));
            tokens.push(merged);
        }
    }
    let mut types = vec![1; tokens.len()];
    let first_control = tokens.len() as u32;
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    types.extend([3; 3]);
    fn borrowed(all: &[String]) -> Vec<&str> {
        all.iter().map(String::as_str).collect()
    }
    writer.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    writer.texts("tokenizer.ggml.tokens", &borrowed(&tokens)).integers("tokenizer.ggml.token_type", &types);
    writer.texts("tokenizer.ggml.merges", &borrowed(&merges));
    writer.number("tokenizer.ggml.eos_token_id", first_control + 2);
    writer.number("tokenizer.ggml.padding_token_id", first_control).flag("tokenizer.ggml.add_bos_token", false);
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                    {% endfor %}";
    writer.text("tokenizer.chat_template", template);
    (tokens.len(), merges.len())
}
