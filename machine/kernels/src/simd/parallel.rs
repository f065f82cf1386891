//! Splitting work across threads so that the result does not depend on how many there are: the tasks, and the order in
//! which their sums are joined, follow from the shapes alone.

use std::marker::PhantomData;

use crate::pool;

/// Values that a task should handle: some tens of microseconds, so that waking a thread pays.
const VALUES_PER_TASK: usize = 64 * 1024;

/// Rows of `values_per_row` (each of about a nanosecond's work) in a task.
pub(crate) fn rows_per_task(values_per_row: usize) -> usize {
    (VALUES_PER_TASK / values_per_row.max(1)).max(1)
}

/// Runs the tasks, on this thread when there is only one.
pub(crate) fn for_each<T: Send>(tasks: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync + Send) {
    pool::for_each(tasks.into_iter().collect(), run);
}

/// As [`for_each`], but on this thread also when all of the tasks together (`values` of about a nanosecond) are too
/// little.
pub(crate) fn for_each_worth<T: Send>(values: usize, tasks: Vec<T>, run: impl Fn(T) + Sync + Send) {
    if values < VALUES_PER_TASK {
        tasks.into_iter().for_each(run);
    } else {
        for_each(tasks, run);
    }
}

/// Runs the tasks, each with a zeroed buffer of sum.len() to add to, and adds the buffers to `sum` in the tasks' order.
pub(crate) fn for_each_summed<T: Send>(
    tasks: impl IntoIterator<Item = T>,
    sum: &mut [f32],
    run: impl Fn(T, &mut [f32]) + Sync + Send,
) {
    let tasks: Vec<T> = tasks.into_iter().collect();
    let mut parts = vec![0.0; tasks.len() * sum.len()];
    for_each(tasks.into_iter().zip(parts.chunks_mut(sum.len().max(1))), |(task, part)| run(task, part));
    for part in parts.chunks(sum.len().max(1)) {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

/// A slice of which several tasks write parts that do not overlap but lie interleaved.
pub(crate) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, which may go to and be shared between threads; `part` has a contract of its
// own.
unsafe impl Send for Disjoint<'_> {}
// SAFETY: as above.
unsafe impl Sync for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Safety
    /// No two parts that overlap are alive at the same time.
    #[allow(clippy::mut_from_ref, reason = "that is the purpose, under the contract above")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len, "{start} + {len} lies beyond {}", self.len);
        // SAFETY: within the slice by the assert, and alone by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
