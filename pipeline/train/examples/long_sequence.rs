//! One training step on one long sequence: how long it takes, and how much memory beside what was planned. Prints one
//! JSON object.
//!
//! `cargo run --release -p train --example long_sequence -- MODEL TOKENS [f32] [lora [nvfp4]] [twice]`
//!
//! The optimizer's means of a first step are memory that was promised and never touched: `twice` takes two.

use models::{Model, TrainingPlan};
use prepare::{Kind, Sample};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use train::{FrozenFormat, LoraConfig, Method, Run, Silent, Supervised, TrainPrecision, TrainRecipe};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, tokens, ways @ ..] = arguments.as_slice() else { panic!("give a model and a number of tokens") };
    let tokens: usize = tokens.parse().expect("a number of tokens");
    let has = |way: &str| ways.iter().any(|word| word == way);
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "out_proj", "experts"];
    let lora = LoraConfig::new(16, 32.0, &targets);
    let recipe = TrainRecipe {
        steps: Some(if has("twice") { 2 } else { 1 }),
        sequence_length: tokens,
        batch_tokens: tokens,
        precision: if has("f32") { TrainPrecision::F32 } else { TrainPrecision::Bf16 },
        checkpoint_layers: true,
        method: if has("lora") { Method::Lora(lora) } else { Method::Full },
        quantize: has("nvfp4").then_some(FrozenFormat::Nvfp4),
        ..TrainRecipe::default()
    };
    let outline = Model::outline(Path::new(path), recipe.loading()).expect("a model");
    let plan = train::plan(&recipe, outline, None, (kernels::pool::threads(), 1)).expect("a plan");
    let began = std::time::Instant::now();
    let summary = train(Path::new(path), &recipe);
    let line = json!({
        "tokens": tokens,
        "loss": summary.loss,
        "seconds": began.elapsed().as_secs_f64(),
        "peak_bytes": peak_bytes(),
        "planned_bytes": plan.total(),
        "bytes_a_token": (plan.checkpoints + plan.cache) / tokens,
        "plan": TrainingPlan { ..plan },
    });
    writeln!(std::io::stdout(), "{line}").expect("stdout takes a line");
}

fn train(path: &Path, recipe: &TrainRecipe) -> train::Summary {
    let mut model = Model::open(path, recipe.loading()).expect("a model");
    let vocabulary = model.config.vocab_size;
    let ids = (0..recipe.sequence_length).map(|i| ((i * 7919 + i * i) % vocabulary) as u32).collect();
    let samples = [Sample::new(ids, vec![1.0; recipe.sequence_length], Kind::Chat)];
    let folder = std::env::temp_dir().join(format!("lateen-long-{}", std::process::id()));
    let never = AtomicBool::new(false);
    let run = Run {
        title: "long",
        recipe,
        samples: &samples,
        validation: &[],
        directory: &folder,
        result_bytes: &[],
        cancelled: &never,
    };
    let summary = train::train(&run, &mut model, &mut Supervised, &mut Silent).expect("a step");
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    summary
}

/// The most memory that this process has had; Linux says.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
