//! Files that lie: each lie has its error, and no mutation of a sound file panics or eats memory.

mod folder;

use folder::{assemble, fresh};
use formats::{DType, FormatsError, TensorFile, TensorPlan, Tensors};
use numeric::Rng;
use std::fs;
use std::path::{Path, PathBuf};

fn refusal(path: &Path, bytes: &[u8]) -> FormatsError {
    fs::write(path, bytes).expect("writes");
    match TensorFile::open(path) {
        Ok(_) => panic!("{} was believed", String::from_utf8_lossy(bytes)),
        Err(error) => error,
    }
}

#[test]
fn each_lie_is_named() {
    let path = fresh("lies").join("lie.safetensors");
    let one = |entry: &str| format!(r#"{{"w":{entry}}}"#);
    let cases: Vec<(String, &str)> = vec![
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#), "wanted 8 bytes for F32 [2], found 4 bytes"),
        (
            one(r#"{"dtype":"F33","shape":[1],"data_offsets":[0,4]}"#),
            r#"wanted a dtype that this program knows, found "F33""#,
        ),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), "rising order"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#), "leaves a hole"),
        (one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#), "a size that can be counted"),
        (one(r#"{"dtype":"F32","shape":[0,18446744073709551615,2],"data_offsets":[0,8]}"#), "wanted 0 bytes"),
        (one(r#"{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}"#), "can count"),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}"#), "does not parse"),
        (one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}"#), "does not parse"),
        (one(r#"{"dtype":"F32","shape":[2]}"#), "data_offsets"),
        (one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#), "is cut off"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#), "4 belong to no tensor"),
        ("{}".to_owned(), "8 belong to no tensor"),
        ("[]".to_owned(), "begin with a brace"),
        (" {}".to_owned(), "begin with a brace"),
        ("".to_owned(), "begin with a brace"),
        ("{\"w\":".to_owned(), "does not parse"),
        ("{} {}".to_owned(), "does not parse"),
        ("[".repeat(50_000), "begin with a brace"),
        (one(&"[".repeat(50_000)), "does not parse"),
        (r#"{"__metadata__":{"a":1}}"#.to_owned(), "does not parse"),
    ];
    for (header, wanted) in cases {
        let message = refusal(&path, &assemble(&header, &[0; 8])).to_string();
        assert!(message.contains(wanted), "{header:.80}: {message}");
        assert!(message.contains("lie.safetensors"), "{message} does not name the file");
        assert!(message.len() < 700, "a message of {} bytes", message.len());
    }
}

#[test]
fn neighbours_may_not_overlap_or_share_a_name() {
    let path = fresh("neighbours").join("x.safetensors");
    let entry = |name: &str, from: u32, to: u32| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to - from)
    };
    let overlap = format!("{{{},{}}}", entry("a", 0, 5), entry("b", 4, 8));
    assert!(refusal(&path, &assemble(&overlap, &[0; 8])).to_string().contains("overlaps"));
    let twice = format!("{{{},{}}}", entry("a", 0, 4), entry("a", 4, 8));
    assert!(refusal(&path, &assemble(&twice, &[0; 8])).to_string().contains("occurs twice"));
    // The same name, once as an escape.
    let escaped = format!("{{{},{}}}", entry("a", 0, 4), entry("\\u0061", 4, 8));
    assert!(refusal(&path, &assemble(&escaped, &[0; 8])).to_string().contains("occurs twice"));
}

#[test]
fn a_length_that_lies_is_refused_before_it_is_used() {
    let path = fresh("lengths").join("x.safetensors");
    for length in [100_000_001, u64::from(u32::MAX), u64::MAX / 2, u64::MAX - 7, u64::MAX] {
        let mut bytes = assemble("{}", &[]);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(refusal(&path, &bytes).to_string().contains("at most 100000000 bytes"));
    }
    let mut bytes = assemble("{}", &[]);
    bytes[..8].copy_from_slice(&99_999_999u64.to_le_bytes());
    let error = refusal(&path, &bytes);
    assert!(matches!(error, FormatsError::Truncated { wanted: 100_000_007, found: 10, .. }), "{error}");
    for n in 0..8 {
        assert!(matches!(refusal(&path, &bytes[..n]), FormatsError::Truncated { wanted: 8, .. }));
    }
    let long_name = format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,5]}}}}"#, "n\\n".repeat(100_000));
    assert!(refusal(&path, &assemble(&long_name, &[0; 5])).to_string().len() < 800);
}

fn sound_file(folder: &Path) -> Vec<u8> {
    let path = folder.join("sound.safetensors");
    let mut plan = TensorPlan::new();
    for (name, kind, shape) in [
        ("model.embed_tokens.weight", DType::BF16, &[7, 5][..]),
        ("model.layers.0.gate", DType::F32, &[3]),
        ("positions", DType::I64, &[2, 1]),
        ("mask", DType::Bool, &[11]),
    ] {
        plan.declare(name, kind, shape);
    }
    let mut writer = plan.create_file(&path).expect("begins");
    writer.write("model.embed_tokens.weight", &[1; 70]).expect("writes");
    writer.write("model.layers.0.gate", &[2; 12]).expect("writes");
    writer.write("positions", &[3; 16]).expect("writes");
    writer.write("mask", &[1; 11]).expect("writes");
    writer.finish().expect("finishes");
    fs::read(path).expect("reads")
}

/// Whatever the bytes, opening either fails with an error or gives tensors whose every byte can be read.
fn survive(path: &Path, bytes: &[u8]) -> bool {
    fs::write(path, bytes).expect("writes");
    match TensorFile::open(path) {
        Ok(file) => {
            for tensor in file.tensors() {
                let n_values: usize = tensor.shape.iter().product();
                assert_eq!(tensor.to_f32().len(), n_values, "{}", tensor.name);
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000, "{error}");
            false
        }
    }
}

#[test]
fn no_mutation_panics() {
    let folder = fresh("mutations");
    let sound = sound_file(&folder);
    let path = folder.join("mutated.safetensors");
    assert!(survive(&path, &sound), "the sound file itself opens");
    for n in 0..sound.len() {
        assert!(!survive(&path, &sound[..n]), "cut to {n} of {} bytes it still opens", sound.len());
    }
    let header_end = 8 + u64::from_le_bytes(sound[..8].try_into().expect("eight bytes")) as usize;
    for at in 0..header_end {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            survive(&path, &bytes);
        }
    }
    let pieces: [&[u8]; 8] = [b"0", b"18446744073709551615", b"-1", b"[", b"}", b"\"", b"\xff\xfe", b"\"mask\":{"];
    let mut rng = Rng::new(7);
    for _ in 0..600 {
        let mut bytes = sound.clone();
        for _ in 0..1 + rng.below(3) {
            let at = 8 + rng.below(header_end - 8);
            let gone = rng.below(4).min(bytes.len() - at);
            bytes.splice(at..at + gone, rng.choose(&pieces).iter().copied());
        }
        if rng.chance(0.7) {
            // A true length, so that the mutation reaches the parser and not only the length check.
            let length = header_end as u64 - 8 + (bytes.len() - sound.len().min(bytes.len())) as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        survive(&path, &bytes);
    }
}

fn sharded(name: &str) -> PathBuf {
    let folder = fresh(name);
    let mut plan = TensorPlan::new();
    plan.declare("first", DType::F32, &[4]);
    plan.declare("second", DType::F32, &[4]);
    let mut writer = plan.create_model(&folder, 16).expect("begins");
    writer.write_f32("first", &[1.0; 4]).expect("writes");
    writer.write_f32("second", &[2.0; 4]).expect("writes");
    writer.finish().expect("finishes");
    folder
}

fn refused(folder: &Path) -> FormatsError {
    match Tensors::open(folder) {
        Ok(_) => panic!("{} was believed", folder.display()),
        Err(error) => error,
    }
}

#[test]
fn a_missing_or_cut_shard_is_named() {
    let folder = sharded("missing_shard");
    let second = folder.join("model-00002-of-00002.safetensors");
    let whole = fs::read(&second).expect("reads");
    fs::write(&second, &whole[..whole.len() - 3]).expect("writes");
    let error = refused(&folder);
    let (wanted, found) = (whole.len() as u64, whole.len() as u64 - 3);
    let FormatsError::Truncated { path, wanted: w, found: f } = &error else { panic!("{error}") };
    assert_eq!((path, *w, *f), (&second, wanted, found));
    fs::remove_file(&second).expect("removes");
    let message = refused(&folder).to_string();
    assert!(message.contains("model-00002-of-00002.safetensors") && message.contains("\"second\""), "{message}");
}

#[test]
fn an_index_that_lies_is_refused() {
    let folder = sharded("lying_index");
    let index = folder.join("model.safetensors.index.json");
    let shard = "model-00001-of-00002.safetensors";
    for (map, wanted) in [
        (format!(r#"{{"ghost":"{shard}"}}"#), "wanted it in model-00001-of-00002.safetensors, as the index says"),
        (format!(r#"{{"second":"{shard}"}}"#), "no such tensor among the 1 there"),
        (format!(r#"{{"first":"{shard}","first":"{shard}"}}"#), "occurs twice"),
        (r#"{"first":"../lying_index/model-00001-of-00002.safetensors"}"#.to_owned(), "beside it"),
        (r#"{"first":"/etc/passwd"}"#.to_owned(), "beside it"),
        (r#"{"first":7}"#.to_owned(), "invalid type"),
        ("{}".to_owned(), "is empty"),
    ] {
        fs::write(&index, format!(r#"{{"metadata":{{"total_size":32.0}},"weight_map":{map}}}"#)).expect("writes");
        let message = refused(&folder).to_string();
        assert!(message.contains(wanted), "{map}: {message}");
    }
}

#[test]
fn what_is_not_there_says_so() {
    let folder = fresh("nothing");
    assert!(matches!(refused(&folder), FormatsError::NoModel { .. }));
    assert!(matches!(refused(&folder.join("nowhere")), FormatsError::Io { .. }));
    assert!(TensorFile::open(&folder).is_err(), "a folder is not a tensor file");
    let model = Tensors::open(sharded("hints")).expect("opens");
    let message = model.get("model.first").expect_err("is not there").to_string();
    assert!(message.contains("no tensor named \"model.first\" among its 2; there is \"first\""), "{message}");
}
