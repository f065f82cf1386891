//! What rounding keys and values costs the shipped model, in nats a token.

use environment::Split;
use evaluate::{Divergence, Measured, Watch, divergence, kata_samples};
use models::{KvFormat, Loading, Model};
use prepare::Sample;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use text::{Renderer, Template, Tokenizer};

/// Of KL(exact ‖ kept), over the tokens of some demonstrations.
const DIVERGENCE_MAX: f64 = 1e-3;

#[test]
fn bytes_and_halves_leave_the_distributions_where_they_are() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/base");
    let model = Model::open(&folder, Loading::Stored).expect("the shipped model opens");
    let tokenizer = Tokenizer::open(&folder).expect("its tokenizer opens");
    let template = Template::embedded();
    let samples = kata_samples(&Renderer::new(&tokenizer, &template), Split::Test, 2, 0).expect("they render");
    let compare = |kv: KvFormat, teacher: KvFormat| -> Divergence {
        let mut watch = Watch { cancel: &AtomicBool::new(false), progress: &mut |_| () };
        let of = |kv| Measured { model: &model, kv };
        divergence(of(kv), of(teacher), &samples, &mut watch).expect("there is data").0
    };
    assert!(samples.iter().map(Sample::trained_tokens).sum::<usize>() > 300, "a few hundred tokens");
    let [bytes, halves] = [compare(KvFormat::Int8, KvFormat::F16), compare(KvFormat::F16, KvFormat::F32)];
    assert!(bytes.mean < DIVERGENCE_MAX && bytes.mean > 0.0, "{bytes:?}");
    assert!(halves.mean < bytes.mean, "{halves:?}");
}
