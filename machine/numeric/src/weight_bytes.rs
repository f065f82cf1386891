//! Memory for weights: large pages, so that reading them all for every token does not wait for address translation.
//!
//! Pieces are cut from chunks of some tens of megabytes: an expert's matrix alone is smaller than a large page. A chunk
//! goes back to the system when the last of its pieces is dropped.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// A large page of x86-64 and of most ARM systems.
const PAGE: usize = 2 << 20;
/// Bytes of a chunk; larger pieces get one of their own.
const CHUNK: usize = 64 << 20;
/// Pieces begin on cache lines.
const LINE: usize = 64;

#[derive(Debug)]
struct Chunk {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a chunk only owns memory; who may touch which part of it is the pieces' affair.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Whole pages.
    fn new(len: usize) -> Self {
        let len = len.next_multiple_of(PAGE);
        Self { start: system::zeros(len), len }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: from `system::zeros` with this length, and no piece is left.
        unsafe { system::free(self.start, self.len) };
    }
}

/// Zeros in large pages where the system grants them; memory is taken when it is first touched.
#[cfg(target_os = "linux")]
mod system {
    use super::PAGE;
    use crate::system_memory::map;
    pub(super) use crate::system_memory::unmap as free;
    use std::ptr::NonNull;

    pub(super) fn zeros(len: usize) -> NonNull<u8> {
        // A page more than is wanted, so that an aligned range of the wanted length lies inside.
        let map = map(len + PAGE);
        let before = map.addr().get().next_multiple_of(PAGE) - map.addr().get();
        // SAFETY: both ends of the map that are not wanted go back; the range between them is ours.
        unsafe {
            let start = map.add(before);
            if before > 0 {
                free(map, before);
            }
            free(start.add(len), PAGE - before);
            start
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) use crate::system_memory::{map as zeros, unmap as free};
}

/// The chunk that this thread cuts pieces from, and how much of it is taken.
struct Open {
    chunk: Arc<Chunk>,
    taken: usize,
}

thread_local! {
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
}

/// Bytes on a cache line, in large pages.
#[derive(Debug)]
pub struct WeightBytes {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl WeightBytes {
    pub fn zeros(len: usize) -> Self {
        OPEN.with_borrow_mut(|open| {
            if let Some(Open { chunk, taken }) = open
                && *taken + len <= chunk.len
            {
                let start = *taken;
                *taken += len.next_multiple_of(LINE);
                return Self { chunk: Arc::clone(chunk), start, len };
            }
            if len > CHUNK / 4 {
                // A chunk of its own; the open one goes on.
                return Self { chunk: Arc::new(Chunk::new(len)), start: 0, len };
            }
            let chunk = Arc::new(Chunk::new(CHUNK));
            *open = Some(Open { chunk: Arc::clone(&chunk), taken: len.next_multiple_of(LINE) });
            Self { chunk, start: 0, len }
        })
    }
}

impl Clone for WeightBytes {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for WeightBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the piece lies within its chunk, which is initialised (zeros), and no other piece overlaps it.
        unsafe { std::slice::from_raw_parts(self.chunk.start.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for WeightBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow of the piece is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.as_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeros_apart_from_one_another_and_outlive_the_thread() {
        let lens = [0, 1, 63, 64, 65, 4097, CHUNK / 4 + 1, CHUNK + 5, 1000];
        let mut pieces: Vec<WeightBytes> =
            std::thread::spawn(move || lens.map(WeightBytes::zeros).into_iter().collect()).join().unwrap();
        for (index, piece) in pieces.iter_mut().enumerate() {
            assert_eq!((piece.len(), piece.as_ptr() as usize % LINE), (lens[index], 0));
            assert!(piece.iter().all(|&byte| byte == 0));
            piece.fill(index as u8 + 1);
        }
        let copy = pieces[5].clone();
        assert!(pieces.iter().enumerate().all(|(index, piece)| piece.iter().all(|&byte| byte == index as u8 + 1)));
        drop(pieces);
        assert!(copy.iter().all(|&byte| byte == 6));
    }
}
