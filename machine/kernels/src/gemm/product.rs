//! What a variant is given: one product `out_MN (+)= left_MD · right_DN`, and how it is stored.

use crate::cpu::Cpu;
use numeric::MatrixView;

/// The left factor. Element (m, d) is `values[m · stride + d]`, or `values[d · stride + m]` when transposed.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) transposed: bool,
}

/// The right factor. Element (d, n) is `matrix[d][n]`, or `matrix[n][d]` when transposed.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) matrix: MatrixView<'a>,
    pub(super) transposed: bool,
}

/// Where the product goes: row-major, `rows × columns`, borrowed mutably by the caller for the whole call.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) pointer: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: tiles of one call write disjoint elements, and the caller's `&mut` outlives them.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) left: Left<'a>,
    pub(super) right: Right<'a>,
    pub(super) out: Output,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    pub(super) accumulate: bool,
    /// Round both factors to bf16 where the variant does not do so by itself.
    pub(super) round: bool,
}

impl Product<'_> {
    pub(super) fn flops(&self) -> u64 {
        2 * self.rows as u64 * self.columns as u64 * self.depth as u64
    }
}

/// A window of f32 values: element (r, c) at `pointer[r · stride + c]`.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) pointer: *const f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// One call of a variant's innermost loop: a left panel times a right panel into a corner of the output.
#[derive(Clone, Copy)]
pub(super) struct PanelProduct {
    pub(super) left: *const u8,
    pub(super) left_transposed: bool,
    pub(super) right: *const u8,
    pub(super) depth: usize,
    pub(super) out: Output,
    /// How much of the panels is real: at most the variant's panel sizes.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) accumulate: bool,
}

/// One way to compute products: the sizes of its panels, its packing, its innermost loop. Packed panels are padded with
/// zeros to whole panels and to whole `depth_unit`s.
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) runs_on: fn(&Cpu) -> bool,
    /// Whether it multiplies bf16 numbers; the others multiply f32.
    pub(super) bf16: bool,
    pub(super) panel_rows: usize,
    pub(super) panel_columns: usize,
    pub(super) depth_unit: usize,
    /// The most depth that is packed at a time; a multiple of 64.
    pub(super) depth_block: usize,
    /// Output rows per left block: a multiple of `panel_rows`.
    pub(super) row_block: usize,
    pub(super) element_bytes: usize,
    /// Bytes of a left panel of some (padded) depth.
    pub(super) left_panel_bytes: fn(depth: usize) -> usize,
    /// A window of M × D into left panels.
    pub(super) pack_left: unsafe fn(Window, *mut u8),
    /// A window of D × M into left panels.
    pub(super) pack_left_transposed: unsafe fn(Window, *mut u8),
    /// Rows `at..` of a D × N block into right panels, which are `depth` (padded) deep. `at` is a multiple of
    /// [`STRIP_DEPTH`].
    pub(super) pack_right: unsafe fn(Window, at: usize, depth: usize, *mut u8),
    /// A window of N × D into one right panel; N is at most a panel's columns.
    pub(super) pack_right_transposed: unsafe fn(Window, *mut u8),
    pub(super) multiply: unsafe fn(&PanelProduct),
    /// Rounds packed f32 to bf16 in place.
    pub(super) round: unsafe fn(&mut [f32]),
    /// Before and after a thread's uses of `multiply`.
    pub(super) enter: fn(),
    pub(super) leave: fn(),
    /// Work below this is not worth waking other threads for.
    pub(super) parallel_flops: u64,
}

/// Rows of the right factor that are dequantized and packed at a time.
pub(super) const STRIP_DEPTH: usize = 32;

pub(super) fn nothing() {}
