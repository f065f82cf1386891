//! How P begins: as it is known where experts came from, then fitted to the outputs of both models' experts on some
//! tokens.

use super::{SHARE_MIN, pull, through_softmax};
use crate::objective::distill::recipe::ProjectionRecipe;
use crate::objective::distill::teacher::{all_mixed, rows_at_a_time};
use models::Routed;
use numeric::dot;
use ops::{Buffer, Moe, every_expert};

/// The probability of the expert that a dropped one is most like, before anything is fitted.
const MOST_LIKE: f64 = 0.5;
/// What the expert that one was kept as keeps at first, where there is something to fit.
const KEPT: f64 = 0.999;
/// Of a step of the fit; the tenth part of what Adam usually takes.
const RATE: f64 = 0.01;

/// `share` for one expert, the rest evenly for the others.
pub(super) fn one_hot(expert: Option<usize>, experts: usize, share: f64) -> Vec<f64> {
    let share = if experts == 1 { 1.0 } else { share };
    let others = (1.0 - share) / (experts - 1).max(1) as f64;
    (0..experts).map(|s| if Some(s) == expert { share } else { others }).collect()
}

/// One layer's outputs on n tokens, as far as a fit needs them.
pub(super) struct Layer {
    students: usize,
    /// The teacher's probabilities, `[n, E_t]`.
    p: Buffer,
    /// `Fₛ·Fₛᵀ` of each token, with Fₛ the outputs of all student experts: `[n, E_s, E_s]`.
    grams: Vec<f32>,
    /// `Fₛ·y` of each token, with y the teacher's output: `[n, E_s]`.
    along: Vec<f32>,
    /// `Σ ‖y‖²` over the tokens.
    size: f64,
    /// Cosines between the outputs of each teacher expert and of each student expert, `[E_t][E_s]`.
    likeness: Vec<Vec<f64>>,
}

/// Sums over tokens of the products of outputs.
struct Likeness {
    /// `[E_t, E_s]`.
    products: Vec<f64>,
    /// Of each teacher's and each student's expert with itself.
    squares: [Vec<f64>; 2],
}

impl Likeness {
    /// Adds some tokens' outputs, each `[E · n, H]`.
    fn add(&mut self, outputs: [&Buffer; 2]) {
        let counts = [self.squares[0].len(), self.squares[1].len()];
        let of = |side: usize, expert: usize| {
            let len = outputs[side].len() / counts[side];
            &outputs[side][expert * len..(expert + 1) * len]
        };
        for side in [0, 1] {
            let squares = self.squares[side].iter_mut().enumerate();
            squares.for_each(|(expert, sum)| *sum += dot(of(side, expert), of(side, expert)));
        }
        kernels::pool::for_each_chunk(&mut self.products, counts[1], |e, products| {
            products.iter_mut().enumerate().for_each(|(s, sum)| *sum += dot(of(0, e), of(1, s)));
        });
    }

    fn cosines(&self) -> Vec<Vec<f64>> {
        let students = &self.squares[1];
        let row = |(products, own): (&[f64], &f64)| {
            let cosine = |(product, other): (&f64, &f64)| product / (own * other).sqrt().max(f64::MIN_POSITIVE);
            products.iter().zip(students).map(cosine).collect()
        };
        self.products.chunks(students.len()).zip(&self.squares[0]).map(row).collect()
    }
}

impl Layer {
    /// `rows` are those of all tokens whose inputs are there.
    pub(super) fn look([teacher, student]: [&Moe; 2], routed: &Routed, rows: &[usize]) -> Self {
        let (n, width) = (routed.inputs.rows, routed.inputs.width);
        let (teachers, students) = (teacher.experts.len(), student.experts.len());
        let p = routed.probabilities.gathered(rows);
        let (grams, along) = (Vec::with_capacity(n * students * students), Vec::with_capacity(n * students));
        let mut layer = Self { students, p, grams, along, size: 0.0, likeness: Vec::new() };
        let squares = [vec![0.0; teachers], vec![0.0; students]];
        let mut likeness = Likeness { products: vec![0.0; teachers * students], squares };
        let some = rows_at_a_time(teachers + students, width);
        for first in (0..n).step_by(some) {
            let rows: Vec<usize> = (first..(first + some).min(n)).collect();
            let x = routed.inputs.gathered(&rows);
            let (of_teacher, of_student) = (every_expert(&x, teacher), every_expert(&x, student));
            likeness.add([&of_teacher, &of_student]);
            layer.add(&of_student, &all_mixed(&of_teacher, &layer.p.gathered(&rows)));
        }
        layer.size = layer.size.max(f64::MIN_POSITIVE);
        layer.likeness = likeness.cosines();
        layer
    }

    /// Adds some tokens: the outputs of all student experts `[E_s · n, H]`, and the teacher's mixtures `[n, H]`.
    fn add(&mut self, outputs: &Buffer, y: &Buffer) {
        let (n, students) = (y.rows, self.students);
        let output = |s: usize, row: usize| outputs.row(s * n + row);
        let mut grams = Buffer::unwritten(n, students * students);
        grams.for_each_row(|row, gram| {
            for i in 0..students {
                for j in 0..students {
                    gram[i * students + j] = dot(output(i, row), output(j, row)) as f32;
                }
            }
        });
        self.grams.extend_from_slice(&grams);
        for row in 0..n {
            self.along.extend((0..students).map(|s| dot(output(s, row), y.row(row)) as f32));
        }
        self.size += dot(y, y);
    }

    /// P before it is fitted, column by column: what was kept or merged stays with its expert, what was dropped goes to
    /// those it is like.
    pub(super) fn begin(&self, lineage: &[Option<usize>]) -> Vec<Vec<f64>> {
        let column = |(expert, likeness): (&Option<usize>, &Vec<f64>)| match expert {
            Some(_) => one_hot(*expert, self.students, KEPT),
            None => spread(likeness),
        };
        lineage.iter().zip(&self.likeness).map(column).collect()
    }

    /// The student's outputs by P for a token: its weights, and half the slope of what they miss for each.
    fn look_at(&self, columns: &[Vec<f64>], token: usize) -> (Vec<f64>, Vec<f64>) {
        let mut r = vec![0.0; self.students];
        for (column, &p) in columns.iter().zip(self.p.row(token)) {
            r.iter_mut().zip(column).for_each(|(r, share)| *r += share * f64::from(p));
        }
        let gram = &self.grams[token * self.students * self.students..];
        let slope = |s: usize| {
            let row = &gram[s * self.students..(s + 1) * self.students];
            let own: f64 = row.iter().zip(&r).map(|(&k, r)| f64::from(k) * r).sum();
            own - f64::from(self.along[token * self.students + s])
        };
        let slopes = (0..self.students).map(slope).collect();
        (r, slopes)
    }

    /// The share of the teacher's outputs that the student's experts miss with these weights.
    pub(super) fn missed(&self, columns: &[Vec<f64>]) -> f64 {
        let mut sum = self.size;
        for token in 0..self.p.rows {
            let (r, slopes) = self.look_at(columns, token);
            let along = &self.along[token * self.students..];
            sum +=
                r.iter().zip(slopes).zip(along).map(|((r, slope), &along)| r * (slope - f64::from(along))).sum::<f64>();
        }
        sum / self.size
    }

    /// The slope of what is missed for each share.
    pub(super) fn slopes(&self, columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut sums = vec![vec![0.0; self.students]; columns.len()];
        for token in 0..self.p.rows {
            let (_, slopes) = self.look_at(columns, token);
            for (sums, &p) in sums.iter_mut().zip(self.p.row(token)) {
                let factor = 2.0 * f64::from(p) / self.size;
                sums.iter_mut().zip(&slopes).for_each(|(sum, slope)| *sum += factor * slope);
            }
        }
        sums
    }

    /// P after some steps of Adam on the logits of its columns, held back by how far it went.
    pub(super) fn fitted(&self, begun: &[Vec<f64>], recipe: &ProjectionRecipe) -> Vec<Vec<f64>> {
        let mut columns = begun.to_vec();
        let mut logits: Vec<Vec<f64>> = begun.iter().map(|column| column.iter().map(|p| p.ln()).collect()).collect();
        let mut moments = vec![vec![[0.0f64; 2]; self.students]; begun.len()];
        for step in 1..=recipe.steps as i32 {
            let slopes = self.slopes(&columns);
            for (e, slopes) in slopes.iter().enumerate() {
                let pulled = (0..self.students).map(|s| pull(columns[e][s], begun[e][s], begun.len()));
                let wanted: Vec<f64> =
                    slopes.iter().zip(pulled).map(|(slope, pull)| slope + recipe.anchor * pull).collect();
                for (s, gradient) in through_softmax(&columns[e], &wanted).into_iter().enumerate() {
                    let [first, second] = &mut moments[e][s];
                    *first = 0.9 * *first + 0.1 * gradient;
                    *second = 0.999 * *second + 0.001 * gradient * gradient;
                    let (first, second) = (*first / (1.0 - 0.9f64.powi(step)), *second / (1.0 - 0.999f64.powi(step)));
                    logits[e][s] -= RATE * first / (second.sqrt() + 1e-12);
                }
            }
            columns = logits.iter().map(|logits| softmax(logits, 1.0)).collect();
        }
        columns
    }
}

pub(super) fn softmax(logits: &[f64], sharpness: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (sharpness * (logit - most)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum).max(SHARE_MIN)).collect()
}

/// A softmax over likeness, as sharp as it takes for the most alike to get [`MOST_LIKE`].
pub(super) fn spread(likeness: &[f64]) -> Vec<f64> {
    let most = |sharpness| softmax(likeness, sharpness).into_iter().fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if most(middle) < MOST_LIKE { low = middle } else { high = middle }
    }
    softmax(likeness, high)
}
