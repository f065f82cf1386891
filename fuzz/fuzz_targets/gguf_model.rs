//! Any bytes as a model: an error, or a model that reads two tokens. Never a panic, an allocation that the bytes do not
//! bear out, or a hang.
#![no_main]

use formats::Gguf;
use libfuzzer_sys::fuzz_target;
use models::{KvFormat, Loading, Model, State};
use ops::{Infer, Precision};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes("fuzz.gguf", bytes.to_vec()) else { return };
    let Ok(model) = Model::from_gguf(&file, Loading::Packed) else { return };
    let token = u32::from(model.config.vocab_size > 1);
    let mut e = Infer::new(Precision::F32);
    let hidden =
        models::hidden(&mut e, &model, &mut [State::empty(&model.config, KvFormat::default())], &[0, token], &[2]);
    let logits = models::logits(&mut e, &model, &hidden, &[1]);
    assert_eq!(logits.to_vec().len(), model.config.vocab_size);
});
