//! The formats of GGUF files against the `gguf` package: fixtures/numeric, made by reference/make_ggml_blocks.py.

use numeric::{Format, Matrix};
use serde_json::Value;

#[test]
fn blocks_mean_what_the_gguf_package_reads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/numeric/ggml_blocks.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let formats = [
        ("Q4_0", Format::Q4_0),
        ("IQ4_NL", Format::Iq4Nl),
        ("IQ4_XS", Format::Iq4Xs),
        ("Q4_K", Format::Q4K),
        ("Q5_K", Format::Q5K),
        ("Q6_K", Format::Q6K),
        ("Q8_0", Format::Q8_0),
        ("MXFP4", Format::Mxfp4),
        ("NVFP4", Format::Nvfp4),
    ];
    assert_eq!(fixture.as_object().unwrap().len(), formats.len());
    for (name, format) in formats {
        let hex = fixture[name]["bytes"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let want: Vec<f32> =
            fixture[name]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let matrix = Matrix::from_le_bytes(1, want.len(), format, &bytes).unwrap();
        assert_eq!(matrix.to_le_bytes(), bytes, "{name} survives the way through memory");
        for (column, (have, want)) in matrix.to_f32().into_iter().zip(want).enumerate() {
            // A difference of two products is rounded once or twice.
            assert!((have - want).abs() <= 1e-6 * want.abs().max(1.0), "{name} column {column}: {have}, not {want}");
        }
    }
}
