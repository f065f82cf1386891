//! A named tensor lent from a mapped file: its bytes are where the file is, nothing is copied until asked.

use crate::dtype::{DType, decode};
use crate::error::{FormatsError, shown};
use numeric::{Format, Storage, bf16, f16};

/// `bytes.len()` equals the product of `shape` times the size of one number: checked when the file was opened.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    pub name: &'a str,
    pub dtype: DType,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// How many numbers it holds.
    pub fn n_values(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// The values as f32. `F64` and the wide integers are rounded to the nearest f32; a boolean is 0 or 1.
    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.decode_f32(self.bytes)
    }

    /// The values of an integer tensor, exactly.
    pub fn to_i64(&self) -> Result<Vec<i64>, FormatsError> {
        self.dtype.decode_i64(self.bytes).ok_or_else(|| FormatsError::WrongKind {
            tensor: shown(self.name),
            wanted: "integers that fit in 64 signed bits",
            found: self.dtype.name(),
        })
    }

    /// The values in memory as the file has them where `numeric` knows the format (F32, BF16, F16), else as F32.
    pub fn to_storage(&self) -> Storage {
        match self.dtype {
            DType::BF16 => Storage::Bf16(decode(self.bytes, bf16::from_le_bytes)),
            DType::F16 => Storage::F16(decode(self.bytes, f16::from_le_bytes)),
            _ => Storage::F32(self.to_f32()),
        }
    }

    /// What [`Self::to_storage`] stores them as.
    pub fn format(&self) -> Format {
        match self.dtype {
            DType::BF16 => Format::Bf16,
            DType::F16 => Format::F16,
            _ => Format::F32,
        }
    }

    /// Refuses a tensor whose shape is not the wanted one, naming both.
    pub fn expect_shape(&self, wanted: &[usize]) -> Result<(), ShapeMismatch> {
        if self.shape == wanted {
            return Ok(());
        }
        Err(ShapeMismatch { tensor: self.name.to_owned(), wanted: wanted.to_vec(), found: self.shape.to_vec() })
    }
}

/// A tensor of another shape than the configuration calls for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tensor}: wanted shape {wanted:?}, the file has {found:?}")]
pub struct ShapeMismatch {
    pub tensor: String,
    pub wanted: Vec<usize>,
    pub found: Vec<usize>,
}
