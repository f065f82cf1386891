//! Plans of training against what is then held.

use super::*;
use crate::{CHUNK_TOKENS, Examples, Quantization, adapter, loss_and_gradients};
use numeric::Format;
use ops::{Gradients, buffer};
use std::path::PathBuf;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn lora() -> adapter::LoraConfig {
    adapter::LoraConfig::new(4, 8.0, &["q_proj", "in_proj_qkvz", "experts"])
}

/// In a thread of its own, whose pool is empty: what the pool holds after a pass, and what the rehearsal says.
fn pools(path: &'static str, loading: Loading, settings: TrainingSettings) -> (usize, usize) {
    let work = move || {
        let mut model = Model::open(&fixture(path), loading).expect("it opens");
        if matches!(loading, Loading::Frozen(_)) {
            adapter::attach(&mut model, &lora(), 1).expect("it attaches");
        }
        let total: usize = settings.lengths.iter().sum();
        let (tokens, weights) = (vec![1; total], vec![1.0 / total as f32; total]);
        let examples = Examples { tokens: &tokens, lengths: &settings.lengths, targets: &tokens, weights: &weights };
        loss_and_gradients(&model, &examples, &settings.options, &mut Gradients::default());
        let mut rehearsal = Rehearsal::new(&model, &settings);
        rehearsal.run();
        (buffer::pooled(), rehearsal.tape.room().pooled())
    };
    std::thread::spawn(work).join().expect("it runs")
}

fn options(chunk_tokens: usize, checkpoint_layers: bool, precision: Precision) -> GradientOptions {
    GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient: 0.0, dropout_seed: None }
}

#[test]
fn a_teacher_counts_with_its_weights_and_what_it_says() {
    let student = Model::outline(&fixture("oracle/qwen3_moe"), Loading::F32).expect("it outlines");
    let teacher = Model::outline(&fixture("base"), Loading::Packed).expect("it outlines");
    let options = options(128, true, Precision::F32);
    let alone = TrainingPlan::of(
        &student,
        Loading::F32,
        &TrainingSettings { lengths: vec![256], options, threads: 2, sequence_ranks: 1 },
    );
    let settings = TeacherSettings {
        outline: &teacher,
        loading: Loading::Packed,
        tokens: 256,
        at_a_time: 1,
        is_streamed: false,
        mixed_tokens: 0,
        chunk_tokens: 128,
        streams: 2,
        threads: 2,
    };
    let plan = alone.beside_teacher(&student, &settings);
    let said = plan.teacher - teacher.bytes() - teacher.bytes() / PAGE_ENDS;
    assert!(alone.teacher == 0 && plan.total() > alone.total() + teacher.bytes());
    assert!(said > 4 * 256 * (5 * 192 + 2048) && said < 4 * 256 * (20 * 192 + 2048), "{said}");
    let more = alone.beside_teacher(&student, &TeacherSettings { streams: 4, ..settings });
    assert_eq!(more.teacher - plan.teacher, 4 * 256 * 4 * 192);
}

#[test]
fn a_rehearsal_takes_what_the_pass_takes() {
    let frozen = Loading::Frozen(Quantization::to(Format::Nvfp4));
    for (path, loading, lengths, options) in [
        ("base", Loading::F32, vec![300, 41, 150], options(CHUNK_TOKENS, false, Precision::F32)),
        ("base", Loading::F32, vec![700], options(256, true, Precision::F32)),
        ("base", Loading::F32, vec![100, 600], options(256, true, Precision::Bf16)),
        ("base", frozen, vec![700], options(256, true, Precision::Bf16)),
        ("oracle/qwen3_moe", Loading::F32, vec![300, 41, 150], options(128, true, Precision::F32)),
        ("oracle/qwen2", Loading::F32, vec![300, 41, 150], options(128, false, Precision::F32)),
    ] {
        let (held, rehearsed) =
            pools(path, loading, TrainingSettings { lengths, options, threads: 1, sequence_ranks: 1 });
        let off = (held as f64 - rehearsed as f64).abs() / held as f64;
        assert!(off < 0.05, "{path} as {loading:?}, {options:?}: {held} numbers held, {rehearsed} rehearsed");
        assert!(held > 100_000, "{path}: the pool was used");
    }
}

/// Of one of four processes: its keys and values are a quarter, its streams too, and what goes by is no more than some
/// of a layer's.
#[test]
fn a_process_that_shares_a_sequence_holds_its_part() {
    let outline = Model::outline(&fixture("base"), Loading::F32).expect("it is a model");
    let plan = |tokens, chunk_tokens, sequence_ranks| {
        let options = options(chunk_tokens, true, Precision::Bf16);
        let settings = TrainingSettings { lengths: vec![tokens], options, threads: 2, sequence_ranks };
        TrainingPlan::of(&outline, Loading::F32, &settings)
    };
    let (alone, shared) = (plan(128 << 10, 1024, 1), plan(128 << 10, 1024, 4));
    let share = |of: fn(&TrainingPlan) -> usize| of(&shared) as f64 / of(&alone) as f64;
    assert!((share(|plan| plan.checkpoints) - 0.25).abs() < 0.01, "{shared:?} of {alone:?}");
    let own = alone.cache as f64 / 4.0;
    // Two layers' keys and values in two bytes and one's gradients in four; what goes by are one layer's of both,
    // thrice.
    let passing = 3.0 * (256.0 * 2.0 + 256.0 * 4.0) / (2.0 * 256.0 * 2.0 + 256.0 * 4.0) * own;
    assert!((shared.cache as f64 - own - passing).abs() < 0.02 * alone.cache as f64, "{shared:?} of {alone:?}");
    assert!(share(|plan| plan.activations) < 0.6, "{shared:?} of {alone:?}");
    assert_eq!((shared.weights, shared.moments), (alone.weights, alone.moments));
    // Within one round nothing waits for another, and keys and values go by all the same.
    assert!(plan(4096, 1024, 4).cache > 0 && plan(4096, 4096, 1).cache == 0);
}

#[test]
fn an_imagined_model_is_planned_as_one_that_is_there() {
    for loading in [Loading::F32, Loading::Frozen(Quantization::to(Format::Mxfp4))] {
        let outline = Model::outline(&fixture("base"), loading).expect("it is a model");
        let imagined = Model::imagined(outline.config.clone(), loading, Format::Bf16);
        assert_eq!(imagined.bytes(), outline.bytes(), "{loading:?}");
        let names = |model: &Model| model.parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&imagined), names(&outline));
    }
}

#[test]
fn a_sequence_costs_its_checkpoints_and_its_keys_and_nothing_else() {
    let outline = Model::outline(&fixture("base"), Loading::F32).expect("it is a model");
    let options = options(1024, true, Precision::Bf16);
    let plan = |tokens| {
        let settings = TrainingSettings { lengths: vec![tokens], options, threads: 2, sequence_ranks: 1 };
        TrainingPlan::of(&outline, Loading::F32, &settings)
    };
    let (short, long) = (plan(16 << 10), plan(128 << 10));
    let more = (112 << 10) as f64;
    // Eight layers' inputs in two bytes, and the delta states of six layers at each chunk.
    let states = 6.0 * 4.0 * (8.0 * 32.0 * 32.0 + 3.0 * 512.0) / 1024.0;
    let a_token = (long.checkpoints - short.checkpoints) as f64 / more;
    assert!((a_token - 8.0 * 192.0 * 2.0 - states).abs() < 1.0, "{a_token}");
    // Two layers' keys and values in two bytes, gradients of one in four.
    let a_token = (long.cache - short.cache) as f64 / more;
    assert!((a_token - 2.0 * 256.0 * 2.0 - 256.0 * 4.0).abs() < 1.0, "{a_token}");
    // The streams, there and back.
    let a_token = (long.activations - short.activations) as f64 / more;
    assert!(a_token < 2.5 * 192.0 * 4.0, "{a_token}");
    assert_eq!((long.weights, long.gradients, long.moments), (short.weights, short.gradients, short.moments));
}

#[test]
fn adapters_on_a_frozen_base_need_no_gradients_of_it() {
    let frozen = Loading::Frozen(Quantization::to(Format::Nvfp4));
    let mut outline = Model::outline(&fixture("base"), frozen).expect("it is a model");
    let attached = adapter::outline(&mut outline, &lora()).expect("it attaches");
    let mut real = Model::open(&fixture("base"), frozen).expect("it opens");
    assert_eq!(attached, adapter::attach(&mut real, &lora(), 1).expect("it attaches"));
    assert_eq!(outline.bytes(), real.bytes());
    let options = options(512, true, Precision::Bf16);
    let settings = TrainingSettings { lengths: vec![512], options, threads: 2, sequence_ranks: 1 };
    let plan = TrainingPlan::of(&outline, frozen, &settings);
    let trained: usize = real.parameters().iter().filter(|p| p.trained).map(|p| 4 * numbers(p)).sum();
    assert_eq!((plan.gradients, plan.moments), (trained, 2 * trained));
    assert!(plan.weights < real.parameter_count() * 2);
}

#[test]
fn a_teacher_on_disk_is_its_head_and_a_layer_at_a_time() {
    let student = Model::outline(&fixture("base"), Loading::F32).expect("it is a model");
    let outline = Model::outline(&fixture("base"), Loading::Packed).expect("it is a model");
    let options = options(1024, true, Precision::Bf16);
    let plan = TrainingPlan::of(
        &student,
        Loading::F32,
        &TrainingSettings { lengths: vec![1024], options, threads: 2, sequence_ranks: 1 },
    );
    let beside = |is_streamed, at_a_time| {
        let settings = TeacherSettings {
            outline: &outline,
            loading: Loading::Packed,
            tokens: 1024,
            at_a_time,
            is_streamed,
            chunk_tokens: 1024,
            mixed_tokens: 32,
            streams: 2,
            threads: 2,
        };
        plan.beside_teacher(&student, &settings)
    };
    let (resident, streamed, four) = (beside(false, 1), beside(true, 1), beside(true, 4));
    let layers: usize = outline.weights.layers.iter().map(LayerWeights::bytes).sum();
    let less = (resident.teacher - streamed.teacher) as f64;
    assert!((less / layers as f64 - 1.0).abs() < 0.05, "{less} less for layers of {layers}");
    assert!(streamed.total() + layers / 2 < resident.total(), "{streamed:?} beside {resident:?}");
    // What it says of three more micro-batches: last states, two streams, 32 experts in each of 8 layers.
    assert_eq!(four.teacher - streamed.teacher, 3 * 1024 * 4 * (3 * 192 + 8 * 32));
}
