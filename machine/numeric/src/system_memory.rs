//! Memory that comes from the system and goes back to it, past the allocator: blocks of many megabytes whose sizes
//! change from step to step leave an allocator's heap full of holes.

pub(crate) use system::{map, unmap};

#[cfg(target_os = "linux")]
mod system {
    use std::alloc::{Layout, handle_alloc_error};
    use std::ptr::{NonNull, null_mut};

    /// From this many bytes on large pages are asked for, which lie within the block: two of them are sure to hold one.
    const LARGE: usize = 4 << 20;

    /// So many zeros, more than none, which begin with a page; they take memory when they are first touched. Large
    /// blocks come in large pages where the system grants them.
    pub(crate) fn map(len: usize) -> NonNull<u8> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous map touches nothing that exists.
        let map = unsafe { libc::mmap(null_mut(), len, access, kind, -1, 0) };
        if map == libc::MAP_FAILED {
            handle_alloc_error(Layout::from_size_align(len, 1).expect("a size of memory"));
        }
        // SAFETY: the map is ours and not null. The advice is a hint; without it everything works, more slowly.
        unsafe {
            if len >= LARGE {
                libc::madvise(map, len, libc::MADV_HUGEPAGE);
            }
            NonNull::new_unchecked(map.cast())
        }
    }

    /// # Safety
    /// From [`map`] with this length, or whole pages of it, and used no more.
    pub(crate) unsafe fn unmap(start: NonNull<u8>, len: usize) {
        // SAFETY: as promised by the caller.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
    use std::ptr::NonNull;

    const PAGE: usize = 4096;

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, PAGE).expect("a size of memory")
    }

    /// So many zeros, more than none, which begin with a page.
    pub(crate) fn map(len: usize) -> NonNull<u8> {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout(len)) };
        NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(len)))
    }

    /// # Safety
    /// From [`map`] with this length, and used no more.
    pub(crate) unsafe fn unmap(start: NonNull<u8>, len: usize) {
        // SAFETY: as promised by the caller.
        unsafe { dealloc(start.as_ptr(), layout(len)) };
    }
}
