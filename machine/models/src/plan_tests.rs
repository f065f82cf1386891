//! Plans against what is then held.

use super::*;
use crate::{Quantization, State, hidden, logits};
use numeric::Format;
use ops::{Infer, Precision, buffer};
use std::path::PathBuf;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn rounded(format: Format) -> Loading {
    Loading::Quantized(Quantization::to(format))
}

#[test]
fn an_outline_is_as_large_as_the_model() {
    let mxfp4 = rounded(Format::Mxfp4);
    let cases = [
        ("base", vec![Loading::Stored, Loading::Packed, mxfp4, rounded(Format::Q8_0)]),
        ("oracle/qwen3_next", vec![Loading::Packed, Loading::F32, mxfp4]),
        ("oracle/qwen3_moe", vec![Loading::Packed, mxfp4]),
        ("oracle/qwen2", vec![Loading::Packed]),
        ("oracle/gguf/qwen3_next.f32.gguf", vec![Loading::Packed, mxfp4]),
        ("oracle/gguf/qwen3_next.q8_0.gguf", vec![Loading::Stored, Loading::Packed, Loading::F32]),
        ("oracle/gguf/qwen3_moe.q8_0.gguf", vec![Loading::Packed]),
    ];
    for (path, loadings) in cases {
        for loading in loadings {
            let outline = Model::outline(&fixture(path), loading).expect("it is a model");
            let model = Model::open(&fixture(path), loading).expect("it opens");
            assert_eq!(outline.bytes(), model.bytes(), "{path} as {loading:?}");
            let kinds = |model: &Model| -> Vec<_> {
                model.parameters().iter().map(|p| (p.matrix.format(), p.matrix.is_packed())).collect()
            };
            assert_eq!(kinds(&outline), kinds(&model), "{path} as {loading:?}");
        }
    }
}

/// In a thread of its own, whose pool is empty: what the pool holds after passes of several sizes.
fn pools(path: &'static str, loading: Loading, passes: &'static [usize]) -> (usize, usize) {
    let work = move || {
        let model = Model::open(&fixture(path), loading).expect("it opens");
        let mut e = Infer::new(Precision::F32);
        let mut states = [State::empty(&model.config, KvFormat::F16)];
        let mut rehearsal = Rehearse::default();
        for &tokens in passes {
            let settings = PlanSettings::one(states[0].position() + tokens, KvFormat::F16, 1);
            let h = hidden(&mut e, &model, &mut states, &vec![1; tokens], &[tokens]);
            drop(logits(&mut e, &model, &h, &[tokens - 1]));
            rehearse(&mut rehearsal, &model, &[tokens], &settings);
        }
        (buffer::pooled(), rehearsal.pooled())
    };
    std::thread::spawn(work).join().expect("it runs")
}

#[test]
fn a_rehearsal_takes_what_the_pass_takes() {
    for (path, loading) in [
        ("base", Loading::Packed),
        ("base", rounded(Format::Mxfp4)),
        ("oracle/qwen3_moe", Loading::Packed),
        ("oracle/gguf/qwen3_next.q8_0.gguf", Loading::Packed),
        ("oracle/qwen2", Loading::Packed),
    ] {
        let (held, rehearsed) = pools(path, loading, &[150, 61, 1, 24]);
        assert_eq!(held, rehearsed, "{path} as {loading:?}");
        assert!(held > 10_000, "{path}: the pool was used");
    }
}

#[test]
fn states_are_as_large_as_planned() {
    let model = Model::open(&fixture("base"), Loading::Packed).expect("it opens");
    for kv in [KvFormat::F16, KvFormat::Int8, KvFormat::F32] {
        for tokens in [1, 256, 257] {
            let mut states = [State::empty(&model.config, kv)];
            hidden(&mut Infer::new(Precision::F32), &model, &mut states, &vec![1; tokens], &[tokens]);
            let plan = Plan::of(&model, Loading::Packed, &PlanSettings::one(tokens, kv, 1));
            assert_eq!(plan.cache + plan.recurrent, states[0].bytes(), "{tokens} tokens in {kv:?}");
        }
    }
}

#[test]
fn buffers_follow_the_pass_and_not_the_context() {
    let model = Model::outline(&fixture("base"), Loading::Packed).expect("it is a model");
    let settings = PlanSettings::one(1024, KvFormat::F16, 1);
    let plan = |settings| Plan::of(&model, Loading::Packed, &settings);
    let (short, long) = (plan(settings), plan(PlanSettings { context: 32_768, ..settings }));
    assert_eq!(long.cache, 32 * short.cache);
    assert_eq!((long.recurrent, long.weights), (short.recurrent, short.weights));
    assert!(long.forward < short.forward + (1 << 20), "{} after {}", long.forward, short.forward);
    let wide = plan(PlanSettings { pass_tokens: 1024, ..settings });
    assert!(wide.forward > short.forward * 3 / 2);
    assert_eq!(plan(PlanSettings { sequences: 3, spare_states: 1, ..settings }).recurrent, 4 * short.recurrent);
}

#[test]
fn an_imagined_state_is_as_large_as_a_real_one_and_goes_on() {
    let model = Model::open(&fixture("oracle/qwen3_next"), Loading::Packed).expect("it opens");
    let mut e = Infer::new(Precision::F32);
    for (kv, tokens) in [(KvFormat::F16, 0), (KvFormat::Int8, 1), (KvFormat::F32, 300)] {
        let mut real = [State::empty(&model.config, kv)];
        if tokens > 0 {
            hidden(&mut e, &model, &mut real, &vec![1; tokens], &[tokens]);
        }
        let mut imagined = [State::imagined(&model.config, kv, tokens, &mut numeric::Rng::new(1))];
        assert_eq!([imagined[0].bytes(), imagined[0].position()], [real[0].bytes(), tokens]);
        let h = hidden(&mut e, &model, &mut imagined, &[1, 2], &[2]);
        assert!(h.iter().all(|value| value.is_finite()));
    }
}
