//! Any bytes as a GGUF file: an error, or a file whose every value and tensor can be read. Never a panic, an allocation
//! that the bytes do not bear out, or a hang.
#![no_main]

use formats::Gguf;
use formats::gguf::Array;
use libfuzzer_sys::fuzz_target;

fn walk(array: Array<'_>) {
    array.values().filter_map(|value| value.as_array()).for_each(walk);
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes("fuzz.gguf", bytes.to_vec()) else { return };
    for key in file.keys() {
        let value = file.value(key).expect("every key has its value");
        assert!(value.to_string().len() < 1000);
        value.as_array().into_iter().for_each(walk);
    }
    for tensor in file.tensors() {
        let matrix = tensor.to_matrix();
        assert_eq!(matrix.to_f32().len(), tensor.n_values());
    }
});
