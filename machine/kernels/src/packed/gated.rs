//! Two products of the same rows that become one: what stands before an expert's down projection, without its gate and
//! up outputs ever being written to memory.

use super::activations::{Activations, Plain};
use super::{Inputs, Output, PARALLEL_BYTES, Part, Variant, best, panels_per_task};
use crate::pool;
use crate::simd::Level;
use crate::swiglu::forward_rows;
use numeric::{PANEL, PackedView};
use std::cell::RefCell;
use std::ops::Range;

/// `y = weight · silu(x · gateᵀ) · (x · upᵀ)` of the chosen rows of x, with a weight to each.
pub(crate) struct GatedJob<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) chosen: &'a [u32],
    pub(crate) gate: PackedView<'a>,
    pub(crate) up: PackedView<'a>,
    /// Of either weight.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) weights: &'a [f32],
    pub(crate) y: &'a mut [f32],
}

/// Some panels of both weights, for all of a job's rows.
struct Task<'a> {
    /// As the gate reads it, and as up does.
    x: [&'a Activations; 2],
    chosen: &'a [u32],
    pair: [PackedView<'a>; 2],
    panels: Range<usize>,
    rows: usize,
    weights: &'a [f32],
    y: Output,
}

thread_local! {
    /// A task's gate and up outputs.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Computes all jobs.
pub(crate) fn run_gated(jobs: Vec<GatedJob>) {
    run_gated_with(best(), jobs);
}

pub(super) fn run_gated_with(variant: &Variant, jobs: Vec<GatedJob>) {
    let reads = jobs.iter().flat_map(|job| [job.gate, job.up].map(|weight| Plain::of(job.x, weight, job.columns)));
    let inputs = Inputs::of(reads);
    let bytes: usize = jobs.iter().map(|job| job.gate.codes.len() + job.up.codes.len()).sum();
    let parallel = bytes >= PARALLEL_BYTES && pool::threads() > 1;
    let mut tasks = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.into_iter().enumerate() {
        cut(&mut tasks, job, [2 * index, 2 * index + 1].map(|read| inputs.of_job(read)), parallel);
    }
    if parallel {
        pool::run(tasks.len(), &|index| compute(variant, &tasks[index]));
    } else {
        tasks.iter().for_each(|task| compute(variant, task));
    }
}

/// A job in tasks of some panels each.
fn cut<'a>(tasks: &mut Vec<Task<'a>>, job: GatedJob<'a>, x: [&'a Activations; 2], parallel: bool) {
    let GatedJob { chosen, gate, up, rows, columns, weights, y, .. } = job;
    assert_eq!(y.len(), chosen.len() * rows, "the job's sizes differ");
    assert_eq!(weights.len(), chosen.len(), "a weight to each row");
    assert!(chosen.iter().all(|&row| (row as usize) < x[0].tokens()), "a chosen row is not there");
    let panels = rows.div_ceil(PANEL);
    assert_eq!([gate, up].map(|weight| weight.panels(columns)), [panels; 2], "the weights have other rows");
    let bytes = gate.codes.len() + up.codes.len();
    let step = if parallel { panels_per_task(panels, bytes, chosen.len()) } else { panels.max(1) };
    let y = Output::whole(y, rows);
    for start in (0..panels).step_by(step) {
        let panels = start..(start + step).min(panels);
        tasks.push(Task { x, chosen, pair: [gate, up], panels, rows, weights, y });
    }
}

fn compute(variant: &Variant, task: &Task) {
    let first = task.panels.start * PANEL;
    let width = (task.panels.end * PANEL).min(task.rows) - first;
    SCRATCH.with_borrow_mut(|scratch| {
        for ((values, weight), x) in scratch.iter_mut().zip(task.pair).zip(task.x) {
            // What stands there of an earlier task is written over, never read.
            values.resize(values.len().max(task.chosen.len() * width), 0.0);
            let y = Output { values: values.as_mut_ptr(), stride: width, panel: task.panels.start };
            let (chosen, panels) = (Some(task.chosen), task.panels.clone());
            let part = Part { x, chosen, to: None, weight, panels, rows: task.rows, y, accumulate: false };
            // SAFETY: the variant runs on this machine; the sizes were checked when the job was cut, and the scratch
            // holds the task's columns of all its rows.
            unsafe { (variant.multiply)(&part) };
        }
        let [gate, up] = &*scratch;
        for (row, weight) in task.weights.iter().enumerate() {
            // SAFETY: the row is one of y's, whose size was checked; no other task writes these columns.
            let y = unsafe { std::slice::from_raw_parts_mut(task.y.values.add(row * task.y.stride + first), width) };
            let of = row * width..(row + 1) * width;
            forward_rows(Level::best(), y, &gate[of.clone()], &up[of], std::slice::from_ref(weight));
        }
    });
}
