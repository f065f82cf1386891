//! `y_TN (+)= x_TK · W_NKᵀ` with W in a packed block format and x rounded to signed bytes: the product of running a
//! quantized model.
//!
//! T tokens, K columns (whole blocks), N rows of the weight. x is rounded in groups of 256 columns, of 32 for Q8_0 and
//! for rows that are no multiple of 256 wide; bytes are multiplied and added exactly, in 32 bits, over each of the
//! weight's sub-groups of 16 or 32 columns; the sub-groups' sums are scaled and added in f32. One token is bound by
//! the bytes of the weight, many by the machine's byte products. The order of every sum depends on K and the format
//! alone: not on T, N or the threads. Error against the rounded x: at most about 2e-6 · √(K/32) · |w||x|. Writes all
//! of `y`; reads it only to accumulate.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod codes;
mod gated;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod scales;
#[cfg(test)]
mod tests;

use crate::cpu::Cpu;
use crate::pool;
pub(crate) use activations::round_to_bytes;
use activations::{Activations, Plain, Run};
pub(crate) use gated::{GatedJob, run_gated};
use numeric::{Format, PANEL, PackedView};
use std::ops::Range;

/// Bytes of weight below which one thread is done sooner than others are woken.
const PARALLEL_BYTES: usize = 1 << 18;

/// Bytes of weight that a task with few tokens is worth.
const TASK_BYTES: usize = 1 << 16;

/// Panels that a task with many tokens takes, at most.
const MANY_PANELS: usize = 32;

/// From this many tokens on, weights are unpacked once for all of them.
const MANY: usize = 9;

/// How a format's numbers come about: value = scale · code − minimum, with one scale to `sub` columns, and a minimum
/// that is either stored or `offset` scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    /// Columns to one scale of the activations.
    group: usize,
    /// Columns to one scale of the weight.
    sub: usize,
    /// 0 where minima are stored.
    offset: i32,
}

impl Class {
    /// Of a weight with so many columns.
    fn of(format: Format, columns: usize) -> Self {
        // Four bits bear a coarser x, where rows are wide enough for it; eight do not.
        let wide = if columns.is_multiple_of(256) { 256 } else { 32 };
        let (group, sub, offset) = match format {
            Format::Q8_0 => (32, 32, 128),
            Format::Iq4Nl => (wide, 32, 128),
            Format::Q4_0 => (wide, 32, 8),
            Format::Mxfp4 => (wide, 32, 16),
            Format::Nvfp4 => (wide, 16, 16),
            Format::Q4K | Format::Q5K => (256, 32, 0),
            Format::Q6K => (256, 16, 32),
            Format::Iq4Xs => (256, 32, 128),
            Format::F32 | Format::Bf16 | Format::F16 => panic!("{format:?} is not packed"),
        };
        Self { group, sub, offset }
    }
}

/// One product: some rows of `x` times one weight of `rows` rows.
pub(crate) struct Job<'a> {
    pub(crate) x: &'a [f32],
    /// Which rows of x; all, in order, if not said.
    pub(crate) chosen: Option<&'a [u32]>,
    pub(crate) weight: PackedView<'a>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) y: &'a mut [f32],
}

/// One product of a sum: `y[to[r]] += x[r] · Wᵀ`.
pub(crate) struct Summand<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: PackedView<'a>,
    pub(crate) columns: usize,
    pub(crate) to: &'a [u32],
}

/// Part of a job: some panels of the weight, for all tokens.
struct Part<'a> {
    x: &'a Activations,
    chosen: Option<&'a [u32]>,
    /// Which rows of y are written; all, in order, if not said.
    to: Option<&'a [u32]>,
    weight: PackedView<'a>,
    panels: Range<usize>,
    rows: usize,
    y: Output,
    accumulate: bool,
}

/// Where parts write: different columns of rows of one `stride`.
#[derive(Clone, Copy)]
struct Output {
    /// The first row's value of the first lane of `panel`.
    values: *mut f32,
    stride: usize,
    panel: usize,
}

impl Output {
    /// All of a job's output, in rows of `rows` values.
    fn whole(y: &mut [f32], rows: usize) -> Self {
        Self { values: y.as_mut_ptr(), stride: rows, panel: 0 }
    }
}

// SAFETY: parts write disjoint elements, and the job's `&mut` outlives them.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Part<'_> {
    fn tokens(&self) -> usize {
        self.chosen.map_or(self.x.tokens(), <[u32]>::len)
    }

    /// The row of x that is the part's token.
    #[inline(always)]
    fn row(&self, token: usize) -> usize {
        self.chosen.map_or(token, |chosen| chosen[token] as usize)
    }

    #[inline(always)]
    fn run(&self, token: usize, run: usize) -> Run {
        self.x.run(self.row(token), run)
    }

    /// Where a panel's outputs for a token begin, and how many there are.
    ///
    /// # Safety
    /// `panel` is one of the part's, `token` one of the job's.
    #[inline(always)]
    unsafe fn output(&self, token: usize, panel: usize) -> (*mut f32, usize) {
        let to = self.to.map_or(token, |to| to[token] as usize);
        let at = to * self.y.stride + (panel - self.y.panel) * PANEL;
        // SAFETY: as promised by the caller.
        (unsafe { self.y.values.add(at) }, PANEL.min(self.rows - panel * PANEL))
    }
}

struct Variant {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests report which variants ran"))]
    name: &'static str,
    runs_on: fn(&Cpu) -> bool,
    multiply: unsafe fn(&Part),
}

/// Slowest first: the last that runs here wins.
static VARIANTS: &[Variant] = &[
    Variant { name: "scalar", runs_on: |_| true, multiply: scalar::multiply },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", runs_on: |cpu| cpu.avx2, multiply: avx2::multiply },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512_vnni", runs_on: |cpu| cpu.avx512_vnni, multiply: avx512::multiply },
];

fn best() -> &'static Variant {
    let cpu = Cpu::get();
    VARIANTS.iter().rev().find(|v| (v.runs_on)(cpu)).expect("the scalar variant runs everywhere")
}

/// Computes all jobs.
pub(crate) fn run(jobs: Vec<Job>, accumulate: bool) {
    run_with(best(), jobs, accumulate);
}

/// Adds all summands to `y`, rows of `rows` values, one after the other.
pub(crate) fn run_summed(y: &mut [f32], rows: usize, summands: &[Summand]) {
    run_summed_with(best(), y, rows, summands);
}

fn run_with(variant: &Variant, jobs: Vec<Job>, accumulate: bool) {
    let inputs = Inputs::of(jobs.iter().map(|job| Plain::of(job.x, job.weight, job.columns)));
    let bytes: usize = jobs.iter().map(|job| job.weight.codes.len()).sum();
    let parallel = bytes >= PARALLEL_BYTES && pool::threads() > 1;
    let mut parts = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.into_iter().enumerate() {
        let Job { weight, chosen, rows, columns, y, .. } = job;
        let x = inputs.of_job(index);
        let tokens = chosen.map_or(x.tokens(), <[u32]>::len);
        assert_eq!(y.len(), tokens * rows, "the job's sizes differ");
        let last = chosen.and_then(|chosen| chosen.iter().max());
        assert!(last.is_none_or(|&last| (last as usize) < x.tokens()), "a chosen row is not there");
        let panels = rows.div_ceil(PANEL);
        assert_eq!(weight.panels(columns), panels, "the weight has other rows");
        let step = if parallel { panels_per_task(panels, weight.codes.len(), tokens) } else { panels.max(1) };
        let y = Output::whole(y, rows);
        for start in (0..panels).step_by(step) {
            let panels = start..(start + step).min(panels);
            parts.push(Part { x, chosen, to: None, weight, panels, rows, y, accumulate });
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

/// How many of a weight's panels a task takes.
fn panels_per_task(panels: usize, code_bytes: usize, tokens: usize) -> usize {
    let step = match tokens < MANY {
        true => TASK_BYTES / (code_bytes / panels.max(1)).max(1),
        // A block of tokens stays in the second cache while many panels pass; yet all threads want some.
        false => (panels / (4 * pool::threads())).min(MANY_PANELS),
    };
    step.max(2).next_multiple_of(2)
}

/// A task takes some panels of all summands: it alone writes those columns of `y`, in the summands' order.
fn run_summed_with(variant: &Variant, y: &mut [f32], rows: usize, summands: &[Summand]) {
    let tokens = y.len() / rows;
    assert_eq!(y.len(), tokens * rows, "the output is no whole rows");
    let plain = summands.iter().map(|summand| Plain::of(summand.x, summand.weight, summand.columns));
    let inputs = Activations::quantize(&plain.collect::<Vec<_>>());
    let panels = rows.div_ceil(PANEL);
    for (summand, x) in summands.iter().zip(&inputs) {
        assert_eq!(summand.weight.panels(summand.columns), panels, "the weight has other rows");
        assert_eq!(summand.to.len(), x.tokens(), "a row of the output to each row of x");
        assert!(summand.to.iter().all(|&row| (row as usize) < tokens), "a row of the output is not there");
    }
    let bytes = summands.iter().map(|summand| summand.weight.codes.len()).sum();
    let visits: usize = inputs.iter().map(Activations::tokens).sum();
    let step = panels_per_task(panels, bytes, visits.div_ceil(summands.len().max(1)));
    let y = Output::whole(y, rows);
    pool::run(panels.div_ceil(step), &|task| {
        let panels = task * step..((task + 1) * step).min(panels);
        for (summand, x) in summands.iter().zip(&inputs) {
            let (weight, to, panels) = (summand.weight, Some(summand.to), panels.clone());
            let part = Part { x, chosen: None, to, weight, panels, rows, y, accumulate: true };
            // SAFETY: the variant runs on this machine; the sizes were checked above.
            unsafe { (variant.multiply)(&part) };
        }
    });
}

/// The jobs' rounded rows; jobs that read the same rows in the same way share them.
struct Inputs {
    distinct: Vec<Activations>,
    of_job: Vec<usize>,
}

impl Inputs {
    /// What each of some products reads, in their order.
    fn of<'a>(reads: impl Iterator<Item = Plain<'a>>) -> Self {
        let mut keys: Vec<(*const f32, usize, Class)> = Vec::new();
        let (mut distinct, mut of_job) = (Vec::new(), Vec::new());
        for plain in reads {
            assert!(plain.x.len().is_multiple_of(plain.columns), "rows of x have another width");
            let key = (plain.x.as_ptr(), plain.x.len(), plain.class);
            let index = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.push(key);
                distinct.push(plain);
                keys.len() - 1
            });
            of_job.push(index);
        }
        Self { distinct: Activations::quantize(&distinct), of_job }
    }

    fn of_job(&self, job: usize) -> &Activations {
        &self.distinct[self.of_job[job]]
    }
}
