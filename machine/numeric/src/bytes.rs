//! Matrices from and to the little-endian bytes that files hold.

use crate::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use crate::matrix::{Format, Matrix, Storage};
use crate::packed::Packed;
use half::{bf16, f16};
use thiserror::Error;

/// Why bytes do not make a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BytesError {
    #[error("rows of {columns} columns split a block: {format:?} wants a multiple of {}", format.block_columns())]
    SplitBlock { columns: usize, format: Format },
    #[error("{rows} × {columns} in {format:?} takes {wanted} bytes, found {found}; is the file truncated?")]
    Length { rows: usize, columns: usize, format: Format, wanted: u128, found: usize },
}

impl Matrix {
    /// A matrix from the bytes of a file. An NVFP4 tensor's scale is not among them: see
    /// [`Matrix::with_tensor_scale`].
    pub fn from_le_bytes(rows: usize, columns: usize, format: Format, bytes: &[u8]) -> Result<Self, BytesError> {
        if !columns.is_multiple_of(format.block_columns()) {
            return Err(BytesError::SplitBlock { columns, format });
        }
        // In 128 bits, because the sizes come from a file and their product may not fit in 64.
        let wanted = rows as u128 * (columns / format.block_columns()) as u128 * format.block_bytes() as u128;
        if wanted != bytes.len() as u128 {
            return Err(BytesError::Length { rows, columns, format, wanted, found: bytes.len() });
        }
        let storage = match format {
            Format::F32 => Storage::F32(each(bytes, |b: &[u8; 4]| f32::from_le_bytes(*b))),
            Format::Bf16 => Storage::Bf16(each(bytes, |b: &[u8; 2]| bf16::from_le_bytes(*b))),
            Format::F16 => Storage::F16(each(bytes, |b: &[u8; 2]| f16::from_le_bytes(*b))),
            Format::Q8_0 => Storage::Q8_0(each(bytes, |b: &[u8; 34]| BlockQ8 {
                scale: f16::from_le_bytes([b[0], b[1]]),
                quants: std::array::from_fn(|j| b[2 + j] as i8),
            })),
            Format::Mxfp4 => Storage::Mxfp4(each(bytes, |b: &[u8; 17]| BlockMxfp4 {
                scale: b[0],
                quants: std::array::from_fn(|j| b[1 + j]),
            })),
            Format::Nvfp4 => Storage::Nvfp4 {
                blocks: each(bytes, |b: &[u8; 36]| BlockNvfp4 {
                    scales: std::array::from_fn(|j| b[j]),
                    quants: std::array::from_fn(|j| b[4 + j]),
                }),
                tensor_scale: 1.0,
            },
            _ => Storage::Raw { format, bytes: bytes.to_vec() },
        };
        Ok(Self { rows, columns, storage })
    }

    /// The bytes that [`Matrix::from_le_bytes`] reads.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        match &self.storage {
            Storage::F32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
            Storage::Bf16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
            Storage::F16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
            Storage::Q8_0(v) => v.iter().for_each(|b| {
                out.extend(b.scale.to_le_bytes());
                out.extend(b.quants.map(|q| q as u8));
            }),
            Storage::Mxfp4(v) => v.iter().for_each(|b| {
                out.push(b.scale);
                out.extend(b.quants);
            }),
            Storage::Nvfp4 { blocks, .. } => blocks.iter().for_each(|b| {
                out.extend(b.scales);
                out.extend(b.quants);
            }),
            Storage::Raw { bytes, .. } => out.extend(bytes),
            Storage::Packed(packed) => {
                (0..self.rows).for_each(|row| out.extend(packed.view().blocks_of_row(row, self.columns)));
            }
        }
        out
    }

    /// The same blocks under another tensor-wide scale; only NVFP4 has one.
    pub fn with_tensor_scale(mut self, scale: f32) -> Self {
        match &mut self.storage {
            Storage::Nvfp4 { tensor_scale, .. } | Storage::Packed(Packed { tensor_scale, .. }) => *tensor_scale = scale,
            _ => panic!("{:?} has no tensor-wide scale", self.format()),
        }
        self
    }
}

fn each<const N: usize, T>(bytes: &[u8], read: impl FnMut(&[u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(read).collect()
}
