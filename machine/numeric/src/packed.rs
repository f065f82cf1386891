//! Matrices laid out for the kernels: the bits of a block format, in another order and nothing else.
//!
//! Sixteen rows make a panel. A 512-bit vector of codes holds four neighbouring columns of all sixteen rows, row r in
//! its 32-bit lane r: what an integer dot product of four bytes multiplies with four activations that are the same for
//! every lane. Two nibbles share a byte: the vector at columns c..c + 8 has columns c..c + 4 in the low nibbles and
//! c + 4..c + 8 in the high ones. Codes and scales of a panel are two streams.
//!
//! | format | codes of a panel | scales of a panel |
//! |---|---|---|
//! | Q8_0 | per 32 columns 8 vectors, q + 128 | per 32 columns 16 f16 |
//! | Q4_0, IQ4_NL | per 32 columns 4 vectors of nibbles | per 32 columns 16 f16 |
//! | MXFP4 | the same | per 32 columns 16 E8M0 |
//! | NVFP4 | the same | per 16 columns 16 E4M3 |
//! | Q4_K | the same | per 256 columns 16 f16 scales, 16 f16 minima, 12 × 16 bytes of 6-bit numbers |
//! | Q5_K | per 32 columns 4 vectors of nibbles, 1 of fifth bits: bit k of a byte is column 4k + its place | as Q4_K |
//! | Q6_K | per 16 columns 2 vectors of nibbles, 1 of bit pairs: pair k is column 4k + place | 16 f16, 256 bytes |
//! | IQ4_XS | 4 vectors of nibbles | per 256 columns 16 f16, then 8 × 16 signed bytes |
//!
//! Rows beyond the last are zeros: their scales are.

use crate::ggml;
use crate::matrix::{Data, Format, Matrix, MatrixView, Storage};
use crate::weight_bytes::WeightBytes;

/// Rows of a panel.
pub const PANEL: usize = 16;

/// Codes and scales of all panels, one panel after the other.
#[derive(Debug, Clone)]
pub struct Packed {
    pub format: Format,
    /// NVFP4's scale of the whole tensor; 1 elsewhere.
    pub tensor_scale: f32,
    pub codes: WeightBytes,
    pub scales: WeightBytes,
}

/// Borrowed [`Packed`]; whole panels.
#[derive(Debug, Clone, Copy)]
pub struct PackedView<'a> {
    pub format: Format,
    pub tensor_scale: f32,
    pub codes: &'a [u8],
    pub scales: &'a [u8],
}

impl Format {
    /// Those that have a packed layout.
    pub const PACKED: [Self; 9] =
        [Self::Q8_0, Self::Q4_0, Self::Iq4Nl, Self::Iq4Xs, Self::Mxfp4, Self::Nvfp4, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Whether there is a packed layout for it.
    pub fn packs(self) -> bool {
        !matches!(self, Format::F32 | Format::Bf16 | Format::F16)
    }

    /// Bytes of codes that a packed panel has for each of its columns.
    fn panel_code_bytes(self, columns: usize) -> usize {
        let bits = match self {
            Format::Q8_0 => 8,
            Format::Q6K => 6,
            Format::Q5K => 5,
            _ => 4,
        };
        PANEL * columns * bits / 8
    }

    fn panel_scale_bytes(self, columns: usize) -> usize {
        PANEL
            * match self {
                Format::Q8_0 | Format::Q4_0 | Format::Iq4Nl => columns / 32 * 2,
                Format::Mxfp4 => columns / 32,
                Format::Nvfp4 => columns / 16,
                Format::Q4K | Format::Q5K => columns / 256 * (2 + 2 + 12),
                Format::Q6K => columns / 256 * (2 + 16),
                Format::Iq4Xs => columns / 256 * (2 + 8),
                Format::F32 | Format::Bf16 | Format::F16 => panic!("{self:?} is not packed"),
            }
    }
}

impl Packed {
    pub fn view(&self) -> PackedView<'_> {
        let Self { format, tensor_scale, codes, scales } = self;
        PackedView { format: *format, tensor_scale: *tensor_scale, codes, scales }
    }

    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len()
    }

    /// What a matrix of this shape takes: rows are filled up to whole panels.
    pub fn bytes_of(format: Format, rows: usize, columns: usize) -> usize {
        rows.div_ceil(PANEL) * (format.panel_code_bytes(columns) + format.panel_scale_bytes(columns))
    }
}

impl<'a> PackedView<'a> {
    /// The codes and the scales of one panel of a matrix of `columns`.
    pub fn panel(&self, panel: usize, columns: usize) -> (&'a [u8], &'a [u8]) {
        let (codes, scales) = (self.format.panel_code_bytes(columns), self.format.panel_scale_bytes(columns));
        (&self.codes[panel * codes..(panel + 1) * codes], &self.scales[panel * scales..(panel + 1) * scales])
    }

    pub fn panels(&self, columns: usize) -> usize {
        self.codes.len() / self.format.panel_code_bytes(columns)
    }
}

/// The blocks of one row.
struct Row<'a> {
    format: Format,
    bytes: &'a [u8],
}

/// The most columns that a block has.
const BLOCK: usize = 256;

/// Low nibbles of `pairs`, then high ones.
fn nibbles(pairs: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(pairs.len());
    for ((low, high), pair) in low.iter_mut().zip(high).zip(pairs) {
        (*low, *high) = (pair & 15, pair >> 4);
    }
}

/// The codes of one block's columns, as the layout stores them. Written in loops that the compiler makes vectors of:
/// a model has some billions of codes.
fn codes_of_block(format: Format, block: &[u8], codes: &mut [u8; BLOCK]) {
    let mut runs = |start: usize, half: usize| {
        block[start..].chunks_exact(half).zip(codes.chunks_exact_mut(2 * half)).for_each(|(p, c)| nibbles(p, c));
    };
    match format {
        Format::Q8_0 => codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 0x80),
        Format::Q4_0 | Format::Iq4Nl => runs(2, 16),
        Format::Mxfp4 => runs(1, 16),
        Format::Nvfp4 => runs(4, 8),
        Format::Iq4Xs => runs(8, 16),
        Format::Q4K => runs(16, 32),
        Format::Q5K => {
            runs(48, 32);
            for (sub, codes) in codes.chunks_exact_mut(32).enumerate() {
                codes.iter_mut().zip(&block[16..48]).for_each(|(code, bits)| *code |= (bits >> sub & 1) << 4);
            }
        }
        Format::Q6K => {
            for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
                let (low, high) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
                nibbles(low, codes);
                for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
                    codes.iter_mut().zip(high).for_each(|(code, bits)| *code |= (bits >> (2 * run) & 3) << 4);
                }
            }
        }
        Format::F32 | Format::Bf16 | Format::F16 => unreachable!("plain numbers are not packed"),
    }
}

/// Four neighbouring codes as one number, the first in its lowest byte.
fn four(codes: &[u8]) -> u32 {
    u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]])
}

/// Lays the codes of `columns` columns, a row each lane, into the panel's vectors.
fn interleave(format: Format, rows: &[[u8; BLOCK]; PANEL], columns: usize, panel: &mut [u8]) {
    const VECTOR: usize = 4 * PANEL;
    let mut put = |vector: usize, lane: usize, value: u32| {
        panel[VECTOR * vector + 4 * lane..][..4].copy_from_slice(&value.to_le_bytes());
    };
    for (lane, codes) in rows.iter().enumerate() {
        let pair =
            |column: usize| four(&codes[column..]) & 0x0F0F_0F0F | (four(&codes[column + 4..]) & 0x0F0F_0F0F) << 4;
        let upper = |column: usize| four(&codes[column..]) >> 4 & 0x0303_0303;
        match format {
            Format::Q8_0 => (0..columns / 4).for_each(|v| put(v, lane, four(&codes[4 * v..]))),
            Format::Q5K => {
                for run in 0..columns / 32 {
                    (0..4).for_each(|v| put(5 * run + v, lane, pair(32 * run + 8 * v)));
                    let bits = (0..8).fold(0, |bits, k| bits | upper(32 * run + 4 * k) << k);
                    put(5 * run + 4, lane, bits);
                }
            }
            Format::Q6K => {
                for run in 0..columns / 16 {
                    (0..2).for_each(|v| put(3 * run + v, lane, pair(16 * run + 8 * v)));
                    let bits = (0..4).fold(0, |bits, k| bits | upper(16 * run + 4 * k) << (2 * k));
                    put(3 * run + 2, lane, bits);
                }
            }
            _ => (0..columns / 8).for_each(|v| put(v, lane, pair(8 * v))),
        }
    }
}

/// Packs the rows of one panel, given as a file's bytes; missing rows are zeros.
pub fn pack_panel(format: Format, columns: usize, rows: &[u8], codes: &mut [u8], scales: &mut [u8]) {
    let (block_columns, block_bytes) = (format.block_columns(), format.block_bytes());
    let row_bytes = format.row_bytes(columns);
    for (lane, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        Row { format, bytes }.scales(lane, scales);
    }
    let mut lanes = [[0u8; BLOCK]; PANEL];
    let block_codes = format.panel_code_bytes(block_columns);
    for (block, codes) in codes.chunks_exact_mut(block_codes).enumerate() {
        for (row, lane) in rows.chunks_exact(row_bytes).zip(&mut lanes) {
            codes_of_block(format, &row[block * block_bytes..][..block_bytes], lane);
        }
        interleave(format, &lanes, block_columns, codes);
    }
}

impl Row<'_> {
    /// Writes this row's scales into its lane of the panel's.
    fn scales(&self, lane: usize, panel: &mut [u8]) {
        let step = self.format.block_bytes();
        let unit = self.format.panel_scale_bytes(self.format.block_columns());
        for (block, out) in self.bytes.chunks_exact(step).zip(panel.chunks_exact_mut(unit)) {
            let mut half = |at: usize, from: usize| out[at + 2 * lane..][..2].copy_from_slice(&block[from..from + 2]);
            match self.format {
                Format::Q8_0 | Format::Q4_0 | Format::Iq4Nl => half(0, 0),
                Format::Mxfp4 => out[lane] = block[0],
                Format::Nvfp4 => (0..4).for_each(|group| out[PANEL * group + lane] = block[group]),
                Format::Q4K | Format::Q5K => {
                    half(0, 0);
                    half(32, 2);
                    (0..12).for_each(|j| out[64 + PANEL * j + lane] = block[4 + j]);
                }
                Format::Q6K => {
                    half(0, 208);
                    (0..16).for_each(|j| out[32 + PANEL * j + lane] = block[192 + j]);
                }
                Format::Iq4Xs => {
                    half(0, 0);
                    let block = block.first_chunk().expect("a block is whole");
                    (0..8).for_each(|j| out[32 + PANEL * j + lane] = ggml::iq4_xs_scale(block, j) as u8);
                }
                Format::F32 | Format::Bf16 | Format::F16 => unreachable!("plain numbers are not packed"),
            }
        }
    }
}

/// Some bits of a byte of a panel.
#[derive(Clone, Copy)]
struct Bits {
    byte: usize,
    shift: usize,
    mask: u8,
}

impl Bits {
    fn of(self, codes: &[u8]) -> u8 {
        codes[self.byte] >> self.shift & self.mask
    }
}

/// Where a code lies in its panel: its low bits, and those above them where they lie apart.
struct Place {
    low: Bits,
    upper: Option<Bits>,
}

impl Place {
    fn of(format: Format, column: usize, lane: usize) -> Self {
        const VECTOR: usize = 4 * PANEL;
        let at = 4 * lane + column % 4;
        let nibble = |start: usize, column: usize| Bits {
            byte: start + column / 8 * VECTOR + at,
            shift: column % 8 / 4 * 4,
            mask: 15,
        };
        match format {
            Format::Q8_0 => Self { low: Bits { byte: column / 4 * VECTOR + at, shift: 0, mask: 0xFF }, upper: None },
            Format::Q5K => {
                let (start, column) = (column / 32 * 5 * VECTOR, column % 32);
                let upper = Bits { byte: start + 4 * VECTOR + at, shift: column / 4, mask: 1 };
                Self { low: nibble(start, column), upper: Some(upper) }
            }
            Format::Q6K => {
                let (start, column) = (column / 16 * 3 * VECTOR, column % 16);
                let upper = Bits { byte: start + 2 * VECTOR + at, shift: column / 4 * 2, mask: 3 };
                Self { low: nibble(start, column), upper: Some(upper) }
            }
            _ => Self { low: nibble(0, column), upper: None },
        }
    }
}

impl Packed {
    /// All zeros, for [`Packed::panels_mut`] to be filled.
    pub fn zeros(format: Format, rows: usize, columns: usize, tensor_scale: f32) -> Self {
        let panels = rows.div_ceil(PANEL);
        let codes = WeightBytes::zeros(panels * format.panel_code_bytes(columns));
        let scales = WeightBytes::zeros(panels * format.panel_scale_bytes(columns));
        Self { format, tensor_scale, codes, scales }
    }

    /// Codes and scales of each panel.
    pub fn panels_mut(&mut self, columns: usize) -> impl Iterator<Item = (&mut [u8], &mut [u8])> {
        let (codes, scales) = (self.format.panel_code_bytes(columns), self.format.panel_scale_bytes(columns));
        self.codes.chunks_exact_mut(codes).zip(self.scales.chunks_exact_mut(scales))
    }

    /// Packs rows given as a file's bytes. The same bits, so nothing is lost.
    pub fn from_blocks(format: Format, rows: usize, columns: usize, tensor_scale: f32, bytes: &[u8]) -> Self {
        let row_bytes = format.row_bytes(columns);
        assert_eq!(bytes.len(), rows * row_bytes, "{rows} × {columns} in {format:?} takes other bytes");
        let mut packed = Self::zeros(format, rows, columns, tensor_scale);
        for (rows, (codes, scales)) in bytes.chunks(PANEL * row_bytes).zip(packed.panels_mut(columns)) {
            pack_panel(format, columns, rows, codes, scales);
        }
        packed
    }
}

impl PackedView<'_> {
    /// The codes of a row's columns, as they are stored.
    pub fn codes_of_row(&self, row: usize, columns: usize) -> Vec<u8> {
        let (codes, _) = self.panel(row / PANEL, columns);
        let code = |column: usize| {
            let place = Place::of(self.format, column, row % PANEL);
            place.low.of(codes) | place.upper.map_or(0, |upper| upper.of(codes) << 4)
        };
        (0..columns).map(code).collect()
    }

    /// The row's blocks, as a file has them.
    pub fn blocks_of_row(&self, row: usize, columns: usize) -> Vec<u8> {
        let (_, scales) = self.panel(row / PANEL, columns);
        let codes = self.codes_of_row(row, columns);
        let (step, unit) = (self.format.block_columns(), self.format.panel_scale_bytes(self.format.block_columns()));
        let blocks = codes.chunks_exact(step).zip(scales.chunks_exact(unit));
        blocks.flat_map(|(codes, scales)| block(self.format, codes, scales, row % PANEL)).collect()
    }
}

/// One block from its codes and its lane of the panel's scales.
fn block(format: Format, codes: &[u8], scales: &[u8], lane: usize) -> Vec<u8> {
    let half = |at: usize| [scales[at + 2 * lane], scales[at + 2 * lane + 1]];
    let bytes = |from: usize, count: usize| (0..count).map(move |j| scales[from + PANEL * j + lane]);
    let pairs = |half: usize| {
        let pair = move |run: &[u8]| (0..half).map(|j| run[j] & 15 | (run[j + half] & 15) << 4).collect::<Vec<u8>>();
        codes.chunks_exact(2 * half).flat_map(pair).collect::<Vec<u8>>()
    };
    let mut out = Vec::with_capacity(format.block_bytes());
    match format {
        Format::Q8_0 => {
            out.extend(half(0));
            out.extend(codes.iter().map(|code| code ^ 0x80));
        }
        Format::Q4_0 | Format::Iq4Nl => {
            out.extend(half(0));
            out.extend(pairs(16));
        }
        Format::Mxfp4 => {
            out.extend(bytes(0, 1));
            out.extend(pairs(16));
        }
        Format::Nvfp4 => {
            out.extend(bytes(0, 4));
            out.extend(pairs(8));
        }
        Format::Q4K | Format::Q5K => {
            out.extend(half(0));
            out.extend(half(32));
            out.extend(bytes(64, 12));
            if format == Format::Q5K {
                out.extend((0..32).map(|j| (0..8).fold(0, |bits, sub| bits | (codes[32 * sub + j] >> 4) << sub)));
            }
            out.extend(pairs(32));
        }
        Format::Q6K => {
            for (half, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let run = &codes[128 * half + 32 * j..];
                out.extend((0..32).map(|lane| run[lane] & 15 | (run[lane + 64] & 15) << 4));
            }
            let upper = |half: usize, lane: usize, run: usize| (codes[128 * half + 32 * run + lane] >> 4) << (2 * run);
            for half in 0..2 {
                out.extend((0..32).map(|lane| (0..4).fold(0, |bits, run| bits | upper(half, lane, run))));
            }
            out.extend(bytes(32, 16));
            out.extend(half(0));
        }
        Format::Iq4Xs => {
            out.extend(half(0));
            let sub_scales: Vec<u8> = bytes(32, 8).map(|scale| scale.wrapping_add(32)).collect();
            let upper = (0..8).fold(0u16, |bits, j| bits | u16::from(sub_scales[j] >> 4 & 3) << (2 * j));
            out.extend(upper.to_le_bytes());
            out.extend((0..4).map(|j| sub_scales[2 * j] & 15 | (sub_scales[2 * j + 1] & 15) << 4));
            out.extend(pairs(16));
        }
        Format::F32 | Format::Bf16 | Format::F16 => unreachable!("plain numbers are not packed"),
    }
    out
}

impl Matrix {
    /// The same numbers in the kernels' layout; formats without one stay as they are.
    pub fn packed(self) -> Self {
        self.packed_by(Packed::from_blocks)
    }

    /// The same, by whoever takes what [`Packed::from_blocks`] takes and gives what it gives.
    pub fn packed_by(self, pack: impl FnOnce(Format, usize, usize, f32, &[u8]) -> Packed) -> Self {
        if !self.format().packs() || self.is_packed() {
            return self;
        }
        let tensor_scale = match self.view().data {
            Data::Nvfp4 { tensor_scale, .. } => tensor_scale,
            _ => 1.0,
        };
        let (rows, columns, format) = (self.rows, self.columns, self.format());
        let packed = pack(format, rows, columns, tensor_scale, &self.to_le_bytes());
        Self { rows, columns, storage: Storage::Packed(packed) }
    }
}

impl MatrixView<'_> {
    /// One row in the format's own blocks, as a matrix of one row.
    pub(crate) fn unpacked_row(&self, packed: &PackedView, row: usize) -> Matrix {
        let bytes = packed.blocks_of_row(row, self.columns);
        let matrix = Matrix::from_le_bytes(1, self.columns, packed.format, &bytes);
        let matrix = matrix.expect("a row is made of whole blocks");
        if packed.format == Format::Nvfp4 { matrix.with_tensor_scale(packed.tensor_scale) } else { matrix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn packing_loses_nothing() {
        for format in Format::PACKED {
            let (rows, columns) = (37, 3 * format.block_columns());
            let mut rng = Rng::new(columns as u64);
            // Any bytes at all: not every pattern is a number, but every pattern must survive.
            let bytes: Vec<u8> = (0..rows * format.row_bytes(columns)).map(|_| rng.below(256) as u8).collect();
            let packed = Packed::from_blocks(format, rows, columns, 1.0, &bytes);
            assert_eq!(packed.view().panels(columns), 3);
            let back: Vec<u8> = (0..rows).flat_map(|row| packed.view().blocks_of_row(row, columns)).collect();
            assert!(back == bytes, "{format:?}");
            let padded = bytes.len() / rows * 48;
            let more = packed.bytes() as f64 / padded as f64;
            let allowed = if format == Format::Iq4Xs { 1.02 } else { 1.0 };
            assert!(more <= allowed, "{format:?} takes {more} times its bytes");
        }
    }
}
