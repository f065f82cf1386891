//! Residual streams held against a teacher's: how far apart they are, and whether tokens lie to each other as there.
//!
//! T tokens, H width, n compared tokens.

use kernels::gemm::{self, Precision};
use numeric::{MatrixView, dot};
use ops::Buffer;

/// The share of a teacher's numbers that is left out, the largest: a few massive ones would decide everything.
const MASSIVE_SHARE: f64 = 1e-3;

/// `Σ (s − t)² / Σ t²` over all numbers of both `[T, H]` but the teacher's massive ones (a normalised squared error per
/// layer, as SquareHead's; Kurtic et al. 2023). Adds `weight` times its gradient for the student.
pub fn squares(student: &Buffer, teacher: &Buffer, weight: f32, gradient: &mut Buffer) -> f64 {
    assert_eq!((student.rows, student.width), (teacher.rows, teacher.width), "streams of one shape");
    let limit = massive_limit(teacher);
    let (mut far, mut size) = (0.0f64, 0.0f64);
    for (&s, &t) in student.iter().zip(teacher.iter()).filter(|(_, t)| t.abs() < limit) {
        far += f64::from(s - t).powi(2);
        size += f64::from(t).powi(2);
    }
    let size = size.max(f64::MIN_POSITIVE);
    let factor = (2.0 * f64::from(weight) / size) as f32;
    gradient.for_each_row(|row, gradient| {
        let pairs = student.row(row).iter().zip(teacher.row(row));
        for (gradient, (s, t)) in gradient.iter_mut().zip(pairs).filter(|(_, (_, t))| t.abs() < limit) {
            *gradient += factor * (s - t);
        }
    });
    far / size
}

/// The size from which on a number is massive; infinity where there are too few to have any.
fn massive_limit(teacher: &Buffer) -> f32 {
    let massive = (teacher.len() as f64 * MASSIVE_SHARE) as usize;
    if massive == 0 {
        return f32::INFINITY;
    }
    let mut sizes: Vec<f32> = teacher.iter().map(|value| value.abs()).collect();
    *sizes.select_nth_unstable_by(teacher.len() - massive, f32::total_cmp).1
}

/// `‖Gₛ − Gₜ‖² / n²` with G the cosines between n tokens, those of `rows` (similarity-preserving distillation; Tung &
/// Mori 2019). Adds `weight` times its gradient for the student.
pub fn gram(student: &Buffer, teacher: &Buffer, rows: &[usize], weight: f32, gradient: &mut Buffer) -> f64 {
    let n = rows.len();
    if n == 0 {
        return 0.0;
    }
    let ((s_nh, s_sizes), (t_nh, _)) = (directions(student, rows), directions(teacher, rows));
    // Differences of cosines, [n, n]: Ŝ·Ŝᵀ + (−T̂)·T̂ᵀ.
    let width = student.width;
    let (s_view, t_view) = (MatrixView::from_f32(n, width, &s_nh), MatrixView::from_f32(n, width, &t_nh));
    let mut difference = Buffer::unwritten(n, n);
    gemm::multiply_transposed(&mut difference, &s_nh, s_view, false, Precision::F32);
    let negative: Vec<f32> = t_nh.iter().map(|value| -value).collect();
    gemm::multiply_transposed(&mut difference, &negative, t_view, true, Precision::F32);
    let square = difference.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    // d/dŝ of the loss is 4/n²·(Gₛ − Gₜ)·ŝ; a direction hears only what is across it.
    let factor = 4.0 * weight / (n * n) as f32;
    let mut dstudent = Buffer::unwritten(n, width);
    gemm::multiply(&mut dstudent, &difference, s_view, false, Precision::F32);
    dstudent.for_each_row(|i, d| {
        let along = dot(d, s_nh.row(i)) as f32;
        d.iter_mut().zip(s_nh.row(i)).for_each(|(d, s)| *d = factor * (*d - along * s) / s_sizes[i]);
    });
    for (i, &row) in rows.iter().enumerate() {
        gradient.row_mut(row).iter_mut().zip(dstudent.row(i)).for_each(|(sum, d)| *sum += d);
    }
    square / (n * n) as f64
}

/// Rows of length 1, and the lengths that they had.
fn directions(x: &Buffer, rows: &[usize]) -> (Buffer, Vec<f32>) {
    let size = |&row: &usize| (dot(x.row(row), x.row(row)).sqrt() as f32).max(f32::MIN_POSITIVE);
    let sizes: Vec<f32> = rows.iter().map(size).collect();
    let mut y = Buffer::unwritten(rows.len(), x.width);
    y.for_each_row(|i, y| y.iter_mut().zip(x.row(rows[i])).for_each(|(y, x)| *y = x / sizes[i]));
    (y, sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    fn random(seed: u64, rows: usize, width: usize) -> Buffer {
        let mut rng = Rng::new(seed);
        Buffer::from_values(width, (0..rows * width).map(|_| rng.normal() as f32).collect())
    }

    fn check(name: &str, student: &mut Buffer, run: impl Fn(&Buffer, &mut Buffer) -> f64) {
        let mut gradient = Buffer::zeros(student.rows, student.width);
        run(student, &mut gradient);
        let mut forgotten = Buffer::zeros(student.rows, student.width);
        for index in 0..student.len() {
            let value = student[index];
            let mut at = |value| {
                student[index] = value;
                run(student, &mut forgotten)
            };
            let slope = 1.5 * (at(value + 1e-2) - at(value - 1e-2)) / 2e-2;
            at(value);
            let found = f64::from(gradient[index]);
            assert!((found - slope).abs() < 1e-4 + 2e-3 * slope.abs(), "{name}[{index}]: {found} for {slope}");
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let (mut student, teacher) = (random(1, 7, 11), random(2, 7, 11));
        check("squares", &mut student, |student, gradient| squares(student, &teacher, 1.5, gradient));
        check("gram", &mut student, |student, gradient| gram(student, &teacher, &[0, 2, 3, 6], 1.5, gradient));
    }

    #[test]
    fn massive_numbers_decide_nothing_and_sameness_costs_nothing() {
        let mut teacher = random(3, 50, 40);
        let student = random(4, 50, 40);
        let mut gradient = Buffer::zeros(50, 40);
        // Two of 2000 are massive, whatever they are.
        (teacher[77], teacher[1403]) = (900.0, -3000.0);
        let far = squares(&student, &teacher, 1.0, &mut gradient);
        (teacher[77], teacher[1403]) = (-5000.0, 800.0);
        assert_eq!(squares(&student, &teacher, 1.0, &mut gradient), far);
        assert!(gradient[77] == 0.0 && gradient[1403] == 0.0 && gradient[78] != 0.0);
        assert!(far > 1.5 && far < 2.5, "two independent streams are two sizes apart: {far}");
        let mut gradient = Buffer::zeros(50, 40);
        let mut doubled = teacher.clone();
        doubled.iter_mut().for_each(|value| *value *= 2.0);
        let rows: Vec<usize> = (0..50).collect();
        assert!(gram(&doubled, &teacher, &rows, 1.0, &mut gradient) < 1e-9, "angles have no size");
        assert_eq!(squares(&teacher, &teacher, 1.0, &mut gradient), 0.0);
    }
}
