//! Keys and values of a sequence, 256 tokens to a page, in f32, f16 or signed bytes.
//!
//! Of each key head the tokens' rows lie one after the other, `[Hkv, 256, W]`: attention reads one head at a time, and
//! so reads memory in order. W is the head width rounded up to sixteen, the rest zeros, so that no kernel has tails.
//! Bytes have one f32 scale to each row, the row's largest magnitude over 127. A page that is full does not change
//! any more, and sequences with a common beginning may share it.

pub mod scalar;
#[cfg(test)]
mod tests;

use crate::packed::round_to_bytes;
use numeric::wire::{Message, Reading};
use numeric::{AlignedBytes, f16};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 256;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Exactly: for training's sake and for comparisons.
    F32,
    #[default]
    F16,
    /// Half of f16.
    Int8,
}

impl KvFormat {
    /// Bytes of one token's key, or value, of one head.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        let width = row_width(head_dim);
        match self {
            Self::F32 => 4 * width,
            Self::F16 => 2 * width,
            Self::Int8 => width + size_of::<f32>(),
        }
    }
}

/// The heads of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageShape {
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Values that a row takes.
pub(crate) fn row_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Some tokens' keys and values.
#[derive(Debug, Clone)]
pub struct Page {
    shape: PageShape,
    keys: Rows,
    values: Rows,
}

/// `[Hkv, 256, W]`.
#[derive(Debug, Clone)]
struct Rows {
    format: KvFormat,
    codes: AlignedBytes,
    /// `[Hkv, 256]`; of bytes only.
    scales: Vec<f32>,
}

/// Rows of one head, W values each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowsView<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// Codes, and a scale to each row.
    Int8(&'a [i8], &'a [f32]),
}

impl Page {
    pub fn empty(format: KvFormat, shape: PageShape) -> Self {
        Self { shape, keys: Rows::empty(format, shape), values: Rows::empty(format, shape) }
    }

    pub fn shape(&self) -> PageShape {
        self.shape
    }

    pub fn format(&self) -> KvFormat {
        self.keys.format
    }

    pub fn bytes(&self) -> usize {
        [&self.keys, &self.values].map(|rows| rows.codes.len() + 4 * rows.scales.len()).iter().sum()
    }

    /// For another process, which knows format and shape.
    pub fn put(&self, message: &mut Message) {
        for rows in [&self.keys, &self.values] {
            message.put_bytes(&rows.codes);
            message.put_f32s(&rows.scales);
        }
    }

    /// What another process put.
    pub fn take(reading: &mut Reading, format: KvFormat, shape: PageShape) -> Self {
        let mut page = Self::empty(format, shape);
        for rows in [&mut page.keys, &mut page.values] {
            rows.codes.copy_from_slice(reading.take_bytes());
            rows.scales = reading.take_f32s();
        }
        page
    }

    /// Keeps a token's key and value, `[Hkv, D]` each, at place `token` of the page.
    pub fn write(&mut self, token: usize, key: &[f32], value: &[f32]) {
        let PageShape { kv_heads, head_dim } = self.shape;
        assert!(token < PAGE_TOKENS, "place {token} of a page of {PAGE_TOKENS}");
        assert_eq!([key.len(), value.len()], [kv_heads * head_dim; 2], "a row to each head");
        for head in 0..kv_heads {
            let row = head * PAGE_TOKENS + token;
            self.keys.write(row, &key[head * head_dim..(head + 1) * head_dim]);
            self.values.write(row, &value[head * head_dim..(head + 1) * head_dim]);
        }
    }

    /// Rows `first..first + count` of a head's keys.
    pub(crate) fn keys(&self, head: usize, first: usize, count: usize) -> RowsView<'_> {
        self.keys.view(self.shape, head, first, count)
    }

    /// Rows `first..first + count` of a head's values.
    pub(crate) fn values(&self, head: usize, first: usize, count: usize) -> RowsView<'_> {
        self.values.view(self.shape, head, first, count)
    }
}

impl Rows {
    fn empty(format: KvFormat, shape: PageShape) -> Self {
        let (rows, width) = (shape.kv_heads * PAGE_TOKENS, row_width(shape.head_dim));
        let scales = if format == KvFormat::Int8 { vec![0.0; rows] } else { Vec::new() };
        let codes = AlignedBytes::zeros(rows * (format.row_bytes(shape.head_dim) - 4 * scales.len() / rows));
        debug_assert!(codes.len() >= rows * width);
        Self { format, codes, scales }
    }

    fn write(&mut self, row: usize, values: &[f32]) {
        let width = row_width(values.len());
        match self.format {
            KvFormat::F32 => {
                let bytes = self.codes[4 * row * width..].chunks_exact_mut(4);
                bytes.zip(values).for_each(|(bytes, value)| bytes.copy_from_slice(&value.to_le_bytes()));
            }
            KvFormat::F16 => {
                let bytes = self.codes[2 * row * width..].chunks_exact_mut(2);
                let halves = values.iter().map(|&value| f16::from_f32(value));
                bytes.zip(halves).for_each(|(bytes, half)| bytes.copy_from_slice(&half.to_le_bytes()));
            }
            KvFormat::Int8 => {
                self.scales[row] = round_to_bytes(values, &mut self.codes[row * width..row * width + values.len()]);
            }
        }
    }

    fn view(&self, shape: PageShape, head: usize, first: usize, count: usize) -> RowsView<'_> {
        assert!(head < shape.kv_heads && first + count <= PAGE_TOKENS, "rows {first} + {count} of head {head}");
        let (row, width) = (head * PAGE_TOKENS + first, row_width(shape.head_dim));
        let (start, len) = (row * width, count * width);
        match self.format {
            KvFormat::F32 => RowsView::F32(&typed::<f32>(&self.codes)[start..start + len]),
            KvFormat::F16 => RowsView::F16(&typed::<f16>(&self.codes)[start..start + len]),
            KvFormat::Int8 => {
                RowsView::Int8(&typed::<i8>(&self.codes)[start..start + len], &self.scales[row..row + count])
            }
        }
    }
}

/// A plain number of which any bits are one.
trait Plain {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for i8 {}

/// The bytes as numbers, which are little-endian as the machine is.
fn typed<T: Plain>(bytes: &AlignedBytes) -> &[T] {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: on a cache line, so aligned for T; any bits are a T; within the bytes.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

impl RowsView<'_> {
    /// All of them in f32.
    #[cfg(test)]
    pub(crate) fn to_f32(self) -> Vec<f32> {
        match self {
            Self::F32(rows) => rows.to_vec(),
            Self::F16(rows) => rows.iter().map(|half| half.to_f32()).collect(),
            Self::Int8(codes, scales) => {
                let width = codes.len() / scales.len();
                codes.iter().enumerate().map(|(at, &code)| scales[at / width] * f32::from(code)).collect()
            }
        }
    }
}
