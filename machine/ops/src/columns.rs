//! Choosing columns: projections whose rows are fused on disk are taken apart here, so that weights keep their layout.

use crate::Buffer;
use crate::buffer::add;
use std::ops::Range;

/// Ranges of columns of a `[T, input_width]` value, to be laid side by side.
#[derive(Debug, Clone)]
pub struct Columns {
    input_width: usize,
    width: usize,
    ranges: Vec<Range<usize>>,
}

impl Columns {
    /// Neighbouring ranges are joined, so that a copy is as long as it can be.
    pub fn new(input_width: usize, ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            assert!(range.end <= input_width, "columns {range:?} lie outside a width of {input_width}");
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        let width = joined.iter().map(ExactSizeIterator::len).sum();
        Self { input_width, width, ranges: joined }
    }

    /// The chosen columns, in order.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.ranges.iter().cloned().flatten()
    }

    /// How many there are.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
}

pub(crate) fn forward(x: &Buffer, columns: &Columns) -> Buffer {
    assert_eq!(x.width, columns.input_width, "columns were planned for another width");
    let mut y = Buffer::unwritten(x.rows, columns.width);
    y.for_each_row(|row, to| {
        let from = x.row(row);
        let mut at = 0;
        for range in &columns.ranges {
            to[at..at + range.len()].copy_from_slice(&from[range.clone()]);
            at += range.len();
        }
    });
    y
}

pub(crate) fn backward(dx: &mut Buffer, dy: &Buffer, columns: &Columns) {
    dx.for_each_row(|row, to| {
        let from = dy.row(row);
        let mut at = 0;
        for range in &columns.ranges {
            add(&mut to[range.clone()], &from[at..at + range.len()]);
            at += range.len();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_and_adds_back() {
        let columns = Columns::new(5, [3..5, 0..1, 1..2]);
        assert_eq!(columns.ranges.len(), 2, "0..1 and 1..2 are one run");
        let x = Buffer::from_values(5, (0..10).map(|i| i as f32).collect());
        let y = forward(&x, &columns);
        assert_eq!(&y[..], [3.0, 4.0, 0.0, 1.0, 8.0, 9.0, 5.0, 6.0]);
        let mut dx = Buffer::zeros(2, 5);
        backward(&mut dx, &y, &columns);
        assert_eq!(&dx[..], [0.0, 1.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 8.0, 9.0]);
    }
}
