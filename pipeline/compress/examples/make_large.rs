//! Writes a checkpoint in the shape of Qwen3-Next-80B-A3B with made-up weights, as large as one likes, in shards,
//! without ever holding more than a tensor: something to compress that does not fit into memory. Vocabulary, tokenizer
//! and template are those of a model that is there.
//!
//! `cargo run --release -p compress --example make_large -- OUT TEXT-FROM [LAYERS [EXPERTS [SHARD-GB]]]`

use formats::{DType, TensorPlan};
use models::{Config, Loading, Model};
use numeric::{Format, Rng, bf16};
use std::fs;
use std::io::Write;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, text, ..] = &arguments[..] else { panic!("OUT and TEXT-FROM are wanted, both folders") };
    let number = |at: usize, usual: f64| arguments.get(at).map_or(usual, |text| text.parse().expect("a number"));
    let (layers, experts, shard) = (number(2, 4.0) as usize, number(3, 64.0) as usize, number(4, 4.0));
    let (out, text) = (Path::new(out), Path::new(text));
    let config = config(text, layers, experts);
    fs::create_dir_all(out).expect("the folder can be made");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"] {
        if text.join(file).is_file() {
            fs::copy(text.join(file), out.join(file)).expect("the file can be copied");
        }
    }
    let outline = Model::imagined(Config::from_json(&config).expect("it is valid"), Loading::Stored, Format::Bf16);
    let parameters = outline.parameters();
    let mut plan = TensorPlan::new();
    parameters.iter().for_each(|parameter| plan.declare(parameter.name.clone(), DType::BF16, &parameter.shape));
    let mut writer = plan.create_model(out, (shard * 1e9) as u64).expect("there is room");
    let mut pool = Pool::new(1);
    for parameter in parameters {
        let numbers: usize = parameter.shape.iter().product();
        let bytes = pool.bytes(&parameter.name, numbers, layers);
        writer.write(&parameter.name, &bytes).expect("it is written");
    }
    writer.finish().expect("it is put in place");
    // With this file the folder is a model, so it comes last.
    fs::write(out.join("config.json"), config).expect("it is written");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{} bytes of weights in {}", plan.bytes(), out.display()).expect("somebody listens");
}

/// The released shape but for layers, experts and vocabulary.
fn config(text: &Path, layers: usize, experts: usize) -> String {
    let small = fs::read_to_string(text.join("config.json")).expect("TEXT-FROM is a model folder");
    let vocabulary = Config::from_json(&small).expect("its configuration is valid").vocab_size;
    format!(
        r#"{{
  "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "dtype": "bfloat16",
  "attention_bias": false, "decoder_sparse_step": 1, "full_attention_interval": 4, "head_dim": 256,
  "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5120, "linear_conv_kernel_dim": 4,
  "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
  "max_position_embeddings": 262144, "mlp_only_layers": [], "moe_intermediate_size": 512, "norm_topk_prob": true,
  "num_attention_heads": 16, "num_experts": {experts}, "num_experts_per_tok": 10, "num_hidden_layers": {layers},
  "num_key_value_heads": 2, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_theta": 10000000,
  "shared_expert_intermediate_size": 512, "tie_word_embeddings": false, "vocab_size": {vocabulary}
}}"#
    )
}

/// Normal numbers that are used again and again, from another place each time: no two rows of a model are alike, and
/// nobody waits for billions of logarithms.
struct Pool {
    rng: Rng,
    numbers: Vec<f32>,
}

impl Pool {
    fn new(seed: u64) -> Self {
        /// A prime, so that rows of common lengths never fall together.
        const NUMBERS: usize = 1_048_583;
        let mut rng = Rng::new(seed);
        let numbers = (0..NUMBERS).map(|_| rng.normal() as f32).collect();
        Self { rng, numbers }
    }

    /// As training would begin: small residual branches, norms and gates at rest.
    fn bytes(&mut self, name: &str, numbers: usize, layers: usize) -> Vec<u8> {
        let ends = |end: &str| name.ends_with(end);
        let (centre, spread) = match () {
            () if ends("linear_attn.norm.weight") => (1.0, 0.0),
            () if ends("norm.weight") => (0.0, 0.0),
            () if ends("A_log") => (1.5, 0.5),
            () if ends("dt_bias") => (-4.0, 1.0),
            () if ends("conv1d.weight") => (0.0, 0.3),
            () if ends("o_proj.weight") || ends("out_proj.weight") || ends("down_proj.weight") => {
                (0.0, 0.02 / (2.0 * layers as f32).sqrt())
            }
            () => (0.0, 0.02),
        };
        let start = (self.rng.uniform() * self.numbers.len() as f64) as usize;
        let values = self.numbers.iter().cycle().skip(start).take(numbers);
        values.flat_map(|value| bf16::from_f32(centre + spread * value).to_le_bytes()).collect()
    }
}
