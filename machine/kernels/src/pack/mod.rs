//! Rows of a block format, as a file has them, in the order of the kernels: panels of sixteen rows (the layout stands
//! at the head of `numeric/src/packed.rs`).
//!
//! Moves bits and computes nothing, so every variant gives the bytes of the definition. Writes all codes of a panel,
//! and the scales of the rows that are there; those of missing rows, in a last panel of less than sixteen, must be
//! zeros already. Loading a model is this and reading its file: it has to be several times as fast as a disk.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod words;

use crate::cpu::Cpu;
use crate::pool;
use numeric::{Format, Matrix, PANEL, Packed};

/// One panel's rows, and where they go.
struct Panel<'a> {
    format: Format,
    columns: usize,
    rows: &'a [u8],
    codes: &'a mut [u8],
    scales: &'a mut [u8],
}

struct Variant {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests report which variants ran"))]
    name: &'static str,
    runs_on: fn(&Cpu) -> bool,
    /// Of sixteen rows.
    panel: unsafe fn(&mut Panel),
}

/// Slowest first: the last that runs here wins.
static VARIANTS: &[Variant] = &[
    Variant { name: "scalar", runs_on: |_| true, panel: scalar::panel },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", runs_on: |cpu| cpu.avx2, panel: avx2::panel },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512", runs_on: |cpu| cpu.avx512, panel: avx512::panel },
];

/// Packs rows given as a file's bytes, several panels at a time; see [`Packed::from_blocks`].
pub fn pack(format: Format, rows: usize, columns: usize, tensor_scale: f32, bytes: &[u8]) -> Packed {
    let cpu = Cpu::get();
    let variant = VARIANTS.iter().rev().find(|v| (v.runs_on)(cpu)).expect("the scalar variant runs everywhere");
    let mut packed = Packed::zeros(format, rows, columns, tensor_scale);
    run(variant, (rows, columns), bytes, &mut packed);
    packed
}

/// [`Matrix::packed`], several panels at a time.
pub fn matrix(matrix: Matrix) -> Matrix {
    matrix.packed_by(pack)
}

fn run(variant: &Variant, (rows, columns): (usize, usize), bytes: &[u8], packed: &mut Packed) {
    let format = packed.format;
    let row_bytes = format.row_bytes(columns);
    assert_eq!(bytes.len(), rows * row_bytes, "{rows} × {columns} in {format:?} takes other bytes");
    let panels = bytes.chunks(PANEL * row_bytes).zip(packed.panels_mut(columns));
    let panel = |(rows, (codes, scales))| Panel { format, columns, rows, codes, scales };
    pool::for_each(panels.map(panel).collect(), |mut panel: Panel| {
        // The last panel of a matrix may be short; it is not worth a fast form.
        let is_whole = panel.rows.len() == PANEL * row_bytes;
        let pack = if is_whole { variant.panel } else { scalar::panel };
        // SAFETY: the variant runs on this machine and gets sixteen rows; a packed matrix's panels have room for them.
        unsafe { pack(&mut panel) };
    });
}
