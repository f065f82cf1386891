//! AMX: 32 × 32 sums in four tiles, two tiles of each factor beside them.
//!
//! Written in assembler because the tile intrinsics are not stable. Tile registers are nothing that the compiler uses:
//! a block of assembler leaves none behind that a later one needs, and every block names those that it changes.
//!
//! SAFETY: runs only where the system has granted the tiles; panels are packed to their full size by `blocking`, and
//! the output's corner has the rows and columns that a `PanelProduct` names.

use super::avx512::mask_of;
use super::bf16::{self, PANEL, TILE_BYTES, TILE_DEPTH, panel_bytes};
use super::portable;
use super::product::{Output, PanelProduct, Variant};
use std::arch::asm;
use std::arch::x86_64::*;

pub(super) static AMX: Variant = Variant {
    name: "amx_bf16",
    runs_on: |cpu| cpu.amx_bf16,
    bf16: true,
    panel_rows: PANEL,
    panel_columns: PANEL,
    depth_unit: TILE_DEPTH,
    depth_block: 1024,
    row_block: 2 * PANEL,
    element_bytes: 2,
    left_panel_bytes: panel_bytes,
    pack_left: bf16::pack_left,
    pack_left_transposed: bf16::pack_left_transposed,
    pack_right: bf16::pack_right,
    pack_right_transposed: bf16::pack_right_transposed,
    multiply,
    round: portable::round,
    enter: configure,
    leave: release,
    parallel_flops: 10_000_000,
};

/// Intel SDM volume 1, "Tile configuration": palette 1, every tile 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfiguration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

fn configure() {
    const EIGHT: usize = 8;
    let mut configuration =
        TileConfiguration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.row_bytes[..EIGHT].fill(64);
    configuration.rows[..EIGHT].fill(16);
    // SAFETY: reads 64 bytes; the variant runs only where the system has granted the tiles.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly)) };
}

/// Gives the tiles back, so that the system need not save them when it switches threads.
fn release() {
    // SAFETY: changes nothing but the tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

unsafe fn multiply(p: &PanelProduct) {
    let on_lines = (p.out.pointer as usize).is_multiple_of(64) && p.out.stride.is_multiple_of(16);
    // SAFETY: as promised by the caller.
    unsafe {
        if on_lines && p.rows == PANEL && p.columns == PANEL {
            multiply_panels(p);
        } else {
            multiply_apart(p);
        }
    }
}

#[repr(C, align(64))]
struct Sums([f32; PANEL * PANEL]);

/// Into memory of our own first: tiles are stored whole, and one that is stored across cache lines takes twice as long
/// as one that is copied there.
#[target_feature(enable = "avx512f")]
unsafe fn multiply_apart(p: &PanelProduct) {
    let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
    let out = Output { pointer: sums.as_mut_ptr().cast(), stride: PANEL };
    let own = PanelProduct { out, accumulate: false, ..*p };
    let masks = [mask_of(p.columns), mask_of(p.columns.saturating_sub(16))];
    // SAFETY: as promised by the caller; the output is written only where it is this panel's, and of the sums only the
    // rows that were stored are read.
    unsafe {
        if p.rows <= PANEL / 2 {
            multiply_upper(&own)
        } else {
            multiply_panels(&own)
        }
        for row in 0..p.rows {
            for (half, mask) in masks.into_iter().enumerate() {
                let to = p.out.pointer.add(row * p.out.stride).wrapping_add(16 * half);
                let mut sum = _mm512_load_ps(out.pointer.add(row * PANEL + 16 * half));
                if p.accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// All 32 × 32.
unsafe fn multiply_panels(p: &PanelProduct) {
    let right_half = p.out.pointer.wrapping_add(16);
    let lower = p.out.pointer.wrapping_add(16 * p.out.stride);
    // SAFETY: reads `depth / 32` pairs of tiles of each panel, and reads and writes 32 rows of 128 bytes of the output.
    unsafe {
        asm!(
            "test {accumulate:e}, {accumulate:e}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c00} + {stride}]",
            "tileloadd tmm1, [{c01} + {stride}]",
            "tileloadd tmm2, [{c10} + {stride}]",
            "tileloadd tmm3, [{c11} + {stride}]",
            "3:",
            "tileloadd tmm6, [{right} + {line}]",
            "tileloadd tmm4, [{left} + {line}]",
            "tileloadd tmm7, [{right} + {line} + 1024]",
            "tileloadd tmm5, [{left} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {tiles}",
            "jnz 3b",
            "tilestored [{c00} + {stride}], tmm0",
            "tilestored [{c01} + {stride}], tmm1",
            "tilestored [{c10} + {stride}], tmm2",
            "tilestored [{c11} + {stride}], tmm3",
            accumulate = in(reg) u32::from(p.accumulate),
            left = inout(reg) p.left => _,
            right = inout(reg) p.right => _,
            line = in(reg) 64usize,
            tiles = inout(reg) p.depth / TILE_DEPTH => _,
            stride = in(reg) 4 * p.out.stride,
            c00 = in(reg) p.out.pointer,
            c01 = in(reg) right_half,
            c10 = in(reg) lower,
            c11 = in(reg) lower.wrapping_add(16),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// The upper 16 × 32, overwriting.
unsafe fn multiply_upper(p: &PanelProduct) {
    // SAFETY: reads `depth / 32` pairs of tiles of each panel, and writes 16 rows of 128 bytes of the output.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "3:",
            "tileloadd tmm4, [{left} + {line}]",
            "tileloadd tmm6, [{right} + {line}]",
            "tileloadd tmm7, [{right} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {tiles}",
            "jnz 3b",
            "tilestored [{c00} + {stride}], tmm0",
            "tilestored [{c01} + {stride}], tmm1",
            left = inout(reg) p.left => _,
            right = inout(reg) p.right => _,
            line = in(reg) 64usize,
            tiles = inout(reg) p.depth / TILE_DEPTH => _,
            stride = in(reg) 4 * p.out.stride,
            c00 = in(reg) p.out.pointer,
            c01 = in(reg) p.out.pointer.wrapping_add(16),
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

const _: () = assert!(2 * TILE_BYTES == 2048 && size_of::<TileConfiguration>() == 64);
