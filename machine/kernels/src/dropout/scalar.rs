//! The definition.

/// The key of a place: any numbers that tell it from others, the seed among them. (The finalizer of splitmix64 after
/// each word.)
pub fn key(words: &[u64]) -> u64 {
    words.iter().fold(0x9E37_79B9_7F4A_7C15, |key, &word| {
        let mut z = (key ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// 32 bits for a column of the row with this key: two rounds of a multiplicative hash with little bias (`lowbias32` by
/// Chris Wellons), between which the other half of the key comes in.
fn bits(key: u64, column: u32) -> u32 {
    let round = |mut x: u32| {
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846C_A68B);
        x ^ (x >> 16)
    };
    round(round(column ^ key as u32) ^ (key >> 32) as u32)
}

/// What the number in this column is multiplied with.
fn factor(key: u64, column: usize, threshold: u32, scale: f32) -> f32 {
    if bits(key, column as u32) < threshold { 0.0 } else { scale }
}

/// Bits below this are dropped, and what the rest is multiplied with.
fn threshold(rate: f32) -> (u32, f32) {
    assert!((0.0..1.0).contains(&rate), "a dropout rate lies in [0, 1), not {rate}");
    ((f64::from(rate) * 4_294_967_296.0) as u32, (1.0 - rate).recip())
}

/// One row.
pub fn forward(y: &mut [f32], x: &[f32], key: u64, rate: f32) {
    let (threshold, scale) = threshold(rate);
    y.iter_mut().zip(x).enumerate().for_each(|(column, (y, x))| *y = x * factor(key, column, threshold, scale));
}

/// One row.
pub fn backward(dx: &mut [f32], dy: &[f32], key: u64, rate: f32) {
    let (threshold, scale) = threshold(rate);
    dx.iter_mut().zip(dy).enumerate().for_each(|(column, (dx, dy))| *dx += dy * factor(key, column, threshold, scale));
}
