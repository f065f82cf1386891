//! What is kept of a chunk between the way there and the way back, where a layer is run again: its input, and no more.

use kernels::pool;
use numeric::bf16;
use ops::{Buffer, Precision};

/// Numbers that a thread converts at a time.
const TASK: usize = 1 << 16;

/// The residual stream before a layer: as it is, or rounded where products round it anyway.
pub(crate) enum Kept {
    Exact(Buffer),
    Rounded { width: usize, values: Vec<bf16> },
}

impl Kept {
    pub(crate) fn new(stream: Buffer, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::Exact(stream),
            Precision::Bf16 => {
                let mut values = vec![bf16::ZERO; stream.len()];
                pool::for_each_chunk(&mut values, TASK, |task, values| {
                    let from = &stream[task * TASK..];
                    values.iter_mut().zip(from).for_each(|(to, &from)| *to = bf16::from_f32(from));
                });
                Self::Rounded { width: stream.width, values }
            }
        }
    }

    pub(crate) fn into_stream(self) -> Buffer {
        match self {
            Self::Exact(stream) => stream,
            Self::Rounded { width, values } => {
                let mut stream = Buffer::unwritten(values.len() / width, width);
                stream.for_each_row(|row, to| {
                    to.iter_mut().zip(&values[row * width..]).for_each(|(to, from)| *to = from.to_f32());
                });
                stream
            }
        }
    }

    /// Bytes of a number that is kept.
    pub(crate) fn number_bytes(precision: Precision) -> usize {
        match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<bf16>(),
        }
    }
}
