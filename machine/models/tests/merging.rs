//! Merging from folder to folder: what comes out is proven, or nothing comes out.

mod support;

use formats::safetensors::Tensors;
use formats::{DType, TensorPlan};
use models::adapter::{
    Import, LoraConfig, Merge, MergeStep, Proof, attach, load_peft, merge, merge_directory, save_peft,
};
use models::{Loading, Model, ModelError};
use numeric::Format;
use std::path::{Path, PathBuf};
use support::{Folder, logits, oracle, tokens, worst};

fn run(
    base: &Path,
    adapter: &Path,
    out: &Path,
    prompts: &[Vec<u32>],
) -> Result<(Proof, models::adapter::Probe), ModelError> {
    let job = Merge { base, adapter, out, import: Import::default(), prompts };
    merge_directory(&job, &mut |_| true)
}

/// The oracle's model, stored in another format.
fn stored(case: &str, format: Format, to: PathBuf) -> PathBuf {
    Model::open(&oracle(case), Loading::F32).expect("it opens").save(&to, format).expect("it saves");
    to
}

/// The same weights with a layer's experts in two tensors.
fn fused(base: &Path, to: &Path) {
    let tensors = Tensors::open(base).expect("weights");
    let model = Model::open(base, Loading::Stored).expect("it opens");
    let mut parts: Vec<(String, Vec<usize>, DType, Vec<u8>)> = Vec::new();
    for tensor in tensors.tensors().filter(|tensor| !tensor.name.contains(".experts.")) {
        parts.push((tensor.name.to_owned(), tensor.shape.to_vec(), tensor.dtype, tensor.bytes.to_vec()));
    }
    for (layer, count) in model.config.expert_counts().into_iter().enumerate() {
        let part = |expert: usize, projection: &str| {
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.{projection}.weight");
            tensors.get(&name).expect("an expert's weight")
        };
        let first = part(0, "gate_proj");
        let (inner, hidden, dtype) = (first.shape[0], first.shape[1], first.dtype);
        let bank = format!("model.layers.{layer}.mlp.experts");
        let gate_up =
            (0..count).flat_map(|e| [part(e, "gate_proj").bytes, part(e, "up_proj").bytes].concat()).collect();
        let down = (0..count).flat_map(|e| part(e, "down_proj").bytes.to_vec()).collect();
        parts.push((format!("{bank}.gate_up_proj"), vec![count, 2 * inner, hidden], dtype, gate_up));
        parts.push((format!("{bank}.down_proj"), vec![count, hidden, inner], dtype, down));
    }
    let mut plan = TensorPlan::new();
    parts.iter().for_each(|(name, shape, dtype, _)| plan.declare(name, *dtype, shape));
    let mut writer = plan.create_model(to, 1 << 20).expect("a folder");
    parts.iter().for_each(|(name, _, _, bytes)| writer.write(name, bytes).expect("it is written"));
    writer.finish().expect("it is written");
    std::fs::copy(base.join("config.json"), to.join("config.json")).expect("a configuration");
}

#[test]
fn a_merged_folder_says_what_base_and_adapter_say() {
    let folder = Folder::new("merged");
    for (case, name, format, tolerance) in [
        ("qwen2", "lora_all", Format::F32, 1e-4),
        ("qwen3_moe", "lora_attn_experts", Format::F32, 1e-4),
        ("qwen3_next", "lora_attn_experts", Format::F32, 2e-4),
        // Rounded weights now and then send a token to another expert, so that only the dense model's are close.
        ("qwen3_moe", "lora_attn_experts", Format::Bf16, f32::INFINITY),
        ("qwen2", "lora_all", Format::Bf16, 0.2),
        ("qwen2", "lora_all", Format::F16, 2e-2),
    ] {
        let place = |what: &str| folder.0.join(format!("{case}-{format:?}-{what}"));
        let (base, adapter, out) = (stored(case, format, place("base")), oracle(case).join(name), place("out"));
        std::fs::write(base.join("tokenizer.json"), "{}").expect("a file beside the weights");
        let prompts = [tokens(case)];
        let (proof, probe) = run(&base, &adapter, &out, &prompts).unwrap_or_else(|error| panic!("{case}: {error}"));
        let mut adapted = Model::open(&base, Loading::F32).expect("it opens");
        let weights = load_peft(&mut adapted, &adapter, &Import::default()).expect("the adapter loads");
        assert_eq!(proof.merged, weights, "{case}: {proof:?}");
        assert!(proof.untouched > 0 && proof.kinds.iter().all(|kind| kind.worst <= 1.0 && kind.change() > 1e-3));
        let lost = if format == Format::F32 { 1e-4 } else { 0.1 };
        assert!(proof.kinds.iter().all(|kind| kind.lost() < lost), "{case}: {proof:?}");
        assert!(probe.rms_difference < probe.allowed() && probe.rms_effect > 1e-2, "{case}: {probe:?}");
        assert!(probe.rms_difference < 0.2 * probe.rms_effect, "{case}: {probe:?}");
        assert_eq!(probe.tokens, prompts[0].len());
        let merged = Model::open(&out, Loading::F32).expect("it opens");
        let difference = worst(&logits(&merged, &prompts[0][..30]), &logits(&adapted, &prompts[0][..30]));
        assert!(difference < tolerance, "{case} in {format:?}: logits differ by {difference}");
        let dtype = |folder: &Path| Tensors::open(folder).expect("weights").tensors().next().map(|t| t.dtype);
        assert_eq!(dtype(&base), dtype(&out), "what is stored stays what it is");
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&base), names(&out), "{case}: the files beside the weights");
        // In memory the same.
        if format == Format::F32 {
            merge(&mut adapted);
            for (a, b) in adapted.parameters().iter().zip(merged.parameters()) {
                assert_eq!((&a.name, a.values()), (&b.name, b.values()));
            }
        }
    }
}

#[test]
fn fused_experts_are_merged_like_single_ones() {
    let folder = Folder::new("fused");
    let (base, adapter) = (folder.0.join("base"), oracle("qwen3_next").join("lora_attn_experts"));
    fused(&oracle("qwen3_next"), &base);
    let prompts = [tokens("qwen3_next")];
    let single = run(&oracle("qwen3_next"), &adapter, &folder.0.join("single"), &prompts).expect("it merges").0;
    let (proof, _) = run(&base, &adapter, &folder.0.join("out"), &prompts).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(proof.merged, single.merged);
    let open = |path: &str| Model::open(&folder.0.join(path), Loading::F32).expect("it opens");
    for (a, b) in open("single").parameters().iter().zip(open("out").parameters()) {
        assert_eq!((&a.name, a.values()), (&b.name, b.values()));
    }
    assert!(
        folder.0.join("out/model.safetensors.index.json").is_file() || folder.0.join("out/model.safetensors").is_file()
    );
}

#[test]
fn a_merge_that_fails_leaves_nothing() {
    let folder = Folder::new("failing");
    let adapter = oracle("qwen3_next").join("lora_attn_experts");
    let out = folder.0.join("out");
    let prompts = [tokens("qwen3_next")];
    let nothing_left = || {
        let left: Vec<_> = std::fs::read_dir(&folder.0).expect("a folder").filter_map(Result::ok).collect();
        assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("out")), "{left:?}");
    };
    let refused = |base: &Path, adapter: &Path, wanted: &str| {
        let error = run(base, adapter, &out, &prompts).map(|_| ()).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "wanted {wanted:?}: {error}");
        nothing_left();
    };
    refused(&oracle("qwen3_moe"), &adapter, "fit no module");

    let mut quantized = Model::open(&oracle("qwen3_next"), Loading::F32).expect("it opens");
    let to = models::Quantization::to(Format::Mxfp4);
    quantized.weights.linears_mut().into_iter().for_each(|map| {
        let matrix = map.weight.matrix.clone();
        map.weight.matrix = to.round(&map.weight.name, matrix).expect("it rounds");
    });
    quantized.save(&folder.0.join("quantized"), Format::Bf16).expect("it saves");
    refused(&folder.0.join("quantized"), &adapter, "run this one with --adapter");

    let mut fresh = Model::open(&oracle("qwen3_next"), Loading::F32).expect("it opens");
    attach(&mut fresh, &LoraConfig::new(2, 4.0, &["q_proj"]), 1).expect("it attaches");
    save_peft(&fresh, &folder.0.join("fresh"), &models::adapter::Export::default()).expect("it saves");
    refused(&oracle("qwen3_next"), &folder.0.join("fresh"), "adds nothing");

    // A number that no f16 can say.
    stored("qwen3_next", Format::F16, folder.0.join("half"));
    fresh.weights.visit_mut(&mut |parameter| {
        if parameter.name.ends_with("lora_B.weight") {
            parameter.matrix.as_f32_mut().fill(1e6);
        }
    });
    save_peft(&fresh, &folder.0.join("large"), &models::adapter::Export::default()).expect("it saves");
    refused(&folder.0.join("half"), &folder.0.join("large"), "off by inf times");

    for stop_at in 0..3 {
        let mut stop = |step: MergeStep| match step {
            MergeStep::Writing { .. } => stop_at != 0,
            MergeStep::Proving { .. } => stop_at != 1,
            MergeStep::Probing { .. } => stop_at != 2,
        };
        let base = oracle("qwen3_next");
        let job = Merge { base: &base, adapter: &adapter, out: &out, import: Import::default(), prompts: &prompts };
        assert!(matches!(merge_directory(&job, &mut stop), Err(ModelError::Cancelled)));
        nothing_left();
    }
    std::fs::create_dir(&out).expect("a folder");
    let error = run(&oracle("qwen3_next"), &adapter, &out, &prompts).map(|_| ()).expect_err("it is there").to_string();
    assert!(error.contains("is there already"), "{error}");
}
