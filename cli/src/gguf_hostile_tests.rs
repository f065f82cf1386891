//! GGUF files that lie, on the whole way that a user's file goes: header, values, tokenizer, template, weights, some
//! tokens. Each is refused with a short message or runs; none panics, hangs, or takes memory that its bytes do not bear
//! out. A failure names the seed of its file.

#[path = "../../machine/formats/tests/gguf_generator/mod.rs"]
mod gguf_generator;
#[path = "../../machine/formats/tests/watched/mod.rs"]
mod watched;

use super::tests::gguf_writer;
use super::text_of;
use crate::place::with_marks;
use anyhow::{Result, ensure};
use engine::{Request, Sampling, Session};
use formats::Gguf;
use formats::gguf::Array;
use gguf_writer::GgufWriter;
use models::{KvFormat, Loading, Model, Quantization};
use numeric::Format;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};
use text::{Message, Renderer, Role};

/// A file of some hundred kilobytes takes milliseconds; one that takes this long hangs, on however busy a machine.
const CASE_MAX: Duration = Duration::from_secs(10);

const LOADINGS: [Loading; 4] = [Loading::Packed, Loading::Stored, Loading::F32, Loading::Packed];

/// Reads every value, and every value of the arrays among them.
fn walk(array: Array<'_>) {
    array.values().filter_map(|value| value.as_array()).for_each(walk);
}

/// A file is opened, its text is read, and it says something.
fn meet(bytes: Vec<u8>, loading: Loading, kv: KvFormat) -> Result<()> {
    let gguf = Gguf::from_bytes("hostile.gguf", bytes)?;
    for key in gguf.keys() {
        let value = gguf.value(key).expect("every key has its value");
        assert!(value.to_string().len() < 700);
        value.as_array().into_iter().for_each(walk);
    }
    // The weights do not need the text, so both are met whatever the other says.
    let text = speak(&gguf);
    let model = Model::from_gguf(&gguf, loading)?;
    ensure!(model.config.vocab_size >= 2, "no two tokens to say");
    let mut session = Session::new(&model.config, kv);
    session.sync(&model.config, &[0, 1])?;
    let request = Request { sampling: Sampling::greedy(), max_tokens: 2, stop: Vec::new() };
    let (settings, cancel) = (engine::Settings::default(), AtomicBool::new(false));
    engine::generate(&model, settings, &mut session, &request, &cancel, |_| ControlFlow::Continue(()))?;
    text
}

fn speak(gguf: &Gguf) -> Result<()> {
    let (tokenizer, template) = text_of(gguf)?;
    let (tokenizer, template) = with_marks(tokenizer, template);
    let text = "a b\u{e9}<|im_end|>";
    let tokens = tokenizer.encode_with_control(text);
    assert!(tokenizer.decode_without_special(&tokens).len() <= text.len());
    Renderer::new(&tokenizer, &template).prompt(&[Message::new(Role::User, text)], &[])?;
    Ok(())
}

/// One seed: whether the file was believed.
fn case(seed: u64, hosts: &[GgufWriter]) -> bool {
    let file = gguf_generator::file(seed, hosts);
    let loading = match seed % 5 {
        4 => Loading::Quantized(Quantization::to([Format::Nvfp4, Format::Mxfp4, Format::Q8_0][seed as usize % 3])),
        other => LOADINGS[other as usize],
    };
    let kv = [KvFormat::F32, KvFormat::F16, KvFormat::Int8][seed as usize % 7 % 3];
    let length = file.bytes.len();
    watched::reset();
    let met = meet(file.bytes, loading, kv);
    let (largest, peak) = (watched::largest(), watched::peak());
    assert!(largest <= 16 * length + (1 << 20), "an allocation of {largest} bytes for a file of {length}");
    assert!(peak <= 16 * length + (4 << 20), "{peak} bytes were held for a file of {length}");
    if let Err(error) = &met {
        let message = format!("{error:#}");
        assert!(message.len() < 2000, "a message of {} bytes", message.len());
        // Random weights may hold infinities, which cannot be rounded and say nothing.
        let says_nothing = error.is::<engine::EngineError>() || matches!(loading, Loading::Quantized(_));
        assert!(file.lies > 0 || says_nothing, "a sound file was refused: {message}");
    }
    met.is_ok()
}

/// Files from `first` on, for so long.
fn meet_files(first: u64, time: Duration) {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let names = ["qwen2.q8_0", "qwen3_moe.q8_0", "qwen3_next.q8_0"];
        let oracle = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/oracle/gguf");
        let open = |name| Gguf::open(oracle.join(format!("{name}.gguf"))).expect("the fixture opens");
        let hosts = names.map(|name| GgufWriter::copy_of(&open(name)));
        let began = Instant::now();
        for seed in first.. {
            let met = catch_unwind(AssertUnwindSafe(|| case(seed, &hosts)));
            if sender.send(met.ok()).is_err() || began.elapsed() > time {
                return;
            }
        }
    });
    let (mut seed, mut believed, mut refused) = (first, 0, 0);
    loop {
        match receiver.recv_timeout(CASE_MAX) {
            Ok(Some(true)) => believed += 1,
            Ok(Some(false)) => refused += 1,
            Ok(None) => panic!("the file of seed {seed} broke something: see above"),
            Err(RecvTimeoutError::Timeout) => panic!("the file of seed {seed} hangs"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        seed += 1;
    }
    assert!(believed > 20 && refused > 20, "{believed} believed, {refused} refused");
}

#[test]
fn files_from_a_generator_are_refused_or_run() {
    meet_files(1, Duration::from_secs(2));
}

/// Other files each time: `cargo nextest run -p lateen --run-ignored only files_for_a_minute`.
#[test]
#[ignore = "takes a minute; .ci/run runs it"]
fn files_for_a_minute() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    meet_files(now.as_secs() << 24, Duration::from_secs(60));
}
