//! Blocks of quantized weights, byte for byte as GGUF stores them.

use half::f16;

/// 32 signed bytes with one f16 scale: value = scale · q.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct BlockQ8 {
    pub scale: f16,
    pub quants: [i8; 32],
}

/// 32 E2M1 values with one E8M0 scale. Element j is the low nibble of byte j, element j + 16 the high nibble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BlockMxfp4 {
    pub scale: u8,
    pub quants: [u8; 16],
}

/// 64 E2M1 values in four groups of 16, one unsigned E4M3 scale each; a tensor-wide f32 scale is kept beside the
/// blocks. In group s, element j is the low nibble of byte 8s + j, element j + 8 the high nibble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BlockNvfp4 {
    pub scales: [u8; 4],
    pub quants: [u8; 32],
}

const _: () = assert!(size_of::<BlockQ8>() == 34 && size_of::<BlockMxfp4>() == 17 && size_of::<BlockNvfp4>() == 36);
