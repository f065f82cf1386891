//! Stored numbers back to f32: the definition of what each format means.

use crate::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use crate::ggml;
use crate::matrix::{Data, Format, Matrix, MatrixView};
use crate::minifloat::{E2M1_VALUES, E4M3_VALUES, e8m0_to_f32};
use std::ops::Range;

impl BlockQ8 {
    pub fn dequantize(&self, out: &mut [f32; 32]) {
        let scale = self.scale.to_f32();
        for (o, &q) in out.iter_mut().zip(&self.quants) {
            *o = scale * f32::from(q);
        }
    }
}

impl BlockMxfp4 {
    pub fn dequantize(&self, out: &mut [f32; 32]) {
        let scale = e8m0_to_f32(self.scale);
        for (j, &pair) in self.quants.iter().enumerate() {
            out[j] = E2M1_VALUES[(pair & 15) as usize] * scale;
            out[j + 16] = E2M1_VALUES[(pair >> 4) as usize] * scale;
        }
    }
}

impl BlockNvfp4 {
    pub fn dequantize(&self, tensor_scale: f32, out: &mut [f32; 64]) {
        for (group, &scale) in self.scales.iter().enumerate() {
            let scale = E4M3_VALUES[scale as usize] * tensor_scale;
            for j in 0..8 {
                let pair = self.quants[8 * group + j];
                out[16 * group + j] = E2M1_VALUES[(pair & 15) as usize] * scale;
                out[16 * group + j + 8] = E2M1_VALUES[(pair >> 4) as usize] * scale;
            }
        }
    }
}

/// Whole blocks of a format that is only read.
fn dequantize_raw(format: Format, bytes: &[u8], out: &mut [f32]) {
    fn each<const BYTES: usize, const COLUMNS: usize>(
        bytes: &[u8],
        out: &mut [f32],
        dequantize: fn(&[u8; BYTES], &mut [f32; COLUMNS]),
    ) {
        bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0).for_each(|(block, out)| dequantize(block, out));
    }
    match format {
        Format::Q4_0 => each(bytes, out, ggml::q4_0),
        Format::Iq4Nl => each(bytes, out, ggml::iq4_nl),
        Format::Iq4Xs => each(bytes, out, ggml::iq4_xs),
        Format::Q4K => each(bytes, out, ggml::q4_k),
        Format::Q5K => each(bytes, out, ggml::q5_k),
        Format::Q6K => each(bytes, out, ggml::q6_k),
        _ => panic!("{format:?} has a storage of its own"),
    }
}

impl<'a> MatrixView<'a> {
    /// Row `row` as f32.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a row has {} columns, not {}", self.columns, out.len());
        self.dequantize_columns(row, 0, out);
    }

    /// Columns `column_start .. column_start + out.len()` of row `row` as f32; both ends on block boundaries.
    pub fn dequantize_columns(&self, row: usize, column_start: usize, out: &mut [f32]) {
        let block = self.format().block_columns();
        assert!(row < self.rows && column_start + out.len() <= self.columns, "columns outside of the matrix");
        assert!(column_start.is_multiple_of(block) && out.len().is_multiple_of(block), "columns split a block");
        let start = (row * self.columns + column_start) / block;
        let blocks = start..start + out.len() / block;
        match self.data {
            Data::F32(v) => out.copy_from_slice(&v[blocks]),
            Data::Bf16(v) => out.iter_mut().zip(&v[blocks]).for_each(|(o, v)| *o = v.to_f32()),
            Data::F16(v) => out.iter_mut().zip(&v[blocks]).for_each(|(o, v)| *o = v.to_f32()),
            Data::Q8_0(v) => out.as_chunks_mut().0.iter_mut().zip(&v[blocks]).for_each(|(o, b)| b.dequantize(o)),
            Data::Mxfp4(v) => out.as_chunks_mut().0.iter_mut().zip(&v[blocks]).for_each(|(o, b)| b.dequantize(o)),
            Data::Nvfp4 { blocks: v, tensor_scale } => {
                let pairs = out.as_chunks_mut().0.iter_mut().zip(&v[blocks]);
                pairs.for_each(|(o, b)| b.dequantize(tensor_scale, o));
            }
            Data::Raw { format, bytes } => {
                let size = format.block_bytes();
                dequantize_raw(format, &bytes[blocks.start * size..blocks.end * size], out);
            }
            Data::Packed(packed) => {
                let unpacked = self.unpacked_row(&packed, row);
                unpacked.view().dequantize_columns(0, column_start, out);
            }
        }
    }

    /// The same matrix, rows `rows` only.
    pub fn row_range(&self, rows: Range<usize>) -> MatrixView<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of a matrix of {}", self.rows);
        let blocks_per_row = self.columns / self.format().block_columns();
        let blocks = rows.start * blocks_per_row..rows.end * blocks_per_row;
        let data = match self.data {
            Data::F32(v) => Data::F32(&v[blocks]),
            Data::Bf16(v) => Data::Bf16(&v[blocks]),
            Data::F16(v) => Data::F16(&v[blocks]),
            Data::Q8_0(v) => Data::Q8_0(&v[blocks]),
            Data::Mxfp4(v) => Data::Mxfp4(&v[blocks]),
            Data::Nvfp4 { blocks: v, tensor_scale } => Data::Nvfp4 { blocks: &v[blocks], tensor_scale },
            Data::Raw { format, bytes } => {
                let size = format.block_bytes();
                Data::Raw { format, bytes: &bytes[blocks.start * size..blocks.end * size] }
            }
            Data::Packed(_) => panic!("a packed matrix is used whole"),
        };
        MatrixView { rows: rows.end - rows.start, columns: self.columns, data }
    }

    /// Every value as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.columns];
        for row in 0..self.rows {
            self.dequantize_row(row, &mut out[row * self.columns..(row + 1) * self.columns]);
        }
        out
    }
}

impl Matrix {
    /// Every value as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        self.view().to_f32()
    }
}
