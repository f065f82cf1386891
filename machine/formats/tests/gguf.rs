//! GGUF files that are sound: what is written is read, files in several parts, and files of llama.cpp's converter.

mod folder;
mod gguf_writer;

use folder::fresh;
use formats::gguf::{Value, ValueKind, name_of};
use formats::{FormatsError, Gguf, TensorFile};
use gguf_writer::{GgufWriter, array, string};
use numeric::Format;
use std::fs;
use std::path::{Path, PathBuf};

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(name)
}

#[test]
fn every_kind_of_value_is_read() {
    let mut writer = GgufWriter::new();
    writer.key("a.u8", 0, vec![200]).key("a.i8", 1, vec![0x80]);
    writer.key("a.u16", 2, 65_535u16.to_le_bytes().to_vec()).key("a.i16", 3, (-2i16).to_le_bytes().to_vec());
    writer.number("a.u32", 7).key("a.i32", 5, (-7i32).to_le_bytes().to_vec());
    writer.float("a.f32", 0.5).flag("a.bool", true).text("a.string", "Äpfel").texts("a.strings", &["", "b", "中"]);
    writer.key("a.u64", 10, u64::MAX.to_le_bytes().to_vec()).key("a.i64", 11, i64::MIN.to_le_bytes().to_vec());
    writer.key("a.f64", 12, 0.1f64.to_le_bytes().to_vec());
    writer.key("a.nested", 9, array(9, &[array(7, &[vec![1], vec![0]]), array(8, &[string("x")])]));
    let file = Gguf::from_bytes("values.gguf", writer.written()).expect("it is sound");
    let value = |key: &str| file.value(key).expect(key);
    assert_eq!((value("a.u8"), value("a.i8")), (Value::U8(200), Value::I8(-128)));
    assert_eq!((value("a.u16"), value("a.i16")), (Value::U16(65_535), Value::I16(-2)));
    assert_eq!((value("a.u32"), value("a.i32")), (Value::U32(7), Value::I32(-7)));
    assert_eq!((value("a.f32"), value("a.f64")), (Value::F32(0.5), Value::F64(0.1)));
    assert_eq!((value("a.u64"), value("a.i64")), (Value::U64(u64::MAX), Value::I64(i64::MIN)));
    assert_eq!((value("a.bool"), value("a.string").as_str()), (Value::Bool(true), Some("Äpfel")));
    let strings = value("a.strings").as_array().expect("an array");
    assert_eq!((strings.kind, strings.len), (ValueKind::String, 3));
    assert_eq!(strings.strings(), Some(vec!["", "b", "中"]));
    let nested: Vec<Value> = value("a.nested").as_array().expect("an array").values().collect();
    assert_eq!(nested[0].as_array().expect("an array").bools(), Some(vec![true, false]));
    assert_eq!(nested[1].as_array().expect("an array").strings(), Some(vec!["x"]));
    assert_eq!(file.keys().count(), 14);
    assert!(file.value("a.u9").is_none() && file.is_empty() && file.version() == 3);
}

#[test]
fn tensors_have_their_shapes_and_bytes() {
    let mut writer = GgufWriter::new();
    writer.version = 2;
    (writer.alignment, _) = (64, writer.number("general.alignment", 64));
    writer.floats("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    writer.tensor("bank", 8, &[2, 3, 32], (0..6 * 34).map(|i| i as u8).collect());
    writer.floats("scalar", &[], &[9.0]);
    let file = Gguf::from_bytes("tensors.gguf", writer.written()).expect("it is sound");
    assert_eq!((file.version(), file.len(), file.bytes()), (2, 3, 24 + 204 + 4));
    let x = file.get("x").expect("present");
    assert_eq!((x.shape, x.format, x.to_matrix().to_f32()), (&[3, 2][..], Format::F32, vec![1., 2., 3., 4., 5., 6.]));
    let bank = file.get("bank").expect("present");
    let part = bank.part(1).expect("the second of two");
    assert_eq!((part.shape, part.bytes), (&[3, 32][..], &bank.bytes[102..]));
    assert_eq!((part.to_matrix().rows, part.to_matrix().format()), (3, Format::Q8_0));
    assert!(bank.part(2).is_none());
    assert_eq!(file.get("scalar").expect("present").to_matrix().to_f32(), [9.0]);
    let error = file.get("y.x").expect_err("absent").to_string();
    assert!(error.contains("no tensor named \"y.x\" among its 3; there is \"x\""), "{error}");
}

#[test]
fn files_of_the_converter_are_read() {
    for case in ["qwen2", "qwen3", "qwen3_moe", "qwen3_next"] {
        let file = Gguf::open(oracle(&format!("gguf/{case}.f32.gguf"))).expect("it opens");
        let source = TensorFile::open(oracle(&format!("{case}/model.safetensors"))).expect("it opens");
        let (ours, theirs) = (file.get("token_embd.weight"), source.get("model.embed_tokens.weight"));
        assert_eq!(ours.expect("present").bytes, theirs.expect("present").bytes, "{case}");
        let tokens = file.value("tokenizer.ggml.tokens").and_then(|value| value.as_array()).expect("an array");
        assert_eq!(tokens.strings().map(|tokens| tokens.len()), Some(512));
        let small = Gguf::open(oracle(&format!("gguf/{case}.q8_0.gguf"))).expect("it opens");
        assert_eq!(name_of(small.get("token_embd.weight").expect("present").format), "Q8_0");
        assert_eq!(small.len(), file.len());
    }
}

/// Three files of one model; `spoil` changes one before it is written.
fn shards(folder: &Path, spoil: impl Fn(usize, &mut GgufWriter)) -> PathBuf {
    for number in 0..3u16 {
        let mut writer = GgufWriter::new();
        if number == 0 {
            writer.text("general.architecture", "qwen3").key("split.tensors.count", 5, 3i32.to_le_bytes().to_vec());
        }
        writer.key("split.no", 2, number.to_le_bytes().to_vec()).key("split.count", 2, 3u16.to_le_bytes().to_vec());
        writer.floats(&format!("t{number}"), &[2], &[f32::from(number); 2]);
        spoil(number.into(), &mut writer);
        fs::write(folder.join(format!("m-0000{}-of-00003.gguf", number + 1)), writer.written()).expect("writes");
    }
    folder.join("m-00001-of-00003.gguf")
}

#[test]
fn a_model_in_several_files_is_one_model() {
    let folder = fresh("gguf-shards");
    let first = shards(&folder, |_, _| {});
    for path in [first.clone(), folder.join("m-00003-of-00003.gguf")] {
        let file = Gguf::open(&path).expect("it opens");
        assert_eq!(file.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["t0", "t1", "t2"]);
        assert_eq!(file.get("t2").expect("present").to_matrix().to_f32(), [2.0, 2.0]);
        assert_eq!(file.value("general.architecture").and_then(|value| value.as_str()), Some("qwen3"));
    }
    fs::remove_file(folder.join("m-00002-of-00003.gguf")).expect("removes");
    let error = Gguf::open(&first).err().expect("a shard is missing");
    assert!(
        matches!(&error, FormatsError::NoShard { shard, .. } if shard.contains("m-00002-of-00003.gguf")),
        "{error}"
    );
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let refused = |name: &str, spoil: fn(usize, &mut GgufWriter)| {
        let first = shards(&fresh(name), spoil);
        Gguf::open(first).err().expect("it does not belong together").to_string()
    };
    let error = refused("gguf-order", |at, writer| {
        if at == 1 {
            writer.keys[0].2 = 2u16.to_le_bytes().to_vec();
        }
    });
    assert!(error.contains("00002-of-00003") && error.contains("split.no: wanted 1, found 2"), "{error}");
    let error = refused("gguf-twice", |at, writer| writer.tensors[0].name = format!("t{}", at.min(1)));
    assert!(error.contains("\"t1\" occurs in two of its files"), "{error}");
    let error = refused("gguf-count", |at, writer| {
        if at == 2 {
            writer.tensors.clear();
        }
    });
    assert!(error.contains("split.tensors.count is 3, its 3 files have 2"), "{error}");
    let error = refused("gguf-other", |at, writer| {
        if at == 2 {
            writer.keys.clear();
        }
    });
    assert!(error.contains("split.count: wanted 3, found no such key"), "{error}");
    let folder = fresh("gguf-name");
    let renamed = folder.join("model.gguf");
    fs::copy(shards(&folder, |_, _| {}), &renamed).expect("copies");
    let error = Gguf::open(&renamed).err().expect("its name says nothing").to_string();
    assert!(error.contains("wanted a name that ends in -00001-of-00003.gguf"), "{error}");
}
