//! A matrix whose numbers are stored in one of the known formats.

use crate::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use crate::packed::{PANEL, Packed, PackedView};
use half::{bf16, f16};

/// How a matrix's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    Bf16,
    F16,
    Q8_0,
    Mxfp4,
    Nvfp4,
    Q4_0,
    Iq4Nl,
    Iq4Xs,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    /// Columns per block: a row's length must be a multiple of it.
    pub fn block_columns(self) -> usize {
        match self {
            Format::F32 | Format::Bf16 | Format::F16 => 1,
            Format::Q8_0 | Format::Mxfp4 | Format::Q4_0 | Format::Iq4Nl => 32,
            Format::Nvfp4 => 64,
            Format::Iq4Xs | Format::Q4K | Format::Q5K | Format::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
            Format::Q8_0 => size_of::<BlockQ8>(),
            Format::Mxfp4 => size_of::<BlockMxfp4>(),
            Format::Nvfp4 => size_of::<BlockNvfp4>(),
            Format::Q4_0 | Format::Iq4Nl => 18,
            Format::Iq4Xs => 136,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
        }
    }

    /// Whether we only read it: [`Storage::Raw`] holds such blocks as the file has them.
    pub fn is_read_only(self) -> bool {
        use Format::{Iq4Nl, Iq4Xs, Q4_0, Q4K, Q5K, Q6K};
        matches!(self, Q4_0 | Iq4Nl | Iq4Xs | Q4K | Q5K | Q6K)
    }

    /// Bytes of a row of `columns`, which must be whole blocks.
    pub fn row_bytes(self, columns: usize) -> usize {
        let block = self.block_columns();
        assert!(columns.is_multiple_of(block), "{columns} columns are not a multiple of {block}, as {self:?} wants");
        columns / block * self.block_bytes()
    }
}

/// The numbers themselves, owned.
#[derive(Debug, Clone)]
pub enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    Q8_0(Vec<BlockQ8>),
    Mxfp4(Vec<BlockMxfp4>),
    Nvfp4 {
        blocks: Vec<BlockNvfp4>,
        tensor_scale: f32,
    },
    /// Blocks of a format that is only read, as bytes: see [`crate::ggml`].
    Raw {
        format: Format,
        bytes: Vec<u8>,
    },
    /// Any block format in the layout of the kernels.
    Packed(Packed),
}

/// The numbers themselves, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Q8_0(&'a [BlockQ8]),
    Mxfp4(&'a [BlockMxfp4]),
    Nvfp4 { blocks: &'a [BlockNvfp4], tensor_scale: f32 },
    Raw { format: Format, bytes: &'a [u8] },
    Packed(PackedView<'a>),
}

/// `rows × columns`, row-major, rows made of whole blocks.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub storage: Storage,
}

/// A borrowed [`Matrix`].
#[derive(Debug, Clone, Copy)]
pub struct MatrixView<'a> {
    pub rows: usize,
    pub columns: usize,
    pub data: Data<'a>,
}

impl Matrix {
    pub fn from_f32(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * columns, "{rows} × {columns} does not match {} values", values.len());
        Self { rows, columns, storage: Storage::F32(values) }
    }

    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::from_f32(rows, columns, vec![0.0; rows * columns])
    }

    pub fn format(&self) -> Format {
        self.view().format()
    }

    pub fn view(&self) -> MatrixView<'_> {
        let data = match &self.storage {
            Storage::F32(v) => Data::F32(v),
            Storage::Bf16(v) => Data::Bf16(v),
            Storage::F16(v) => Data::F16(v),
            Storage::Q8_0(v) => Data::Q8_0(v),
            Storage::Mxfp4(v) => Data::Mxfp4(v),
            Storage::Nvfp4 { blocks, tensor_scale } => Data::Nvfp4 { blocks, tensor_scale: *tensor_scale },
            Storage::Raw { format, bytes } => Data::Raw { format: *format, bytes },
            Storage::Packed(packed) => Data::Packed(packed.view()),
        };
        MatrixView { rows: self.rows, columns: self.columns, data }
    }

    /// The values of an f32 matrix; a matrix in another format has none to lend.
    pub fn as_f32(&self) -> &[f32] {
        match &self.storage {
            Storage::F32(v) => v,
            _ => panic!("matrix is stored as {:?}, not F32", self.format()),
        }
    }

    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::F32(v) => v,
            _ => panic!("matrix is not stored as F32"),
        }
    }

    /// A matrix of which shape and format are known and no number is there: what memory is planned with. Reading it is
    /// a panic.
    pub fn outline(rows: usize, columns: usize, format: Format, is_packed: bool) -> Self {
        let storage = match format {
            _ if is_packed => Storage::Packed(Packed::zeros(format, 0, columns, 1.0)),
            Format::F32 => Storage::F32(Vec::new()),
            Format::Bf16 => Storage::Bf16(Vec::new()),
            Format::F16 => Storage::F16(Vec::new()),
            _ => Storage::Raw { format, bytes: Vec::new() },
        };
        Self { rows, columns, storage }
    }

    /// Whether it is laid out for the kernels.
    pub fn is_packed(&self) -> bool {
        matches!(self.storage, Storage::Packed(_))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Packed(packed) => Packed::bytes_of(packed.format, self.rows, self.columns),
            _ => self.rows * self.format().row_bytes(self.columns),
        }
    }
}

impl<'a> MatrixView<'a> {
    /// Borrowed f32 values as a matrix.
    pub fn from_f32(rows: usize, columns: usize, values: &'a [f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "{rows} × {columns} does not match {} values", values.len());
        Self { rows, columns, data: Data::F32(values) }
    }

    pub fn format(&self) -> Format {
        match self.data {
            Data::F32(_) => Format::F32,
            Data::Bf16(_) => Format::Bf16,
            Data::F16(_) => Format::F16,
            Data::Q8_0(_) => Format::Q8_0,
            Data::Mxfp4(_) => Format::Mxfp4,
            Data::Nvfp4 { .. } => Format::Nvfp4,
            Data::Raw { format, .. } | Data::Packed(PackedView { format, .. }) => format,
        }
    }

    /// How many blocks the data holds.
    pub fn blocks(&self) -> usize {
        match self.data {
            Data::F32(v) => v.len(),
            Data::Bf16(v) => v.len(),
            Data::F16(v) => v.len(),
            Data::Q8_0(v) => v.len(),
            Data::Mxfp4(v) => v.len(),
            Data::Nvfp4 { blocks, .. } => blocks.len(),
            Data::Raw { format, bytes } => bytes.len() / format.block_bytes(),
            Data::Packed(packed) => {
                packed.panels(self.columns) * PANEL * (self.columns / packed.format.block_columns())
            }
        }
    }
}
