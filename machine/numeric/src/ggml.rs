//! The block formats of GGUF files that we read and do not write: raw bytes to f32.
//!
//! Layouts: llama.cpp, `ggml-common.h`; every function here is held to the `gguf` package by a test of figures.
//! Multi-byte numbers are little-endian, nibbles low first.

use half::f16;

/// The sixteen values of an IQ4 code (llama.cpp, `kvalues_iq4nl`).
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// 32 columns in 18 bytes: f16 scale, sixteen bytes of which byte j holds columns j and j + 16.
/// Value = scale · (q − 8).
pub fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    for (j, &pair) in block[2..].iter().enumerate() {
        out[j] = scale * f32::from((pair & 15) as i8 - 8);
        out[j + 16] = scale * f32::from((pair >> 4) as i8 - 8);
    }
}

/// As Q4_0, with codes that stand for [`IQ4_VALUES`].
pub fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    for (j, &pair) in block[2..].iter().enumerate() {
        out[j] = scale * f32::from(IQ4_VALUES[usize::from(pair & 15)]);
        out[j + 16] = scale * f32::from(IQ4_VALUES[usize::from(pair >> 4)]);
    }
}

/// 256 columns in 136 bytes: f16 scale; sixteen bits with the upper two of each 6-bit sub-scale; four bytes with their
/// lower nibbles; eight groups of sixteen bytes as in [`iq4_nl`]. Value = scale · (sub-scale − 32) · code.
pub fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for sub in 0..8 {
        let sub_scale = scale * f32::from(iq4_xs_scale(block, sub));
        for (j, &pair) in block[8 + 16 * sub..24 + 16 * sub].iter().enumerate() {
            out[32 * sub + j] = sub_scale * f32::from(IQ4_VALUES[usize::from(pair & 15)]);
            out[32 * sub + j + 16] = sub_scale * f32::from(IQ4_VALUES[usize::from(pair >> 4)]);
        }
    }
}

/// The signed scale of one group of 32 columns of an IQ4_XS block.
pub fn iq4_xs_scale(block: &[u8; 136], sub: usize) -> i8 {
    let upper = u16::from_le_bytes([block[2], block[3]]) >> (2 * sub) & 3;
    let lower = block[4 + sub / 2] >> (4 * (sub % 2)) & 15;
    (lower | (upper as u8) << 4) as i8 - 32
}

/// The 6-bit scale and minimum of group `sub` of 32 columns, from the twelve bytes that Q4_K and Q5_K keep them in.
pub fn k_scale_and_minimum(packed: &[u8; 12], sub: usize) -> (u8, u8) {
    if sub < 4 {
        return (packed[sub] & 63, packed[sub + 4] & 63);
    }
    let (low, scale_top, minimum_top) = (packed[sub + 4], packed[sub - 4] >> 6, packed[sub] >> 6);
    (low & 15 | scale_top << 4, low >> 4 | minimum_top << 4)
}

fn k_head(block: &[u8]) -> (f32, f32, &[u8; 12]) {
    let packed = block[4..].first_chunk().expect("a K block holds twelve bytes of scales");
    (f16_at(block, 0), f16_at(block, 2), packed)
}

/// 256 columns in 144 bytes: f16 scale, f16 minimum, twelve bytes of 6-bit scales and minima of the eight groups of 32;
/// 128 bytes, 32 for each pair of groups, low nibbles first. Value = scale · s · q − minimum · m.
pub fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum, packed) = k_head(block);
    for sub in 0..8 {
        let (s, m) = k_scale_and_minimum(packed, sub);
        let (s, m) = (scale * f32::from(s), minimum * f32::from(m));
        for j in 0..32 {
            let q = block[16 + 32 * (sub / 2) + j] >> (4 * (sub % 2)) & 15;
            out[32 * sub + j] = s * f32::from(q) - m;
        }
    }
}

/// 256 columns in 176 bytes: as Q4_K, with 32 bytes between scales and nibbles whose bit `sub` is the fifth bit of
/// group `sub`.
pub fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum, packed) = k_head(block);
    for sub in 0..8 {
        let (s, m) = k_scale_and_minimum(packed, sub);
        let (s, m) = (scale * f32::from(s), minimum * f32::from(m));
        for j in 0..32 {
            let low = block[48 + 32 * (sub / 2) + j] >> (4 * (sub % 2)) & 15;
            let q = low | (block[16 + j] >> sub & 1) << 4;
            out[32 * sub + j] = s * f32::from(q) - m;
        }
    }
}

/// 256 columns in 210 bytes: 128 bytes of low nibbles, 64 bytes of upper bit pairs, sixteen signed scales of 16 columns
/// each, f16 scale. Value = scale · s · (q − 32).
pub fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = f16_at(block, 208);
    for (column, out) in out.iter_mut().enumerate() {
        let s = block[192 + column / 16] as i8;
        *out = scale * f32::from(s) * f32::from(q6_k_code(block, column) as i8 - 32);
    }
}

/// The 6-bit code of one column of a Q6_K block.
pub fn q6_k_code(block: &[u8; 210], column: usize) -> u8 {
    // Each half of 128 columns is four runs of 32: two share a byte of nibbles, all four a byte of bit pairs.
    let (half, run, lane) = (column / 128, column % 128 / 32, column % 32);
    let low = block[64 * half + 32 * (run % 2) + lane] >> (4 * (run / 2)) & 15;
    let high = block[128 + 32 * half + lane] >> (2 * run) & 3;
    low | high << 4
}
