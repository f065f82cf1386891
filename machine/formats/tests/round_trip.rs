//! What is written is what is read: every kind, any order, one file and shards.

mod folder;

use folder::{fresh, names_in};
use formats::{DType, FormatsError, TensorFile, TensorPlan, Tensors, write_tensors};
use numeric::{Rng, Storage};
use std::borrow::Cow;
use std::fs;

const KINDS: [DType; 16] = [
    DType::Bool,
    DType::U8,
    DType::I8,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E8M0,
    DType::U16,
    DType::I16,
    DType::F16,
    DType::BF16,
    DType::U32,
    DType::I32,
    DType::F32,
    DType::U64,
    DType::I64,
    DType::F64,
];

#[test]
fn every_kind_comes_back_bit_for_bit_and_aligned() {
    let path = fresh("every_kind").join("all.safetensors");
    let mut rng = Rng::new(1);
    let mut plan = TensorPlan::new();
    let mut contents = Vec::new();
    for (i, kind) in KINDS.into_iter().enumerate() {
        let shape = [3, i + 1];
        let bytes: Vec<u8> = (0..3 * (i + 1) * kind.bytes()).map(|_| rng.next_u64() as u8).collect();
        plan.declare(kind.name(), kind, &shape);
        contents.push((kind, shape, bytes));
    }
    plan.declare("scalar", DType::F32, &[]);
    plan.declare("empty", DType::F32, &[0, 7]);
    plan.set_metadata("lineage", "a \"quoted\" name");
    let mut writer = plan.create_file(&path).expect("begins");
    for (kind, _, bytes) in contents.iter().rev() {
        writer.write(kind.name(), bytes).expect("writes");
    }
    writer.write_f32("empty", &[]).expect("writes nothing");
    writer.write_f32("scalar", &[2.5]).expect("writes");
    assert_eq!(writer.finish().expect("finishes"), std::slice::from_ref(&path));

    let file = TensorFile::open(&path).expect("opens");
    for (kind, shape, bytes) in &contents {
        let tensor = file.get(kind.name()).expect("is there");
        assert_eq!((tensor.dtype, tensor.shape, tensor.bytes), (*kind, &shape[..], &bytes[..]));
        assert_eq!(tensor.bytes.as_ptr() as usize % kind.bytes(), 0, "{} is not aligned in the file", kind.name());
        assert_eq!(tensor.to_f32().len(), tensor.n_values());
    }
    let scalar = file.get("scalar").expect("is there");
    assert_eq!((scalar.shape, scalar.to_f32()), (&[][..], vec![2.5]));
    assert_eq!(file.get("empty").expect("is there").shape, [0, 7]);
    assert_eq!(file.metadata()["lineage"], "a \"quoted\" name");
    assert_eq!(file.metadata()["format"], "pt");
}

#[test]
fn rounded_values_keep_their_storage() {
    let path = fresh("rounded").join("x.safetensors");
    let mut plan = TensorPlan::new();
    for kind in [DType::BF16, DType::F16, DType::F32] {
        plan.declare(kind.name(), kind, &[2]);
    }
    let mut writer = plan.create_file(&path).expect("begins");
    for kind in [DType::BF16, DType::F16, DType::F32] {
        writer.write_f32(kind.name(), &[1.0, 1.0 + 1.0 / 1024.0]).expect("writes");
    }
    writer.finish().expect("finishes");
    let file = TensorFile::open(&path).expect("opens");
    assert_eq!(file.get("BF16").expect("is there").to_f32(), [1.0, 1.0]);
    assert_eq!(file.get("F16").expect("is there").to_f32(), [1.0, 1.0 + 1.0 / 1024.0]);
    assert!(matches!(file.get("BF16").expect("is there").to_storage(), Storage::Bf16(v) if v.len() == 2));
    assert!(matches!(file.get("F16").expect("is there").to_storage(), Storage::F16(v) if v.len() == 2));
    assert!(matches!(file.get("F32").expect("is there").to_storage(), Storage::F32(v) if v.len() == 2));
}

#[test]
fn i64_is_exact_and_a_float_is_not_an_integer() {
    let path = fresh("integers").join("x.safetensors");
    let wide = i64::MAX - 1;
    write_tensors(
        &path,
        [
            ("wide".to_owned(), DType::I64, vec![1], Cow::Owned(wide.to_le_bytes().to_vec())),
            ("real".to_owned(), DType::F32, vec![1], Cow::Borrowed(&[0u8; 4][..])),
        ],
    )
    .expect("writes");
    let file = TensorFile::open(&path).expect("opens");
    assert_eq!(file.get("wide").expect("is there").to_i64().expect("is an integer"), [wide]);
    let error = file.get("real").expect("is there").to_i64().expect_err("is no integer");
    assert!(matches!(error, FormatsError::WrongKind { found: "F32", .. }), "{error}");
}

fn sharded_plan() -> TensorPlan {
    let mut plan = TensorPlan::new();
    for (name, n) in [("a", 10), ("b", 10), ("big", 100), ("c", 5), ("d", 5)] {
        plan.declare(name, DType::F32, &[n]);
    }
    plan
}

fn write_model(folder: &std::path::Path, shard_bytes_max: u64) -> Vec<String> {
    let mut writer = sharded_plan().create_model(folder, shard_bytes_max).expect("begins");
    for (name, n, value) in [("d", 5, 4.0), ("a", 10, 1.0), ("big", 100, 9.0), ("b", 10, 2.0), ("c", 5, 3.0)] {
        writer.write_f32(name, &vec![value; n]).expect("writes");
    }
    let written = writer.finish().expect("finishes");
    written.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect()
}

#[test]
fn shards_are_cut_at_the_limit_and_read_as_one() {
    let folder = fresh("shards");
    let written = write_model(&folder, 80);
    let wanted = [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(written, wanted);
    assert_eq!(names_in(&folder), wanted);
    let model = Tensors::open(&folder).expect("opens");
    assert_eq!(model.names().collect::<Vec<_>>(), ["a", "b", "big", "c", "d"]);
    for (name, value) in [("a", 1.0), ("b", 2.0), ("big", 9.0), ("c", 3.0), ("d", 4.0)] {
        assert!(model.get(name).expect("is there").to_f32().iter().all(|&v| v == value), "{name}");
    }
    assert_eq!(model.bytes(), 4 * 130);
    let index: serde_json::Value =
        formats::read_json(folder.join("model.safetensors.index.json")).expect("the index is JSON");
    assert_eq!(index["metadata"]["total_size"], 4 * 130);
    assert_eq!(index["weight_map"]["big"], "model-00002-of-00003.safetensors");
}

#[test]
fn a_newer_model_leaves_nothing_of_the_older() {
    let folder = fresh("replaced");
    fs::write(folder.join("config.json"), "{}").expect("writes");
    write_model(&folder, 80);
    assert_eq!(write_model(&folder, 1 << 20), ["model.safetensors"]);
    assert_eq!(names_in(&folder), ["config.json", "model.safetensors"]);
    write_model(&folder, 200);
    let names = names_in(&folder);
    assert!(!names.contains(&"model.safetensors".to_owned()) && names.contains(&"config.json".to_owned()), "{names:?}");
    assert_eq!(Tensors::open(&folder).expect("opens").len(), 5);
}

#[test]
fn an_unfinished_writer_leaves_the_old_model_and_no_leftovers() {
    let folder = fresh("unfinished");
    write_model(&folder, 1 << 20);
    let before = fs::read(folder.join("model.safetensors")).expect("reads");
    let mut writer = sharded_plan().create_model(&folder, 1 << 20).expect("begins");
    writer.write_f32("a", &[7.0; 10]).expect("writes");
    assert_eq!(names_in(&folder).len(), 2, "the temporary file is under way");
    drop(writer);
    assert_eq!(names_in(&folder), ["model.safetensors"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("reads"), before);
}

#[test]
#[should_panic(expected = "4 declared tensors were never written, \"b\" among them")]
fn forgetting_a_tensor_is_our_mistake() {
    let folder = fresh("forgotten");
    let mut writer = sharded_plan().create_model(&folder, 1 << 20).expect("begins");
    writer.write_f32("a", &[7.0; 10]).expect("writes");
    let _ = writer.finish();
}

#[test]
#[should_panic(expected = "never declared, or is written twice")]
fn writing_a_tensor_twice_is_our_mistake() {
    let folder = fresh("twice");
    let mut writer = sharded_plan().create_model(&folder, 1 << 20).expect("begins");
    writer.write_f32("a", &[7.0; 10]).expect("writes");
    let _ = writer.write_f32("a", &[7.0; 10]);
}
