//! The system's allocator, which remembers how much this thread asked for. A test program that includes this file has
//! it as its allocator; other crates' tests do, too.
#![allow(dead_code, reason = "each test program uses its own part of this file")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Watched;

thread_local! {
    /// The largest piece.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// What is held now, and the most that ever was.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Forgets what was before.
pub(crate) fn reset() {
    LARGEST.set(0);
    HELD.set(0);
    PEAK.set(0);
}

/// The largest piece since then.
pub(crate) fn largest() -> usize {
    LARGEST.get()
}

/// The most that was held at once since then.
pub(crate) fn peak() -> usize {
    PEAK.get().max(0) as usize
}

fn note(more: usize, less: usize) {
    // A thread that is ending has no cells any more, and nothing to say.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(more)));
    let held = HELD.try_with(|held| {
        held.set(held.get() + more as isize - less as isize);
        held.get()
    });
    let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.unwrap_or(0))));
}

// SAFETY: every call goes to the system's allocator with the arguments that it came with; noting a size allocates
// nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: as for `dealloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;
