//! `y_TN (+)= x_TK · W_NKᵀ` for a few rows of `x`: the product of decoding, bound by the bytes of the weight.
//!
//! T rows ([`MOST_ROWS`] or so), K columns, N rows of the weight in any format. Blocks are decoded in registers, once
//! for all T. Writes all of `y`; reads it only to accumulate. Every sum is in one order that depends on K alone: not on
//! T, N or the threads. Error at most about 4e-6 · √K · |w||x|.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Cpu;
use crate::pool;
use numeric::MatrixView;
use std::ops::Range;

/// Rows of `x` up to which this beats packing the weight for an f32 product.
pub const MOST_ROWS: usize = 24;

/// The same for a product in bf16, whose multiplications are cheaper.
pub const MOST_ROWS_BF16: usize = 8;

/// Weights below this many bytes are read sooner by one thread than others are woken.
const PARALLEL_BYTES: usize = 1 << 20;

/// Bytes of weight that a task is worth.
const TASK_BYTES: usize = 1 << 18;

/// One product: some rows of `x` times one weight.
pub(crate) struct Job<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: MatrixView<'a>,
    pub(crate) y: &'a mut [f32],
}

/// Part of a job: rows `rows` of the weight, for all rows of `x`.
#[derive(Clone)]
struct Part<'a> {
    x: &'a [f32],
    weight: MatrixView<'a>,
    rows: Range<usize>,
    y: Output,
    accumulate: bool,
    /// Round the weight to bf16 (`x` has been).
    round: bool,
}

/// The job's whole output. Parts write different columns of it.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: parts write disjoint elements, and the job's `&mut` outlives them.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Part<'_> {
    fn tokens(&self) -> usize {
        self.x.len() / self.weight.columns
    }

    /// # Safety
    /// `row` is one of the part's, `token` one of the job's.
    #[inline(always)]
    unsafe fn write(&self, token: usize, row: usize, sum: f32) {
        // SAFETY: as promised by the caller.
        unsafe {
            let to = self.y.0.add(token * self.weight.rows + row);
            *to = if self.accumulate { *to + sum } else { sum };
        }
    }
}

pub(crate) struct Variant {
    name: &'static str,
    runs_on: fn(&Cpu) -> bool,
    multiply: unsafe fn(&Part),
}

/// Slowest first: the last that runs here wins.
static VARIANTS: &[Variant] = &[
    Variant { name: "scalar", runs_on: |_| true, multiply: scalar::multiply },
    Variant { name: "portable", runs_on: |_| true, multiply: portable::multiply },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", runs_on: |cpu| cpu.avx2, multiply: avx2::multiply },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512", runs_on: |cpu| cpu.avx512, multiply: avx512::multiply },
];

/// Computes all jobs. `round`: both factors rounded to bf16 before they are multiplied.
pub(crate) fn run(jobs: Vec<Job>, accumulate: bool, round: bool) {
    let cpu = Cpu::get();
    // The vector variants decode in registers, which the formats that are only read have no decoder for.
    let raw = jobs.iter().any(|job| job.weight.format().is_read_only());
    let fits = |v: &&Variant| (v.runs_on)(cpu) && (!raw || v.name == "portable");
    let variant = VARIANTS.iter().rev().find(fits).expect("the portable variant runs everywhere");
    run_with(variant, jobs, accumulate, round);
}

fn run_with(variant: &Variant, jobs: Vec<Job>, accumulate: bool, round: bool) {
    if round {
        let rounded: Vec<Vec<f32>> = jobs.iter().map(|job| rounded(job.x)).collect();
        let jobs = jobs.into_iter().zip(&rounded).map(|(job, x)| Job { x, ..job }).collect();
        return run_parts(variant, jobs, accumulate, round);
    }
    run_parts(variant, jobs, accumulate, round);
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| numeric::minifloat::round_to_bf16(v)).collect()
}

fn run_parts(variant: &Variant, jobs: Vec<Job>, accumulate: bool, round: bool) {
    let row_bytes = |weight: &MatrixView| weight.format().row_bytes(weight.columns);
    let bytes: usize = jobs.iter().map(|job| job.weight.rows * row_bytes(&job.weight)).sum();
    let parallel = bytes >= PARALLEL_BYTES && pool::threads() > 1;
    let mut parts = Vec::with_capacity(jobs.len());
    for Job { x, weight, y } in jobs {
        let tokens = x.len() / weight.columns;
        assert!(x.len() == tokens * weight.columns && y.len() == tokens * weight.rows, "the job's sizes differ");
        assert_eq!(weight.blocks() * weight.format().block_columns(), weight.rows * weight.columns);
        let step = if parallel { (TASK_BYTES / row_bytes(&weight)).max(1) } else { weight.rows.max(1) };
        let y = Output(y.as_mut_ptr());
        for start in (0..weight.rows).step_by(step) {
            let rows = start..(start + step).min(weight.rows);
            parts.push(Part { x, weight, rows, y, accumulate, round });
        }
    }
    // SAFETY: the variant runs on this machine; the parts' sizes were checked above.
    let compute = |part: &Part| unsafe { (variant.multiply)(part) };
    if parallel {
        pool::run(parts.len(), &|index| compute(&parts[index]));
    } else {
        parts.iter().for_each(compute);
    }
}
