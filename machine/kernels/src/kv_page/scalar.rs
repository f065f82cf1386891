//! The definition: what a row of a key or a value is worth after it was kept.

use super::KvFormat;
use numeric::f16;

/// One head's row of one token, as it reads back.
pub fn kept(row: &[f32], format: KvFormat) -> Vec<f32> {
    match format {
        KvFormat::F32 => row.to_vec(),
        KvFormat::F16 => row.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        KvFormat::Int8 => {
            let scale = row.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            row.iter().map(|x| scale * (x * inverse).clamp(-127.0, 127.0).round_ties_even()).collect()
        }
    }
}
