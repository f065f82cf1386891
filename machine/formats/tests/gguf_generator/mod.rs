//! GGUF files that are mostly what they say: small models of random shapes with a whole tokenizer, and a few lies among
//! their keys, their tensors and their bytes. One seed, one file.
#![allow(dead_code, reason = "each test program uses its own part of this file")]

pub(crate) mod lies;
mod model;

use super::gguf_writer::GgufWriter;
use numeric::Rng;

/// A file, and how many lies it tells.
pub(crate) struct Generated {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lies: usize,
}

/// The file of this seed. One in four is sound; `hosts` are sound files into which lies are told, besides the small
/// ones that are made here.
pub(crate) fn file(seed: u64, hosts: &[GgufWriter]) -> Generated {
    let mut rng = Rng::new(seed);
    let mut writer = match hosts.len() {
        0 => model::sound(&mut rng),
        // They are ten times as large, and as slow.
        count if rng.below(16) == 0 => hosts[rng.below(count)].clone(),
        _ => model::sound(&mut rng),
    };
    let told = [0, 1, 1, 2][rng.below(4)];
    let mut lies = told;
    (0..told).for_each(|_| lies::tell(&mut rng, &mut writer));
    let mut bytes = writer.written();
    if told > 0 && rng.below(3) == 0 {
        lies::spoil(&mut rng, &mut bytes);
        lies += 1;
    }
    Generated { bytes, lies }
}
