//! The packed product in plain Rust, for machines without a variant of their own; the compiler vectorizes it.
//! Also the packing that the f32 variants share.
//!
//! SAFETY: windows and panels have the sizes that `blocking` gives, and the output's corner has the rows and columns
//! that a `PanelProduct` names.

use super::product::{PanelProduct, Variant, Window, nothing};
use numeric::minifloat::round_to_bf16;

/// Depth of f32 blocks: a left and a right panel of it lie in the first-level cache together.
pub(super) const DEPTH_BLOCK: usize = 256;

/// Between rows of a left panel whose rows are contiguous. A line more than the depth, so that the rows of a panel fall
/// into different sets of the cache.
pub(super) const LEFT_STRIDE: usize = DEPTH_BLOCK + 16;

const ROWS: usize = 4;
const COLUMNS: usize = 8;

pub(super) static PORTABLE: Variant = Variant {
    name: "portable",
    runs_on: |_| true,
    bf16: false,
    panel_rows: ROWS,
    panel_columns: COLUMNS,
    depth_unit: 1,
    depth_block: DEPTH_BLOCK,
    row_block: 24 * ROWS,
    element_bytes: 4,
    left_panel_bytes: left_panel_bytes::<ROWS>,
    pack_left: pack_left::<ROWS>,
    pack_left_transposed: pack_left_transposed::<ROWS>,
    pack_right: pack_right::<COLUMNS>,
    pack_right_transposed: pack_right_transposed::<COLUMNS>,
    multiply,
    round,
    enter: nothing,
    leave: nothing,
    parallel_flops: 1_000_000,
};

pub(super) fn left_panel_bytes<const ROWS: usize>(_depth: usize) -> usize {
    4 * ROWS * LEFT_STRIDE
}

/// Panel of `[row][LEFT_STRIDE]`.
///
/// # Safety
/// The window is readable; `to` holds its panels.
#[inline(always)]
pub(super) unsafe fn pack_left<const ROWS: usize>(from: Window, to: *mut u8) {
    let to = to.cast::<f32>();
    for row in 0..from.rows.next_multiple_of(ROWS) {
        // SAFETY: row by row within the window and the panels.
        unsafe {
            let to = to.add(row * LEFT_STRIDE);
            if row < from.rows {
                std::ptr::copy_nonoverlapping(from.pointer.add(row * from.stride), to, from.columns);
            } else {
                std::ptr::write_bytes(to, 0, from.columns);
            }
        }
    }
}

/// Panel of `[depth][ROWS]`, from D × M; spaced as the other left panels.
///
/// # Safety
/// The window is readable; `to` holds its panels.
#[inline(always)]
pub(super) unsafe fn pack_left_transposed<const ROWS: usize>(from: Window, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { pack_slabs::<ROWS>(from, to.cast(), ROWS * LEFT_STRIDE) };
}

/// Panel of `[depth][COLUMNS]`, from D × N.
///
/// # Safety
/// The window is readable; `to` holds panels of `depth`.
#[inline(always)]
pub(super) unsafe fn pack_right<const COLUMNS: usize>(from: Window, at: usize, depth: usize, to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { pack_slabs::<COLUMNS>(from, to.cast::<f32>().add(at * COLUMNS), COLUMNS * depth) };
}

/// Each row of the window in slabs of WIDTH, one slab for each panel, panels `panel_stride` apart.
#[inline(always)]
unsafe fn pack_slabs<const WIDTH: usize>(from: Window, to: *mut f32, panel_stride: usize) {
    for row in 0..from.rows {
        for (panel, column) in (0..from.columns).step_by(WIDTH).enumerate() {
            let width = WIDTH.min(from.columns - column);
            // SAFETY: slab by slab within the window and the panels.
            unsafe {
                let from = from.pointer.add(row * from.stride + column);
                let to = to.add(panel * panel_stride + row * WIDTH);
                if width == WIDTH {
                    to.cast::<[f32; WIDTH]>().write_unaligned(from.cast::<[f32; WIDTH]>().read_unaligned());
                } else {
                    std::ptr::write_bytes(to, 0, WIDTH);
                    std::ptr::copy_nonoverlapping(from, to, width);
                }
            }
        }
    }
}

/// Panel of `[depth][COLUMNS]`, from N × D.
///
/// # Safety
/// The window is readable and at most COLUMNS rows; `to` holds a panel.
#[inline(always)]
pub(super) unsafe fn pack_right_transposed<const COLUMNS: usize>(from: Window, to: *mut u8) {
    let to = to.cast::<f32>();
    for row in 0..COLUMNS {
        for depth in 0..from.columns {
            // SAFETY: element by element within the window and the panel.
            unsafe {
                let value = if row < from.rows { *from.pointer.add(row * from.stride + depth) } else { 0.0 };
                *to.add(depth * COLUMNS + row) = value;
            }
        }
    }
}

/// Left element (row, depth) lies at `row · step.0 + depth · step.1`.
pub(super) const fn left_steps<const ROWS: usize>(transposed: bool) -> (usize, usize) {
    if transposed { (1, ROWS) } else { (LEFT_STRIDE, 1) }
}

#[inline(always)]
pub(super) fn round(values: &mut [f32]) {
    values.iter_mut().for_each(|v| *v = round_to_bf16(*v));
}

unsafe fn multiply(p: &PanelProduct) {
    let (row_step, depth_step) = left_steps::<ROWS>(p.left_transposed);
    let (left, right) = (p.left.cast::<f32>(), p.right.cast::<f32>());
    let mut sums = [[0f32; COLUMNS]; ROWS];
    for depth in 0..p.depth {
        // SAFETY: within the packed panels.
        let right = unsafe { right.add(depth * COLUMNS).cast::<[f32; COLUMNS]>().read_unaligned() };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: within the packed panels.
            let value = unsafe { *left.add(row * row_step + depth * depth_step) };
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum += value * right;
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(p.rows) {
        for (column, sum) in sums.iter().enumerate().take(p.columns) {
            // SAFETY: within the corner of the output that is this panel's.
            unsafe {
                let to = p.out.pointer.add(row * p.out.stride + column);
                *to = if p.accumulate { *to + sum } else { *sum };
            }
        }
    }
}
