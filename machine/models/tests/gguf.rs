//! Models out of GGUF files, against the oracle: what llama.cpp's converter made of the tiny models computes what they
//! compute, in every format; and files that are not whole are refused with the name of what is missing.

#[path = "../../formats/tests/gguf_writer/mod.rs"]
mod gguf_writer;

use formats::{Gguf, TensorFile};
use gguf_writer::{GgufWriter, tensor_kind};
use models::{Config, DeltaInput, KvFormat, Loading, Mixer, Model, State};
use numeric::{Format, Matrix, Rng};
use ops::{Infer, Precision};
use std::path::PathBuf;

const CASES: [&str; 4] = ["qwen2", "qwen3", "qwen3_moe", "qwen3_next"];

fn oracle(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(path)
}

fn fixtures(case: &str) -> TensorFile {
    TensorFile::open(oracle(case).join("fixtures.safetensors")).expect("fixtures open")
}

fn tokens(file: &TensorFile, name: &str) -> Vec<u32> {
    file.get(name).expect(name).to_i64().expect("integers").into_iter().map(|id| id as u32).collect()
}

fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d.is_nan() { d } else { worst.max(d) })
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let h = models::hidden(&mut e, model, &mut [State::empty(&model.config, KvFormat::F32)], tokens, &[tokens.len()]);
    let rows: Vec<usize> = (0..tokens.len()).collect();
    models::logits(&mut e, model, &h, &rows).to_vec()
}

fn copy_of(file: &str) -> GgufWriter {
    GgufWriter::copy_of(&Gguf::open(oracle("gguf").join(file)).expect("it opens"))
}

fn model(writer: &GgufWriter, loading: Loading) -> Model {
    let file = Gguf::from_bytes("test.gguf", writer.written()).expect("it is sound");
    Model::from_gguf(&file, loading).expect("it is a model")
}

fn refusal(writer: &GgufWriter) -> String {
    let file = Gguf::from_bytes("test.gguf", writer.written()).expect("it is sound");
    match Model::from_gguf(&file, Loading::Stored) {
        // Not `expect_err`, which would print all the weights.
        Ok(_) => panic!("it was taken for a model"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn logits_of_the_oracle() {
    let rounded = TensorFile::open(oracle("gguf/q8_reference.safetensors")).expect("it opens");
    for case in CASES {
        let fixtures = fixtures(case);
        for loading in [Loading::Stored, Loading::F32] {
            let exact = Model::open(&oracle(&format!("gguf/{case}.f32.gguf")), loading).expect("it opens");
            let small = Model::open(&oracle(&format!("gguf/{case}.q8_0.gguf")), loading).expect("it opens");
            for s in [0, 1] {
                let tokens = tokens(&fixtures, &format!("seq{s}.input_ids"));
                let d =
                    worst(&logits(&exact, &tokens), &fixtures.get(&format!("seq{s}.logits")).expect("logits").to_f32());
                assert!(d <= 2e-4, "{case} seq{s}: logits of the F32 file differ by {d}");
                let wanted = rounded.get(&format!("{case}.seq{s}.logits")).expect("logits").to_f32();
                let d = worst(&logits(&small, &tokens), &wanted);
                assert!(d <= 2e-4, "{case} seq{s}: logits of the Q8_0 file differ by {d}");
            }
        }
    }
}

#[test]
fn greedy_tokens_of_the_oracle() {
    for case in CASES {
        let fixtures = fixtures(case);
        let model = Model::open(&oracle(&format!("gguf/{case}.f32.gguf")), Loading::Stored).expect("it opens");
        let (mut e, mut states) = (Infer::new(Precision::F32), [State::empty(&model.config, KvFormat::F32)]);
        let mut next = tokens(&fixtures, "gen.prompt");
        for (step, token) in tokens(&fixtures, "gen.tokens").into_iter().enumerate() {
            let h = models::hidden(&mut e, &model, &mut states, &next, &[next.len()]);
            let row = models::logits(&mut e, &model, &h, &[next.len() - 1]);
            assert_eq!(kernels::cross_entropy::argmax(&row) as u32, token, "{case}: step {step}");
            next = vec![token];
        }
    }
}

#[test]
fn the_config_is_that_of_the_directory() {
    for case in CASES {
        let file = Gguf::open(oracle(&format!("gguf/{case}.q8_0.gguf"))).expect("it opens");
        let found = Config::from_gguf(&file).expect("it has all keys");
        let text = std::fs::read_to_string(oracle(case).join("config.json")).expect("config.json reads");
        let wanted = Config::from_json(&text).expect("config.json is sound");
        assert_eq!((found.attention, found.delta, found.experts), (wanted.attention, wanted.delta, wanted.experts));
        assert_eq!((found.model_type, &found.layers), (wanted.model_type, &wanted.layers), "{case}");
        assert_eq!((found.hidden_size, found.vocab_size), (wanted.hidden_size, wanted.vocab_size));
        assert_eq!((found.positions_max, found.tied_embeddings), (wanted.positions_max, wanted.tied_embeddings));
        assert_eq!((found.rms_norm_epsilon, found.dense_width), (wanted.rms_norm_epsilon, wanted.dense_width));
        let again = Config::from_json(&found.to_json()).expect("what we write we read");
        assert_eq!((again.attention, again.layers), (found.attention, found.layers));
    }
}

#[test]
fn blocks_that_predict_further_tokens_are_left_alone() {
    let plain = Model::open(&oracle("gguf/qwen3_next.q8_0.gguf"), Loading::Stored).expect("it opens");
    let with_blocks = Model::open(&oracle("gguf/qwen3_next_mtp.q8_0.gguf"), Loading::Stored).expect("it opens");
    assert_eq!(plain.config.layers, with_blocks.config.layers);
    let tokens = tokens(&fixtures("qwen3_next"), "seq0.input_ids");
    assert_eq!(logits(&plain, &tokens), logits(&with_blocks, &tokens));
}

/// Older files have the input projection of delta layers as the checkpoint has it.
#[test]
fn a_grouped_projection_is_the_same_model() {
    let mut writer = copy_of("qwen3_next.f32.gguf");
    let source = TensorFile::open(oracle("qwen3_next/model.safetensors")).expect("it opens");
    // One layer keeps the newer form.
    for layer in [0, 2] {
        let grouped = source.get(&format!("model.layers.{layer}.linear_attn.in_proj_qkvz.weight")).expect("present");
        writer = writer.without_tensor(&format!("blk.{layer}.attn_qkv.weight"));
        writer = writer.without_tensor(&format!("blk.{layer}.attn_gate.weight"));
        writer.tensor(&format!("blk.{layer}.ssm_in.weight"), 0, grouped.shape, grouped.bytes.to_vec());
    }
    let older = model(&writer, Loading::Stored);
    let is_split = |layer: usize| match &older.weights.layers[layer].mixer {
        Mixer::Delta(delta) => matches!(delta.input, DeltaInput::Split { .. }),
        Mixer::Attention(_) => false,
    };
    assert_eq!([0, 1, 2].map(is_split), [false, true, false]);
    let fixtures = fixtures("qwen3_next");
    let d = worst(
        &logits(&older, &tokens(&fixtures, "seq0.input_ids")),
        &fixtures.get("seq0.logits").expect("logits").to_f32(),
    );
    assert!(d <= 2e-4, "logits differ by {d}");
}

/// Values near `values` in a format: the nearest, or, in formats that are only read, whatever some bytes mean.
fn in_format(values: &[f32], rows: usize, columns: usize, format: Format, rng: &mut Rng) -> Matrix {
    if !matches!(format, Format::Q4_0 | Format::Iq4Nl) {
        return Matrix::quantize(values, rows, columns, format);
    }
    let block = |rng: &mut Rng| {
        let scale = numeric::f16::from_f32(if format == Format::Q4_0 { 0.02 } else { 0.002 });
        let mut bytes = scale.to_le_bytes().to_vec();
        bytes.extend((0..16).map(|_| rng.next_u64() as u8));
        bytes
    };
    let bytes: Vec<u8> = (0..rows * columns / 32).flat_map(|_| block(rng)).collect();
    Matrix::from_le_bytes(rows, columns, format, &bytes).expect("whole blocks")
}

/// The model with its matrices in `format`, where rows are whole blocks of it, and in Q8_0 elsewhere; and beside it the
/// same numbers in F32. NVFP4 tensors get their scales: one, or one for each expert.
fn two_writings(case: &str, format: Format) -> [GgufWriter; 2] {
    let mut rng = Rng::new(3);
    let exact = copy_of(&format!("{case}.f32.gguf"));
    let (mut stored, mut plain) = (exact.clone(), exact.clone());
    for entry in &exact.tensors {
        let sizes: Vec<usize> = entry.sizes.iter().map(|&size| size as usize).collect();
        let is_matrix = sizes.len() > 1 && !entry.name.contains("ffn_gate_inp") && !entry.name.contains("conv1d");
        if !is_matrix {
            continue;
        }
        let format = if sizes[0].is_multiple_of(format.block_columns()) { format } else { Format::Q8_0 };
        let (rows, parts) = (sizes[1], sizes.get(2).copied().unwrap_or(1));
        let values: Vec<f32> = entry.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let parts: Vec<Matrix> = values
            .chunks_exact(values.len() / parts)
            .map(|part| in_format(part, rows, sizes[0], format, &mut rng))
            .collect();
        let target = stored.entry(&entry.name);
        target.kind = tensor_kind(formats::gguf::name_of(format));
        target.bytes = parts.iter().flat_map(Matrix::to_le_bytes).collect();
        plain.entry(&entry.name).bytes =
            parts.iter().flat_map(|part| part.to_f32()).flat_map(f32::to_le_bytes).collect();
        if format == Format::Nvfp4 {
            let scale = |part: &Matrix| match part.storage {
                numeric::Storage::Nvfp4 { tensor_scale, .. } => tensor_scale,
                _ => panic!("it was quantized to NVFP4"),
            };
            let scales: Vec<f32> = parts.iter().map(scale).collect();
            let name = entry.name.replace(".weight", ".scale");
            stored.floats(&name, &[scales.len()], &scales);
            // Of no use here, and no reason to refuse a file.
            stored.floats(&name.replace(".scale", ".input_scale"), &[1], &[1.0]);
        }
    }
    [stored, plain]
}

#[test]
fn every_format_means_its_numbers() {
    for case in ["qwen2", "qwen3_next"] {
        let tokens = tokens(&fixtures(case), "seq1.input_ids");
        for format in
            [Format::F16, Format::Bf16, Format::Q8_0, Format::Mxfp4, Format::Nvfp4, Format::Q4_0, Format::Iq4Nl]
        {
            let [stored, plain] = two_writings(case, format).map(|writer| model(&writer, Loading::Stored));
            assert!(stored.bytes() < plain.bytes());
            let d = worst(&logits(&stored, &tokens), &logits(&plain, &tokens));
            assert!(d <= 2e-4, "{case} in {format:?}: logits differ by {d}");
        }
    }
}

#[test]
fn a_key_that_is_missing_is_named() {
    let optional = [
        // Another key, or the tensors, say the same.
        "attention.recurrent_layers",
        "full_attention_interval",
        // All layers are mixtures.
        "feed_forward_length",
        "attention.value_length",
    ];
    for (case, architecture) in [("qwen3_next", "qwen3next"), ("qwen3_moe", "qwen3moe"), ("qwen3", "qwen3")] {
        let whole = copy_of(&format!("{case}.q8_0.gguf"));
        let prefix = format!("{architecture}.");
        for (name, _, _) in whole.keys.iter().filter(|key| key.0.starts_with(&prefix)) {
            let key = &name[prefix.len()..];
            let writer = whole.clone().without_key(name);
            if optional.contains(&key) && case != "qwen3" {
                model(&writer, Loading::Stored);
                continue;
            }
            if key == "attention.value_length" {
                continue;
            }
            let message = refusal(&writer);
            let named = format!("the key {name} is missing");
            // A dense model misses the width under the name that it has in a config.json.
            assert!(message.contains(&named) || message.contains("intermediate_size"), "{name}: {message}");
            assert!(message.contains("test.gguf"), "{message} does not name the file");
        }
    }
    // Both keys that say which layers are delta layers are gone: the tensors tell.
    let whole = copy_of("qwen3_next.q8_0.gguf").without_key("qwen3next.attention.recurrent_layers");
    let found = model(&whole.without_key("qwen3next.full_attention_interval"), Loading::Stored);
    let wanted = Model::open(&oracle("gguf/qwen3_next.q8_0.gguf"), Loading::Stored).expect("it opens");
    assert_eq!(found.config.layers, wanted.config.layers);
}

#[test]
fn a_key_that_cannot_be_is_refused() {
    let spoiled = |case: &str, spoil: &dyn Fn(&mut GgufWriter)| {
        let mut writer = copy_of(&format!("{case}.q8_0.gguf"));
        spoil(&mut writer);
        refusal(&writer)
    };
    let with = |case: &str, name: &str, kind: u32, bytes: Vec<u8>| {
        spoiled(case, &|writer| {
            writer.keys.retain(|key| key.0 != name);
            writer.key(name, kind, bytes.clone());
        })
    };
    let number = |value: u32| value.to_le_bytes().to_vec();
    let cases = [
        (
            with("qwen3", "general.architecture", 8, gguf_writer::string("llama")),
            "\"llama\" is not one of qwen2, qwen3,",
        ),
        (with("qwen3", "qwen3.block_count", 4, number(0)), "qwen3.block_count is 0, want a whole number from 1"),
        (with("qwen3", "qwen3.block_count", 4, number(1 << 24)), "is 16777216, but the file has only"),
        (with("qwen3", "qwen3.attention.head_count", 4, number(1 << 24)), "16777216 heads are more than the 4096"),
        (with("qwen3_next", "qwen3next.ssm.group_count", 4, number(1 << 20)), "1048576 heads are more than the 4096"),
        (with("qwen3", "qwen3.block_count", 4, number(3)), "tensor blk.2.attn_norm.weight is missing"),
        (with("qwen3", "qwen3.block_count", 4, number(1)), "tensor blk.1.attn_norm.weight: it has no place"),
        (with("qwen3", "qwen3.embedding_length", 8, gguf_writer::string("x")), "is \"x\", want a whole number"),
        (
            with("qwen3", "qwen3.embedding_length", 4, number(32)),
            "token_embd.weight: want shape [512, 32], the file has [512, 64]",
        ),
        (with("qwen3", "qwen3.rope.freq_base", 6, f32::NAN.to_le_bytes().to_vec()), "is NaN, want a positive number"),
        (with("qwen3", "qwen3.rope.scaling.type", 8, gguf_writer::string("yarn")), "is \"yarn\", want \"none\""),
        (with("qwen3", "qwen3.attention.value_length", 4, number(64)), "is 64, want the key length, 32"),
        (with("qwen3", "qwen3.attention.sliding_window", 4, number(128)), "is 128, want the whole context"),
        (with("qwen3", "qwen3.attention.head_count_kv", 4, number(3)), "4 heads do not share 3 kv heads"),
        (with("qwen3_moe", "qwen3moe.expert_count", 4, number(9)), "blk.0.ffn_gate_inp.weight: want shape [9, 64]"),
        (with("qwen3_moe", "qwen3moe.expert_used_count", 4, number(9)), "fewer than num_experts_per_tok"),
        (with("qwen3_moe", "qwen3moe.expert_gating_func", 4, number(2)), "is 2, want 1 (softmax)"),
        (with("qwen3_next", "qwen3next.ssm.inner_size", 4, number(63)), "inner_size is 63, want a multiple of"),
        (with("qwen3_next", "qwen3next.nextn_predict_layers", 4, number(4)), "leave no model"),
        (with("qwen3_next", "qwen3next.rope.dimension_count", 4, number(34)), "34 of 32 entries cannot be rotated"),
        (
            with("qwen3_next", "qwen3next.attention.recurrent_layers", 9, gguf_writer::array(7, &[vec![1]])),
            "has 1 entries for 4 layers",
        ),
    ];
    for (message, wanted) in cases {
        assert!(message.contains(wanted), "wanted {wanted:?}: {message}");
    }
}

#[test]
fn a_tensor_that_does_not_fit_is_named() {
    for case in CASES {
        let whole = copy_of(&format!("{case}.q8_0.gguf"));
        for at in 0..whole.tensors.len() {
            let name = whole.tensors[at].name.clone();
            if name == "output.weight" || name == "token_embd.weight" {
                // Without a head, or with another vocabulary, it is another model and not a broken one.
                continue;
            }
            let message = refusal(&whole.clone().without_tensor(&name));
            assert!(message.contains(&name), "{case} without {name}: {message}");
            let mut misshapen = whole.clone();
            let entry = misshapen.entry(&name);
            *entry.sizes.last_mut().expect("every tensor has a size") += 1;
            entry.bytes.resize(entry.bytes.len() * 2, 0);
            let message = refusal(&misshapen);
            assert!(message.contains(&name), "{case} with another {name}: {message}");
        }
        let mut more = whole.clone();
        more.floats("rope_freqs.weight", &[8], &[1.0; 8]);
        assert!(refusal(&more).contains("rope_freqs.weight: it has no place in a model"), "{}", refusal(&more));
    }
    let mut scaled = copy_of("qwen3.q8_0.gguf");
    scaled.floats("blk.0.attn_q.scale", &[1], &[2.0]);
    assert!(refusal(&scaled).contains("only NVFP4 tensors have a scale beside them"));
    let mut positive = copy_of("qwen3_next.q8_0.gguf");
    positive.entry("blk.1.ssm_a").bytes[3] &= 0x7f;
    assert!(refusal(&positive).contains("blk.1.ssm_a: it holds"), "{}", refusal(&positive));
    let [mut wrong, _] = two_writings("qwen3_moe", Format::Nvfp4);
    wrong.entry("blk.0.ffn_up_exps.scale").sizes = vec![7];
    assert!(refusal(&wrong).contains("blk.0.ffn_up_exps.scale: want shape [8], the file has [7]"));
}

/// What is laid out as in GGUF must not be written under the names of a checkpoint that is laid out otherwise.
#[test]
fn only_what_transformers_would_understand_is_saved() {
    let scratch = std::env::temp_dir().join(format!("lateen-gguf-{}", std::process::id()));
    let next = Model::open(&oracle("gguf/qwen3_next.f32.gguf"), Loading::F32).expect("it opens");
    let error = next.save(&scratch, Format::F32).expect_err("its norms are others").to_string();
    assert!(error.contains("laid out as in GGUF"), "{error}");
    let moe = Model::open(&oracle("gguf/qwen3_moe.f32.gguf"), Loading::F32).expect("it opens");
    moe.save(&scratch, Format::F32).expect("it saves");
    let again = Model::open(&scratch, Loading::F32).expect("it opens again");
    let wanted = Model::open(&oracle("qwen3_moe"), Loading::F32).expect("it opens");
    for (found, wanted) in again.parameters().iter().zip(wanted.parameters()) {
        assert_eq!((&found.name, found.values()), (&wanted.name, wanted.values()));
    }
    std::fs::remove_dir_all(scratch).expect("scratch is ours");
}
