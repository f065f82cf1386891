//! The loops around a variant's innermost one: which part of the factors is packed when, and kept in which cache.
//! After Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), and BLIS.

use super::product::{Left, Output, PanelProduct, Product, Right, STRIP_DEPTH, Variant, Window};
use crate::dequantize;
use numeric::Data;
use std::cell::RefCell;
use std::ops::Range;

/// Bytes of packed right factor that are kept in the second-level cache.
const RIGHT_BLOCK_BYTES: usize = 1 << 20;

/// Bytes of packed left factor where its columns are what lies together: whole rows of it are read, as far as they go.
const LEFT_BLOCK_BYTES: usize = 1 << 18;

/// The most depth of such a left factor that is packed at a time.
const TRANSPOSED_DEPTH: usize = 256;

/// Columns of a tile start at a multiple of this, so that no quantized block is split.
pub(super) const COLUMN_ALIGNMENT: usize = 64;

/// A part of one product's output, computed by one thread.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub(super) product: usize,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A buffer on cache-line boundaries that only grows.
#[derive(Default)]
struct Buffer(Vec<Line>);

impl Buffer {
    fn reserve(&mut self, bytes: usize) -> *mut u8 {
        let lines = bytes.div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        self.0.as_mut_ptr().cast()
    }
}

/// Which right block a thread's buffer holds: (call, product, first depth, first column).
type RightBlock = (u64, usize, usize, usize);

#[derive(Default)]
struct Scratch {
    left: Buffer,
    right: Buffer,
    strip: Buffer,
    held: Option<RightBlock>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes `tile`. `call` is different for every call, so that tiles which share a right block pack it once a thread.
pub(super) fn run_tile(variant: &Variant, product: &Product, tile: &Tile, call: u64) {
    (variant.enter)();
    SCRATCH.with_borrow_mut(|scratch| Blocks { variant, product, tile, call, scratch }.run());
    (variant.leave)();
}

struct Blocks<'a> {
    variant: &'a Variant,
    product: &'a Product<'a>,
    tile: &'a Tile,
    call: u64,
    scratch: &'a mut Scratch,
}

impl Blocks<'_> {
    fn run(&mut self) {
        let Variant { depth_block, panel_rows, element_bytes, .. } = *self.variant;
        let transposed = self.product.left.transposed;
        let most_depth = if transposed { depth_block.min(TRANSPOSED_DEPTH) } else { depth_block };
        let depth_step = even_step(self.product.depth, most_depth, 64);
        let bytes_per_column = depth_step * element_bytes;
        let most_columns = (RIGHT_BLOCK_BYTES / bytes_per_column / COLUMN_ALIGNMENT).max(1) * COLUMN_ALIGNMENT;
        let column_step = even_step(self.tile.columns.len(), most_columns, COLUMN_ALIGNMENT);
        let row_step = match transposed {
            true => (LEFT_BLOCK_BYTES / (depth_step * element_bytes)).next_multiple_of(panel_rows),
            false => self.variant.row_block,
        };
        for depth in steps(0..self.product.depth, depth_step) {
            for columns in steps(self.tile.columns.clone(), column_step) {
                self.pack_right(&depth, &columns);
                for rows in steps(self.tile.rows.clone(), row_step) {
                    self.pack_left(&rows, &depth);
                    self.multiply(&rows, &columns, &depth);
                }
            }
        }
    }

    fn padded(&self, depth: &Range<usize>) -> usize {
        depth.len().next_multiple_of(self.variant.depth_unit)
    }

    fn pack_left(&mut self, rows: &Range<usize>, depth: &Range<usize>) {
        let (variant, padded) = (self.variant, self.padded(depth));
        let bytes = rows.len().div_ceil(variant.panel_rows) * (variant.left_panel_bytes)(padded);
        let to = self.scratch.left.reserve(bytes);
        let Left { values, stride, transposed } = self.product.left;
        let (major, minor) = if transposed { (depth, rows) } else { (rows, depth) };
        assert!((major.end - 1) * stride + minor.end <= values.len(), "left factor is too short");
        // SAFETY: the window lies within `values` and the buffer holds all panels; the caller has checked that the
        // variant runs on this machine.
        unsafe {
            let pointer = values.as_ptr().add(major.start * stride + minor.start);
            let window = Window { pointer, stride, rows: major.len(), columns: minor.len() };
            if transposed {
                (variant.pack_left_transposed)(window, to);
            } else {
                (variant.pack_left)(window, to);
            }
            if self.product.round && !variant.bf16 {
                (variant.round)(std::slice::from_raw_parts_mut(to.cast(), bytes / 4));
            }
        }
    }

    fn pack_right(&mut self, depth: &Range<usize>, columns: &Range<usize>) {
        let block = (self.call, self.tile.product, depth.start, columns.start);
        if self.scratch.held == Some(block) {
            return;
        }
        let (variant, padded) = (self.variant, self.padded(depth));
        let panel_bytes = variant.panel_columns * padded * variant.element_bytes;
        let bytes = columns.len().div_ceil(variant.panel_columns) * panel_bytes;
        let to = self.scratch.right.reserve(bytes);
        let right = self.product.right;
        if right.transposed {
            for (panel, rows) in steps(columns.clone(), variant.panel_columns).enumerate() {
                let window = window_of(&mut self.scratch.strip, &right, &rows, depth);
                // SAFETY: the window is readable and the buffer holds this panel.
                unsafe { (variant.pack_right_transposed)(window, to.add(panel * panel_bytes)) };
            }
        } else {
            for strip in steps(depth.clone(), STRIP_DEPTH) {
                let window = window_of(&mut self.scratch.strip, &right, &strip, columns);
                // SAFETY: the window is readable and the buffer holds all panels of the padded depth.
                unsafe { (variant.pack_right)(window, strip.start - depth.start, padded, to) };
            }
        }
        if self.product.round && !variant.bf16 {
            // SAFETY: packing has initialized the panels, which are f32 in this variant.
            unsafe { (variant.round)(std::slice::from_raw_parts_mut(to.cast(), bytes / 4)) };
        }
        self.scratch.held = Some(block);
    }

    fn multiply(&mut self, rows: &Range<usize>, columns: &Range<usize>, depth: &Range<usize>) {
        let (variant, padded) = (self.variant, self.padded(depth));
        let left_bytes = (variant.left_panel_bytes)(padded);
        let right_bytes = variant.panel_columns * padded * variant.element_bytes;
        let (left, right) = (self.scratch.left.reserve(0), self.scratch.right.reserve(0));
        let Output { pointer, stride } = self.product.out;
        for (j, panel_columns) in steps(columns.clone(), variant.panel_columns).enumerate() {
            for (i, panel_rows) in steps(rows.clone(), variant.panel_rows).enumerate() {
                // SAFETY: both panels were packed just now; the corner lies within this tile, which no other thread
                // writes.
                unsafe {
                    (variant.multiply)(&PanelProduct {
                        left: left.add(i * left_bytes),
                        left_transposed: self.product.left.transposed,
                        right: right.add(j * right_bytes),
                        depth: padded,
                        out: Output { pointer: pointer.add(panel_rows.start * stride + panel_columns.start), stride },
                        rows: panel_rows.len(),
                        columns: panel_columns.len(),
                        accumulate: self.product.accumulate || depth.start > 0,
                    });
                }
            }
        }
    }
}

/// Rows and columns of the right factor as f32: where they lie if they are f32, dequantized into `strip` if not.
fn window_of(strip: &mut Buffer, right: &Right, rows: &Range<usize>, columns: &Range<usize>) -> Window {
    let matrix = &right.matrix;
    if let Data::F32(values) = matrix.data {
        assert!((rows.end - 1) * matrix.columns + columns.end <= values.len(), "right factor is too short");
        let pointer = values[rows.start * matrix.columns + columns.start..].as_ptr();
        return Window { pointer, stride: matrix.columns, rows: rows.len(), columns: columns.len() };
    }
    let stride = columns.len();
    let pointer = strip.reserve(rows.len() * stride * 4).cast::<f32>();
    // SAFETY: the buffer holds that many f32, initialized.
    let out = unsafe { std::slice::from_raw_parts_mut(pointer, rows.len() * stride) };
    for (row, out) in rows.clone().zip(out.chunks_exact_mut(stride)) {
        dequantize::columns(matrix, row, columns.start, out);
    }
    Window { pointer, stride, rows: rows.len(), columns: stride }
}

/// The smallest step, a multiple of `unit`, that covers `length` in as few steps of at most `most` as possible.
fn even_step(length: usize, most: usize, unit: usize) -> usize {
    length.div_ceil(length.div_ceil(most)).next_multiple_of(unit)
}

fn steps(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..(start + step).min(end))
}
