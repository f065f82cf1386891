//! The proof and the probe find what a merge did wrong.

use super::*;
use crate::adapter::import::read;
use std::path::PathBuf;

fn oracle() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/qwen3_next")
}

/// The merged oracle with one tensor changed.
fn tampered(name: &str, change: impl FnOnce(&[f32], &mut Vec<f32>)) -> (Partial, Adapters) {
    let base = Tensors::open(oracle()).expect("weights");
    let outline = Model::outline(&oracle(), Loading::Stored).expect("it opens");
    let adapters = read(&outline, &oracle().join("lora_attn_experts"), &Import::default()).expect("it reads");
    let out = std::env::temp_dir().join(format!("lateen-merge-{}-{name}", std::process::id()));
    let partial = Partial::make(&out).expect("a folder");
    write(&base, &adapters, &partial.0, &mut |_| true).expect("it merges");
    let merged = Tensors::open(&partial.0).expect("weights");
    let mut plan = TensorPlan::new();
    merged.tensors().for_each(|tensor| plan.declare(tensor.name, tensor.dtype, tensor.shape));
    let before = base.get(name).expect(name).to_f32();
    let mut after = merged.get(name).expect(name).to_f32();
    change(&before, &mut after);
    let mut writer = plan.create_model(partial.0.join("changed"), SHARD_BYTES_MAX).expect("a folder");
    for tensor in merged.tensors() {
        match tensor.name == name {
            true => writer.write_f32(name, &after).expect("it is written"),
            false => writer.write(tensor.name, tensor.bytes).expect("it is written"),
        }
    }
    writer.finish().expect("it is written");
    (partial, adapters)
}

fn verdict(name: &str, change: impl FnOnce(&[f32], &mut Vec<f32>)) -> (Result<(), String>, Result<(), String>) {
    let (partial, adapters) = tampered(name, change);
    let changed = partial.0.join("changed");
    std::fs::copy(oracle().join("config.json"), changed.join("config.json")).expect("it is copied");
    let [base, merged] = [oracle(), changed].map(|path| LayerStream::open(&path, Loading::Stored).expect("weights"));
    let text = |error: ModelError| error.to_string();
    let proof = prove(base.tensors(), merged.tensors(), &adapters, &mut |_| true);
    let proof = proof.and_then(|proof| proof.check(&adapters)).map_err(text);
    let sequences = [(0..60).map(|at| at * 7 % 500).collect::<Vec<u32>>()];
    let found = probe([&base, &merged], &adapters, &sequences, &mut |_| true).and_then(|probe| probe.check());
    (proof, found.map_err(text))
}

const EXPERT: &str = "model.layers.2.mlp.experts.5.up_proj.weight";

#[test]
fn a_sound_merge_passes() {
    let (proof, probe) = verdict(EXPERT, |_, _| {});
    assert!(proof.is_ok() && probe.is_ok(), "{proof:?} {probe:?}");
}

#[test]
fn a_target_left_out_is_found() {
    let (proof, _) = verdict(EXPERT, |before, after| after.copy_from_slice(before));
    let error = proof.expect_err("one expert was not merged");
    assert!(error.contains(EXPERT) && error.contains("times what rounding allows"), "{error}");
}

#[test]
fn one_number_a_little_off_is_found() {
    let (proof, probe) = verdict(EXPERT, |_, after| after[77] += 1e-5);
    assert!(proof.expect_err("one number").contains(EXPERT));
    assert!(probe.is_ok(), "no logit shows that");
}

#[test]
fn a_tensor_that_nobody_asked_for_is_found() {
    let (proof, _) = verdict("model.layers.1.mlp.gate.weight", |_, after| after[3] *= 1.001);
    assert!(proof.expect_err("the router moved").contains("model.layers.1.mlp.gate.weight"));
}

/// A directory with one module trained whole, merged, and that module put back to the base's.
#[test]
fn a_whole_module_left_out_is_found() {
    const NORM: &str = "model.layers.1.input_layernorm.weight";
    let base = Tensors::open(oracle()).expect("weights");
    let outline = Model::outline(&oracle(), Loading::Stored).expect("it opens");
    let mut adapters = read(&outline, &oracle().join("lora_attn_experts"), &Import::default()).expect("it reads");
    let mut norm = outline.weights.layers[1].input_norm.weight.clone();
    norm.matrix = numeric::Matrix::from_f32(1, norm.matrix.columns, vec![0.5; norm.matrix.columns]);
    adapters.put_whole(norm);
    let folder = |name: &str| std::env::temp_dir().join(format!("lateen-merge-{}-{name}", std::process::id()));
    let whole = Partial::make(&folder("whole")).expect("a folder");
    write(&base, &adapters, &whole.0, &mut |_| true).expect("it merges");
    let merged = Tensors::open(&whole.0).expect("weights");
    let proof = prove(&base, &merged, &adapters, &mut |_| true).expect("it is read");
    proof.check(&adapters).expect("it is sound");
    let without = read(&outline, &oracle().join("lora_attn_experts"), &Import::default()).expect("it reads");
    let left_out = Partial::make(&folder("left-out")).expect("a folder");
    write(&base, &without, &left_out.0, &mut |_| true).expect("it merges");
    let merged = Tensors::open(&left_out.0).expect("weights");
    let proof = prove(&base, &merged, &adapters, &mut |_| true).expect("it is read");
    assert!(proof.check(&adapters).expect_err("the norm is the base's").to_string().contains(NORM));
}

#[test]
fn another_model_is_heard() {
    let (_, probe) = verdict("model.layers.0.linear_attn.out_proj.weight", |_, after| {
        after.iter_mut().for_each(|value| *value *= -1.0);
    });
    assert!(probe.expect_err("it says something else").contains("does not say what the base says"));
}
