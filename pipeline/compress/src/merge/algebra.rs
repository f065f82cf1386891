//! Linear algebra in f64: Cholesky factors, least squares with a penalty, eigenvectors of symmetric matrices.
//!
//! Legend: n unknowns, R rows (observations), h right-hand sides. Row-major.

use kernels::gemm::{self, Precision};
use numeric::dot;
use ops::Buffer;

/// The matrix had a pivot that was not positive: it is not positive definite, or holds what is no number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NotPositive {
    pub(crate) pivot: usize,
    pub(crate) value: f64,
}

/// `y += factor · x`.
fn add_scaled(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// The lower factor L of `a = L·Lᵀ`, in place; what stands above the diagonal is not read and stays.
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> Result<(), NotPositive> {
    assert_eq!(a.len(), n * n, "a square matrix");
    for row in 0..n {
        let (above, here) = a.split_at_mut(row * n);
        let here = &mut here[..n];
        for column in 0..row {
            let other = &above[column * n..column * n + column + 1];
            here[column] = (here[column] - dot(&here[..column], &other[..column])) / other[column];
        }
        let pivot = here[row] - dot(&here[..row], &here[..row]);
        // Written so that NaN fails too.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(NotPositive { pivot: row, value: pivot });
        }
        here[row] = pivot.sqrt();
    }
    Ok(())
}

/// Solves `L·Lᵀ·X = B` in place; B is `[n, h]`.
pub(crate) fn solve(lower: &[f64], b: &mut [f64], n: usize) {
    let h = b.len() / n;
    for row in 0..n {
        let (done, here) = b.split_at_mut(row * h);
        let here = &mut here[..h];
        for column in 0..row {
            add_scaled(here, -lower[row * n + column], &done[column * h..(column + 1) * h]);
        }
        here.iter_mut().for_each(|value| *value /= lower[row * n + row]);
    }
    for row in (0..n).rev() {
        let (here, done) = b[row * h..].split_at_mut(h);
        for below in row + 1..n {
            let place = (below - row - 1) * h;
            add_scaled(here, -lower[below * n + row], &done[place..place + h]);
        }
        here.iter_mut().for_each(|value| *value /= lower[row * n + row]);
    }
}

/// `xᵀ·x` `[n, n]` and `xᵀ·y` `[n, h]`. Products are f32 over a few hundred rows, sums over these f64.
fn normal_equations(x: &Buffer, y: &Buffer) -> (Vec<f64>, Vec<f64>) {
    const ROWS: usize = 512;
    let (n, h) = (x.width, y.width);
    let (mut square, mut cross) = (vec![0.0f64; n * n], vec![0.0f64; n * h]);
    let (mut square_part, mut cross_part) = (vec![0.0f32; n * n], vec![0.0f32; n * h]);
    let widen = |sum: &mut [f64], part: &mut [f32]| {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(std::mem::take(part)));
    };
    for (x, y) in x.chunks(ROWS * n).zip(y.chunks(ROWS * h)) {
        gemm::accumulate_outer(&mut square_part, x, x, n, n, Precision::F32);
        gemm::accumulate_outer(&mut cross_part, x, y, n, h, Precision::F32);
        widen(&mut square, &mut square_part);
        widen(&mut cross, &mut cross_part);
    }
    (square, cross)
}

/// A solution of least squares.
pub(crate) struct Ridge {
    /// `[h, n]`.
    pub(crate) change: Vec<f32>,
    /// The penalty that it took.
    pub(crate) lambda: f64,
}

/// The Δ `[h, n]` that minimises `Σ ‖Δ·x − y‖² + λ‖Δ‖²` over the rows of x `[R, n]` and y `[R, h]`, with λ this share
/// of the mean diagonal of `xᵀx`. Where that is too little for a factor in f64, λ grows tenfold, up to the diagonal
/// itself. Ridge regression (Hoerl & Kennard 1970) on what a prior leaves: y is then what the prior misses.
pub(crate) fn ridge(x: &Buffer, y: &Buffer, lambda_share: f64) -> Result<Ridge, NotPositive> {
    assert_eq!(x.rows, y.rows, "a target for every row");
    let (n, h) = (x.width, y.width);
    let (square, cross) = normal_equations(x, y);
    let diagonal = (0..n).map(|i| square[i * n + i]).sum::<f64>() / n as f64;
    if diagonal == 0.0 {
        return Ok(Ridge { change: vec![0.0; h * n], lambda: 0.0 });
    }
    let mut share = lambda_share;
    loop {
        let lambda = share * diagonal;
        let mut factor = square.clone();
        (0..n).for_each(|i| factor[i * n + i] += lambda);
        match cholesky(&mut factor, n) {
            Ok(()) => {
                let mut solution = cross;
                solve(&factor, &mut solution, n);
                let change = (0..h * n).map(|place| solution[place % n * h + place / n] as f32).collect();
                return Ok(Ridge { change, lambda });
            }
            Err(failed) if !diagonal.is_finite() || share >= 1.0 => return Err(failed),
            Err(_) => share = (10.0 * share).max(1e-12),
        }
    }
}

/// Eigenvalues of a symmetric `[n, n]` matrix, largest first, and as rows their eigenvectors: Householder's reduction
/// to three diagonals, then QL steps with implicit shifts (Golub & Van Loan, sections 8.3.1 and 8.3.3).
pub(crate) fn symmetric_eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    assert_eq!(a.len(), n * n, "a square matrix");
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let mut beside = vec![0.0; n];
    for (k, entry) in beside.iter_mut().enumerate().take(n.saturating_sub(2)) {
        *entry = reflect(&mut a, &mut vectors, n, k);
    }
    if n >= 2 {
        beside[n - 2] = a[(n - 1) * n + n - 2];
    }
    let mut values: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    diagonalize(&mut values, &mut beside, &mut vectors);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    let sorted = order.iter().flat_map(|&i| vectors[i * n..(i + 1) * n].iter().copied()).collect();
    (order.iter().map(|&i| values[i]).collect(), sorted)
}

/// Reflects what stands below the diagonal of column k onto its first entry, from both sides, and the rows of `vectors`
/// with it. Returns that entry.
fn reflect(a: &mut [f64], vectors: &mut [f64], n: usize, k: usize) -> f64 {
    let size = n - k - 1;
    let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
    let norm = dot(&v, &v).sqrt();
    if norm == 0.0 {
        return 0.0;
    }
    let onto = if v[0] > 0.0 { -norm } else { norm };
    v[0] -= onto;
    let beta = 2.0 / dot(&v, &v);
    let row = |i: usize| (k + 1 + i) * n + k + 1..(k + 2 + i) * n;
    let mut w: Vec<f64> = (0..size).map(|i| beta * dot(&a[row(i)], &v)).collect();
    let half = 0.5 * beta * dot(&w, &v);
    add_scaled(&mut w, -half, &v);
    for i in 0..size {
        let values = &mut a[row(i)];
        for j in 0..size {
            values[j] -= v[i] * w[j] + w[i] * v[j];
        }
    }
    let mut along = vec![0.0; n];
    (0..size).for_each(|i| add_scaled(&mut along, v[i], &vectors[(k + 1 + i) * n..(k + 2 + i) * n]));
    (0..size).for_each(|i| add_scaled(&mut vectors[(k + 1 + i) * n..(k + 2 + i) * n], -beta * v[i], &along));
    onto
}

/// Rotates the entries beside the diagonal away, and the rows of `vectors` with them.
fn diagonalize(values: &mut [f64], beside: &mut [f64], vectors: &mut [f64]) {
    let n = values.len();
    for first in 0..n {
        // Thirty are never needed of what is finite; what is not would go on for ever.
        for _ in 0..60 {
            let is_small = |i: usize| beside[i].abs() <= f64::EPSILON * (values[i].abs() + values[i + 1].abs());
            let last = (first..n - 1).find(|&i| is_small(i)).unwrap_or(n - 1);
            if last == first {
                break;
            }
            ql_step(values, beside, vectors, first, last);
        }
    }
}

/// One step over the block `first..=last`, shifted by the eigenvalue of its first corner.
fn ql_step(values: &mut [f64], beside: &mut [f64], vectors: &mut [f64], first: usize, last: usize) {
    let n = values.len();
    let half = (values[first + 1] - values[first]) / (2.0 * beside[first]);
    let mut bulge = values[last] - values[first] + beside[first] / (half + half.hypot(1.0).copysign(half));
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let (across, along) = (sine * beside[i], cosine * beside[i]);
        let radius = across.hypot(bulge);
        beside[i + 1] = radius;
        if radius == 0.0 {
            // The block falls apart here; the next step sees two.
            values[i + 1] -= moved;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (across / radius, bulge / radius);
        let above = values[i + 1] - moved;
        let twice = (values[i] - above) * sine + 2.0 * cosine * along;
        moved = sine * twice;
        values[i + 1] = above + moved;
        bulge = cosine * twice - along;
        let (upper, lower) = vectors[i * n..(i + 2) * n].split_at_mut(n);
        for (upper, lower) in upper.iter_mut().zip(lower) {
            (*lower, *upper) = (sine * *upper + cosine * *lower, cosine * *upper - sine * *lower);
        }
    }
    values[first] -= moved;
    beside[first] = bulge;
    beside[last] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    fn normal(rng: &mut Rng, len: usize) -> Vec<f64> {
        (0..len).map(|_| rng.normal()).collect()
    }

    /// `m · mᵀ` of `[n, k]`.
    fn gram(m: &[f64], n: usize, k: usize) -> Vec<f64> {
        (0..n * n).map(|p| dot(&m[p / n * k..(p / n + 1) * k], &m[p % n * k..(p % n + 1) * k])).collect()
    }

    #[test]
    fn factors_solve_and_refuse() {
        let mut rng = Rng::new(1);
        let n = 23;
        let a = gram(&normal(&mut rng, n * 40), n, 40);
        let wanted = normal(&mut rng, n * 3);
        let mut b = vec![0.0; n * 3];
        for i in 0..n {
            for j in 0..n {
                (0..3).for_each(|c| b[i * 3 + c] += a[i * n + j] * wanted[j * 3 + c]);
            }
        }
        let mut factor = a.clone();
        cholesky(&mut factor, n).expect("positive definite");
        solve(&factor, &mut b, n);
        assert!(b.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-9));
        let mut indefinite = vec![1.0, 0.0, 2.0, 1.0];
        assert_eq!(cholesky(&mut indefinite, 2), Err(NotPositive { pivot: 1, value: -3.0 }));
        assert!(cholesky(&mut [f64::NAN], 1).is_err());
    }

    #[test]
    fn eigenvectors_rebuild_the_matrix() {
        let mut rng = Rng::new(2);
        for (n, rank) in [(1, 1), (2, 2), (3, 3), (17, 17), (40, 6), (33, 33)] {
            let a = gram(&normal(&mut rng, n * rank), n, rank);
            let (values, vectors) = symmetric_eigen(a.clone(), n);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            for i in 0..n {
                for j in 0..n {
                    let rebuilt: f64 = (0..n).map(|k| values[k] * vectors[k * n + i] * vectors[k * n + j]).sum();
                    assert!((rebuilt - a[i * n + j]).abs() < 1e-9 * values[0].max(1.0), "{n}: {i}, {j}");
                    let product = dot(&vectors[i * n..(i + 1) * n], &vectors[j * n..(j + 1) * n]);
                    assert!((product - f64::from(u8::from(i == j))).abs() < 1e-10, "{n}: orthonormal");
                }
            }
            assert!(values[rank..].iter().all(|value| value.abs() < 1e-9 * values[0]), "rank {rank} of {n}");
        }
    }

    #[test]
    fn a_diagonal_matrix_is_its_own_eigenvalues() {
        let (values, _) = symmetric_eigen(vec![2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, -1.0], 3);
        assert_eq!(values, [5.0, 2.0, -1.0]);
    }

    #[test]
    fn least_squares_find_the_map_and_shrink_without_rows() {
        let mut rng = Rng::new(3);
        let (rows, n, h) = (700, 9, 4);
        let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.normal() as f32).collect() };
        let (x, map) = (Buffer::from_values(n, random(rows * n)), random(h * n));
        let mut y = Buffer::zeros(rows, h);
        gemm::multiply_transposed(&mut y, &x, numeric::MatrixView::from_f32(h, n, &map), false, Precision::F32);
        let found = ridge(&x, &y, 1e-9).expect("well conditioned");
        assert!(found.change.iter().zip(&map).all(|(found, wanted)| (found - wanted).abs() < 1e-4));
        // Two equal columns: without a penalty there is no factor, so it grows.
        let twins = Buffer::from_values(2, vec![1.0, 1.0, 2.0, 2.0]);
        let found = ridge(&twins, &Buffer::from_values(1, vec![2.0, 4.0]), 0.0).expect("the penalty grows");
        assert!(
            found.lambda > 0.0 && found.change.iter().all(|value| (value - 1.0).abs() < 1e-3),
            "{:?}",
            found.change
        );
        let nothing = ridge(&Buffer::zeros(3, 2), &Buffer::zeros(3, 1), 0.1).expect("nothing to learn");
        assert_eq!(nothing.change, [0.0, 0.0]);
        let broken = Buffer::from_values(1, vec![f32::NAN]);
        assert!(ridge(&broken, &Buffer::zeros(1, 1), 0.1).is_err());
    }
}
