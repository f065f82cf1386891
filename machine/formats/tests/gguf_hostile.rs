//! GGUF files that lie: each lie has its error, and no mutation of a sound file panics, hangs or eats memory.

mod gguf_generator;
mod gguf_writer;
mod watched;

use formats::gguf::{Array, Value};
use formats::{FormatsError, Gguf};
use gguf_generator::lies::{any_value, edge};
use gguf_writer::{GgufWriter, array, string};
use numeric::Rng;

/// Reads every value, and every value of the arrays among them.
fn walk(array: Array<'_>) {
    array.values().filter_map(|value| value.as_array()).for_each(walk);
}

/// Whatever the bytes, opening either fails with a short error or gives values and tensors that can be read to the last
/// byte; no allocation is larger than a small multiple of the file.
fn survive(bytes: &[u8]) -> Result<(), FormatsError> {
    let bytes_max = 16 * bytes.len() + (64 << 10);
    let given = bytes.to_vec();
    watched::reset();
    let opened = Gguf::from_bytes("hostile.gguf", given);
    let largest = watched::largest();
    assert!(largest <= bytes_max, "an allocation of {largest} bytes for a file of {}", bytes.len());
    match opened {
        Ok(file) => {
            for key in file.keys() {
                let value = file.value(key).expect("every key has its value");
                assert!(value.to_string().len() < 700);
                if let Some(array) = value.as_array() {
                    assert_eq!(array.values().count(), array.len);
                    walk(array);
                }
            }
            for tensor in file.tensors() {
                let matrix = tensor.to_matrix();
                assert_eq!(matrix.rows * matrix.columns, tensor.n_values(), "{}", tensor.name);
                assert_eq!(matrix.to_f32().len(), tensor.n_values());
            }
            Ok(())
        }
        Err(error) => {
            assert!(error.to_string().len() < 900, "a message of {} bytes", error.to_string().len());
            Err(error)
        }
    }
}

fn refusal(bytes: &[u8]) -> String {
    survive(bytes).expect_err("it was believed").to_string()
}

/// A file with some of everything.
fn sound() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.text("general.architecture", "qwen3").number("general.alignment", 32).float("a.float", 1.5);
    writer.texts("tokenizer.ggml.tokens", &["a", "bc", ""]).integers("tokenizer.ggml.token_type", &[1, 1, 3]);
    writer.key("a.nested", 9, array(9, &[array(7, &[vec![1]]), array(0, &[])])).flag("a.flag", false);
    writer.floats("output_norm.weight", &[5], &[1.0; 5]);
    writer.tensor("blk.0.attn_q.weight", 8, &[2, 32], vec![7; 68]);
    writer.tensor("blk.0.ffn_up_exps.weight", 40, &[2, 1, 64], vec![9; 72]);
    writer
}

#[test]
fn each_lie_is_named() {
    let spoiled = |spoil: &dyn Fn(&mut GgufWriter)| {
        let mut writer = sound();
        spoil(&mut writer);
        writer.written()
    };
    let tensor = |at: usize, spoil: &dyn Fn(&mut gguf_writer::GgufEntry)| spoiled(&|w| spoil(&mut w.tensors[at]));
    let key = |kind: u32, bytes: Vec<u8>| spoiled(&|w| _ = w.key("lie", kind, bytes.clone()));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML\x03\0\0\0".to_vec(), "begin with \"GGUF\", found \"GGML\""),
        (spoiled(&|w| w.version = 1), "wanted version 2 or 3, found 1"),
        (spoiled(&|w| w.version = 4), "wanted version 2 or 3, found 4"),
        (spoiled(&|w| w.version = 3u32.swap_bytes()), "big-endian"),
        (spoiled(&|w| w.keys[1].0 = "general.architecture".into()), "\"general.architecture\" occurs twice"),
        (spoiled(&|w| w.tensors[1].name = "output_norm.weight".into()), "\"output_norm.weight\" occurs twice"),
        (spoiled(&|w| w.keys[1].2 = 48u32.to_le_bytes().into()), "a power of two up to 1048576, found 48"),
        (spoiled(&|w| w.keys[1].2 = 0u32.to_le_bytes().into()), "a power of two up to 1048576, found 0"),
        (spoiled(&|w| w.keys[1] = ("general.alignment".into(), 8, string("x"))), "a power of two"),
        (key(13, vec![0; 8]), "the key \"lie\": wanted a kind of value from 0 to 12, found 13"),
        (key(7, vec![2]), "the key \"lie\": wanted a boolean, 0 or 1, found 2"),
        (key(9, array(7, &[vec![1], vec![3]])), "wanted a boolean, 0 or 1, found 3"),
        (key(8, [&2u64.to_le_bytes()[..], b"\xff\xff"].concat()), "the key \"lie\": a string that is not UTF-8"),
        (key(8, u64::MAX.to_le_bytes().to_vec()), "is cut off"),
        (key(9, [&0u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat()), "is cut off"),
        (key(9, [&12u32.to_le_bytes()[..], &(u64::MAX / 8 + 2).to_le_bytes()].concat()), "is cut off"),
        (key(9, [&8u32.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat()), "is cut off"),
        (key(9, array(9, &[array(9, &[array(9, &[array(9, &[array(0, &[])])])])])), "nested deeper than 4"),
        (tensor(0, &|t| t.sizes = vec![1; 5]), "wanted at most 4 dimensions, found 5"),
        (tensor(0, &|t| t.sizes = vec![5, 0]), "wanted no dimension of zero"),
        (tensor(0, &|t| t.sizes = vec![1 << 32; 4]), "a size that can be counted"),
        (tensor(0, &|t| t.sizes = vec![u64::MAX]), "a size that can be counted"),
        (tensor(1, &|t| t.sizes = vec![33, 2]), "wanted rows of whole blocks of 32, found [33, 2]"),
        (tensor(1, &|t| t.kind = 10), "found Q2_K (type 10)"),
        (tensor(1, &|t| t.kind = 10), "wanted one of F32, F16,"),
        (tensor(1, &|t| t.kind = 5), "found type 5, which has no name"),
        (tensor(1, &|t| t.kind = u32::MAX), "which has no name"),
        (tensor(1, &|t| t.offset = Some(16)), "wanted data to begin at a multiple of 32, found 16"),
        (tensor(1, &|t| t.offset = Some(0)), "wanted data to begin at 20 or later, found 0, which overlaps"),
        (tensor(1, &|t| t.offset = Some(1 << 40)), "is cut off"),
        (tensor(1, &|t| t.offset = Some(u64::MAX - 31)), "at a place that can be counted"),
        (tensor(0, &|t| t.sizes = vec![1 << 40]), "is cut off"),
        (tensor(0, &|t| t.name = "\u{1b}[31m\n".repeat(10_000) + "x"), "occurs twice"),
    ];
    for (bytes, wanted) in cases {
        if wanted == "occurs twice" {
            // A sound file with a name to be shown with care: the error about its neighbour is short.
            let mut again = sound();
            again.tensors[0].name = "\u{1b}[31m\n".repeat(10_000);
            again.tensors[1].name = again.tensors[0].name.clone();
            let message = refusal(&again.written());
            assert!(message.contains(wanted) && !message.contains('\u{1b}'), "{message}");
            survive(&bytes).expect("a strange name is no lie");
            continue;
        }
        let message = refusal(&bytes);
        assert!(message.contains(wanted), "wanted {wanted:?}: {message}");
        assert!(message.contains("hostile.gguf"), "{message} does not name the file");
    }
}

#[test]
fn counts_are_not_believed() {
    let bytes = sound().written();
    for (at, what) in [(8, "tensors"), (16, "keys")] {
        for count in [1 << 21, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert!(refusal(&bytes).contains(&format!("{what}, found {count}")));
        }
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&60_000u64.to_le_bytes());
        assert!(refusal(&bytes).contains("is cut off"));
    }
}

#[test]
fn no_prefix_of_a_file_is_a_file() {
    let bytes = sound().written();
    survive(&bytes).expect("it is sound");
    for n in 0..bytes.len() {
        let error = survive(&bytes[..n]).expect_err("it is cut off");
        assert!(matches!(error, FormatsError::Truncated { found, .. } if found == n as u64), "{n}: {error}");
    }
}

#[test]
fn flipped_bytes_are_survived() {
    let bytes = sound().written();
    let (mut believed, mut refused) = (0, 0);
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            match survive(&bytes) {
                Ok(()) => believed += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(believed > 0 && refused > 0, "{believed} believed, {refused} refused");
}

#[test]
fn headers_from_a_generator_are_survived() {
    let mut rng = Rng::new(77);
    let kinds = [0, 0, 1, 8, 30, 39, 40, 12, 14, 99];
    let (mut believed, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut writer = GgufWriter::new();
        if rng.below(4) == 0 {
            writer.number("general.alignment", if rng.below(2) == 0 { 8 } else { edge(&mut rng) as u32 });
        }
        for index in 0..rng.below(4) {
            let kinds = if rng.below(20) == 0 { 16 } else { 13 };
            let kind = rng.below(kinds) as u32;
            let value = any_value(&mut rng, kind, 0);
            writer.key(&format!("k{}", if rng.below(20) == 0 { 0 } else { index }), kind, value);
        }
        for index in 0..rng.below(4) {
            let sizes: Vec<u64> = match rng.below(4) {
                0 => (0..rng.below(6)).map(|_| edge(&mut rng)).collect(),
                _ => vec![64, 1 + rng.below(3) as u64],
            };
            let bytes = vec![1; 64 * 4 * sizes.get(1).copied().unwrap_or(1).min(4) as usize];
            let offset = (rng.below(5) == 0).then(|| edge(&mut rng));
            let name = format!("t{}", if rng.below(20) == 0 { 0 } else { index });
            writer.tensors.push(gguf_writer::GgufEntry {
                name,
                kind: kinds[rng.below(kinds.len())],
                sizes,
                offset,
                bytes,
            });
        }
        match survive(&writer.written()) {
            Ok(()) => believed += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(believed > 1000 && refused > 1000, "{believed} believed, {refused} refused");
}

#[test]
fn models_with_a_few_lies_are_survived() {
    let (mut believed, mut refused) = (0, 0);
    for seed in 0..2000 {
        let file = gguf_generator::file(seed, &[]);
        match survive(&file.bytes) {
            Ok(()) => believed += 1,
            Err(error) if file.lies == 0 => panic!("the sound file of seed {seed} was refused: {error}"),
            Err(_) => refused += 1,
        }
    }
    assert!(believed > 500 && refused > 500, "{believed} believed, {refused} refused");
}

#[test]
fn values_show_themselves_shortly() {
    let mut writer = GgufWriter::new();
    writer.text("long", &"x".repeat(100_000)).texts("many", &["a"; 1000]);
    let file = Gguf::from_bytes("long.gguf", writer.written()).expect("sound");
    assert_eq!(file.value("many").map(|value| value.to_string()), Some("an array of 1000 × string".into()));
    assert!(matches!(file.value("long"), Some(value @ Value::String(_)) if value.to_string().len() < 200));
}
