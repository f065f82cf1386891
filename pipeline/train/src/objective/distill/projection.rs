//! A teacher's experts laid onto a student's: a matrix P `[E_s, E_t]` for each layer with experts, columns that add up
//! to 1, so that P·p is where the student's router is to send a token that the teacher's sends to p.
//!
//! P begins at what is known of where experts came from, and is then fitted to outputs: to the share of
//! `‖Σₑ pₑ·fₑ(x) − Σₛ (P·p)ₛ·fₛ(x)‖²` that it misses, with KL(P ‖ P₀) as an anchor. It is never trained by the routers'
//! own loss, which columns that are all alike would make nothing. During training it stays as it is.

use super::recipe::ProjectionRecipe;
use models::{Lineage, Model, Routed};
use numeric::{Matrix, dot};
use ops::{Buffer, Execute, Expert, Infer, Linear, Moe, Parameter, Precision};

/// The probability of the expert that a dropped one is most like, before anything is fitted.
const MOST_LIKE: f64 = 0.5;
/// What the expert that one was kept as keeps at first, where there is something to fit.
const KEPT: f64 = 0.999;
/// Of a step of the fit; the tenth part of what Adam usually takes.
const RATE: f64 = 0.01;

/// P of every layer with experts.
#[derive(Debug)]
pub struct Projection {
    /// By layer.
    layers: Vec<(usize, Linear)>,
    /// The share of the outputs that P misses, before and after the fit, of each layer that was fitted.
    pub missed: Vec<[f64; 2]>,
}

impl Projection {
    /// `routed` is what the teacher's mixtures did with some tokens, with what went into them; `lineage` is from the
    /// teacher's experts to the student's.
    pub fn fit(
        (teacher, student): (&Model, &Model),
        lineage: &Lineage,
        routed: &[Routed],
        recipe: &ProjectionRecipe,
    ) -> Self {
        let mut projection = Self { layers: Vec::new(), missed: Vec::new() };
        for (routed, lineage) in routed.iter().zip(&lineage.layers) {
            let (of_teacher, of_student) = (moe(teacher, routed.layer), moe(student, routed.layer));
            let experts = of_student.experts.len();
            let known = lineage.iter().all(Option::is_some);
            let columns = if known && experts == of_teacher.experts.len() {
                // A permutation misses nothing that P could mend.
                lineage.iter().map(|expert| one_hot(*expert, experts, 1.0)).collect()
            } else {
                let layer = Layer::look([of_teacher, of_student], routed, recipe.tokens);
                let begun = layer.begin(lineage);
                let fitted = layer.fitted(&begun, recipe);
                projection.missed.push([layer.missed(&begun), layer.missed(&fitted)]);
                fitted
            };
            projection.layers.push((routed.layer, map(&columns, experts)));
        }
        projection
    }

    /// Where the student's router of a layer is to send each token, `[T, E_s]`.
    pub fn targets(&self, layer: usize, probabilities: &Buffer) -> Buffer {
        let (_, map) = self.layers.iter().find(|(own, _)| *own == layer).expect("every layer with experts has one");
        let mut targets = Infer::new(Precision::F32).linear(probabilities, map);
        // Rounding leaves their sums a little beside 1.
        targets.for_each_row(|_, row| {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= sum);
        });
        targets
    }

    /// P of a layer, row by row.
    pub fn matrix(&self, layer: usize) -> Option<&[f32]> {
        self.layers.iter().find(|(own, _)| *own == layer).map(|(_, map)| map.weight.values())
    }
}

fn moe(model: &Model, layer: usize) -> &Moe {
    model.weights.layers[layer].mixture().expect("teacher and student have experts in the same layers")
}

/// The columns of P as a map from teacher's probabilities to student's.
fn map(columns: &[Vec<f64>], experts: usize) -> Linear {
    let values = (0..experts).flat_map(|s| columns.iter().map(move |column| column[s] as f32)).collect();
    let matrix = Matrix::from_f32(experts, columns.len(), values);
    let shape = vec![experts, columns.len()];
    let weight = Parameter { id: 0, name: "projection".to_owned(), shape, trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

/// `share` for one expert, the rest evenly for the others.
fn one_hot(expert: Option<usize>, experts: usize, share: f64) -> Vec<f64> {
    let share = if experts == 1 { 1.0 } else { share };
    let others = (1.0 - share) / (experts - 1).max(1) as f64;
    (0..experts).map(|s| if Some(s) == expert { share } else { others }).collect()
}

/// One layer's outputs on n tokens, as far as a fit needs them.
struct Layer {
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

impl Layer {
    fn look([teacher, student]: [&Moe; 2], routed: &Routed, tokens: usize) -> Self {
        let inputs = routed.inputs.as_ref().expect("the teacher was asked for what goes into its mixtures");
        let n = tokens.min(inputs.rows);
        let rows: Vec<usize> = (0..n).map(|i| i * inputs.rows / n).collect();
        let (x, p) = (inputs.gathered(&rows), routed.probabilities.gathered(&rows));
        let outputs: Vec<Buffer> = student.experts.iter().map(|expert| run(expert, &x)).collect();
        let mut y = Buffer::zeros(n, x.width);
        let mut likeness = Vec::with_capacity(teacher.experts.len());
        for (e, expert) in teacher.experts.iter().enumerate() {
            let own = run(expert, &x);
            y.for_each_row(|row, y| y.iter_mut().zip(own.row(row)).for_each(|(y, f)| *y += p.row(row)[e] * f));
            likeness.push(outputs.iter().map(|output| cosine(&own, output)).collect());
        }
        let students = outputs.len();
        let mut grams = Buffer::unwritten(n, students * students);
        grams.for_each_row(|row, gram| {
            for (i, one) in outputs.iter().enumerate() {
                for (j, other) in outputs.iter().enumerate() {
                    gram[i * students + j] = dot(one.row(row), other.row(row)) as f32;
                }
            }
        });
        let along = (0..n).flat_map(|row| outputs.iter().map(move |output| (row, output)));
        let along = along.map(|(row, output)| dot(output.row(row), y.row(row)) as f32).collect();
        let size = y.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE);
        Self { students, p, grams: grams.to_vec(), along, size, likeness }
    }

    /// P before it is fitted, column by column: what was kept or merged stays with its expert, what was dropped goes to
    /// those it is like.
    fn begin(&self, lineage: &[Option<usize>]) -> Vec<Vec<f64>> {
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
    fn missed(&self, columns: &[Vec<f64>]) -> f64 {
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
    fn slopes(&self, columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
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
    fn fitted(&self, begun: &[Vec<f64>], recipe: &ProjectionRecipe) -> Vec<Vec<f64>> {
        let count = begun.len() as f64;
        let mut columns = begun.to_vec();
        let mut logits: Vec<Vec<f64>> = begun.iter().map(|column| column.iter().map(|p| p.ln()).collect()).collect();
        let mut moments = vec![vec![[0.0f64; 2]; self.students]; begun.len()];
        for step in 1..=recipe.steps as i32 {
            let slopes = self.slopes(&columns);
            for (e, slopes) in slopes.iter().enumerate() {
                let drift = |s: usize| (columns[e][s] / begun[e][s]).ln() + 1.0;
                let slope = |s: usize| slopes[s] + recipe.anchor * drift(s) / count;
                let wanted: Vec<f64> = (0..self.students).map(slope).collect();
                let mean: f64 = wanted.iter().zip(&columns[e]).map(|(slope, p)| slope * p).sum();
                for s in 0..self.students {
                    let gradient = columns[e][s] * (wanted[s] - mean);
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

fn run(expert: &Expert, x: &Buffer) -> Buffer {
    models::dense(&mut Infer::new(Precision::F32), expert, x)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

fn softmax(logits: &[f64], sharpness: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (sharpness * (logit - most)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum).max(1e-9)).collect()
}

/// A softmax over likeness, as sharp as it takes for the most alike to get [`MOST_LIKE`].
fn spread(likeness: &[f64]) -> Vec<f64> {
    let most = |sharpness| softmax(likeness, sharpness).into_iter().fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if most(middle) < MOST_LIKE { low = middle } else { high = middle }
    }
    softmax(likeness, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::{Config, FeedForward, Questions, teach};

    fn teacher() -> Model {
        let text = include_str!("../../../../../fixtures/oracle/qwen3_moe/config.json");
        Model::random(Config::from_json(text).expect("the oracle's config reads"), 3)
    }

    /// The teacher without some experts, in another order.
    fn without(teacher: &Model, keep: &[usize]) -> (Model, Lineage) {
        let mut student = teacher.clone();
        for layer in &mut student.weights.layers {
            let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
            let all = moe.routed.experts.clone();
            moe.routed.experts = keep.iter().map(|&expert| all[expert].clone()).collect();
        }
        let counts = teacher.config.expert_counts();
        student.config.set_expert_counts(&vec![keep.len(); counts.len()]);
        let place = |expert| keep.iter().position(|&kept| kept == expert);
        (student, Lineage { layers: counts.iter().map(|&count| (0..count).map(place).collect()).collect() })
    }

    fn routed(teacher: &Model) -> Vec<Routed> {
        let tokens: Vec<u32> = (0..90).map(|i| (i * 7 % teacher.config.vocab_size) as u32).collect();
        let questions = Questions { routers: true, inputs: true, layers: Vec::new() };
        teach(teacher, &tokens, &[50, 40], 64, &questions).routers
    }

    #[test]
    fn a_permutation_is_taken_as_it_is() {
        let teacher = teacher();
        let experts = teacher.config.expert_counts()[0];
        let order: Vec<usize> = (0..experts).rev().collect();
        let (student, lineage) = without(&teacher, &order);
        let routed = routed(&teacher);
        let projection = Projection::fit((&teacher, &student), &lineage, &routed, &ProjectionRecipe::default());
        for routed in &routed {
            let targets = projection.targets(routed.layer, &routed.probabilities);
            for row in 0..targets.rows {
                let turned: Vec<f32> = routed.probabilities.row(row).iter().rev().copied().collect();
                assert!(targets.row(row).iter().zip(&turned).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
        assert!(projection.missed.is_empty());
    }

    #[test]
    fn a_fit_misses_less_and_stays_near_what_is_known() {
        let teacher = teacher();
        let experts = teacher.config.expert_counts()[0];
        let keep: Vec<usize> = (0..experts).step_by(2).collect();
        let (student, lineage) = without(&teacher, &keep);
        let routed = routed(&teacher);
        let fit = |steps, anchor| {
            let recipe = ProjectionRecipe { steps, tokens: 64, anchor };
            Projection::fit((&teacher, &student), &lineage, &routed, &recipe)
        };
        let (before, fitted, held) = (fit(0, 0.1), fit(150, 0.01), fit(150, 1e6));
        for (layer, (routed, &[first, last])) in routed.iter().zip(&fitted.missed).enumerate() {
            assert!(first == before.missed[layer][1] && last < first, "layer {layer}: {first} to {last}");
            let matrix = fitted.matrix(routed.layer).expect("it was fitted");
            for e in 0..experts {
                let column: Vec<f32> = (0..keep.len()).map(|s| matrix[s * experts + e]).collect();
                assert!((column.iter().sum::<f32>() - 1.0).abs() < 1e-5 && column.iter().all(|&share| share >= 0.0));
                match lineage.layers[layer][e] {
                    Some(kept) => assert!(column[kept] > 0.9, "{column:?}"),
                    None => assert!(before.matrix(routed.layer).is_some()),
                }
            }
            let far = |a: &Projection, b: &Projection| {
                let (a, b) = (a.matrix(routed.layer), b.matrix(routed.layer));
                let pairs = a.into_iter().flatten().zip(b.into_iter().flatten());
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            assert!(far(&held, &before) < 0.1 * far(&fitted, &before) + 1e-3, "the anchor holds");
        }
    }

    #[test]
    fn what_was_dropped_goes_half_to_what_it_is_like() {
        let column = spread(&[0.1, 0.9, 0.2, -0.5]);
        assert!((column[1] - 0.5).abs() < 1e-6 && column[2] > column[0] && column[0] > column[3], "{column:?}");
        assert!((column.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    /// Of what is missed, by each share.
    #[test]
    fn slopes_are_those_of_differences() {
        let teacher = teacher();
        let (student, lineage) = without(&teacher, &[0, 3]);
        let routed = routed(&teacher);
        let layer = Layer::look([moe(&teacher, routed[0].layer), moe(&student, routed[0].layer)], &routed[0], 20);
        let mut columns = layer.begin(&lineage.layers[0]);
        let slopes = layer.slopes(&columns);
        for e in 0..columns.len() {
            for s in 0..2 {
                let value = columns[e][s];
                let mut at = |value| {
                    columns[e][s] = value;
                    layer.missed(&columns)
                };
                let slope = (at(value + 1e-3) - at(value - 1e-3)) / 2e-3;
                at(value);
                assert!((slopes[e][s] - slope).abs() < 1e-6 + 1e-4 * slope.abs(), "{} for {slope}", slopes[e][s]);
            }
        }
    }
}
