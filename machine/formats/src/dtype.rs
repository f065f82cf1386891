//! The kinds of number a tensor file may hold, and how each becomes f32 and back.

use numeric::{bf16, f16};

/// How each number of a tensor is stored. Little-endian, as the format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Every kind with its name in the header and its size in bytes.
const KINDS: [(DType, &str, usize); 16] = [
    (DType::F64, "F64", 8),
    (DType::F32, "F32", 4),
    (DType::F16, "F16", 2),
    (DType::BF16, "BF16", 2),
    (DType::F8E4M3, "F8_E4M3", 1),
    (DType::F8E5M2, "F8_E5M2", 1),
    (DType::F8E8M0, "F8_E8M0", 1),
    (DType::I64, "I64", 8),
    (DType::I32, "I32", 4),
    (DType::I16, "I16", 2),
    (DType::I8, "I8", 1),
    (DType::U64, "U64", 8),
    (DType::U32, "U32", 4),
    (DType::U16, "U16", 2),
    (DType::U8, "U8", 1),
    (DType::Bool, "BOOL", 1),
];

impl DType {
    /// The name as a header writes it.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        KINDS[self as usize].2
    }

    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == name).map(|kind| kind.0)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2 | Self::F8E8M0)
    }

    /// Rounds `values` to this kind and lays them out as a file holds them. Only the four plain float kinds: the
    /// others need a scale, and who needs one has to choose it.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => panic!("f32 values cannot be encoded as {} without a scale", self.name()),
        }
    }

    /// The values as f32. `F64` and the wide integers are rounded to the nearest f32.
    pub(crate) fn decode_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => decode(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => decode(bytes, f32::from_le_bytes),
            Self::F16 => decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F8E4M3 => decode(bytes, |[b]| f32_from_e4m3(b)),
            // E5M2 is the upper byte of an f16.
            Self::F8E5M2 => decode(bytes, |[b]| f16::from_bits(u16::from(b) << 8).to_f32()),
            Self::F8E8M0 => decode(bytes, |[b]| f32_from_e8m0(b)),
            Self::I64 => decode(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => decode(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => decode(bytes, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => decode(bytes, |b| f32::from(i8::from_le_bytes(b))),
            Self::U64 => decode(bytes, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => decode(bytes, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => decode(bytes, |b| f32::from(u16::from_le_bytes(b))),
            Self::U8 => decode(bytes, |[b]| f32::from(b)),
            Self::Bool => decode(bytes, |[b]| f32::from(u8::from(b != 0))),
        }
    }

    /// The values of an integer kind; none for a float kind, and none when a U64 does not fit.
    pub(crate) fn decode_i64(self, bytes: &[u8]) -> Option<Vec<i64>> {
        Some(match self {
            Self::I64 => decode(bytes, i64::from_le_bytes),
            Self::I32 => decode(bytes, |b| i64::from(i32::from_le_bytes(b))),
            Self::I16 => decode(bytes, |b| i64::from(i16::from_le_bytes(b))),
            Self::I8 => decode(bytes, |b| i64::from(i8::from_le_bytes(b))),
            Self::U64 => {
                let wide = decode(bytes, u64::from_le_bytes);
                return wide.into_iter().map(|v| i64::try_from(v).ok()).collect();
            }
            Self::U32 => decode(bytes, |b| i64::from(u32::from_le_bytes(b))),
            Self::U16 => decode(bytes, |b| i64::from(u16::from_le_bytes(b))),
            Self::U8 => decode(bytes, |[b]| i64::from(b)),
            Self::Bool => decode(bytes, |[b]| i64::from(b != 0)),
            _ => return None,
        })
    }
}

pub(crate) fn decode<const N: usize, T>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "{} bytes are not a whole number of {N}-byte values", bytes.len());
    chunks.iter().map(|&chunk| one(chunk)).collect()
}

/// OCP FP8 E4M3 ("fn"): bias 7, no infinities, one NaN pattern per sign.
fn f32_from_e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(byte >> 3 & 0xf);
    let fraction = f32::from(byte & 0x7);
    match (exponent, byte & 0x7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * fraction * 2f32.powi(-9),
        _ => sign * (8.0 + fraction) * 2f32.powi(exponent - 10),
    }
}

/// OCP E8M0: a bare power of two, as block scales use it; 255 is NaN.
fn f32_from_e8m0(byte: u8) -> f32 {
    if byte == 255 { f32::NAN } else { 2f64.powi(i32::from(byte) - 127) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (kind, name, bytes) in KINDS {
            assert_eq!((kind.name(), kind.bytes()), (name, bytes));
            assert_eq!(DType::from_name(name), Some(kind));
        }
        assert_eq!(DType::from_name("f32"), None);
    }

    #[test]
    fn small_floats_have_their_published_values() {
        // Extremes from the OCP 8-bit floating point specification (revision 1.0), table 2.
        for (byte, value) in [(0x7e, 448.0), (0xfe, -448.0), (0x08, 2f32.powi(-6)), (0x01, 2f32.powi(-9)), (0x38, 1.0)]
        {
            assert_eq!(f32_from_e4m3(byte), value, "E4M3 {byte:#x}");
        }
        assert!(f32_from_e4m3(0x7f).is_nan());
        assert_eq!(DType::F8E5M2.decode_f32(&[0x7b, 0x3c, 0x7c]), [57344.0, 1.0, f32::INFINITY]);
        assert_eq!(DType::F8E8M0.decode_f32(&[127, 128, 0]), [1.0, 2.0, 2f32.powi(-127)]);
    }

    #[test]
    fn integers_come_back_whole_or_not_at_all() {
        assert_eq!(DType::I64.decode_i64(&(-5i64).to_le_bytes()), Some(vec![-5]));
        assert_eq!(DType::U64.decode_i64(&u64::MAX.to_le_bytes()), None);
        assert_eq!(DType::F32.decode_i64(&[0; 4]), None);
        assert_eq!(DType::Bool.decode_i64(&[0, 1, 7]), Some(vec![0, 1, 1]));
    }

    #[test]
    fn floats_survive_encoding() {
        let values = [0.0f32, -1.5, 3.0, 1024.0];
        for kind in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            assert_eq!(kind.decode_f32(&kind.encode(&values)), values, "{}", kind.name());
        }
    }
}
