//! Products of small matrices that live in the first-level caches: tiles of attention and of the delta rule.
//!
//! C_MN (+)= A_MK · B_KN. The rows of C and B are contiguous and `c_row` and `b_row` apart; A is read one value at a
//! time and so may have any strides, which makes a product with a transposed A as fast as one without.

use super::Simd;

/// A matrix of which value (i, j) lies at `data[i·row + j·column]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> Strided<'a> {
    /// Rows `row` apart.
    #[inline(always)]
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transpose of a matrix whose rows are `row` apart.
    #[inline(always)]
    pub(crate) fn transposed(data: &'a [f32], row: usize) -> Self {
        Self { data, row: 1, column: row }
    }
}

/// The shape of a product, and whether it adds to C or writes it.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) c_row: usize,
    pub(crate) b_row: usize,
    pub(crate) add: bool,
}

/// Pointers to the corner of a tile.
#[derive(Clone, Copy)]
struct Corner {
    c: *mut f32,
    a: *const f32,
    b: *const f32,
}

/// The body that each instruction set compiles once; see `Simd::product`.
#[inline(always)]
pub(super) fn run<S: Simd>(s: S, product: &Product, c: &mut [f32], a: Strided, b: &[f32]) {
    let &Product { m, n, k, c_row, b_row, add } = product;
    if m == 0 || n == 0 || (k == 0 && add) {
        return;
    }
    assert!(c.len() >= (m - 1) * c_row + n && c_row >= n, "C is too small");
    assert!(k == 0 || a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "A is too small");
    assert!(k == 0 || b.len() >= (k - 1) * b_row + n, "B is too small");
    let most = if S::LANES == 16 { 4 } else { 2 };
    let mut column = 0;
    while column < n {
        let width = (n - column).min(most * S::LANES);
        let corner =
            Corner { c: c.as_mut_ptr().wrapping_add(column), a: a.data.as_ptr(), b: b.as_ptr().wrapping_add(column) };
        // SAFETY: the asserts above keep every access of the tiles within the slices.
        unsafe {
            match width.div_ceil(S::LANES) {
                1 => panel::<S, 1>(s, product, corner, a, width),
                2 => panel::<S, 2>(s, product, corner, a, width),
                3 => panel::<S, 3>(s, product, corner, a, width),
                _ => panel::<S, 4>(s, product, corner, a, width),
            }
        }
        column += width;
    }
}

/// All rows of `width` columns, N vectors of them.
///
/// # Safety
/// As in `run`, from `corner` on.
#[inline(always)]
unsafe fn panel<S: Simd, const N: usize>(s: S, product: &Product, mut corner: Corner, a: Strided, width: usize) {
    // As many rows as keep the sums in registers: six of four vectors, four of three, eight of two.
    let tall = if N * S::LANES / 8 <= if S::LANES == 16 { 4 } else { 1 } { 8 } else { 4 };
    let mut left = product.m;
    while left > 0 {
        // SAFETY: `left` rows are left below the corner.
        let done = unsafe {
            if left >= 8 && tall == 8 {
                tile::<S, 8, N>(s, product, corner, a, width)
            } else if N == 4 && left >= 6 {
                tile::<S, 6, N>(s, product, corner, a, width)
            } else if left >= 4 {
                tile::<S, 4, N>(s, product, corner, a, width)
            } else if left >= 2 {
                tile::<S, 2, N>(s, product, corner, a, width)
            } else {
                tile::<S, 1, N>(s, product, corner, a, width)
            }
        };
        corner.c = corner.c.wrapping_add(done * product.c_row);
        corner.a = corner.a.wrapping_add(done * a.row);
        left -= done;
    }
}

/// M rows of N vectors; gives M.
///
/// # Safety
/// As in `run`, from `corner` on.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    s: S,
    product: &Product,
    corner: Corner,
    a: Strided,
    width: usize,
) -> usize {
    // SAFETY: passed on.
    unsafe {
        if width == N * S::LANES {
            tile_of::<S, M, N, true>(s, product, corner, a, width);
        } else {
            tile_of::<S, M, N, false>(s, product, corner, a, width);
        }
    }
    M
}

/// # Safety
/// As in `run`, from `corner` on.
#[inline(always)]
unsafe fn tile_of<S: Simd, const M: usize, const N: usize, const WHOLE: bool>(
    s: S,
    product: &Product,
    corner: Corner,
    a: Strided,
    width: usize,
) {
    let last = width - (N - 1) * S::LANES;
    let mut sums = [[s.zero(); N]; M];
    for k in 0..product.k {
        // SAFETY: row k of B and column k of A exist; the last vector reads `last` lanes only.
        unsafe {
            let b_row = corner.b.add(k * product.b_row);
            let mut b = [s.zero(); N];
            for (j, b) in b.iter_mut().enumerate() {
                let from = b_row.add(j * S::LANES);
                *b = if WHOLE || j + 1 < N { s.load_at(from) } else { s.load_some(from, last) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = s.splat(*corner.a.add(i * a.row + k * a.column));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = s.mul_add(a, b[j], *sum);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, &sum) in sums.iter().enumerate() {
            // SAFETY: row i of C exists; the last vector touches `last` lanes only.
            unsafe {
                let to = corner.c.add(i * product.c_row + j * S::LANES);
                if WHOLE || j + 1 < N {
                    let sum = if product.add { s.add(s.load_at(to), sum) } else { sum };
                    s.store_at(to, sum);
                } else {
                    let sum = if product.add { s.add(s.load_some(to, last), sum) } else { sum };
                    s.store_some(to, sum, last);
                }
            }
        }
    }
}
