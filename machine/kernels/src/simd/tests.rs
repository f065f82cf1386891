//! The vectors themselves: the exponential, reductions, products of every shape, disjoint parts.

use super::testing::{assert_close, for_every_level, poisoned, random, wide};
use super::*;

#[inline(always)]
fn exp_all<S: Simd>(s: S, y: &mut [f32], x: &[f32]) {
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let value = exp(s, s.load(x));
        s.store(y, value);
    }
}
variants! { fn run_exp(y: &mut [f32], x: &[f32]) = exp_all }
variants! { fn run_dot(a: &[f32], b: &[f32]) -> f32 = dot }

#[inline(always)]
fn multiply<S: Simd>(s: S, product: &Product, c: &mut [f32], a: Strided, b: &[f32]) {
    s.product(product, c, a, b);
}
variants! { fn run_product(product: &Product, c: &mut [f32], a: Strided, b: &[f32]) = multiply }

#[test]
fn exponential_is_within_two_units_in_the_last_place() {
    let x: Vec<f32> = (0..200_003).map(|i| -87.0 + i as f32 * (175.0 / 200_003.0)).collect();
    for_every_level(|level| {
        let mut y = poisoned(x.len());
        run_exp(level, &mut y, &x);
        for (&x, &y) in x.iter().zip(&y) {
            let want = f64::from(x).exp();
            let error = (f64::from(y) - want).abs() / want;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{level:?}: e^{x} = {y}, error {error:e}");
        }
    });
}

#[test]
fn exponential_at_the_edges() {
    let x = [f32::NEG_INFINITY, -1e30, -104.0, -100.0, 0.0, -0.0, 88.7, 89.0, 1e30, f32::INFINITY, f32::NAN];
    for_every_level(|level| {
        let mut y = poisoned(x.len());
        run_exp(level, &mut y, &x);
        assert_eq!(y[..3], [0.0; 3], "{level:?}");
        assert!((y[3] - 3.8e-44).abs() < 3e-45, "{level:?}: subnormal {}", y[3]);
        assert_eq!(y[4..6], [1.0; 2], "{level:?}");
        assert!(y[6].is_finite(), "{level:?}");
        assert_eq!(y[7..10], [f32::INFINITY; 3], "{level:?}");
        assert!(y[10].is_nan(), "{level:?}");
    });
}

#[test]
fn dot_of_every_length() {
    for_every_level(|level| {
        for len in 0..150 {
            let (a, b) = (random(1, len), random(2, len));
            let want: f64 = wide(&a).iter().zip(wide(&b)).map(|(a, b)| a * b).sum();
            assert_close(&[run_dot(level, &a, &b)], &[want], 1e-6, "dot");
        }
    });
}

#[test]
fn products_of_every_shape() {
    for_every_level(|level| {
        for (index, &(m, n, k)) in
            [(1, 1, 1), (3, 17, 5), (8, 32, 7), (13, 64, 11), (7, 47, 64), (29, 100, 3), (2, 8, 0), (31, 130, 2)]
                .iter()
                .enumerate()
        {
            for add in [false, true] {
                for transposed in [false, true] {
                    let (c_row, b_row) = (n + 3, n + 5);
                    let a_row = if transposed { m + 2 } else { k + 2 };
                    let a_data = random(index as u64, m.max(k) * a_row + a_row);
                    let b = random(99, k * b_row);
                    let a =
                        if transposed { Strided::transposed(&a_data, a_row) } else { Strided::rows(&a_data, a_row) };
                    let mut c = if add { random(5, m * c_row) } else { poisoned(m * c_row) };
                    let before = c.clone();
                    run_product(level, &Product { m, n, k, c_row, b_row, add }, &mut c, a, &b);
                    for i in 0..m {
                        let value = |j: usize| {
                            let start = if add { f64::from(before[i * c_row + j]) } else { 0.0 };
                            (0..k).fold(start, |sum, l| {
                                sum + f64::from(a_data[i * a.row + l * a.column]) * f64::from(b[l * b_row + j])
                            })
                        };
                        let want: Vec<f64> = (0..n).map(value).collect();
                        assert_close(&c[i * c_row..i * c_row + n], &want, 1e-5, "product");
                        let beyond = |c: &[f32]| {
                            c[i * c_row + n..(i + 1) * c_row].iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                        };
                        assert_eq!(beyond(&c), beyond(&before), "{level:?}: wrote beyond row {i} of {m}×{n}×{k}");
                    }
                }
            }
        }
    });
}

#[inline(always)]
fn turn<S: Simd>(s: S, to: (&mut [f32], usize), from: (&[f32], usize), shape: [usize; 2]) {
    s.transpose(to, from, shape);
}
variants! { fn run_transpose(to: (&mut [f32], usize), from: (&[f32], usize), shape: [usize; 2]) = turn }

#[test]
fn transposes_of_every_shape() {
    for_every_level(|level| {
        for (rows, columns) in [(1, 1), (3, 7), (8, 4), (16, 16), (17, 5), (35, 33), (64, 64), (5, 61), (0, 3)] {
            let (from_row, to_row) = (columns + 3, rows + 2);
            let from = random(1, rows * from_row);
            let mut to = poisoned(columns * to_row);
            run_transpose(level, (&mut to, to_row), (&from, from_row), [rows, columns]);
            for j in 0..columns {
                for i in 0..to_row {
                    let value = to[j * to_row + i];
                    if i < rows {
                        assert_eq!(value, from[i * from_row + j], "{level:?}: ({i}, {j}) of {rows}×{columns}");
                    } else {
                        assert!(value.is_nan(), "{level:?}: wrote beyond row {j} of {rows}×{columns}");
                    }
                }
            }
        }
    });
}

#[test]
fn sums_do_not_depend_on_threads() {
    let x = random(3, 10_007);
    let sum_with = |threads: usize| {
        let mut sum = vec![0.0; 1];
        crate::pool::Pool::new(threads)
            .install(|| for_each_summed(x.chunks(100), &mut sum, |x, sum| sum[0] += x.iter().sum::<f32>()));
        sum[0].to_bits()
    };
    assert_eq!(sum_with(1), sum_with(3));
}

#[test]
#[should_panic(expected = "lies beyond")]
fn a_disjoint_part_stays_within() {
    let mut x = vec![0.0; 10];
    let x = Disjoint::new(&mut x);
    // SAFETY: the only part.
    let _ = unsafe { x.part(5, 6) };
}
