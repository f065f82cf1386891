//! What a teacher asks of a training pass beside the next tokens, and what became of it.

use crate::alignment;
use ops::{Buffer, RouterTarget, Says, Teacher};
use std::ops::Range;

/// Everything is given for the whole batch, row by row. The empty guidance asks for the next tokens alone.
#[derive(Debug, Clone)]
pub struct Guidance<'a> {
    /// What the cross entropy counts, beside the weights of its tokens; with 0 it is measured and teaches nothing.
    pub cross_entropy: f32,
    pub output: Option<OutputGuide<'a>>,
    pub routers: Vec<RouterGuide<'a>>,
    pub streams: Vec<StreamGuide<'a>>,
}

impl Guidance<'_> {
    pub const NONE: Guidance<'static> =
        Guidance { cross_entropy: 1.0, output: None, routers: Vec::new(), streams: Vec::new() };
}

/// What is to come after each token.
#[derive(Debug, Clone, Copy)]
pub struct OutputGuide<'a> {
    pub teacher: Teacher<'a>,
    /// Of each token, already divided by what the step's loss is a mean over.
    pub weights: &'a [f32],
}

/// Where a layer's router is to send every token.
#[derive(Debug, Clone, Copy)]
pub struct RouterGuide<'a> {
    pub layer: usize,
    /// `[T, E]`, rows that add up to 1.
    pub probabilities: &'a Buffer,
    /// Of one token.
    pub weight: f32,
}

/// What the residual stream after a layer is to be.
#[derive(Debug, Clone, Copy)]
pub struct StreamGuide<'a> {
    pub layer: usize,
    /// The teacher's, `[T, H]`.
    pub teacher: &'a Buffer,
    /// Of the distance, see [`alignment::squares`].
    pub squares: f32,
    /// Of the difference in angles between tokens, see [`alignment::gram`].
    pub gram: f32,
    /// The tokens whose angles are compared.
    pub rows: &'a [usize],
}

/// How far the pass was from what its guidance asked, unweighted.
#[derive(Debug, Clone, Default)]
pub struct Guided {
    /// Of each token, in nats; 0 where the weight is 0.
    pub output: Vec<f32>,
    /// The mean over tokens and layers, in nats; nothing where no router is taught.
    pub routers: Option<f64>,
    /// Means over layers; nothing where no stream is compared.
    pub squares: Option<f64>,
    pub gram: Option<f64>,
}

/// What a teacher says of some rows.
pub(crate) fn rows_of(teacher: Teacher<'_>, rows: Range<usize>) -> Teacher<'_> {
    let says = match teacher.says {
        Says::Hidden { hidden, head, divergence } => {
            let width = head.input_width();
            Says::Hidden { hidden: &hidden[rows.start * width..rows.end * width], head, divergence }
        }
        Says::Parts(parts) => Says::Parts(parts.of_rows(rows)),
    };
    Teacher { says, ..teacher }
}

impl RouterGuide<'_> {
    pub(crate) fn target(&self, rows: &Range<usize>) -> RouterTarget {
        RouterTarget { probabilities: some_rows(self.probabilities, rows), weight: self.weight }
    }
}

pub(crate) fn some_rows(x: &Buffer, rows: &Range<usize>) -> Buffer {
    let mut some = Buffer::unwritten(rows.len(), x.width);
    some.for_each_row(|row, to| to.copy_from_slice(x.row(rows.start + row)));
    some
}

/// The streams of all chunks, one after the other.
pub(crate) fn joined(streams: &[Buffer]) -> Buffer {
    let rows = streams.iter().map(|stream| stream.rows).sum();
    let mut all = Buffer::unwritten(rows, streams.first().map_or(1, |stream| stream.width));
    let mut start = 0;
    for stream in streams {
        all[start..start + stream.len()].copy_from_slice(stream);
        start += stream.len();
    }
    all
}

/// Sums over the layers whose streams are compared.
#[derive(Default)]
pub(crate) struct StreamSums {
    squares: (f64, usize),
    gram: (f64, usize),
}

impl StreamSums {
    /// Compares one layer's stream, and gives the weighted gradient.
    pub(crate) fn compare(&mut self, guide: &StreamGuide, streams: &[Buffer]) -> Buffer {
        let student = joined(streams);
        let mut gradient = Buffer::zeros(student.rows, student.width);
        if guide.squares != 0.0 {
            self.squares.0 += alignment::squares(&student, guide.teacher, guide.squares, &mut gradient);
            self.squares.1 += 1;
        }
        if guide.gram != 0.0 {
            self.gram.0 += alignment::gram(&student, guide.teacher, guide.rows, guide.gram, &mut gradient);
            self.gram.1 += 1;
        }
        gradient
    }

    pub(crate) fn squares(&self) -> Option<f64> {
        (self.squares.1 > 0).then(|| self.squares.0 / self.squares.1 as f64)
    }

    pub(crate) fn gram(&self) -> Option<f64> {
        (self.gram.1 > 0).then(|| self.gram.0 / self.gram.1 as f64)
    }
}
